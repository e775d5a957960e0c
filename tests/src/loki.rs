//! A strict Grafana Loki: takes pushes as Loki 3.4 does, in both encodings, keeps what it took, and fails by script.
//!
//! It refuses what a real one would refuse: another path, another content type, a stream without labels or with
//! names that are none, an entry without a time or of one that is too old.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use prost::Message;
use serde_json::{Value, json};

use crate::receiver::{Connection, Receiver, Request, answer};

/// How old an entry may be.
const OLDEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// What it does in place of taking a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Accepts a connection and closes it.
    Close,
    /// Answers with this status and, if it is not 0, `Retry-After` in seconds.
    Status(u16, u64),
    /// Takes the push, and closes the connection without an answer.
    TakeAndClose,
    /// Takes the push, and answers a byte at a time, so that the whole takes this long.
    Slow(Duration),
    /// Sends the client elsewhere.
    Redirect,
}

/// One entry of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Labels of its stream.
    pub labels: BTreeMap<String, String>,
    /// Nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Its line.
    pub line: Value,
    /// Its structured metadata.
    pub metadata: BTreeMap<String, String>,
}

/// A running one; stopped when dropped.
#[derive(Debug)]
pub struct Loki {
    receiver: Receiver,
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    version: &'static str,
    trouble: Option<Trouble>,
    /// Events of this type and pod are refused.
    poison: Option<(&'static str, String)>,
    /// Value of the tenant's header that it wants.
    tenant: String,
    /// Of each push that was taken.
    pushes: Vec<Vec<Entry>>,
    encodings: Vec<String>,
    /// What was wrong with requests.
    wrong: Vec<String>,
    requests: usize,
    bytes: usize,
}

impl Loki {
    /// Listens on a port of loopback.
    ///
    /// # Errors
    /// If there is none.
    pub fn start() -> Result<Self> {
        let state = State {
            version: "3.4.2",
            trouble: None,
            poison: None,
            tenant: String::new(),
            pushes: Vec::new(),
            encodings: Vec::new(),
            wrong: Vec::new(),
            requests: 0,
            bytes: 0,
        };
        let shared = Arc::new(Mutex::new(state));
        let served = Arc::clone(&shared);
        let receiver = Receiver::start(None, move |stream| serve(stream, &served))?;
        Ok(Self { receiver, shared })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.receiver.address()
    }

    /// What requests meet from now on.
    pub fn trouble(&self, trouble: Option<Trouble>) {
        lock(&self.shared).trouble = trouble;
    }

    /// Refuses events of this type and pod.
    pub fn poison(&self, kind: &'static str, pod: &str) {
        lock(&self.shared).poison = Some((kind, pod.to_owned()));
    }

    /// Is of another version than 3.4.2.
    pub fn become_version(&self, version: &'static str) {
        lock(&self.shared).version = version;
    }

    /// Wants this tenant.
    pub fn want_tenant(&self, tenant: &str) {
        tenant.clone_into(&mut lock(&self.shared).tenant);
    }

    /// All entries that were taken, as often as they were.
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.shared).pushes.concat()
    }

    /// Content types of the pushes that were taken.
    pub fn encodings(&self) -> Vec<String> {
        lock(&self.shared).encodings.clone()
    }

    /// Size of the largest push that was taken.
    pub fn largest_push(&self) -> usize {
        lock(&self.shared).pushes.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Requests of every kind.
    pub fn requests(&self) -> usize {
        lock(&self.shared).requests
    }

    /// Bytes of the bodies of pushes.
    pub fn bytes(&self) -> usize {
        lock(&self.shared).bytes
    }

    /// What no client should send.
    pub fn wrong(&self) -> Vec<String> {
        lock(&self.shared).wrong.clone()
    }
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: &mut BufReader<Box<dyn Connection>>, shared: &Mutex<State>) -> io::Result<()> {
    loop {
        // A closed door is closed to those who are inside already, too.
        if lock(shared).trouble == Some(Trouble::Close) {
            return Ok(());
        }
        let Some(request) = Request::read(stream)? else { return Ok(()) };
        let (trouble, version) = {
            let mut state = lock(shared);
            state.requests += 1;
            (state.trouble.clone(), state.version)
        };
        match (request.path(), trouble) {
            (_, Some(Trouble::Close)) => return Ok(()),
            (_, Some(Trouble::Status(status, after))) => {
                let after = if after > 0 { format!("retry-after: {after}\r\n") } else { String::new() };
                answer(stream, status, &after, b"as the test says")?;
            }
            (_, Some(Trouble::Redirect)) => {
                answer(stream, 307, "location: http://127.0.0.1:1/\r\n", b"")?;
            }
            ("/ready", _) => answer(stream, 200, "", b"ready")?,
            ("/loki/api/v1/status/buildinfo", _) => {
                answer(stream, 200, "", json!({ "version": version }).to_string().as_bytes())?;
            }
            (path, trouble) => {
                let (status, text) = match push(path, &request, shared) {
                    Ok(()) => (204, String::new()),
                    Err(why) => (400, format!("{why:#}")),
                };
                match trouble {
                    Some(Trouble::TakeAndClose) => return Ok(()),
                    Some(Trouble::Slow(whole)) => slowly(stream.get_mut(), whole)?,
                    _ => answer(stream, status, "", text.as_bytes())?,
                }
            }
        }
    }
}

