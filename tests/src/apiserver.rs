//! A strict Kubernetes API server for this node's pods, Services and nodes: lists, watches that go on from a
//! version or begin with all there is, bookmarks, Events on pods, and failures by script.
//!
//! It refuses what a real one would refuse: no token, a list of more than one node's pods and an Event unless
//! that is allowed, a watch without a version or from one that is too old. Everything else is a 404, so that
//! a client that asks for more than it should is noticed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Name of the node whose pods are asked for.
pub const NODE: &str = "node-1";
/// How often a watch is sent a bookmark.
const BOOKMARK: Duration = Duration::from_millis(200);

/// What it does in place of answering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Answers with a status.
    Status(u16),
    /// Answers watches with a status, and all else as it should.
    NoWatch(u16),
    /// Ends a list in the middle, or a watch in the middle of an event.
    Truncate,
    /// Takes the request and never answers.
    Hang,
}

/// Whether watches may begin with all objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// They may.
    Given,
    /// With this status: 422 without the feature gate `WatchList`, 500 with an etcd before 3.5.
    Refused(u16),
}

impl Default for Streams {
    fn default() -> Self {
        Self::Refused(422)
    }
}

/// A running server; stopped when dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    at: SocketAddr,
    home: TempDir,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// By kind, then by name.
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    events: Vec<(u64, &'static str, Value)>,
    /// Who asks may list the pods of all nodes.
    allows_all_pods: bool,
    /// Who asks may write Events.
    allows_events: bool,
    /// Of Kubernetes 1.
    minor: u32,
    streams: Streams,
    written: Vec<Value>,
    /// Watches from before are told that they are too late.
    compacted: u64,
    token: String,
    trouble: Option<Trouble>,
    requests: Vec<String>,
    connections: Vec<TcpStream>,
    is_stopped: bool,
}

impl ApiServer {
    /// Listens on a port of loopback, any one for 0.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let (at, shared) = (listener.local_addr()?, Arc::<Shared>::default());
        let home = tempfile::tempdir()?;
        let server = Self { shared, at, home };
        server.set_token("first")?;
        server.change(|state| (state.version, state.minor) = (1, 33));
        let shared = Arc::clone(&server.shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                if shared.lock().is_stopped {
                    return;
                }
                // A client that goes away ends its own connection.
                std::thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Ok(server)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.at.port()
    }

    /// A kubeconfig for it, with a token in a file that rotates.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        let file = self.home.path().join("kubeconfig");
        let (at, token) = (self.at, self.home.path().join("token"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://{at}") } }],
            "users": [{ "name": "u", "user": { "tokenFile": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "c", "user": "u" } }],
        });
        fs::write(&file, config.to_string())?;
        Ok(file)
    }

    /// Accepts only this token from now on, and writes it where the client looks for it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_token(&self, token: &str) -> Result<()> {
        fs::write(self.home.path().join("token"), token)?;
        self.change(|state| state.token = token.to_owned());
        Ok(())
    }

    /// Allows to list the pods of all nodes.
    pub fn allow_all_pods(&self) {
        self.change(|state| state.allows_all_pods = true);
    }

    /// Is of this minor version of Kubernetes 1 from now on; at first it is 1.33, without streaming lists.
    pub fn become_version(&self, minor: u32, streams: Streams) {
        self.change(|state| (state.minor, state.streams) = (minor, streams));
    }

    /// Allows to write Events.
    pub fn allow_events(&self) {
        self.change(|state| state.allows_events = true);
    }

    /// Events that were written.
    pub fn events(&self) -> Vec<Value> {
        self.shared.lock().written.clone()
    }

    /// Adds or replaces an object, by its kind and name.
    pub fn set(&self, object: Value) {
        self.change(|state| {
            let (kind, name) = (kind(&object), name(&object));
            state.version += 1;
            let mut object = object;
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            let before = state.objects.entry(kind).or_default().insert(name, object.clone());
            let event = if before.is_some() { "MODIFIED" } else { "ADDED" };
            state.events.push((state.version, event, object));
        });
    }

    /// Deletes a pod by its name.
    pub fn delete(&self, name: &str) {
        self.change(|state| {
            let Some(mut pod) = state.objects.entry("Pod").or_default().remove(name) else { return };
            state.version += 1;
            pod["metadata"]["resourceVersion"] = state.version.to_string().into();
            state.events.push((state.version, "DELETED", pod));
        });
    }

    /// Changes pods without telling any watch, and forgets all events: a watch that goes on from before is
    /// told `410 Gone`.
    pub fn compact(&self, change: impl FnOnce(&mut BTreeMap<String, Value>)) {
        self.change(|state| {
            state.version += 10;
            change(state.objects.entry("Pod").or_default());
            state.events.clear();
            state.compacted = state.version;
        });
    }

    /// What all requests meet from now on; running watches are cut off.
    pub fn trouble(&self, trouble: Option<Trouble>) {
        self.change(|state| state.trouble = trouble);
        self.cut();
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for connection in std::mem::take(&mut self.shared.lock().connections) {
            // It may have ended by itself.
            drop(connection.shutdown(Shutdown::Both));
        }
    }

    /// All requests so far: their methods and paths.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.change(|state| state.is_stopped = true);
        self.cut();
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.at));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_end(&self) {
        let is_on = |state: &mut State| !state.is_stopped;
        drop(self.changed.wait_while(self.lock(), is_on).unwrap_or_else(PoisonError::into_inner));
    }
}

