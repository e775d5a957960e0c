//! The event server: `/api/v1/…`, the stream of events, the state of every part as JSON, and answers
//! to questions.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

use super::Bound;
use super::body::{self, Body, error};
use super::connections::Connections;
use super::diagnose::{self, Desk};
use super::events::{self, Form};
use super::query::EventQuery;
use super::server;
use super::web::method_not_allowed;
use crate::answers::question::{Answerer, Question};
use crate::view::View;

/// Maximum number of connected clients.
const MAX_CONNECTIONS: usize = 128;
/// Maximum number of them that follow events.
const MAX_STREAMS: usize = 64;

/// Serves events, state and answers on all listeners until `shutdown` is ready.
pub async fn serve_events(
    listeners: Vec<Bound>,
    view: Arc<View>,
    answerer: Answerer,
    shutdown: impl Future<Output = ()>,
) {
    let connections = Connections::new("events", MAX_CONNECTIONS, &view.status);
    let (streams, desk) = (Arc::new(Semaphore::new(MAX_STREAMS)), Desk::new(answerer));
    let api = Arc::new(Api { view, streams, desk });
    let handler = move |request| Arc::clone(&api).answer(request);
    server::serve(listeners, connections, handler, shutdown).await;
}

struct Api {
    view: Arc<View>,
    streams: Arc<Semaphore>,
    desk: Desk,
}

impl Api {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() == "/api/v1/diagnose" {
            return match *request.method() {
                Method::POST => self.desk.read_and_answer(request).await,
                _ => diagnose::only_post(),
            };
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return method_not_allowed();
        }
        let view = &self.view;
        match request.uri().path() {
            "/api/v1/events" => self.events(&request),
            "/api/v1/event-types" => ok(&view.events.types()),
            "/api/v1/entities" => ok(&view.entities.listed()),
            "/api/v1/metrics" => ok(&view.metrics.families()),
            "/api/v1/probes" => ok(&view.status.snapshot().probes.into_values().collect::<Vec<_>>()),
            "/api/v1/plugins" => ok(&view.status.snapshot().plugins.into_values().collect::<Vec<_>>()),
            "/api/v1/findings" => self.desk.answer(Question::default()).await,
            "/api/v1/scenarios" => ok(&view.status.snapshot().scenarios()),
            "/api/v1/sinks" => ok(&view.status.snapshot().sinks.into_values().collect::<Vec<_>>()),
            "/api/v1/sources" => ok(&view.status.snapshot().sources.into_values().collect::<Vec<_>>()),
            "/api/v1/version" => ok(&json!({
                "version": env!("CARGO_PKG_VERSION"),
                "revision": view.revision,
                "node": view.node,
            })),
            _ => error(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    fn events(&self, request: &Request<Incoming>) -> Response<Body> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let query = EventQuery::parse(request.uri().query().unwrap_or_default(), now);
        let query = match (query, header("last-event-id")) {
            (Ok(query), Some(id)) => query.after(id),
            (query, _) => query,
        };
        let query = match query {
            Ok(query) => query,
            Err(wrong) => return error(StatusCode::BAD_REQUEST, &wrong.to_string()),
        };
        // Analyzers that are still being compiled have not declared theirs.
        let types = self.view.status.update().plugins_seen.then(|| self.view.events.types());
        if let Some(Err(wrong)) = types.map(|types| query.check_types(&types)) {
            return error(StatusCode::BAD_REQUEST, &wrong.to_string());
        }
        match Arc::clone(&self.streams).try_acquire_owned() {
            Ok(permit) => {
                let (log, form) = (Arc::clone(&self.view.events), Form::accepted(header("accept")));
                let id = HeaderValue::from_str(&format!("{:x}", log.id())).expect("digits");
                let chunks = events::stream(log, query, form, permit);
                let mut response = body::chunks(form.content_type(), chunks);
                response.headers_mut().insert("inspector-log", id);
                response
            }
            Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "64 clients follow events already"),
        }
    }
}

fn ok(value: &impl serde::Serialize) -> Response<Body> {
    body::json(StatusCode::OK, value)
}
