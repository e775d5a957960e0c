//! The metrics server: `/`, the telemetry path, `/healthz`, `/readyz`.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::Bound;
use super::body::{Body, error, whole};
use super::scraper::Scraper;
use super::server;
use crate::exposition::Format;
use crate::view::View;

/// At most so many scrapers are connected.
const MAX_CONNECTIONS: usize = 512;

/// Serves metrics and health on all listeners until `shutdown` is ready.
pub async fn serve_metrics(
    listeners: Vec<Bound>,
    view: Arc<View>,
    telemetry_path: String,
    shutdown: impl Future<Output = ()>,
) {
    let web = Arc::new(Web { scraper: Arc::new(Scraper::new(Arc::clone(&view))), view, telemetry_path });
    let handler = move |request| Arc::clone(&web).answer(request);
    server::serve(listeners, MAX_CONNECTIONS, handler, shutdown).await;
}

struct Web {
    view: Arc<View>,
    scraper: Arc<Scraper>,
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
            "/healthz" => whole(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.ready(),
            _ => error(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    async fn metrics(&self, request: &Request<Incoming>) -> Response<Body> {
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::negotiate(accept.unwrap_or_default());
        match Arc::clone(&self.scraper).scrape(format).await {
            Some(bytes) => whole(StatusCode::OK, format.content_type(), bytes),
            None => error(StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once"),
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