/// A pod of the node as the API has it, with what a real one carries and nobody needs.
pub fn pod(namespace: &str, name: &str, uid: &str, deployment: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid,
            "labels": { "app": deployment, "pod-template-hash": "7d9f", "internal": "secret" },
            "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(2000) },
            "managedFields": [{ "manager": "kubelet", "operation": "Update", "fieldsV1": { "f:status": {} } }],
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{deployment}-7d9f"),
                "uid": "1", "controller": true,
            }],
        },
        "spec": { "nodeName": NODE, "containers": [{ "name": "a", "image": "b" }] },
        "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.7" }] },
    })
}

/// A Service as the API has it; `port` and `target` are a number each.
pub fn service(namespace: &str, name: &str, ip: &str, port: u16, target: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace, "uid": format!("service-{name}") },
        "spec": {
            "clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP", "selector": { "app": name },
            "ports": [{ "port": port, "protocol": "TCP", "targetPort": target }],
        },
        "status": { "loadBalancer": {} },
    })
}

/// A node as the API has it.
pub fn node(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "uid": format!("node-{name}") },
        "spec": {}, "status": {
            "addresses": [{ "type": "InternalIP", "address": ip }, { "type": "Hostname", "address": name }],
            "images": [{ "names": ["x".repeat(500)], "sizeBytes": 1 }],
        },
    })
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Kinds that there are, and what they are called in paths.
const KINDS: [(&str, &str); 3] = [("Pod", "pods"), ("Service", "services"), ("Node", "nodes")];

fn kind(object: &Value) -> &'static str {
    let known = KINDS.iter().find(|(kind, _)| object["kind"] == *kind);
    known.expect("a pod, a Service or a node").0
}

struct Request {
    line: String,
    token: String,
    body: Vec<u8>,
}