fn slowly(to: &mut impl Write, whole: Duration) -> io::Result<()> {
    let text = b"HTTP/1.1 204 x\r\ncontent-length: 0\r\n\r\n";
    for byte in text {
        to.write_all(&[*byte])?;
        to.flush()?;
        std::thread::sleep(whole / text.len() as u32);
    }
    Ok(())
}

fn push(path: &str, request: &Request, shared: &Mutex<State>) -> Result<()> {
    let encoding = request.header("content-type").to_owned();
    let read = entries(path, request, &encoding);
    let mut state = lock(shared);
    let entries = match read {
        Ok(entries) => entries,
        Err(why) => {
            state.wrong.push(format!("{why:#}"));
            return Err(why);
        }
    };
    ensure!(request.header("x-scope-orgid") == state.tenant, "no org id");
    if let Some((kind, pod)) = &state.poison {
        let is_poison = |entry: &Entry| entry.line["type"] == *kind && entry.line["entity"]["name"] == *pod;
        ensure!(!entries.iter().any(is_poison), "poison");
    }
    let oldest = (SystemTime::now() - OLDEST).duration_since(UNIX_EPOCH)?.as_nanos();
    ensure!(entries.iter().all(|entry| u128::from(entry.time_ns) > oldest), "entry has timestamp too old");
    state.bytes += request.body.len();
    state.pushes.push(entries);
    state.encodings.push(encoding);
    Ok(())
}

fn entries(path: &str, request: &Request, encoding: &str) -> Result<Vec<Entry>> {
    ensure!(path == "/loki/api/v1/push" && request.line.starts_with("POST "), "{}", request.line);
    let entries = match encoding {
        "application/x-protobuf" => of_protobuf(&request.body)?,
        "application/json" => {
            ensure!(request.header("content-encoding") == "gzip", "not packed");
            of_json(&request.body)?
        }
        other => bail!("content type {other:?}"),
    };
    ensure!(!entries.is_empty(), "nothing in it");
    for entry in &entries {
        ensure!(!entry.labels.is_empty(), "at least one label pair is required per stream");
        for name in entry.labels.keys().chain(entry.metadata.keys()) {
            let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            ensure!(is_name && !name.starts_with(|c: char| c.is_ascii_digit()), "label {name:?}");
        }
    }
    Ok(entries)
}

fn of_json(body: &[u8]) -> Result<Vec<Entry>> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(body).read_to_string(&mut text)?;
    let body: Value = serde_json::from_str(&text)?;
    let mut found = Vec::new();
    for stream in body["streams"].as_array().context("streams")? {
        let labels = pairs(&stream["stream"])?;
        for value in stream["values"].as_array().context("values")? {
            let metadata = if value[2].is_null() { BTreeMap::new() } else { pairs(&value[2])? };
            found.push(Entry {
                labels: labels.clone(),
                time_ns: value[0].as_str().context("a time as text")?.parse()?,
                line: serde_json::from_str(value[1].as_str().context("a line")?)?,
                metadata,
            });
        }
    }
    Ok(found)
}

fn pairs(object: &Value) -> Result<BTreeMap<String, String>> {
    let object = object.as_object().context("an object")?;
    let pair = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    object.iter().map(pair).collect::<Option<_>>().context("only texts")
}

/// `logproto.PushRequest`, once more and by another hand than the agent's.
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
    timestamp: Option<Time>,
    #[prost(string, tag = "2")]
    line: String,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<Pair>,
}

#[derive(Clone, PartialEq, Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn of_protobuf(body: &[u8]) -> Result<Vec<Entry>> {
    let plain = snap::raw::Decoder::new().decompress_vec(body)?;
    let mut found = Vec::new();
    for stream in PushRequest::decode(&plain[..])?.streams {
        let labels = labels(&stream.labels)?;
        for entry in stream.entries {
            let time = entry.timestamp.context("a time")?;
            found.push(Entry {
                labels: labels.clone(),
                time_ns: u64::try_from(time.seconds)? * 1_000_000_000 + u64::try_from(time.nanos)?,
                line: serde_json::from_str(&entry.line)?,
                metadata: entry.metadata.into_iter().map(|pair| (pair.name, pair.value)).collect(),
            });
        }
    }
    Ok(found)
}

/// `{a="b", c="d"}`.
fn labels(text: &str) -> Result<BTreeMap<String, String>> {
    let mut rest = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).context("braces")?;
    let mut found = BTreeMap::new();
    while !rest.is_empty() {
        let (name, behind) = rest.split_once('=').context("=")?;
        let mut values = serde_json::Deserializer::from_str(behind).into_iter::<String>();
        let value = values.next().context("a value")??;
        let end = values.byte_offset();
        found.insert(name.to_owned(), value);
        rest = behind[end..].trim_start_matches(", ");
    }
    Ok(found)
}
