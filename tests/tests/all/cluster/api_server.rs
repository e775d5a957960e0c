//! An API server of our own: as much of it as the product may use, and strict. What it is not prepared for
//! it refuses, and remembers.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::agent::{self, Agent};

const NAMESPACE: &str = "kube-system";
const SELECTOR: &str = "app.kubernetes.io/name=inspector";
const PORT: u16 = 19102;
const TOKEN: &str = "let-me-in";
/// Less than clients ask for, so that they see pages.
const PAGE: usize = 70;

/// What there is.
#[derive(Debug, Default)]
pub struct Objects {
    /// The agent of each node.
    pub agents: BTreeMap<String, Agent>,
    /// The node of each pod `NAMESPACE/NAME` that is no agent's; the agent there knows it.
    pub pods: BTreeMap<String, String>,
    /// The pods behind each Service `NAMESPACE/NAME`.
    pub services: BTreeMap<String, Vec<String>>,
    /// A verb and a resource that nobody may.
    pub forbidden: Option<(&'static str, &'static str)>,
}

/// A running API server.
#[derive(Debug)]
pub struct ApiServer {
    at: SocketAddr,
    state: Arc<State>,
    // Everything runs on it, and ends with it.
    _runtime: Runtime,
}

#[derive(Debug)]
struct State {
    objects: Mutex<Objects>,
    /// What it was asked for and is not prepared for.
    surprises: Mutex<Vec<String>>,
    forwards: AtomicUsize,
    most_forwards: AtomicUsize,
}

type Answer = Response<Full<Bytes>>;

impl ApiServer {
    /// Starts one on a free port.
    pub fn start(objects: Objects) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let at = listener.local_addr()?;
        let (forwards, most_forwards) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let state =
            State { objects: Mutex::new(objects), surprises: Mutex::default(), forwards, most_forwards };
        let state = Arc::new(state);
        runtime.spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { at, state, _runtime: runtime })
    }

    /// A kubeconfig with the contexts `good` (the current one) and `stranger`, who has another token.
    pub fn kubeconfig(&self) -> Result<NamedTempFile> {
        let mut file = NamedTempFile::new()?;
        let user = |name: &str, token: &str| json!({ "name": name, "user": { "token": token } });
        let context = |name: &str| json!({ "name": name, "context": { "cluster": "fake", "user": name } });
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "good",
            "clusters": [{ "name": "fake", "cluster": { "server": format!("http://{}", self.at) } }],
            "users": [user("good", TOKEN), user("stranger", "old")],
            "contexts": [context("good"), context("stranger")],
        });
        write!(file, "{config}")?;
        Ok(file)
    }

    /// Changes what there is.
    pub fn change(&self, change: impl FnOnce(&mut Objects)) {
        change(&mut locked(&self.state.objects));
    }

    /// The most ports that were forwarded at the same time.
    pub fn most_forwards(&self) -> usize {
        self.state.most_forwards.load(Ordering::Relaxed)
    }

    /// Fails if it was asked for anything that it is not prepared for.
    pub fn check(&self) -> Result<()> {
        let surprises = locked(&self.state.surprises);
        ensure!(surprises.is_empty(), "{surprises:?}");
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let answer = |request| {
                let state = Arc::clone(&state);
                async move { anyhow::Ok(answer(&state, request)) }
            };
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            let _ = connection.with_upgrades().await;
        });
    }
}

fn answer(state: &Arc<State>, mut request: Request<Incoming>) -> Answer {
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default());
    let query: BTreeMap<_, _> =
        query.split('&').filter_map(|pair| pair.split_once('=')).map(decoded).collect();
    if request.headers().get(AUTHORIZATION).is_none_or(|token| *token != format!("Bearer {TOKEN}")) {
        return status(401, "Unauthorized");
    }
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let namespace =
        parts.iter().skip_while(|part| **part != "namespaces").nth(1).copied().unwrap_or_default();
    match (request.method(), &parts[..]) {
        (&Method::GET, ["api", "v1", "namespaces", _, "pods"]) => {
            state.allowed("list", "pods", namespace).unwrap_or_else(|| state.agents(namespace, &query))
        }
        (&Method::GET, ["api", "v1", "namespaces", _, "pods", name]) => {
            state.allowed("get", "pods", namespace).unwrap_or_else(|| state.pod(namespace, name))
        }
        (&Method::GET, ["apis", "discovery.k8s.io", "v1", "namespaces", _, "endpointslices"]) => state
            .allowed("list", "endpointslices", namespace)
            .unwrap_or_else(|| state.slices(namespace, &query)),
        (&Method::GET, ["api", "v1", "namespaces", _, "pods", name, "portforward"]) => {
            let name = (*name).to_owned();
            let refused = state.allowed("get", "pods/portforward", namespace);
            let refused = refused.or_else(|| state.allowed("create", "pods/portforward", namespace));
            refused
                .map(Ok)
                .unwrap_or_else(|| forward(state, &name, namespace, &query, &mut request))
                .unwrap_or_else(|why| state.surprise(&format!("{path}: {why:#}")))
        }
        (method, _) => state.surprise(&format!("{method} {path}")),
    }
}