fn read(from: &mut impl io::BufRead) -> io::Result<Option<Request>> {
    let (mut line, mut token, mut length) = (String::new(), String::new(), 0);
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    loop {
        let mut header = String::new();
        if from.read_line(&mut header)? == 0 || header.trim().is_empty() {
            let mut body = vec![0; length];
            from.read_exact(&mut body)?;
            return Ok(Some(Request { line: line.trim().to_owned(), token, body }));
        }
        match header.split_once(':') {
            Some((key, value)) if key.eq_ignore_ascii_case("authorization") => {
                token = value.trim().trim_start_matches("Bearer ").to_owned();
            }
            Some((key, value)) if key.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap_or(0);
            }
            _ => {}
        }
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    shared.lock().connections.push(stream.try_clone()?);
    let (mut from, mut to) = (BufReader::new(stream.try_clone()?), stream);
    while let Some(request) = read(&mut from)? {
        let path = request.line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (token, trouble) = {
            let mut state = shared.lock();
            state.requests.push(request.line.clone());
            (state.token.clone(), state.trouble.clone())
        };
        match trouble {
            Some(Trouble::Status(status)) => refuse(&mut to, status, "as the test says")?,
            Some(Trouble::NoWatch(status)) if path.contains("watch=true") => {
                refuse(&mut to, status, "as the test says")?;
            }
            Some(Trouble::Hang) => shared.wait_for_end(),
            _ if request.token != token => refuse(&mut to, 401, "Unauthorized")?,
            Some(Trouble::Truncate) => {
                to.write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n",
                )?;
                to.write_all(br#"{"kind":"PodList","items":[{"metadata":{"na"#)?;
                return to.shutdown(Shutdown::Both);
            }
            _ if request.line.starts_with("GET ") => answer(&mut to, &path, shared)?,
            _ => write_event(&mut to, &request, shared)?,
        }
    }
    Ok(())
}

fn refuse(to: &mut impl Write, status: u16, why: &str) -> io::Result<()> {
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": why,
        "reason": "Test", "code": status })
    .to_string();
    whole(to, status, &body)
}

