//! Grafana Loki: `POST /loki/api/v1/push`, protocol buffers with snappy or JSON with gzip.
//!
//! A stream has few labels; everything else is in the line, which is the event as JSON, and beside it as structured
//! metadata where the server takes it: from version 3 on, which it is asked for. Shapes: `pkg/push/push.proto` and
//! `pkg/loghttp/push.go` of Loki 3.4.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::client::{Client, Credentials};
use super::deliver::{Deliver, Outcome};
use crate::events::event::EventLine;

const PUSH: &str = "/loki/api/v1/push";
const BUILD: &str = "/loki/api/v1/status/buildinfo";
const READY: &str = "/ready";
const TENANT: &str = "x-scope-orgid";
/// Structured metadata is on by default from this major version on.
const METADATA_SINCE: u32 = 3;
/// What Loki says of an event that it does not take because of its time (`pkg/validation/validate.go` and
/// `pkg/chunkenc/interface.go` of 3.4).
const TIMES: [&str; 5] = [
    "timestamp too old",
    "too far behind",
    "timestamp too new",
    "out of order",
    "greater_than_max_sample_age",
];

/// How a batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Protocol buffers, snappy.
    #[default]
    Protobuf,
    /// JSON, gzip.
    Json,
}

/// What the labels of a stream are called; an empty name leaves one out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Always `inspector`.
    pub job: String,
    /// The node.
    pub node: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Type of the event.
    pub kind: String,
    /// How bad it is.
    pub severity: String,
}

/// A Loki.
#[derive(Debug)]
pub struct Loki {
    client: Client,
    encoding: Encoding,
    labels: Labels,
    /// It takes structured metadata; `None` until it has said its version.
    takes_metadata: Option<bool>,
}

/// Labels of a stream in the order of their names, and its events by time.
type Streams<'a> = BTreeMap<Vec<(&'a str, &'a str)>, Vec<Entry<'a>>>;

#[derive(Debug)]
struct Entry<'a> {
    time_ns: u64,
    line: String,
    metadata: Vec<(String, &'a str)>,
}

impl Loki {
    /// `at` is the address of the server, with a path if it is behind one; a tenant that is empty is none.
    ///
    /// # Errors
    /// If the tenant is no header's value.
    pub fn new(
        at: Url,
        tenant: &str,
        credentials: Credentials,
        encoding: Encoding,
        labels: Labels,
    ) -> Result<Self, &'static str> {
        let mut headers = HeaderMap::new();
        if !tenant.is_empty() {
            let value =
                HeaderValue::from_str(tenant).map_err(|_| "the tenant has characters of no header")?;
            headers.insert(HeaderName::from_static(TENANT), value);
        }
        Ok(Self { client: Client::new(at, credentials, headers), encoding, labels, takes_metadata: None })
    }

    async fn takes_metadata(&mut self) -> bool {
        if self.takes_metadata.is_none()
            && let Ok(answer) = self.client.get(BUILD).await
            // Whoever asks may not be known yet.
            && [200, 404].contains(&answer.status)
        {
            self.takes_metadata = Some(is_since_metadata(&answer.text()));
        }
        self.takes_metadata.unwrap_or(false)
    }

    fn streams<'a>(&'a self, events: &'a [EventLine], with_metadata: bool) -> Streams<'a> {
        let mut streams = Streams::new();
        for event in events {
            let labels = self.labels.of(event);
            let mut line = event.to_json();
            line.pop();
            let metadata = if with_metadata { metadata(event) } else { Vec::new() };
            streams.entry(labels).or_default().push(Entry { time_ns: event.time_ns(), line, metadata });
        }
        // Several analyzers, and folding, make the order of a log another one than that of time.
        streams.values_mut().for_each(|entries| entries.sort_by_key(|entry| entry.time_ns));
        streams
    }
}

