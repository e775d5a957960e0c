//! Questions over HTTP: `POST /api/v1/diagnose`, and `GET /api/v1/findings` for the usual one.
//!
//! Answering blocks for seconds, so it happens off the async threads, a few questions at a time;
//! what a client sends is bounded in size and time, and checked before anybody is asked.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

use super::body::{self, Body, error};
use super::connections::Connection;
use crate::answers::question::{Answerer, Question, Refusal};
use crate::text::escape;

/// Bytes of a question.
const MAX_BODY: usize = 64 << 10;
/// Time to send it.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions at once.
const MAX_QUESTIONS: usize = 4;
/// Bytes of a name in a question.
const MAX_NAME: usize = 512;
/// Bytes of what is said about a question that makes no sense.
const MAX_COMPLAINT: usize = 256;

/// Where questions are answered, a few at a time.
#[derive(Clone)]
pub(super) struct Desk {
    answerer: Answerer,
    places: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(answerer: Answerer) -> Self {
        Self { answerer, places: Arc::new(Semaphore::new(MAX_QUESTIONS)) }
    }

    /// Reads a question and answers it.
    pub(super) async fn read_and_answer(&self, request: Request<Incoming>) -> Response<Body> {
        let connection = request.extensions().get::<Arc<Connection>>().cloned();
        match tokio::time::timeout(BODY_TIMEOUT, question(request.into_body())).await {
            Ok(Ok(question)) => {
                connection.inspect(|connection| connection.answers());
                self.answer(question).await
            }
            Ok(Err(refused)) => *refused,
            Err(_) => error(StatusCode::REQUEST_TIMEOUT, "the question did not come in time"),
        }
    }

    /// Answers a question.
    pub(super) async fn answer(&self, question: Question) -> Response<Body> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let busy = format!("{MAX_QUESTIONS} questions are being answered: ask again in some seconds");
            return error(StatusCode::SERVICE_UNAVAILABLE, &busy);
        };
        let answerer = Arc::clone(&self.answerer);
        let answer = tokio::task::spawn_blocking(move || {
            let answer = answerer(&question);
            // Only now: a client that went away does not end what it has begun.
            drop(place);
            answer
        });
        match answer.await {
            Ok(Ok(report)) => body::json(StatusCode::OK, &report),
            Ok(Err(refusal)) => refused(&refusal),
            Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "answering failed: see the agent's log"),
        }
    }
}

/// The answer to everything but a question.
pub(super) fn only_post() -> Response<Body> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "only POST is allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

/// Boxed, because a response is large and rarely an error.
async fn question(body: Incoming) -> Result<Question, Box<Response<Body>>> {
    let refuse = |status, why: &str| Box::new(error(status, why));
    let bytes = match Limited::new(body, MAX_BODY).collect().await {
        Ok(bytes) => bytes.to_bytes(),
        Err(e) if e.is::<LengthLimitError>() => {
            let why = format!("a question has at most {MAX_BODY} bytes");
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, &why));
        }
        Err(_) => return Err(refuse(StatusCode::BAD_REQUEST, "the question was cut off")),
    };
    // An empty question is the usual one.
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    let question: Question = serde_json::from_slice(text).map_err(|wrong| {
        let why = format!("not a question: {wrong}");
        refuse(StatusCode::BAD_REQUEST, &escape::admit(why, MAX_COMPLAINT))
    })?;
    // Refusals repeat the name.
    if question.entities.iter().chain([&question.scenario]).any(|name| name.len() > MAX_NAME) {
        let why = format!("not a question: nothing has a name of more than {MAX_NAME} bytes");
        return Err(refuse(StatusCode::BAD_REQUEST, &why));
    }
    Ok(question)
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let mut answer = json!({ "error": refusal.to_string() });
    if let Some((name, known)) = refusal.known() {
        answer[name] = json!(known);
    }
    let status = match refusal {
        // Nothing is wrong with the question.
        Refusal::NoAnalyzer { .. } | Refusal::Starting(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    body::json(status, &answer)
}
