//! The analyzer as its host sees it: records in, series and events out.

use std::collections::HashMap;

use inspector_sdk::probes::tcp_state::{KIND_ACCEPTED, KIND_CLOSED, KIND_CONNECTED, KIND_FAILED};
use inspector_sdk::probes::{TcpReset, TcpRetransmit, TcpState, tcp_reset, tcp_retransmit};
use inspector_sdk::tcp::ESTABLISHED;
use inspector_sdk::testing::{Harness, World, head, record};
use inspector_sdk::{Analyzer, Event};
use tcp::Tcp;

const ABORT_ON_CLOSE: u32 = 4;

fn start() -> Harness<Tcp> {
    let reset_reasons = HashMap::from([(3, "NO_SOCKET"), (ABORT_ON_CLOSE, "TCP_ABORT_ON_CLOSE")]);
    Harness::start(World { reset_reasons, ..World::default() }).expect("it starts")
}

fn reset(kind: u16, state: u8) -> TcpReset {
    let mut reset: TcpReset = record(head("10.1.16.255:43186", "100.100.27.15:3128"));
    (reset.head.kind, reset.head.tcp_state, reset.has_socket) = (kind, state, 1);
    reset
}

fn only_event(host: &mut Harness<Tcp>, reset: TcpReset) -> Event {
    host.batch(5, &[reset]);
    let mut events = host.events();
    assert_eq!(events.len(), 1);
    events.remove(0)
}

#[test]
fn a_reset_received_on_an_established_connection_reads_as_in_the_original() {
    let mut host = start();
    let event = only_event(&mut host, reset(tcp_reset::KIND_RECEIVED, ESTABLISHED));
    assert_eq!(event.kind, "TCP_RCV_RST_ESTAB");
    assert_eq!(event.message, "10.1.16.255:43186 -> 100.100.27.15:3128");
    assert_eq!(event.severity, 1);
    assert_eq!(host.value("inspector_tcp_resets_received_total", 1, &["TCP_ESTABLISHED"]), Some(1.0));
}

#[test]
fn the_kinds_of_resets_are_told_apart() {
    let mut host = start();
    let sent = |state, has_socket, has_segment| {
        let reset = reset(tcp_reset::KIND_SENT, state);
        TcpReset { has_socket, has_segment, ..reset }
    };
    let received = reset(tcp_reset::KIND_RECEIVED, 2);
    assert_eq!(only_event(&mut host, sent(0, 0, 1)).kind, "TCPRESET_NOSOCK");
    assert_eq!(only_event(&mut host, sent(7, 1, 0)).kind, "TCPRESET_ACTIVE");
    assert_eq!(only_event(&mut host, sent(4, 1, 1)).kind, "TCPRESET_PROCESS");
    assert_eq!(only_event(&mut host, received).kind, "TCPRESET_RECEIVE");
}

#[test]
fn a_reset_without_a_socket_names_the_reason_and_no_state() {
    let mut host = start();
    let mut closed_port = reset(tcp_reset::KIND_SENT, 0);
    (closed_port.has_socket, closed_port.has_reason, closed_port.reason) = (0, 1, 3);
    let event = only_event(&mut host, closed_port);
    assert_eq!(event.message, "10.1.16.255:43186 -> 100.100.27.15:3128 reason=NO_SOCKET state=TCP_OTHER");
    let attrs: Vec<_> = event.attrs.iter().map(|a| format!("{}={}", a.name, a.value)).collect();
    assert_eq!(
        attrs.join(" "),
        "protocol=TCP saddr=10.1.16.255 sport=43186 daddr=100.100.27.15 dport=3128 state=TCP_OTHER \
         reason=NO_SOCKET"
    );
    assert_eq!(event.severity, 0);
    assert_eq!(host.value("inspector_tcp_resets_sent_total", 1, &["NO_SOCKET"]), Some(1.0));
}

#[test]
fn a_close_that_throws_data_away_is_a_warning() {
    let mut host = start();
    let mut abort = reset(tcp_reset::KIND_SENT, 7);
    (abort.has_reason, abort.reason) = (1, ABORT_ON_CLOSE);
    assert_eq!(only_event(&mut host, abort).severity, 1);
}

#[test]
fn a_kernel_that_gives_no_reason_is_not_given_one() {
    let mut host = start();
    let event = only_event(&mut host, reset(tcp_reset::KIND_SENT, 7));
    assert!(event.attrs.iter().all(|attr| attr.name != "reason"));
    assert_eq!(host.value("inspector_tcp_resets_sent_total", 1, &["unknown"]), Some(1.0));
}

#[test]
fn retransmissions_are_counted_by_kind_and_congestion_is_none() {
    let mut host = start();
    let again = |kind, why| {
        let mut again: TcpRetransmit = record(head("[fd00::1]:1", "[fd00::2]:2"));
        (again.head.kind, again.head.tcp_state, again.why, again.ca_state) = (kind, ESTABLISHED, why, 4);
        again
    };
    let segment = tcp_retransmit::KIND_SEGMENT;
    host.batch(
        5,
        &[
            again(segment, tcp_retransmit::WHY_RTO),
            again(segment, tcp_retransmit::WHY_TLP),
            again(segment, 0),
            again(tcp_retransmit::KIND_SYNACK, 0),
            again(tcp_retransmit::KIND_CONG_STATE, 0),
        ],
    );
    for kind in ["rto", "tlp", "other", "synack"] {
        assert_eq!(host.value("inspector_tcp_retransmits_total", 1, &[kind]), Some(1.0), "{kind}");
    }
    assert_eq!(host.value("inspector_tcp_congestion_changes_total", 1, &["Loss"]), Some(1.0));
    let events = host.events();
    assert_eq!(events.len(), 4);
    assert_eq!(
        events[0].message,
        "[fd00::1]:1 -> [fd00::2]:2 kind=rto state=TCP_ESTABLISHED timeouts=0 total=0"
    );
    assert_eq!(events[0].dedup_key, events[1].dedup_key, "one connection, one key");
}