impl Deliver for Loki {
    async fn deliver(&mut self, events: &[EventLine]) -> Outcome {
        let with_metadata = self.takes_metadata().await;
        let streams = self.streams(events, with_metadata);
        let (body, headers): (_, &[_]) = match self.encoding {
            Encoding::Protobuf => (to_protobuf(streams), &[("content-type", "application/x-protobuf")]),
            Encoding::Json => {
                (to_json(streams), &[("content-type", "application/json"), ("content-encoding", "gzip")])
            }
        };
        let answer = match self.client.post(PUSH, body, headers).await {
            Ok(answer) => answer,
            Err(why) => {
                self.takes_metadata = None;
                return Outcome::Later { why, after: None, answered: false };
            }
        };
        let text = answer.text();
        // An operator may have it turned off.
        if with_metadata && answer.status == 400 && text.contains("structured metadata") {
            self.takes_metadata = Some(false);
            return Outcome::Later { why: text, after: None, answered: false };
        }
        let is_of_time = TIMES.iter().any(|said| text.contains(said));
        answer.outcome(if is_of_time { "time" } else { "refused" })
    }

    async fn ask(&mut self) -> String {
        match self.client.get(READY).await {
            Ok(answer) if answer.status == 200 => "ready".to_owned(),
            Ok(answer) => format!("{}: {}", answer.status, answer.text()),
            Err(why) => why,
        }
    }
}

impl Labels {
    fn of<'a>(&'a self, event: &'a EventLine) -> Vec<(&'a str, &'a str)> {
        let all = [
            (&self.job, "inspector"),
            (&self.node, &event.entity.node),
            (&self.namespace, &event.entity.namespace),
            (&self.kind, &event.kind),
            (&self.severity, event.severity.as_str()),
        ];
        let named = all.into_iter().filter(|(name, value)| !name.is_empty() && !value.is_empty());
        let mut labels: Vec<(&str, &str)> = named.map(|(name, value)| (name.as_str(), value)).collect();
        labels.sort_unstable();
        labels
    }
}

/// What a person searches by, beside the labels.
fn metadata(event: &EventLine) -> Vec<(String, &str)> {
    let own = [("pod", &event.entity.name), ("kind", &event.entity.kind), ("source", &event.source)];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value.as_str()));
    let attrs = event.attrs.iter().map(|(name, value)| (label_name(name), value.as_str()));
    let mut all: Vec<_> = own.chain(attrs).filter(|(_, value)| !value.is_empty()).collect();
    all.sort();
    all.dedup_by(|a, b| a.0 == b.0);
    all
}

/// Letters, digits and `_`, no digit first.
fn label_name(name: &str) -> String {
    let mut made: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if made.starts_with(|c: char| c.is_ascii_digit()) {
        made.insert(0, '_');
    }
    made
}

fn is_since_metadata(build: &str) -> bool {
    let build: Value = serde_json::from_str(build).unwrap_or_default();
    let version = build["version"].as_str().unwrap_or_default().trim_start_matches('v');
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|v| v >= METADATA_SINCE)
}

fn to_json(streams: Streams<'_>) -> Vec<u8> {
    let stream = |(labels, entries): (Vec<(&str, &str)>, Vec<Entry<'_>>)| {
        let labels: Map<String, Value> = labels.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
        let value = |entry: Entry<'_>| {
            let metadata: Map<String, Value> =
                entry.metadata.into_iter().map(|(k, v)| (k, v.into())).collect();
            let at = entry.time_ns.to_string();
            if metadata.is_empty() { json!([at, entry.line]) } else { json!([at, entry.line, metadata]) }
        };
        json!({ "stream": labels, "values": entries.into_iter().map(value).collect::<Vec<_>>() })
    };
    let text = json!({ "streams": streams.into_iter().map(stream).collect::<Vec<_>>() }).to_string();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(text.as_bytes()).expect("memory takes it");
    packed.finish().expect("memory takes it")
}

/// `logproto.PushRequest`.
#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    streams: Vec<Stream>,
}

