//! The analyzer as its host sees it: records in, series and events out.

use inspector_sdk::Analyzer;
use inspector_sdk::probes::neighbour::{
    KIND_CHANGED, KIND_CLAIMED, KIND_DEAD, KIND_FAILED, KIND_TABLE_FULL, NUD_INCOMPLETE, NUD_PROBE,
};
use inspector_sdk::probes::record::FLAG_DEVICE;
use inspector_sdk::probes::route::{KIND_REFUSED, RTN_BLACKHOLE, RTN_UNSPEC};
use inspector_sdk::probes::{Icmp, Neighbour, Route, icmp};
use inspector_sdk::protocol::UDP;
use inspector_sdk::testing::{Harness, World, head, record};
use link::Link;

fn start() -> Harness<Link> {
    Harness::start(World::default()).expect("it starts")
}

fn neighbour(kind: u16) -> Neighbour {
    let mut n: Neighbour = record(head("[::]:0", "10.9.0.99:0"));
    (n.head.kind, n.head.flags, n.ifindex, n.lladdr_length) = (kind, FLAG_DEVICE, 2, 6);
    n.old_lladdr = [2, 0, 0, 0, 0, 0x42, 0, 0];
    n.new_lladdr = [2, 0, 0, 0, 0, 0x66, 0, 0];
    n
}

#[test]
fn a_host_that_never_answered_is_told_from_one_that_went_away() {
    let mut host = start();
    let never = Neighbour { old_state: NUD_INCOMPLETE, ..neighbour(KIND_FAILED) };
    let gone = Neighbour { old_state: NUD_PROBE, ..neighbour(KIND_FAILED) };
    host.batch(5, &[never, gone, gone]);
    assert_eq!(host.value("inspector_neighbour_failures_total", 1, &["no"]), Some(1.0));
    assert_eq!(host.value("inspector_neighbour_failures_total", 1, &["yes"]), Some(2.0));
    let events = host.events();
    assert_eq!(events[0].message, "10.9.0.99 does not answer known=no ifindex=2");
    assert_eq!(events[1].message, "10.9.0.99 does not answer known=yes lladdr=02:00:00:00:00:42 ifindex=2");
    assert!(events.iter().all(|event| (event.kind.as_str(), event.severity) == ("NEIGH_FAILED", 1)));
}

#[test]
fn a_change_is_told_from_a_claim_that_was_refused() {
    let mut host = start();
    host.batch(5, &[neighbour(KIND_CHANGED), neighbour(KIND_CLAIMED)]);
    assert_eq!(host.value("inspector_neighbour_changes_total", 1, &["taken"]), Some(1.0));
    assert_eq!(host.value("inspector_neighbour_changes_total", 1, &["refused"]), Some(1.0));
    let events = host.events();
    assert_eq!((events[0].kind.as_str(), events[0].severity), ("NEIGH_CHANGED", 0));
    assert_eq!(
        events[0].message,
        "10.9.0.99 has another link-layer address before=02:00:00:00:00:42 now=02:00:00:00:00:66 ifindex=2"
    );
    assert_eq!((events[1].kind.as_str(), events[1].severity), ("NEIGH_CONFLICT", 1));
}

#[test]
fn a_full_table_is_critical_and_a_dead_entry_is_only_counted() {
    let mut host = start();
    host.batch(5, &[neighbour(KIND_TABLE_FULL), neighbour(KIND_DEAD)]);
    assert_eq!(host.value("inspector_neighbour_table_full_total", 1, &[]), Some(1.0));
    assert_eq!(host.value("inspector_neighbour_dead_total", 1, &[]), Some(1.0));
    let events = host.events();
    assert_eq!((events.len(), events[0].kind.as_str(), events[0].severity), (1, "NEIGH_TABLE_FULL", 2));
}

fn icmp(kind: u16, icmp_type: u8, code: u8) -> Icmp {
    let mut error: Icmp = record(head("10.0.0.1:4000", "10.0.0.2:53"));
    (error.head.kind, error.head.proto) = (kind, UDP);
    Icmp { icmp_type, code, ..error }
}