fn turn(kind: u16) -> TcpState {
    let mut turn: TcpState = record(head("10.0.0.1:4000", "10.0.0.2:80"));
    turn.head.kind = kind;
    turn
}

#[test]
fn the_life_of_connections_is_counted() {
    let mut host = start();
    let opened = TcpState { duration_ns: 2_000_000, ..turn(KIND_CONNECTED) };
    let unseen = turn(KIND_CLOSED);
    let closed = TcpState { duration_ns: 9, bytes_sent: 10, bytes_received: 20, srtt_us: 30, ..unseen };
    host.batch(5, &[opened, turn(KIND_ACCEPTED), closed, unseen]);
    let value = |name: &str| host.value(name, 1, &[]);
    assert_eq!(value("inspector_tcp_connections_opened_total"), Some(1.0));
    assert_eq!(value("inspector_tcp_connections_accepted_total"), Some(1.0));
    assert_eq!(value("inspector_tcp_connections_closed_total"), Some(2.0));
    assert_eq!(value("inspector_tcp_sent_bytes_total"), Some(10.0));
    assert_eq!(value("inspector_tcp_received_bytes_total"), Some(20.0));
    assert_eq!(value("inspector_tcp_connect_seconds"), Some(1.0), "observations");
    assert_eq!(value("inspector_tcp_connection_seconds"), Some(1.0), "not of one whose start was not seen");
    assert_eq!(value("inspector_tcp_srtt_seconds"), Some(1.0), "not of one without a sample");
}

#[test]
fn a_failed_connect_is_told_with_its_error_and_duration() {
    let mut host = start();
    host.batch(5, &[TcpState { error: 111, duration_ns: 1_234_567, ..turn(KIND_FAILED) }]);
    assert_eq!(host.value("inspector_tcp_connect_failures_total", 1, &["ECONNREFUSED"]), Some(1.0));
    let events = host.events();
    assert_eq!((events[0].kind.as_str(), events[0].severity), ("TCPCONNECT_FAILED", 1));
    assert_eq!(events[0].message, "10.0.0.1:4000 -> 10.0.0.2:80 error=ECONNREFUSED after=1.2ms");
}

#[test]
fn an_application_that_gives_up_is_no_warning() {
    let mut host = start();
    host.batch(5, &[turn(KIND_FAILED)]);
    assert_eq!(host.value("inspector_tcp_connect_failures_total", 1, &["ABORTED"]), Some(1.0));
    assert_eq!(host.events()[0].severity, 0);
}

#[test]
fn a_storm_is_told_as_a_number_on_the_next_tick() {
    let mut host = start();
    host.batch(5, &vec![reset(tcp_reset::KIND_RECEIVED, 2); 2_000]);
    let shown = host.events().len();
    host.hook(|analyzer| analyzer.tick(6));
    let events = host.events();
    assert_eq!(events[0].kind, "TCPRESET_RECEIVE");
    assert_eq!(events[0].message, format!("{} more whose details are not shown", 2_000 - shown));
    assert_eq!(host.value("inspector_tcp_resets_received_total", 1, &["TCP_SYN_SENT"]), Some(2_000.0));
}

#[test]
fn the_events_of_the_original_are_declared_under_their_names() {
    let description = Tcp::describe();
    let declared: Vec<_> = description.events.iter().map(|event| event.kind.as_str()).collect();
    for kind in [
        "TCPRESET_NOSOCK",
        "TCPRESET_ACTIVE",
        "TCPRESET_PROCESS",
        "TCPRESET_RECEIVE",
        "TCP_RCV_RST_ESTAB",
        "TCPRETRANS",
    ] {
        assert!(declared.contains(&kind), "{kind}");
    }
}

#[test]
fn a_full_accept_queue_is_told_by_how_much_the_counter_rose() {
    let columns = HashMap::from([("netstat", vec!["TcpExt.SyncookiesSent", "TcpExt.ListenOverflows"])]);
    let table = |overflows| (vec![0, overflows], Vec::new());
    let tables = HashMap::from([(("netstat", 1), table(7))]);
    let mut host = Harness::<Tcp>::start(World { columns, tables, entities: vec![1], ..World::default() })
        .expect("it starts");
    host.hook(|tcp| tcp.tick(1));
    assert!(host.events().is_empty(), "what was counted before the start is not news");
    host.set_table("netstat", 1, table(10));
    host.hook(|tcp| tcp.tick(2));
    let events = host.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].kind, "TCPLISTEN_OVERFLOW");
    assert!(events[0].message.ends_with("turned_away=3"), "{}", events[0].message);
}

#[test]
fn a_namespace_younger_than_the_analyzer_is_told_from_its_first_reading() {
    let columns = HashMap::from([("netstat", vec!["TcpExt.ListenOverflows"])]);
    let tables = HashMap::from([(("netstat", 2), (vec![3], Vec::new()))]);
    let world =
        World { columns, tables, entities: vec![2], since: HashMap::from([(2, 5)]), ..World::default() };
    let mut host = Harness::<Tcp>::start(world).expect("it starts");
    host.hook(|tcp| tcp.tick(6));
    assert!(host.events()[0].message.ends_with("turned_away=3"));
}
