//! OpenTelemetry: each event a log record, by OTLP over HTTP as protocol buffers (`/v1/logs`), gzip.
//!
//! The node is the resource. Names are those of the semantic conventions where there are any: `host.name`,
//! `k8s.node.name`, `k8s.namespace.name`, `k8s.pod.name`; facts of the event have their own. Answers as in
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use reqwest::Url;
use reqwest::header::HeaderMap;

use super::client::{Answer, Client, Credentials};
use super::deliver::{Deliver, Outcome};
use crate::clock::unix_ns;
use crate::entities::Kind;
use crate::events::event::EventLine;
use crate::events::severity::Severity;
use crate::text::escape::{MAX_REASON, admit};

const LOGS: &str = "/v1/logs";
const HEADERS: [(&str, &str); 2] = [("content-type", "application/x-protobuf"), ("content-encoding", "gzip")];

/// A collector, or whatever else takes OTLP.
#[derive(Debug)]
pub struct Otlp {
    client: Client,
}

impl Otlp {
    /// `at` is its base address, to which the path of each signal is added.
    pub fn new(at: Url, credentials: Credentials) -> Self {
        Self { client: Client::new(at, credentials, HeaderMap::new()) }
    }
}

impl Deliver for Otlp {
    async fn deliver(&mut self, events: &[EventLine]) -> Outcome {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&request(events).encode_to_vec()).expect("memory takes it");
        let body = packed.finish().expect("memory takes it");
        match self.client.post(LOGS, body, &HEADERS).await {
            Ok(answer) => outcome(answer),
            Err(why) => Outcome::Later { why, after: None, answered: false },
        }
    }
}

/// A server may take a part, and says then of how many records it does not want to hear again.
fn outcome(answer: Answer) -> Outcome {
    if answer.status != 200 {
        return answer.outcome("refused");
    }
    let Ok(said) = ExportLogsServiceResponse::decode(&*answer.body) else {
        let why = "what answers there does not speak OTLP".to_owned();
        return Outcome::Later { why, after: None, answered: false };
    };
    let partial = said.partial_success.unwrap_or_default();
    match u64::try_from(partial.rejected_log_records) {
        Ok(events @ 1..) => {
            Outcome::TakenBut { events, what: "refused", why: admit(partial.error_message, MAX_REASON) }
        }
        _ => Outcome::Taken,
    }
}

fn request(events: &[EventLine]) -> ExportLogsServiceRequest {
    let node = events.first().map_or("", |event| &event.entity.node);
    let resource = Resource {
        attributes: vec![
            text("service.name", "inspector"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("host.name", node),
            text("k8s.node.name", node),
        ],
        ..Resource::default()
    };
    // Of one agent all are of one node, those among them that an earlier run left on disk.
    let mut scopes: Vec<ScopeLogs> = Vec::new();
    for event in events {
        let record = record(event);
        match scopes.last_mut() {
            Some(scope) if scope.scope.as_ref().is_some_and(|scope| scope.name == event.source) => {
                scope.log_records.push(record);
            }
            _ => scopes.push(ScopeLogs {
                scope: Some(InstrumentationScope { name: event.source.clone(), ..Default::default() }),
                log_records: vec![record],
                ..ScopeLogs::default()
            }),
        }
    }
    let logs = ResourceLogs { resource: Some(resource), scope_logs: scopes, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

fn record(event: &EventLine) -> LogRecord {
    let (number, name) = match event.severity {
        Severity::Info => (SeverityNumber::Info, "INFO"),
        Severity::Warning => (SeverityNumber::Warn, "WARN"),
        Severity::Critical => (SeverityNumber::Error, "ERROR"),
    };
    let entity = &event.entity;
    let is_pod = entity.kind == Kind::Pod.as_str();
    let of_entity = [
        ("k8s.namespace.name", if is_pod { entity.namespace.as_str() } else { "" }),
        ("k8s.pod.name", if is_pod { entity.name.as_str() } else { "" }),
        ("inspector.entity.kind", entity.kind.as_str()),
        ("inspector.entity.name", entity.name.as_str()),
    ];
    let facts = event.attrs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let all = of_entity.into_iter().chain(facts).filter(|(_, value)| !value.is_empty());
    let mut attributes: Vec<_> = all.map(|(name, value)| text(name, value)).collect();
    // A name may be there once.
    attributes.sort_by(|a, b| a.key.cmp(&b.key));
    attributes.dedup_by(|a, b| a.key == b.key);
    attributes.push(number_of("inspector.event.count", event.count));
    attributes.push(number_of("inspector.event.seq", event.seq));
    LogRecord {
        time_unix_nano: event.time_ns(),
        observed_time_unix_nano: unix_ns(),
        severity_number: number.into(),
        severity_text: name.to_owned(),
        event_name: event.kind.clone(),
        body: Some(AnyValue { value: Some(Value::StringValue(event.message.clone())) }),
        attributes,
        ..LogRecord::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number_of(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;

    use super::*;
    use crate::events::event::EventEntity;

    fn event(kind: &str, entity: &str) -> EventLine {
        EventLine {
            time: "2023-02-03T09:01:03.402118044Z".to_owned(),
            severity: Severity::Critical,
            attrs: vec![("dport".to_owned(), "80".to_owned()), ("dport".to_owned(), "81".to_owned())],
            entity: EventEntity {
                kind: entity.to_owned(),
                namespace: "shop".to_owned(),
                name: "web-0".to_owned(),
                node: "n1".to_owned(),
                ..EventEntity::default()
            },
            ..EventLine::test(kind)
        }
    }

    fn names(record: &LogRecord) -> Vec<&str> {
        record.attributes.iter().map(|attribute| attribute.key.as_str()).collect()
    }

    #[test]
    fn events_are_records_of_their_analyzer_on_their_node() {
        let request = request(&[event("A", "pod"), event("B", "netns")]);
        let [of_node] = &request.resource_logs[..] else { panic!("{request:?}") };
        assert!(
            of_node.resource.as_ref().is_some_and(|node| node.attributes.contains(&text("host.name", "n1")))
        );
        let [of_plugin] = &of_node.scope_logs[..] else { panic!("{request:?}") };
        assert!(of_plugin.scope.as_ref().is_some_and(|scope| scope.name == "p"));
        let [pod, other] = &of_plugin.log_records[..] else { panic!("{request:?}") };
        assert_eq!((pod.event_name.as_str(), pod.severity_number), ("A", 17));
        assert_eq!(pod.time_unix_nano, 1_675_414_863_402_118_044);
        assert!(pod.attributes.contains(&text("k8s.pod.name", "web-0")));
        assert!(names(other).iter().all(|name| !name.starts_with("k8s.")), "{other:?}");
        // An attribute that is there twice makes the record invalid.
        assert_eq!(names(pod).iter().filter(|name| **name == "dport").count(), 1);
    }

    #[test]
    fn a_part_that_is_refused_is_no_reason_to_send_all_of_it_again() {
        let answer = |status, refused| {
            let partial = ExportLogsPartialSuccess { rejected_log_records: refused, ..Default::default() };
            let body = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
            outcome(Answer { status, body, after: None })
        };
        assert_eq!(answer(200, 0), Outcome::Taken);
        assert!(matches!(answer(200, 7), Outcome::TakenBut { events: 7, .. }));
        assert!(matches!(answer(400, 0), Outcome::Refused { .. }));
        assert!(matches!(answer(503, 0), Outcome::Later { .. }));
        let page = Answer { status: 200, body: b"<html>".to_vec(), after: None };
        assert!(matches!(outcome(page), Outcome::Later { .. }));
    }
}