fn whole(to: &mut impl Write, status: u16, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(
        to,
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn answer(to: &mut impl Write, path: &str, shared: &Shared) -> io::Result<()> {
    if path == "/version" {
        let minor = shared.lock().minor.to_string();
        let version = json!({ "major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.0"), "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "" });
        return whole(to, 200, &version.to_string());
    }
    let asked = path.strip_prefix("/api/v1/").and_then(|path| path.split_once('?'));
    let known =
        asked.and_then(|(plural, query)| Some((KINDS.iter().find(|(_, known)| *known == plural)?.0, query)));
    let Some((kind, query)) = known else { return refuse(to, 404, "there is nothing else here") };
    let query: BTreeMap<_, _> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let is_of_node = match query.get("fieldSelector") {
        Some(of) if *of == format!("spec.nodeName%3D{NODE}") && kind == "Pod" => true,
        Some(_) => return refuse(to, 400, "a field selector for the pods of this node is all that is known"),
        None if kind == "Pod" && !shared.lock().allows_all_pods => {
            return refuse(to, 403, "only the pods of this node may be listed");
        }
        None => false,
    };
    let is_asked =
        move |object: &Value| object["kind"] == kind && (!is_of_node || object["spec"]["nodeName"] == NODE);
    match query.get("watch") {
        None => {
            let state = shared.lock();
            let items: Vec<_> =
                state.objects.values().flat_map(BTreeMap::values).filter(|object| is_asked(object)).collect();
            let version = state.version.to_string();
            let list = json!({ "kind": format!("{kind}List"), "apiVersion": "v1",
                "metadata": { "resourceVersion": version }, "items": items });
            drop(state);
            whole(to, 200, &list.to_string())
        }
        Some(_) => {
            let number = |key| query.get(key).and_then(|text| text.parse::<u64>().ok());
            let (Some(from), Some(seconds)) = (number("resourceVersion"), number("timeoutSeconds")) else {
                return refuse(to, 400, "a watch needs resourceVersion and timeoutSeconds");
            };
            let has = |key: &str, value: &str| query.get(key) == Some(&value);
            let (bookmarks, whole) = (has("allowWatchBookmarks", "true"), has("sendInitialEvents", "true"));
            if whole && !(bookmarks && has("resourceVersionMatch", "NotOlderThan")) {
                return refuse(to, 422, "sendInitialEvents needs bookmarks and resourceVersionMatch");
            }
            let streams = shared.lock().streams;
            if let Streams::Refused(status) = streams
                && whole
            {
                return refuse(to, status, "sendInitialEvents is forbidden for watch");
            }
            let time = Duration::from_secs(seconds);
            watch(to, shared, Asked { kind, from, whole, time, bookmarks, is_asked: &is_asked })
        }
    }
}

/// Takes a new Event, or that it was seen again (its `series`), and refuses what the API server of Kubernetes
/// 1.33 refuses (pkg/apis/core/validation/events.go).
fn write_event(to: &mut impl Write, request: &Request, shared: &Shared) -> io::Result<()> {
    let event: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let text = |at: &str| event.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let all = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let mut words = request.line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.trim_end_matches('?');
    let mut state = shared.lock();
    let known = state.written.iter().position(|known| known["metadata"]["name"] == name);
    let is_right = match known {
        None => method == "POST" && path == all,
        Some(_) => method == "PATCH" && path == format!("{all}/{name}"),
    };
    if !is_right {
        return refuse(to, 404, "there is nothing else here");
    }
    if !state.allows_events {
        return refuse(to, 403, "events.events.k8s.io is forbidden");
    }
    let needed = ["/action", "/eventTime", "/reportingController", "/reportingInstance", "/regarding/uid"];
    if let Some(missing) = needed.into_iter().find(|at| text(at).is_empty()) {
        return refuse(to, 422, &format!("{missing}: Required value"));
    }
    let is_short = text("/note").len() <= 1024 && (1..=128).contains(&text("/reason").len());
    if !is_short || text("/regarding/namespace") != namespace || text("/type") != "Warning" {
        return refuse(to, 422, "Event is invalid");
    }
    let body = event.to_string();
    let status = if known.is_some() { 200 } else { 201 };
    match known {
        Some(at) => state.written[at] = event,
        None => state.written.push(event),
    }
    drop(state);
    whole(to, status, &body)
}

/// What a watch is about.
struct Asked<'a> {
    kind: &'static str,
    /// The version that it goes on from.
    from: u64,
    /// It begins with all objects that there are.
    whole: bool,
    time: Duration,
    bookmarks: bool,
    is_asked: &'a dyn Fn(&Value) -> bool,
}

/// Events behind a version, as they come.
fn watch(to: &mut impl Write, shared: &Shared, asked: Asked<'_>) -> io::Result<()> {
    let Asked { kind: of, from, whole, time, bookmarks, is_asked } = asked;
    write!(to, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")?;
    let (began, mut seen) = (Instant::now(), from);
    if whole {
        let state = shared.lock();
        let all: Vec<_> = state
            .objects
            .values()
            .flat_map(BTreeMap::values)
            .filter(|object| is_asked(object))
            .cloned()
            .collect();
        seen = state.version;
        drop(state);
        for object in all {
            chunk(to, &json!({ "type": "ADDED", "object": object }))?;
        }
        let mut end = bookmark(of, seen);
        end["object"]["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        chunk(to, &end)?;
    }
    loop {
        let mut state = shared.lock();
        if seen < state.compacted {
            let gone = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
                "reason": "Expired", "message": "too old resource version" });
            drop(state);
            chunk(to, &json!({ "type": "ERROR", "object": gone }))?;
            return to.write_all(b"0\r\n\r\n");
        }
        let new: Vec<_> = state.events.iter().filter(|(version, ..)| *version > seen).cloned().collect();
        if new.is_empty() {
            state = shared.changed.wait_timeout(state, BOOKMARK).unwrap_or_else(PoisonError::into_inner).0;
        }
        let (version, is_stopped) = (state.version, state.is_stopped);
        drop(state);
        if is_stopped || began.elapsed() > time {
            return to.write_all(b"0\r\n\r\n");
        }
        if new.is_empty() && bookmarks && version == seen {
            chunk(to, &bookmark(of, version))?;
        }
        for (version, event, object) in new {
            seen = version;
            if is_asked(&object) {
                chunk(to, &json!({ "type": event, "object": object }))?;
            }
        }
    }
}

/// An event that tells of nothing but a version.
fn bookmark(of: &str, version: u64) -> Value {
    let at = json!({ "resourceVersion": version.to_string(), "creationTimestamp": null });
    let object = json!({ "kind": of, "apiVersion": "v1", "metadata": at, "spec": { "containers": null }, "status": {} });
    json!({ "type": "BOOKMARK", "object": object })
}

fn chunk(to: &mut impl Write, event: &Value) -> io::Result<()> {
    let line = format!("{event}\n");
    write!(to, "{:x}\r\n{line}\r\n", line.len())?;
    to.flush()
}
