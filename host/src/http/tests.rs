//! The servers over real sockets, as their clients see them.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::{self, Lines};
use super::reach;
use super::*;
use crate::answers::question::{Answerer, Refusal};
use crate::answers::report::Report;
use crate::events::event::EventLine;
use crate::events::event::NewEvent;
use crate::view::View;

/// Longest wait for anything that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running server; it is gone when this is dropped.
struct Server {
    address: String,
    view: Arc<View>,
    _tasks: JoinSet<()>,
}

fn listeners() -> (Vec<Bound>, String) {
    let bound = bind(&["127.0.0.1:0".parse().expect("an address")], "--flag").expect("a free port");
    let address = bound[0].address().to_string();
    (bound, address)
}

fn events_server() -> Server {
    let ((bound, address), view, mut tasks) = (listeners(), View::test(), JoinSet::new());
    tasks.spawn(serve_events(bound, Arc::clone(&view), answerer(), std::future::pending()));
    Server { address, view, _tasks: tasks }
}

/// Knows one scenario, and takes its time for another.
fn answerer() -> Answerer {
    Arc::new(|question| match question.scenario.as_str() {
        "node" => Ok(Report::of_node("node", "n1", question.window(), 1, Vec::new(), Vec::new())),
        "slow" => {
            std::thread::sleep(Duration::from_millis(500));
            Err(Refusal::NoWindow)
        }
        asked => Err(Refusal::Scenario { asked: asked.to_owned(), known: vec!["node".to_owned()] }),
    })
}

fn metrics_server() -> Server {
    let ((bound, address), view, mut tasks) = (listeners(), View::test(), JoinSet::new());
    tasks.spawn(serve_metrics(bound, Arc::clone(&view), "/metrics".to_owned(), std::future::pending()));
    Server { address, view, _tasks: tasks }
}

impl Server {
    /// Sends a request as it stands and reads the whole answer.
    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.expect("listening");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("in time").expect("UTF-8");
        answer
    }

    async fn get(&self, path: &str, header: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n")).await
    }

    async fn post(&self, body: &str) -> String {
        let length = body.len();
        let head = format!("host: x\r\nconnection: close\r\ncontent-length: {length}\r\n");
        self.ask(&format!("POST /api/v1/diagnose HTTP/1.1\r\n{head}\r\n{body}")).await
    }

    async fn follow(&self, query: &str) -> Lines {
        let path = format!("/api/v1/events?{query}");
        client::lines(&at(&self.address), &path).await.expect("a stream")
    }

    fn emit(&self, kind: &str, pod: &str) {
        let cookie = pod.bytes().map(u64::from).sum();
        let entity = self.view.test_entity(cookie, pod);
        let event = NewEvent { kind: kind.into(), time_ns: 1, entity, ..NewEvent::default() };
        self.view.events.emit("p", vec![event]);
    }
}

fn at(address: &str) -> reach::Server {
    reach::Server::at(&address.parse().expect("an address"))
}

async fn next(lines: &mut Lines) -> String {
    timeout(DEADLINE, lines.next()).await.expect("in time").expect("a sound stream").expect("not the end")
}

async fn next_event(lines: &mut Lines) -> (String, String) {
    let event: EventLine = serde_json::from_str(&next(lines).await).expect("an event");
    (event.kind, event.entity.name)
}

#[tokio::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let server = metrics_server();
    let text = server.get("/metrics", "").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{text}");
    assert!(text.contains("\ninspector_build_info{version=\""), "{text}");
    let open = server.get("/metrics", "accept: application/openmetrics-text;version=1.0.0\r\n").await;
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0;"), "{open}");
    assert!(open.ends_with("\n# EOF\n"), "{open}");
}

