//! A strict receiver of OTLP: takes log records over HTTP as protocol buffers, keeps them, and fails by script.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message as _;

use crate::receiver::{Certificates, Connection, Receiver, Request, answer};

/// What was taken.
#[derive(Debug, Clone)]
pub struct Record {
    /// Attributes of its resource.
    pub resource: BTreeMap<String, String>,
    /// Who found it.
    pub scope: String,
    /// Nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// `SeverityNumber`.
    pub severity: i32,
    /// Its type.
    pub name: String,
    /// What people read.
    pub body: String,
    /// Its attributes; numbers as text.
    pub attributes: BTreeMap<String, String>,
}

/// A running one; stopped when dropped.
#[derive(Debug)]
pub struct Otlp {
    receiver: Receiver,
    shared: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    taken: Vec<Record>,
    wrong: Vec<String>,
    token: String,
    /// Of the next request with more records so many are said to be refused.
    refused: i64,
}

impl Otlp {
    /// Listens on a port of loopback, by TLS if there are certificates, and wants a bearer token.
    ///
    /// # Errors
    /// If there is no port.
    pub fn start(certificates: Option<&Certificates>, token: &str) -> Result<Self> {
        let shared = Arc::new(Mutex::new(State { token: token.to_owned(), ..State::default() }));
        let served = Arc::clone(&shared);
        let receiver = Receiver::start(certificates, move |stream| serve(stream, &served))?;
        Ok(Self { receiver, shared })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.receiver.address()
    }

    /// Wants this token from now on.
    pub fn want_token(&self, token: &str) {
        token.clone_into(&mut lock(&self.shared).token);
    }

    /// Says of the next request with more records that so many of them are refused, the last ones.
    pub fn refuse(&self, records: i64) {
        lock(&self.shared).refused = records;
    }

    /// All that was taken.
    pub fn records(&self) -> Vec<Record> {
        lock(&self.shared).taken.clone()
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
    while let Some(request) = Request::read(stream)? {
        let token = format!("Bearer {}", lock(shared).token);
        if request.header("authorization") != token {
            answer(stream, 401, "", b"who are you?")?;
            continue;
        }
        match records(&request) {
            Ok(mut records) => {
                let mut state = lock(shared);
                // Of a request with more records than that: one event may come alone.
                let has_enough = records.len() as i64 > state.refused;
                let refused = if has_enough { std::mem::take(&mut state.refused) } else { 0 };
                records.truncate(records.len() - refused as usize);
                state.taken.extend(records);
                drop(state);
                let partial = ExportLogsPartialSuccess {
                    rejected_log_records: refused,
                    error_message: "as the test says".to_owned(),
                };
                let partial_success = (refused > 0).then_some(partial);
                let said = ExportLogsServiceResponse { partial_success }.encode_to_vec();
                answer(stream, 200, "content-type: application/x-protobuf\r\n", &said)?;
            }
            Err(why) => {
                lock(shared).wrong.push(format!("{why:#}"));
                answer(stream, 400, "", format!("{why:#}").as_bytes())?;
            }
        }
    }
    Ok(())
}

fn records(request: &Request) -> Result<Vec<Record>> {
    ensure!(request.line.starts_with("POST /v1/logs HTTP/1.1"), "{}", request.line);
    ensure!(request.header("content-type") == "application/x-protobuf", "{:?}", request.headers);
    ensure!(request.header("content-encoding") == "gzip", "{:?}", request.headers);
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(&*request.body).read_to_end(&mut body)?;
    let mut found = Vec::new();
    for of_resource in ExportLogsServiceRequest::decode(&*body)?.resource_logs {
        let resource = attributes(of_resource.resource.context("a resource")?.attributes)?;
        for of_scope in of_resource.scope_logs {
            let scope = of_scope.scope.context("a scope")?.name;
            for record in of_scope.log_records {
                ensure!(record.time_unix_nano > 0 && record.observed_time_unix_nano > 0, "no time");
                found.push(Record {
                    resource: resource.clone(),
                    scope: scope.clone(),
                    time_ns: record.time_unix_nano,
                    severity: record.severity_number,
                    name: record.event_name,
                    body: text(record.body)?,
                    attributes: attributes(record.attributes)?,
                });
            }
        }
    }
    ensure!(!found.is_empty(), "nothing in it");
    Ok(found)
}

fn attributes(all: Vec<KeyValue>) -> Result<BTreeMap<String, String>> {
    let (mut found, count) = (BTreeMap::new(), all.len());
    for KeyValue { key, value, .. } in all {
        found.insert(key, text(value)?);
    }
    ensure!(found.len() == count, "an attribute is there twice: {found:?}");
    Ok(found)
}

fn text(value: Option<AnyValue>) -> Result<String> {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => Ok(text),
        Some(Value::IntValue(number)) => Ok(number.to_string()),
        other => anyhow::bail!("{other:?} is neither text nor number"),
    }
}
