//! Clients of a service's address, whose conversations arrive elsewhere under other addresses.

use super::*;

const NAT: &[&str] = &[
    "proto",
    "src_hi",
    "src_lo",
    "sport",
    "dst_hi",
    "dst_lo",
    "dport",
    "from_hi",
    "from_lo",
    "from_port",
    "to_hi",
    "to_lo",
    "to_port",
];
/// The client sends to the first, and the server gets it at the second.
const SERVICE: &str = "10.96.0.10:80";
const BACKEND: &str = "10.9.0.2:8080";

/// Sent from `from` to `to`, arrives from `arrives_from` at `at`.
fn row(proto: u8, [from, to, arrives_from, at]: [&str; 4]) -> Vec<u64> {
    let end = |text: &str| {
        let head = head(A, text);
        let bits = u128::from_be_bytes(head.daddr);
        [(bits >> 64) as u64, bits as u64, u64::from(head.dport)]
    };
    [vec![u64::from(proto)], [from, to, arrives_from, at].map(end).concat()].concat()
}

/// What is tracked at the server's side; in a cluster that is the node.
fn tracked(rows: &[Vec<u64>]) -> Case {
    let mut case = Case::with(|world| drop(world.columns.insert("nat", NAT.to_vec())));
    case.host.set_table("nat", SERVER, (rows.concat(), vec![]));
    // They are forgotten by the kernel long before anybody asks.
    case.host.hook(|analyzer| analyzer.tick(NOW));
    case.host.set_table("nat", SERVER, (vec![], vec![]));
    case
}

fn refused(from: &str, to: &str) -> TcpState {
    let mut failed: TcpState = record(at_entity(CLIENT, from, to, tcp_state::KIND_FAILED));
    failed.error = 111;
    failed
}

#[track_caller]
fn only(report: Report) -> Finding {
    let mut findings = report.findings;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.remove(0)
}

#[test]
fn a_service_that_sends_to_a_closed_port_is_one_finding_at_its_backend() {
    // As its client sends it, and as if it came from the node, as masqueraded connections do.
    for arrives_from in [A, "10.9.0.254:5000"] {
        let case = tracked(&[row(6, [A, SERVICE, arrives_from, BACKEND])])
            .give(refused(A, SERVICE))
            .reset_received(CLIENT, A, SERVICE, 2)
            .dropped(SERVER, arrives_from, BACKEND, "NO_SOCKET", "tcp_v4_rcv");
        let found = only(case.report("connect", &[]));
        assert_eq!((found.code.as_str(), &found.entities[..]), ("port-not-listening", &[SERVER, CLIENT][..]));
        let line = found.evidence.last().expect("evidence");
        assert_eq!(line.summary, "connection tracking sends TCP to 10.96.0.10:80 on to 10.9.0.2:8080");
        let attrs: Vec<_> = line.attrs.iter().map(|attr| (attr.name.as_str(), attr.value.as_str())).collect();
        assert_eq!(attrs, [("proto", "TCP"), ("sent_to", SERVICE), ("arrives_at", BACKEND)]);
    }
}

#[test]
fn without_the_entry_a_masqueraded_connection_has_no_client() {
    let case = Case::new().give(refused(A, SERVICE)).reset_received(CLIENT, A, SERVICE, 2).dropped(
        SERVER,
        "10.9.0.254:5000",
        BACKEND,
        "NO_SOCKET",
        "tcp_v4_rcv",
    );
    let report = case.report("connect", &[]);
    assert!(report.findings.iter().all(|found| found.entities != [SERVER, CLIENT]), "{:#?}", report.findings);
}

#[test]
fn of_two_backends_the_one_is_told_that_a_connection_was_sent_to() {
    let other = "10.9.0.3:8080";
    let case = tracked(&[
        row(6, [A, SERVICE, A, BACKEND]),
        row(6, ["10.9.0.1:40001", SERVICE, "10.9.0.1:40001", other]),
    ]);
    let found =
        only(case.sent_again("10.9.0.1:40001", SERVICE, tcp_retransmit::WHY_SYN, 3).report("connect", &[]));
    assert_eq!(found.code, "peer-unresponsive");
    assert!(found.title.contains("10.9.0.3 port 8080 does not answer"), "{}", found.title);
    assert!(found.evidence.iter().any(|line| line.summary.ends_with("10.96.0.10:80 on to 10.9.0.3:8080")));
}

#[test]
fn what_comes_back_from_a_service_is_of_the_same_conversation() {
    let case = tracked(&[row(6, [A, SERVICE, A, BACKEND])])
        .sent_again(A, SERVICE, tcp_retransmit::WHY_SYN, 3)
        .dropped(CLIENT, SERVICE, A, "NETFILTER_DROP", "nft_do_chain");
    assert_eq!(only(case.report("connect", &[])).code, "firewall-drop");
}

#[test]
fn an_answer_that_comes_past_the_translation_is_no_answer() {
    let answered = |case: Case| {
        case.sent_again(A, SERVICE, tcp_retransmit::WHY_SYN, 3)
            .reset(CLIENT, A, BACKEND, "NO_SOCKET", |r| (r.has_segment, r.tcp_flags) = (1, SYN | ACK))
            .dropped_as(CLIENT, BACKEND, A, "NO_SOCKET", "tcp_v4_rcv", |d| d.tcp_flags = SYN | ACK)
            .found()
    };
    // As without the entry.
    assert_eq!(answered(tracked(&[row(6, [A, SERVICE, A, BACKEND])])), answered(Case::new()));
}

#[test]
fn queries_to_a_service_are_explained_by_what_stops_them_at_one_of_its_backends() {
    let (service, one, two) = ("10.96.0.10:53", "10.9.0.2:53", "10.9.0.3:53");
    let case = tracked(&[
        row(UDP, ["10.9.0.1:41000", service, "10.9.0.1:41000", one]),
        row(UDP, ["10.9.0.1:41001", service, "10.9.0.1:41001", two]),
    ]);
    let mut asked = query(NOW - 3 * SECOND);
    asked.head.daddr = head(A, service).daddr;
    let case = case.give(asked).dropped_as(SERVER, "10.9.0.1:41000", one, "NO_SOCKET", "__udp4_lib_rcv", udp);
    let found = only(case.report("dns", &[]));
    assert_eq!((found.code.as_str(), &found.entities[..]), ("port-not-listening", &[SERVER, CLIENT][..]));
}