#[tokio::test]
async fn readiness_is_told_apart_from_life() {
    let server = metrics_server();
    assert!(server.get("/healthz", "").await.starts_with("HTTP/1.1 200"));
    let waiting = server.get("/readyz", "").await;
    assert!(waiting.starts_with("HTTP/1.1 503"), "{waiting}");
    assert!(waiting.contains("\nwaiting: the first scan for namespaces\n"), "{waiting}");
    {
        let mut states = server.view.status.update();
        (states.namespaces_seen, states.plugins_seen) = (true, true);
    }
    assert!(server.get("/readyz", "").await.starts_with("HTTP/1.1 200"));
    assert!(server.get("/", "").await.contains("href=\"/metrics\""));
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_said_so() {
    let server = events_server();
    let answer = server.get("/api/v1/nothing", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 404") && answer.ends_with(r#"{"error":"no such path"}"#),
        "{answer}"
    );
    let post = "POST /api/v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert!(server.ask(post).await.starts_with("HTTP/1.1 405"));
    let error =
        client::get_json::<serde_json::Value>(&at(&server.address), "/api/v1/events?severity=x").await;
    let error = error.expect_err("refused");
    assert!(error.is_refusal() && error.to_string().contains("parameter severity"), "{error}");
}

#[tokio::test]
async fn a_hundred_scrapes_at_once_are_answered() {
    let server = Arc::new(metrics_server());
    let mut scrapes = JoinSet::new();
    for _ in 0..100 {
        let server = Arc::clone(&server);
        scrapes.spawn(async move { server.get("/metrics", "").await });
    }
    for answer in scrapes.join_all().await {
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
}

#[tokio::test]
async fn a_stream_has_what_its_filter_lets_through() {
    let server = events_server();
    let mut lines = server.follow("type=B,C&pod=web").await;
    for (kind, pod) in [("A", "web"), ("B", "db"), ("B", "web"), ("C", "web")] {
        server.emit(kind, pod);
    }
    assert_eq!(next_event(&mut lines).await, ("B".into(), "web".into()));
    assert_eq!(next_event(&mut lines).await, ("C".into(), "web".into()));
}

/// A client gives up a server that is silent for half a minute.
#[tokio::test]
async fn a_client_that_wants_nothing_of_a_busy_stream_hears_that_the_server_lives() {
    let server = events_server();
    let mut lines = server.follow("type=B").await;
    let unwanted = async {
        loop {
            server.emit("A", "web");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let line = tokio::select! {
        line = next(&mut lines) => line,
        () = unwanted => unreachable!("it never ends"),
    };
    assert_eq!(line, "");
}

#[tokio::test]
async fn the_backlog_ends_or_goes_over_into_the_stream_without_a_gap() {
    let server = events_server();
    for kind in ["A", "B", "C"] {
        server.emit(kind, "web");
    }
    let mut kept = server.follow("follow=false").await;
    for kind in ["A", "B", "C"] {
        assert_eq!(next_event(&mut kept).await.0, kind);
    }
    assert_eq!(kept.next().await.expect("a sound end"), None);
    let mut lines = server.follow("backlog=2").await;
    server.emit("D", "web");
    for kind in ["B", "C", "D"] {
        assert_eq!(next_event(&mut lines).await.0, kind);
    }
}

/// The ids and the types of server-sent events, and other lines as they are.
fn server_sent(answer: &str) -> Vec<(String, String)> {
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    let lines = body.lines().filter(|line| line.contains(": "));
    let mut said: Vec<(String, String)> = Vec::new();
    for (field, value) in lines.filter_map(|line| line.split_once(": ")) {
        match field {
            "id" | "event" => said.push((value.to_owned(), String::new())),
            _ => {
                let data: serde_json::Value = serde_json::from_str(value).expect("JSON");
                let kind = data["type"].as_str().map_or_else(|| value.to_owned(), str::to_owned);
                said.last_mut().expect("behind its id").1 = kind;
            }
        }
    }
    said
}

#[tokio::test]
async fn a_stream_goes_on_behind_the_last_event_that_a_client_has_and_says_what_is_missing() {
    const SENT: &str = "accept: text/event-stream\r\n";
    let server = events_server();
    for kind in ["A", "B", "C"] {
        server.emit(kind, "web");
    }
    let all = server_sent(&server.get("/api/v1/events?follow=false", SENT).await);
    let kinds = |said: &[(String, String)]| said.iter().map(|(_, kind)| kind.clone()).collect::<Vec<_>>();
    assert_eq!(kinds(&all), ["A", "B", "C"]);
    let log = format!("{:x}", server.view.events.id());
    assert_eq!(all[1].0, format!("{log}-2"));
    server.emit("D", "web");

    let last = format!("{SENT}last-event-id: {}\r\n", all[1].0);
    let rest = server_sent(&server.get("/api/v1/events?follow=false", &last).await);
    assert_eq!(kinds(&rest), ["C", "D"]);
    let one = server.get(&format!("/api/v1/events?cursor={}&limit=1", all[0].0), SENT).await;
    assert_eq!(kinds(&server_sent(&one)), ["B"], "it ends by itself");

    // One of an earlier run of the agent, or of one that is further on than this one is.
    for cursor in ["abc-1".to_owned(), format!("{log}-99")] {
        let said = server.get(&format!("/api/v1/events?follow=false&limit=2&cursor={cursor}"), SENT).await;
        let restarted = ("restarted".to_owned(), "{\"restarted\":true}".to_owned());
        let said = server_sent(&said);
        assert_eq!((&said[0], kinds(&said[1..])), (&restarted, vec!["A".to_owned(), "B".to_owned()]));
    }
    // What the log has dropped since.
    (0..200).for_each(|_| server.emit("E", "web"));
    let said = server_sent(&server.get("/api/v1/events?follow=false", &last).await);
    assert_eq!(said[0], ("lost".to_owned(), "{\"lost\":102}".to_owned()));
    assert_eq!(said.len(), 101);

    let wrong = server.get("/api/v1/events?follow=false", "last-event-id: 7\r\n").await;
    assert!(wrong.starts_with("HTTP/1.1 400") && wrong.contains("LOG-NUMBER"), "{wrong}");
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_only_itself() {
    let server = events_server();
    let mut stalled = server.follow("").await;
    let mut healthy = server.follow("").await;
    let message = "x".repeat(1000);
    let (mut sent, mut heard) = (0, 0);
    // Far more than the sockets' buffers hold, in portions that a reader keeps up with.
    for _ in 0..400 {
        let event = NewEvent { message: message.clone(), ..NewEvent::default() };
        sent += server.view.events.emit(&format!("p{}", sent / 1000), vec![event; 50]);
        while heard < sent {
            assert!(!next(&mut healthy).await.starts_with("{\"lost\""), "the healthy one missed events");
            heard += 1;
        }
    }
    let (mut seen, mut lost) = (0_u64, 0_u64);
    while seen + lost < u64::from(sent) {
        let line = next(&mut stalled).await;
        match line.strip_prefix("{\"lost\":") {
            Some(rest) => lost += rest.trim_end_matches('}').parse::<u64>().expect("a number"),
            None => seen += 1,
        }
    }
    assert!(lost > 0, "the stalled one was told");
    assert_eq!(seen + lost, u64::from(sent), "every event was delivered or said to be lost");
}

#[tokio::test]
async fn one_client_too_many_is_refused_and_may_come_later() {
    let server = events_server();
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(server.follow("").await);
    }
    let refused = client::lines(&at(&server.address), "/api/v1/events").await.expect_err("65 clients");
    assert!(matches!(&refused, client::Error::Status { status: 503, .. }) && !refused.is_refusal());
    clients.clear();
    let free = async {
        while client::lines(&at(&server.address), "/api/v1/events").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, free).await.expect("places are free again");
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_dropped() {
    let server = metrics_server();
    let answer = server.ask("GET /metrics HTTP/1.1\r\nhost: ").await;
    assert!(!answer.contains("200 OK"), "{answer}");
    let huge = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(1 << 16));
    let mut stream = TcpStream::connect(&server.address).await.expect("listening");
    let _ = stream.write_all(huge.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("closed in time");
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_stream_ends_when_its_window_is_over() {
    let server = events_server();
    server.emit("A", "a");
    let mut lines = server.follow("until=0s").await;
    assert_eq!(next_event(&mut lines).await.0, "A");
    let end = timeout(DEADLINE, lines.next()).await.expect("in time").expect("a sound stream");
    assert_eq!(end, None);
}

#[tokio::test]
async fn a_type_that_nobody_declares_is_refused_once_all_analyzers_are_known() {
    let server = events_server();
    let at = at(&server.address);
    let ask = || client::lines(&at, "/api/v1/events?type=NOSUCH");
    ask().await.expect("an analyzer that is still being compiled may declare it");
    server.view.status.update().plugins_seen = true;
    let refused = ask().await.expect_err("nobody declares it");
    assert!(refused.is_refusal() && refused.to_string().contains("\"NOSUCH\""), "{refused}");
}

#[tokio::test]
async fn shutdown_does_not_wait_for_those_who_follow() {
    let ((bound, address), view) = (listeners(), View::test());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve_events(bound, view, answerer(), async { drop(stopped.await) }));
    let _lines = client::lines(&at(&address), "/api/v1/events").await.expect("a stream");
    stop.send(()).expect("running");
    timeout(DEADLINE, server).await.expect("ends").expect("without a panic");
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_error() {
    let (_bound, address) = listeners();
    let error = bind(&[address.parse().expect("an address")], "--web.listen-address").expect_err("taken");
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot listen on {address}: ")), "{text}");
    assert!(text.ends_with(" (another agent? choose --web.listen-address)"), "{text}");
}

#[tokio::test]
async fn an_endless_line_of_a_hostile_server_is_refused() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let hostile = async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    };
    let client = async {
        let mut lines = client::lines(&at(&address), "/").await.expect("a stream");
        lines.next().await.expect_err("too long")
    };
    tokio::select! {
        () = hostile => panic!("the client went away silently"),
        error = client => assert!(matches!(error, client::Error::TooLong), "{error}"),
    }
}

#[tokio::test]
async fn a_question_is_answered_or_told_what_is_wrong_with_it() {
    let server = events_server();
    for question in ["", "{}", r#"{"scenario":"node","entities":[],"window_ms":1000,"confirm":false}"#] {
        let answer = server.post(question).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(r#""verdict":"inconclusive""#),
            "{answer}"
        );
    }
    for (question, status, said) in [
        (
            r#"{"scenario":"x"}"#,
            "400",
            r#"{"error":"there is no scenario \"x\"; there are node","scenarios":["node"]}"#,
        ),
        (r#"{"scenaro":"x"}"#, "400", "unknown field `scenaro`, expected one of"),
        (r#"{"window_ms":-1}"#, "400", "not a question: invalid value: integer `-1`"),
        ("{\"scenario\":\"\u{1b}\"}", "400", "not a question: control character"),
        ("[", "400", "not a question: EOF"),
        (
            &format!(r#"{{"entities":["{}"]}}"#, "x".repeat(513)),
            "400",
            "nothing has a name of more than 512 bytes",
        ),
        (&" ".repeat(70_000), "413", "a question has at most 65536 bytes"),
    ] {
        let answer = server.post(question).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(said), "{answer}");
    }
    let get = server.get("/api/v1/diagnose", "").await;
    assert!(get.starts_with("HTTP/1.1 405") && get.contains("allow: POST"), "{get}");
    assert!(server.get("/api/v1/findings", "").await.contains(r#""window_ms":60000"#));
}

#[tokio::test]
async fn one_question_too_many_is_refused_and_may_come_later() {
    let server = Arc::new(events_server());
    let mut asking = JoinSet::new();
    for _ in 0..10 {
        let server = Arc::clone(&server);
        asking.spawn(async move { server.post(r#"{"scenario":"slow"}"#).await });
    }
    let answers = asking.join_all().await;
    let of = |status: &str| answers.iter().filter(|answer| answer.starts_with(status)).count();
    assert!(of("HTTP/1.1 400") >= 4 && of("HTTP/1.1 503") > 0, "{answers:?}");
    assert!(server.post("{}").await.starts_with("HTTP/1.1 200"));
}
