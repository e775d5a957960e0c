//! The analyzer as its host sees it: records in, series and events out.

use std::collections::HashMap;

use dns::DnsAnalyzer;
use inspector_sdk::probes::dns::{KIND_ANSWER, KIND_QUERY};
use inspector_sdk::probes::{Dns, SkbDrop};
use inspector_sdk::protocol::UDP;
use inspector_sdk::testing::{Harness, World, head, record};
use inspector_sdk::{Analyzer, EntityId};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const NAME: &[u8] = b"\x03www\x07example\0";

fn start() -> Harness<DnsAnalyzer> {
    let drop_reasons = HashMap::from([(3, "NO_SOCKET"), (7, "NETFILTER_DROP")]);
    Harness::start(World { drop_reasons, ..World::default() }).expect("it starts")
}

fn dns(kind: u16, at: u64) -> Dns {
    let mut dns: Dns = record(head("10.0.0.1:4000", "10.0.0.2:53"));
    (dns.head.kind, dns.head.proto, dns.head.ts_ns) = (kind, UDP, at);
    (dns.socket, dns.id, dns.qtype, dns.matched, dns.tries) = (7, 0x1234, 1, 1, 1);
    dns.name[..NAME.len()].copy_from_slice(NAME);
    dns.name_length = NAME.len() as u8;
    dns
}

fn query(at: u64) -> Dns {
    dns(KIND_QUERY, at)
}

fn answer(at: u64, latency_ns: u64, rcode: u8) -> Dns {
    Dns { latency_ns, rcode, ..dns(KIND_ANSWER, at) }
}

fn timeouts(host: &Harness<DnsAnalyzer>) -> Option<f64> {
    host.value("inspector_dns_timeouts_total", 1, &[])
}

fn kinds(host: &mut Harness<DnsAnalyzer>) -> Vec<(String, u8)> {
    host.events().into_iter().map(|event| (event.kind, event.severity)).collect()
}

#[test]
fn an_answer_in_time_is_counted_and_no_event() {
    let mut host = start();
    host.batch(S, &[query(S), answer(S + 2 * MS, 2 * MS, 0)]);
    host.hook(|dns| dns.tick(60 * S));
    assert_eq!(host.value("inspector_dns_queries_total", 1, &["A", "udp"]), Some(1.0));
    assert_eq!(host.value("inspector_dns_answers_total", 1, &["NOERROR", "A"]), Some(1.0));
    assert_eq!(host.value("inspector_dns_latency_seconds", 1, &[]), Some(1.0), "observations");
    assert_eq!(timeouts(&host), None);
    assert_eq!(kinds(&mut host), []);
}

#[test]
fn a_query_without_an_answer_times_out_once_after_five_seconds() {
    let mut host = start();
    host.batch(S, &[query(S), Dns { tries: 2, ..query(2 * S) }]);
    host.hook(|dns| dns.tick(6 * S - 1));
    assert_eq!(kinds(&mut host), []);
    host.hook(|dns| dns.tick(6 * S));
    let events = host.events();
    assert_eq!((events[0].kind.as_str(), events[0].severity), ("DNS_TIMEOUT", 1));
    assert_eq!(events[0].message, "10.0.0.1:4000 -> 10.0.0.2:53 name=www.example type=A after=5.0s tries=2");
    assert_eq!(host.value("inspector_dns_retries_total", 1, &[]), Some(1.0));
    host.hook(|dns| dns.tick(7 * S));
    assert_eq!(kinds(&mut host), []);
    assert_eq!(timeouts(&host), Some(1.0));
}

#[test]
fn a_query_that_is_asked_anew_after_its_deadline_has_timed_out() {
    let mut host = start();
    host.batch(S, &[query(S), query(6 * S + 1)]);
    assert_eq!(timeouts(&host), Some(1.0));
    host.batch(7 * S, &[answer(7 * S, S, 0)]);
    assert_eq!(timeouts(&host), Some(1.0));
}