fn decoded((name, value): (&str, &str)) -> (String, String) {
    let value = value.replace('+', " ").replace("%2F", "/").replace("%3D", "=").replace("%2C", ",");
    (name.to_owned(), value)
}

impl State {
    fn surprise(&self, what: &str) -> Answer {
        locked(&self.surprises).push(what.to_owned());
        status(404, what)
    }

    /// A refusal in the words of RBAC; none if it is allowed.
    fn allowed(&self, verb: &str, resource: &str, namespace: &str) -> Option<Answer> {
        let refusal = format!(
            "pods \"x\" is forbidden: User \"u\" cannot {verb} resource \"{resource}\" in API group \"\" in the \
             namespace \"{namespace}\""
        );
        (locked(&self.objects).forbidden == Some((verb, resource))).then(|| status(403, &refusal))
    }

    /// A page of the agents' pods.
    fn agents(&self, namespace: &str, query: &BTreeMap<String, String>) -> Answer {
        if !query.get("limit").is_some_and(|limit| limit.parse().is_ok_and(|limit: usize| limit >= PAGE)) {
            return self.surprise("a list without a limit");
        }
        let is_theirs =
            namespace == NAMESPACE && query.get("labelSelector").is_some_and(|text| text == SELECTOR);
        let objects = locked(&self.objects);
        let agents: Vec<_> = objects.agents.iter().filter(|_| is_theirs).collect();
        let from = query.get("continue").map_or(0, |token| token.parse().expect("its own token"));
        let page = agents.iter().skip(from).take(PAGE).map(|(node, agent)| {
            let (phase, ready) =
                if **agent == Agent::Pending { ("Pending", "False") } else { ("Running", "True") };
            json!({
                "metadata": { "name": format!("inspector-{node}"), "namespace": NAMESPACE },
                "spec": { "nodeName": node, "containers": [] },
                "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] },
            })
        });
        let next = if from + PAGE < agents.len() { (from + PAGE).to_string() } else { String::new() };
        let metadata = json!({ "resourceVersion": "1", "continue": next });
        ok(
            &json!({ "kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": page.collect::<Vec<_>>() }),
        )
    }

    fn pods_of(&self, node: &str) -> Vec<String> {
        let objects = locked(&self.objects);
        objects.pods.iter().filter(|(_, on)| *on == node).map(|(pod, _)| pod.clone()).collect()
    }

    fn pod(&self, namespace: &str, name: &str) -> Answer {
        match locked(&self.objects).pods.get(&format!("{namespace}/{name}")) {
            None => status(404, &format!("pods \"{name}\" not found")),
            Some(node) => ok(&json!({
                "kind": "Pod", "apiVersion": "v1", "metadata": { "name": name, "namespace": namespace },
                "spec": { "nodeName": node, "containers": [] },
            })),
        }
    }

    fn slices(&self, namespace: &str, query: &BTreeMap<String, String>) -> Answer {
        let service =
            query.get("labelSelector").and_then(|text| text.strip_prefix("kubernetes.io/service-name="));
        let Some(service) = service else { return self.surprise("slices of no Service") };
        let objects = locked(&self.objects);
        let pods = objects.services.get(&format!("{namespace}/{service}"));
        let endpoints = pods.into_iter().flatten().map(|pod| {
            let name = pod.split('/').nth(1);
            let target = json!({ "kind": "Pod", "namespace": namespace, "name": name });
            let conditions = json!({ "ready": !pod.ends_with("-unready") });
            json!({ "addresses": ["10.0.0.1"], "nodeName": objects.pods[pod], "targetRef": target, "conditions": conditions })
        });
        let slice =
            json!({ "metadata": {}, "addressType": "IPv4", "endpoints": endpoints.collect::<Vec<_>>() });
        ok(
            &json!({ "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": {}, "items": [slice] }),
        )
    }
}