#[derive(Clone, PartialEq, Message)]
struct Stream {
    #[prost(string, tag = "1")]
    labels: String,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<StreamEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct StreamEntry {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<Timestamp>,
    #[prost(string, tag = "2")]
    line: String,
    #[prost(message, repeated, tag = "3")]
    structured_metadata: Vec<Label>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn to_protobuf(streams: Streams<'_>) -> Vec<u8> {
    let entry = |entry: Entry<'_>| StreamEntry {
        timestamp: Some(Timestamp {
            seconds: (entry.time_ns / 1_000_000_000) as i64,
            nanos: (entry.time_ns % 1_000_000_000) as i32,
        }),
        line: entry.line,
        structured_metadata: entry
            .metadata
            .into_iter()
            .map(|(name, value)| Label { name, value: value.to_owned() })
            .collect(),
    };
    // As text, `{node="n1"}`, with the escapes of Go, which knows those of JSON.
    let text = |labels: &[(&str, &str)]| {
        let each = |(name, value): &(&str, &str)| format!("{name}={}", json!(value));
        format!("{{{}}}", labels.iter().map(each).collect::<Vec<_>>().join(", "))
    };
    let streams = streams.into_iter().map(|(labels, entries)| Stream {
        labels: text(&labels),
        entries: entries.into_iter().map(entry).collect(),
    });
    let request = PushRequest { streams: streams.collect() };
    snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).expect("a batch is smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::events::event::EventEntity;

    fn loki() -> Loki {
        let labels = Labels {
            job: "job".to_owned(),
            node: "node".to_owned(),
            namespace: "namespace".to_owned(),
            kind: "type".to_owned(),
            severity: String::new(),
        };
        let at = "http://loki:3100".parse().expect("an address");
        Loki::new(at, "", Credentials::default(), Encoding::Json, labels).expect("a tenant")
    }

    fn event(time: &str, kind: &str) -> EventLine {
        EventLine {
            time: time.to_owned(),
            attrs: vec![("1st-hop".to_owned(), "10.0.0.1".to_owned())],
            entity: EventEntity {
                namespace: "sh\"op".to_owned(),
                name: "web-0".to_owned(),
                node: "n1".to_owned(),
                ..EventEntity::default()
            },
            ..EventLine::test(kind)
        }
    }

    const AT: [&str; 2] = ["2023-02-03T09:01:03.402118044Z", "2023-02-03T09:01:02.000000001Z"];

    #[test]
    fn a_batch_is_streams_by_label_with_their_events_in_the_order_of_time() {
        let (loki, events) = (loki(), [event(AT[0], "A"), event(AT[0], "B"), event(AT[1], "A")]);
        let packed = to_json(loki.streams(&events, true));
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).expect("gzip");
        let body: Value = serde_json::from_str(&text).expect("JSON");
        let first = &body["streams"][0];
        assert_eq!(
            first["stream"],
            json!({ "job": "inspector", "node": "n1", "namespace": "sh\"op", "type": "A" })
        );
        assert_eq!(first["values"][0][0], "1675414862000000001");
        assert_eq!(first["values"][1][0], "1675414863402118044");
        let line: EventLine =
            serde_json::from_str(first["values"][1][1].as_str().expect("a line")).expect("one");
        assert_eq!(line, events[0]);
        assert_eq!(first["values"][0][2], json!({ "pod": "web-0", "source": "p", "_1st_hop": "10.0.0.1" }));
        assert_eq!(body["streams"][1]["stream"]["type"], "B");
        let without = loki.streams(&events, false);
        assert!(without.values().flatten().all(|entry| entry.metadata.is_empty()));
    }

    #[test]
    fn both_encodings_say_the_same() {
        let (loki, events) = (loki(), [event(AT[0], "A")]);
        let packed = to_protobuf(loki.streams(&events, true));
        let plain = snap::raw::Decoder::new().decompress_vec(&packed).expect("snappy");
        let stream = PushRequest::decode(&plain[..]).expect("a request").streams.remove(0);
        assert_eq!(stream.labels, r#"{job="inspector", namespace="sh\"op", node="n1", type="A"}"#);
        let entry = &stream.entries[0];
        assert_eq!(entry.timestamp, Some(Timestamp { seconds: 1_675_414_863, nanos: 402_118_044 }));
        assert_eq!(entry.line, events[0].to_json().trim_end());
        let names: Vec<_> = entry.structured_metadata.iter().map(|label| label.name.as_str()).collect();
        assert_eq!(names, ["_1st_hop", "pod", "source"]);
    }

    #[test]
    fn metadata_is_sent_to_versions_that_take_it() {
        for (build, takes) in [
            (r#"{"version":"3.4.2","revision":"x"}"#, true),
            (r#"{"version":"v4.0.0-rc.1"}"#, true),
            (r#"{"version":"2.9.10"}"#, false),
            (r#"{"version":"main"}"#, false),
            ("404 page not found", false),
        ] {
            assert_eq!(is_since_metadata(build), takes, "{build}");
        }
    }
}
