//! The metrics server: `/`, the telemetry path, `/healthz`, `/readyz`.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use super::Bound;
use super::body::{Body, error, whole};
use super::connections::Connections;
use super::scraper::Scraper;
use super::server;
use crate::config::{HEALTH_PATH, READY_PATH};
use crate::view::View;
use crate::view::exposition::Format;

/// Maximum number of connected clients.
const MAX_CONNECTIONS: usize = 512;
/// Maximum number of them that wait for a scrape, so that health checks have room whatever scrapers do.
const MAX_SCRAPES: usize = 256;

/// Serves metrics and health on all listeners until `shutdown` is ready.
pub async fn serve_metrics(
    listeners: Vec<Bound>,
    view: Arc<View>,
    telemetry_path: String,
    shutdown: impl Future<Output = ()>,
) {
    let connections = Connections::new("metrics", MAX_CONNECTIONS, &view.status);
    let (scraper, scrapes) = (Arc::new(Scraper::new(Arc::clone(&view))), Semaphore::new(MAX_SCRAPES));
    let web = Arc::new(Web { view, scraper, scrapes, telemetry_path });
    let handler = move |request| Arc::clone(&web).answer(request);
    server::serve(listeners, connections, handler, shutdown).await;
}

struct Web {
    view: Arc<View>,
    scraper: Arc<Scraper>,
    scrapes: Semaphore,
    telemetry_path: String,
}

impl Web {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return method_not_allowed();
        }
        match request.uri().path() {
            path if path == self.telemetry_path => self.metrics(&request).await,
            "/" => whole(StatusCode::OK, "text/html; charset=utf-8", self.landing_page()),
            HEALTH_PATH => whole(StatusCode::OK, TEXT, "ok\n"),
            READY_PATH => self.ready(),
            _ => error(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    async fn metrics(&self, request: &Request<Incoming>) -> Response<Body> {
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::negotiate(accept.unwrap_or_default());
        let too_many = || error(StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once");
        let Ok(_place) = self.scrapes.try_acquire() else { return too_many() };
        match Arc::clone(&self.scraper).scrape(format).await {
            Some(bytes) => whole(StatusCode::OK, format.content_type(), bytes),
            None => too_many(),
        }
    }

    /// Never renders metrics: a probe of the kubelet must stay cheap.
    fn ready(&self) -> Response<Body> {
        let why = self.view.status.update().unready();
        if why.is_empty() {
            return whole(StatusCode::OK, TEXT, "ready\n");
        }
        whole(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready\n{}\n", why.join("\n")))
    }

    fn landing_page(&self) -> String {
        let (version, path) = (env!("CARGO_PKG_VERSION"), html(&self.telemetry_path));
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><title>Inspector</title></head><body>\n\
             <h1>Inspector {version}</h1>\n<p>Tells why the network failed. Node {node}, revision {revision}.</p>\n\
             <ul><li><a href=\"{path}\">Metrics</a></li><li><a href=\"/healthz\">Alive</a></li>\
             <li><a href=\"/readyz\">Ready</a></li></ul>\n</body></html>\n",
            node = html(&self.view.node),
            revision = self.view.revision,
        )
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The answer to everything but reading.
pub(super) fn method_not_allowed() -> Response<Body> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
