//! The analyzer as its host sees it: records in, series and events out.

use inspector_sdk::Analyzer;
use inspector_sdk::probes::socket_error::{KIND_MEMORY, KIND_REPORTED, KIND_UDP_REFUSED};
use inspector_sdk::probes::socket_latency::{KIND_READ, KIND_READS, KIND_SEND, KIND_SENDS};
use inspector_sdk::probes::sum::BOUNDS_NS;
use inspector_sdk::probes::{SocketError, SocketLatency};
use inspector_sdk::protocol::UDP;
use inspector_sdk::testing::{Harness, World, head, record};
use socket::Socket;

const MS: u64 = 1_000_000;

fn start() -> Harness<Socket> {
    Harness::start(World::default()).expect("it starts")
}

fn error(kind: u16, error: u32) -> SocketError {
    let mut trouble: SocketError = record(head("10.0.0.1:4000", "10.0.0.2:53"));
    (trouble.head.kind, trouble.head.proto) = (kind, UDP);
    SocketError { error, ..trouble }
}

#[test]
fn a_refusal_is_told_and_other_errors_are_warnings() {
    let mut host = start();
    host.batch(5, &[error(KIND_REPORTED, 111), error(KIND_REPORTED, 113), error(KIND_REPORTED, 4242)]);
    for name in ["ECONNREFUSED", "EHOSTUNREACH", "ERRNO_4242"] {
        assert_eq!(host.value("inspector_socket_errors_total", 1, &["UDP", name]), Some(1.0), "{name}");
    }
    let events = host.events();
    assert_eq!(events[0].message, "10.0.0.1:4000 -> 10.0.0.2:53 protocol=UDP error=ECONNREFUSED");
    assert_eq!((events[0].kind.as_str(), events[0].severity, events[1].severity), ("SOCKET_ERROR", 0, 1));
}

#[test]
fn a_full_socket_is_told_from_a_full_protocol() {
    let mut host = start();
    let own = SocketError { receive_queued: 8_500, receive_limit: 8_192, ..error(KIND_UDP_REFUSED, 12) };
    host.batch(5, &[own, error(KIND_UDP_REFUSED, 105)]);
    for limit in ["socket", "protocol"] {
        let value = host.value("inspector_socket_receive_drops_total", 1, &["UDP", limit]);
        assert_eq!(value, Some(1.0), "{limit}");
    }
    let events = host.events();
    assert_eq!((events[0].kind.as_str(), events[0].severity), ("SOCKET_RCVBUF_FULL", 1));
    assert!(events[0].message.ends_with("error=ENOMEM queued=8500 limit=8192"), "{}", events[0].message);
    assert_eq!(events[0].dedup_key, events[1].dedup_key, "one socket, one key");
}

#[test]
fn a_memory_limit_is_critical() {
    let mut host = start();
    host.batch(5, &[SocketError { sending: 1, memory_pages: 9, ..error(KIND_MEMORY, 12) }]);
    assert_eq!(host.value("inspector_socket_memory_limit_total", 1, &["UDP", "send"]), Some(1.0));
    let events = host.events();
    assert_eq!((events[0].kind.as_str(), events[0].severity), ("SOCKET_MEMORY_LIMIT", 2));
    assert!(events[0].message.ends_with("direction=send pages=9"), "{}", events[0].message);
}

fn latency(kind: u16, latency_ns: u64) -> SocketLatency {
    let mut one: SocketLatency = record(head("10.0.0.1:80", "10.0.0.2:4000"));
    (one.head.kind, one.head.tcp_state) = (kind, 1);
    one.comm[..4].copy_from_slice(b"java");
    SocketLatency { latency_ns, count: 1, pid: 42, ..one }
}

fn sum(kind: u16, count: u64, each_ns: u64) -> SocketLatency {
    let bucket = BOUNDS_NS.iter().position(|bound| each_ns <= *bound).unwrap_or(BOUNDS_NS.len());
    SocketLatency { count, bucket: bucket as u16, ..latency(kind, count * each_ns) }
}

fn totals(host: &Harness<Socket>) -> [Option<f64>; 4] {
    ["read1ms", "read100ms", "write1ms", "write100ms"]
        .map(|name| host.value(&format!("inspector_pod_socketlatency{name}"), 1, &[]))
}

#[test]
fn the_totals_of_the_contract_count_what_is_above_their_bound() {
    let mut host = start();
    host.batch(
        5,
        &[
            sum(KIND_READS, 1_000, MS),
            sum(KIND_READS, 30, MS + 1),
            sum(KIND_READS, 4, 100 * MS),
            sum(KIND_READS, 2, 100 * MS + 1),
            sum(KIND_SENDS, 7, 5 * MS),
            sum(KIND_SENDS, 1, 9_000 * MS),
        ],
    );
    assert_eq!(totals(&host), [Some(36.0), Some(2.0), Some(8.0), Some(1.0)]);
    assert_eq!(host.value("inspector_socket_read_seconds", 1, &[]), Some(1_036.0), "observations");
    assert_eq!(host.value("inspector_socket_send_seconds", 1, &[]), Some(8.0));
    assert!(host.events().is_empty(), "a sum is no event");
}

#[test]
fn a_slow_read_is_an_event_with_its_process_and_is_not_counted_twice() {
    let mut host = start();
    host.batch(5, &[latency(KIND_READ, 150 * MS), latency(KIND_SEND, 250 * MS)]);
    assert_eq!(totals(&host), [None; 4]);
    let events = host.events();
    assert_eq!((events[0].kind.as_str(), events[0].severity), ("SOCKETLAT_READSLOW", 1));
    assert_eq!(events[0].message, "10.0.0.1:80 -> 10.0.0.2:4000 latency=150.0ms process=java pid=42");
    assert_eq!(events[1].kind, "SOCKETLAT_SENDSLOW");
}

#[test]
fn totals_survive_a_reload_and_start_at_zero() {
    let mut host = start();
    host.hook(|socket| socket.added(&[1]));
    assert_eq!(totals(&host), [Some(0.0); 4]);
    host.batch(5, &[sum(KIND_READS, 3, 2 * MS)]);
    let state = host.hook(|socket| socket.save());
    let mut next = start();
    next.hook(|socket| socket.restore("0", &state)).expect("own bytes");
    next.batch(6, &[sum(KIND_READS, 1, 2 * MS)]);
    assert_eq!(totals(&next)[0], Some(4.0));
    assert!(next.hook(|socket| socket.restore("0", &state[1..])).is_err(), "no whole rows");
}