/// Begins a port-forward as the API server does, or says what is wrong with the request.
fn forward(
    state: &Arc<State>,
    pod: &str,
    namespace: &str,
    query: &BTreeMap<String, String>,
    request: &mut Request<Incoming>,
) -> Result<Answer> {
    ensure!(namespace == NAMESPACE, "no agent's namespace");
    ensure!(query.get("ports").is_some_and(|ports| *ports == PORT.to_string()), "not the agent's port");
    let headers = request.headers();
    let is = |name: &str, value: &str| text(headers, name).to_lowercase() == value;
    ensure!(is("upgrade", "websocket") && is("connection", "upgrade"), "no upgrade: {headers:?}");
    ensure!(is("sec-websocket-version", "13"), "another version");
    let protocols = text(headers, "sec-websocket-protocol");
    ensure!(protocols.split(", ").any(|protocol| protocol == "v4.channel.k8s.io"), "protocols {protocols}");
    let accept = derive_accept_key(text(headers, "sec-websocket-key").as_bytes());
    let node = pod.strip_prefix("inspector-").context("no agent's pod")?.to_owned();
    let agent = *locked(&state.objects).agents.get(&node).context("no such node")?;
    ensure!(agent != Agent::Pending, "a pod that is not ready");

    let (state, upgrade) = (Arc::clone(state), hyper::upgrade::on(request));
    tokio::spawn(async move {
        let now = state.forwards.fetch_add(1, Ordering::Relaxed) + 1;
        state.most_forwards.fetch_max(now, Ordering::Relaxed);
        if let Ok(upgraded) = upgrade.await {
            let stream = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            let pods = state.pods_of(&node);
            let _ = carry(stream, agent, node, pods).await;
        }
        state.forwards.fetch_sub(1, Ordering::Relaxed);
    });
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-protocol", HeaderValue::from_static("v4.channel.k8s.io"));
    headers.insert("sec-websocket-accept", accept.parse()?);
    Ok(answer)
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Carries bytes between the client and an agent. Each message begins with its channel: 0 for data, 1 for
/// an error; the first of each is the port.
async fn carry(mut socket: Socket, agent: Agent, node: String, pods: Vec<String>) -> Result<()> {
    for channel in [0, 1] {
        socket.send(Message::binary([&[channel][..], &PORT.to_le_bytes()].concat())).await?;
    }
    if agent == Agent::Dead {
        let why = format!("error forwarding port {PORT} to pod: connection refused\u{1b}[2J\n");
        socket.send(Message::binary([&[1][..], why.as_bytes()].concat())).await?;
        return Ok(socket.close(None).await?);
    }
    let (theirs, ours) = tokio::io::duplex(64 << 10);
    tokio::spawn(agent::serve(agent, node, pods, theirs));
    let (mut from_agent, mut to_agent) = tokio::io::split(ours);
    let (mut to_client, mut from_client) = socket.split();
    let down = async {
        let mut bytes = vec![0; 32 << 10];
        loop {
            let length = from_agent.read(&mut bytes).await?;
            if length == 0 {
                return Ok(to_client.close().await?);
            }
            to_client.send(Message::binary([&[0][..], &bytes[..length]].concat())).await?;
        }
    };
    let up = async {
        while let Some(message) = from_client.next().await {
            match message? {
                Message::Binary(bytes) if bytes.first() == Some(&0) => {
                    to_agent.write_all(&bytes[1..]).await?
                }
                Message::Close(_) => break,
                other => anyhow::bail!("{other:?}"),
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = down => ended,
        ended = up => ended,
    }
}

fn ok(document: &Value) -> Answer {
    Response::new(Full::new(Bytes::from(document.to_string())))
}

fn status(code: u16, message: &str) -> Answer {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        _ => "NotFound",
    };
    let mut answer = ok(&json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code,
    }));
    *answer.status_mut() = StatusCode::from_u16(code).expect("a status");
    answer
}
