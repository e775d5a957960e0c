//! Agents as the fake API server carries their bytes: sound ones, and those that are not.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// How an agent behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// It answers, and does not know of any fault.
    Sound,
    /// It answers with a finding.
    Faulty,
    /// Its pod is there, and nobody listens in it.
    Dead,
    /// It takes the question and never says a word.
    Silent,
    /// It begins an answer and says one more byte of it every second.
    Slow,
    /// What it says is no JSON.
    Lying,
    /// What it says is JSON without an end.
    Endless,
    /// What it says is no HTTP.
    Foreign,
    /// It is older than questions.
    Old,
    /// Its pod is not ready.
    Pending,
}

/// Serves one connection as an agent of a node that knows these pods.
pub async fn serve(agent: Agent, node: String, pods: Vec<String>, mut stream: DuplexStream) {
    match agent {
        Agent::Silent => {
            let mut heard = Vec::new();
            // Until its client goes away.
            let _ = stream.read_to_end(&mut heard).await;
        }
        Agent::Foreign => {
            let _ = stream.write_all(b"SSH-2.0-\x1b[2Jnonsense\r\n\r\n").await;
        }
        _ => {
            let answer = |request| answer(agent, node.clone(), pods.clone(), request);
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            let _ = connection.await;
        }
    }
}

async fn answer(
    agent: Agent,
    node: String,
    pods: Vec<String>,
    request: Request<Incoming>,
) -> Result<Answer, hyper::Error> {
    let path = request.uri().path().to_owned();
    let is_question = path == "/api/v1/diagnose";
    let question = request.into_body().collect().await?.to_bytes();
    Ok(match (agent, path.as_str()) {
        (Agent::Lying, _) => whole(200, "{\"verdict\": \"fi\u{1b}[31m"),
        (Agent::Endless, _) => endless(format!("[{}", "\"x\",".repeat(10_000)), Duration::ZERO),
        (Agent::Slow, _) => endless(" ".to_owned(), Duration::from_secs(1)),
        (Agent::Old, _) if is_question => whole(404, "not found"),
        (_, "/api/v1/diagnose") => diagnosis(agent, &node, &pods, &question),
        (_, "/api/v1/version") => json(200, &json!({ "version": "0.0.9", "revision": "abc", "node": node })),
        (_, "/api/v1/probes") => json(200, &probes()),
        (_, "/api/v1/entities") => json(200, &json!([])),
        (_, "/api/v1/events") => events(&node),
        _ => whole(404, "not found"),
    })
}

/// Refuses as an agent does if one name is none of its pods'.
fn diagnosis(agent: Agent, node: &str, pods: &[String], question: &[u8]) -> Answer {
    let Ok(question) = serde_json::from_slice::<Value>(question) else { return whole(400, "no question") };
    let names: Vec<_> =
        question["entities"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if let Some(nobody) = names.iter().find(|name| !pods.iter().any(|pod| pod == **name)) {
        return json(400, &json!({ "error": format!("there is no entity {nobody:?}"), "entities": pods }));
    }
    let finding = json!({
        "code": "accept-queue-overflow", "role": "cause", "title": "an accept queue is full", "severity": 2,
        "confidence": 95, "count": 4, "evidence": [], "actions": [],
        "entities": [{ "name": "web", "kind": "pod", "namespace": "shop", "node": node }],
        "first_seen": "2026-11-30T14:30:00.000000000Z", "last_seen": "2026-11-30T14:30:01.000000000Z",
    });
    let is_faulty = agent == Agent::Faulty;
    json(
        200,
        &json!({
            "scenario": question["scenario"], "verdict": if is_faulty { "broken" } else { "healthy" }, "node": node,
            "entities": names, "window_ms": question["window_ms"], "generated_at": "2026-11-30T14:30:02.000000000Z",
            "findings": if is_faulty { vec![finding] } else { Vec::new() }, "doubts": [],
            "blind_spots": ["the cable was not looked at"],
        }),
    )
}

fn probes() -> Value {
    json!([{ "name": "skb-drop", "state": "up", "reason": "", "schema": 1, "produced": 1, "events": 1,
        "lost": 0, "hooks": [] }])
}

/// One event, then a stream that stays open.
fn events(node: &str) -> Answer {
    let event = json!({
        "time": "2026-11-30T14:30:00.000000000Z", "level": "INFO", "source": "tcp", "msg": "X", "meta": "",
        "event": "", "seq": 1, "type": "X", "severity": 1, "count": 1, "message": "", "attrs": {}, "entity": {
            "id": 1, "kind": "host", "namespace": "", "name": "", "node": node, "netns": 1, "cookie": 1,
        },
    });
    streamed(Some(Bytes::from(format!("{event}\n"))), |line: Option<Bytes>| async {
        match line {
            Some(line) => Some((line, None)),
            None => std::future::pending().await,
        }
    })
}

/// The same piece again and again.
fn endless(piece: String, every: Duration) -> Answer {
    streamed(Bytes::from(piece), move |piece: Bytes| async move {
        tokio::time::sleep(every).await;
        Some((piece.clone(), piece))
    })
}

fn streamed<S, F>(first: S, next: impl FnMut(S) -> F + Send + 'static) -> Answer
where
    S: Send + 'static,
    F: Future<Output = Option<(Bytes, S)>> + Send + 'static,
{
    let pieces = futures_util::stream::unfold(first, next);
    let frames = futures_util::StreamExt::map(pieces, |piece| Ok(Frame::data(piece)));
    Response::new(StreamBody::new(frames).boxed_unsync())
}

fn json(status: u16, document: &Value) -> Answer {
    whole(status, &document.to_string())
}

fn whole(status: u16, body: &str) -> Answer {
    let body = Full::new(Bytes::from(body.to_owned())).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    answer
}