#[test]
fn an_answer_after_the_deadline_is_late_and_a_slow_one_is_slow() {
    let mut host = start();
    host.batch(S, &[answer(S, 5 * S, 0), answer(S, 499 * MS, 0), answer(S, 500 * MS, 0)]);
    assert_eq!(kinds(&mut host), [("DNS_LATE".to_owned(), 1), ("DNS_SLOW".to_owned(), 1)]);
    assert_eq!(host.value("inspector_dns_late_answers_total", 1, &["timeout"]), Some(1.0));
}

fn dropped(reason: u32, at: u64) -> SkbDrop {
    let mut drop: SkbDrop = record(head("10.0.0.2:53", "10.0.0.1:4000"));
    (drop.head.proto, drop.head.ts_ns, drop.reason) = (UDP, at, reason);
    drop
}

#[test]
fn an_answer_to_a_closed_socket_is_late_and_its_query_does_not_time_out() {
    let mut host = start();
    host.batch(S, &[query(S)]);
    host.batch(2 * S, &[dropped(7, 2 * S)]);
    assert_eq!(kinds(&mut host), [], "a firewall's drop says nothing of the client");
    host.batch(2 * S, &[dropped(3, 2 * S), dropped(3, 2 * S)]);
    let events = host.events();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].kind.as_str(), events[0].severity), ("DNS_LATE", 0));
    assert_eq!(
        events[0].message,
        "10.0.0.1:4000 -> 10.0.0.2:53 name=www.example type=A latency=1.0s why=closed"
    );
    host.hook(|dns| dns.tick(60 * S));
    assert_eq!(timeouts(&host), None);
    assert_eq!(host.value("inspector_dns_late_answers_total", 1, &["closed"]), Some(1.0));
}

#[test]
fn errors_are_warnings_but_for_names_that_do_not_exist() {
    let mut host = start();
    host.batch(S, &[answer(S, MS, 3), answer(S, MS, 2), answer(S, MS, 15)]);
    let error = |severity| ("DNS_ERROR".to_owned(), severity);
    assert_eq!(kinds(&mut host), [error(0), error(1), error(1)]);
    for rcode in ["NXDOMAIN", "SERVFAIL", "other"] {
        assert_eq!(host.value("inspector_dns_answers_total", 1, &[rcode, "A"]), Some(1.0), "{rcode}");
    }
}

#[test]
fn an_answer_to_no_query_has_no_latency() {
    let mut host = start();
    host.batch(S, &[Dns { matched: 0, ..answer(S, 0, 0) }]);
    assert_eq!(host.value("inspector_dns_latency_seconds", 1, &[]), None);
    assert_eq!(host.value("inspector_dns_answers_total", 1, &["NOERROR", "A"]), Some(1.0));
}

#[test]
fn a_storm_of_missing_names_leaves_room_for_timeouts() {
    let mut host = start();
    host.batch(S, &[query(S)]);
    let missing = Dns { socket: 8, ..answer(6 * S, MS, 3) };
    host.batch(6 * S, &vec![missing; 1_000]);
    host.events();
    host.hook(|dns| dns.tick(6 * S));
    assert_eq!(kinds(&mut host)[0], ("DNS_TIMEOUT".to_owned(), 1));
}

#[test]
fn queries_that_wait_do_not_pile_up_and_those_beyond_are_counted() {
    let mut host = start();
    let of = |socket, entity: EntityId| {
        let mut query = Dns { socket, ..query(S) };
        query.head.entity = entity;
        query
    };
    let many: Vec<_> = (0..9_000).map(|socket| of(socket, 1)).collect();
    host.batch(S, &many);
    assert_eq!(host.value("inspector_dns_unjudged_queries_total", 1, &[]), Some(9_000.0 - 8_192.0));
    host.removed(&[1]);
    host.batch(S, &[of(1, 2)]);
    host.hook(|dns| dns.tick(60 * S));
    assert_eq!(host.value("inspector_dns_timeouts_total", 2, &[]), Some(1.0), "there is room again");
    assert_eq!(host.value("inspector_dns_timeouts_total", 1, &[]), None, "gone with its entity");
}