#[test]
fn icmp_errors_of_both_families_are_counted_under_one_word() {
    let mut host = start();
    let (v4, v6) = (icmp::KIND_ICMP, icmp::KIND_ICMPV6);
    host.batch(5, &[icmp(v4, 3, 3), icmp(v6, 1, 4), icmp(v4, 3, 4), icmp(v6, 2, 0), icmp(v6, 250, 0)]);
    for [protocol, error] in [
        ["icmp", "port-unreachable"],
        ["icmpv6", "port-unreachable"],
        ["icmp", "packet-too-big"],
        ["icmpv6", "packet-too-big"],
        ["icmpv6", "other"],
    ] {
        let value = host.value("inspector_icmp_errors_sent_total", 1, &[protocol, error]);
        assert_eq!(value, Some(1.0), "{protocol} {error}");
    }
    let events = host.events();
    assert_eq!(events[0].message, "10.0.0.1:4000 -> 10.0.0.2:53 error=port-unreachable");
    assert_eq!((events[0].severity, events[2].severity), (0, 1));
}

fn refusal(from: &str, to: &str, protocol: u8, route_type: u8, error: u32) -> Route {
    let mut refusal: Route = record(head(from, to));
    (refusal.head.kind, refusal.head.proto) = (KIND_REFUSED, protocol);
    refusal.comm[..4].copy_from_slice(b"curl");
    Route { route_type, error, table: 254, pid: 42, ..refusal }
}

#[test]
fn a_route_that_refuses_is_told_with_the_program_that_was_refused() {
    let mut host = start();
    let blackhole = refusal("0.0.0.0:0", "10.8.0.1:80", 6, RTN_BLACKHOLE, 22);
    let timer =
        Route { pid: 0, table: 100, ..refusal("[fd00::1]:4000", "[fd00::2]:80", 6, RTN_BLACKHOLE, 22) };
    host.batch(5, &[blackhole, timer]);
    assert_eq!(host.value("inspector_route_refusals_total", 1, &["blackhole"]), Some(2.0));
    let events = host.events();
    assert!(events.iter().all(|event| (event.kind.as_str(), event.severity) == ("ROUTE_REFUSED", 1)));
    assert_eq!(
        events[0].message,
        "0.0.0.0:0 -> 10.8.0.1:80 route=blackhole error=EINVAL table=main process=curl pid=42"
    );
    assert_eq!(events[1].message, "[fd00::1]:4000 -> [fd00::2]:80 route=blackhole error=EINVAL table=100");
}

#[test]
fn attempts_from_several_ports_to_one_destination_are_one_event() {
    let mut host = start();
    let from = |from| refusal(from, "10.8.0.1:53", UDP, RTN_BLACKHOLE, 22);
    host.batch(5, &[from("10.0.0.1:4000"), from("10.0.0.1:4001"), from("10.0.0.1:4002")]);
    let events = host.events();
    assert!(events.iter().all(|event| event.dedup_key.is_some() && event.dedup_key == events[0].dedup_key));
}

#[test]
fn a_missing_route_is_no_warning_where_programs_only_ask() {
    let mut host = start();
    let missing = |from, to, protocol| refusal(from, to, protocol, RTN_UNSPEC, 101);
    let (v4, v6) = (("10.0.0.1:0", "192.0.2.1:443"), ("[fd00::1]:0", "[2001:db8::1]:443"));
    let connected = Route { in_socket: 1, ..missing(v4.0, v4.1, UDP) };
    let resolver = Route { in_socket: 1, ..missing(v4.0, "192.0.2.1:53", UDP) };
    for (refusal, severity) in [
        (missing(v4.0, v4.1, 6), 1),
        (missing(v4.0, v4.1, UDP), 1),
        (connected, 0),
        (resolver, 1),
        (missing(v6.0, v6.1, 6), 1),
        (missing(v6.0, v6.1, UDP), 0),
        (missing("[::1]:0", v6.1, 6), 0),
        (missing("[fe80::1]:0", v6.1, 6), 0),
        (Route { route_type: RTN_BLACKHOLE, ..connected }, 1),
    ] {
        host.batch(5, &[refusal]);
        let events = host.events();
        assert_eq!(events[0].severity, severity, "{}", events[0].message);
    }
    assert_eq!(host.value("inspector_route_refusals_total", 1, &["missing"]), Some(8.0));
}

#[test]
fn a_storm_is_told_as_a_number_on_the_next_tick() {
    let mut host = start();
    host.batch(5, &vec![icmp(icmp::KIND_ICMP, 3, 3); 1_000]);
    let shown = host.events().len();
    assert!(shown < 1_000);
    host.hook(|link| link.tick(6));
    assert_eq!(host.events()[0].message, format!("{} more whose details are not shown", 1_000 - shown));
}
