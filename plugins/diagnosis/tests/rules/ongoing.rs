//! Questions that are asked while a fault lasts and clients go on, or after clients that wait for
//! less than the kernel does; beside each the healthy look-alike.

use super::*;

const MS: u64 = 1_000_000;
/// When [`Case::report`] asks.
const ASKED: u64 = NOW + 2 * SECOND;

fn query_of(id: u16, at: u64) -> Dns {
    Dns { id, ..query(at) }
}

fn answer_to(query: Dns, from: &str, at: u64) -> Dns {
    let mut answer = Dns { matched: 1, latency_ns: at - query.head.ts_ns, ..query };
    (answer.head.kind, answer.head.ts_ns) = (dns::KIND_ANSWER, at);
    answer.head.daddr = head(A, from).daddr;
    answer
}

/// One every 300 ms, the last one a moment before the question.
fn asked_all_the_time() -> impl Iterator<Item = Dns> {
    (0..20).rev().map(|n| query_of(n, ASKED - 100 * MS - u64::from(n) * 300 * MS))
}

#[test]
fn a_dead_name_server_that_is_still_being_asked_is_found() {
    let dead = asked_all_the_time().fold(Case::new(), Case::give).report("dns", &[]);
    let [finding] = &dead.findings[..] else { panic!("{:?}", dead.findings) };
    // Three of them have not waited for a second yet.
    assert_eq!((finding.code.as_str(), finding.severity, finding.count), ("dns-timeout", 2, 17));
}

#[test]
fn what_stops_queries_answers_the_question_for_names_and_is_as_bad_as_that() {
    let asked = || asked_all_the_time().fold(Case::new(), Case::give);
    let (client, server) = ("10.9.0.1:40000", "10.9.0.2:53");
    for (reason, symbol, code) in [
        ("NO_SOCKET", "__udp4_lib_rcv", "port-not-listening"),
        ("NETFILTER_DROP", "nft_do_chain", "firewall-drop"),
    ] {
        let report = asked().dropped_as(SERVER, client, server, reason, symbol, udp).report("dns", &[CLIENT]);
        let first = report.findings.first().unwrap_or_else(|| panic!("{code}: nothing is told"));
        assert_eq!((first.code.as_str(), first.severity), (code, 2), "{:?}", report.findings);
        assert_eq!(first.entities, [SERVER, CLIENT]);
        let said: Vec<_> = first.evidence.iter().map(|line| line.summary.as_str()).collect();
        assert!(said.iter().any(|line| line.contains("17 queries without an answer")), "{said:?}");
    }
    let web = Case::new().dropped(SERVER, A, B, "NETFILTER_DROP", "nft_do_chain");
    assert!(web.report("dns", &[]).findings.is_empty(), "names have no part in it");
}

#[test]
fn a_name_server_whose_newest_queries_are_on_their_way_is_healthy() {
    let answered = |case: Case, query: Dns| {
        let (case, at) = (case.give(query), query.head.ts_ns);
        if at > ASKED - SECOND { case } else { case.give(answer_to(query, "10.9.0.2:53", at + MS)) }
    };
    asked_all_the_time().fold(Case::new(), answered).warns_of_nothing();
    // Behind a service address: another one answers than was asked.
    let translated = |case: Case, query: Dns| {
        case.give(query).give(answer_to(query, "10.96.0.10:53", query.head.ts_ns + MS))
    };
    asked_all_the_time().fold(Case::new(), translated).warns_of_nothing();
}

#[test]
fn an_answer_after_the_patience_is_slow_and_no_longer_missing() {
    let asked = query_of(1, NOW - 2 * SECOND);
    let mut case = Case::new().give(asked);
    case.host.hook(|analyzer| analyzer.tick(NOW));
    let found = case.give(answer_to(asked, "10.9.0.2:53", NOW)).found();
    assert_eq!(found, [("dns-slow".to_owned(), CLIENT, 1)]);
}

#[test]
fn one_slow_answer_among_many_is_no_fault() {
    let answered = |case: Case, id: u16| {
        let (asked, takes) = (query_of(id, NOW), if id == 0 { 300 * MS } else { MS });
        case.give(asked).give(answer_to(asked, "10.9.0.2:53", NOW + takes))
    };
    assert_eq!((0..20).fold(Case::new(), answered).found(), [("dns-slow".to_owned(), CLIENT, 0)]);
    assert_eq!((0..5).fold(Case::new(), answered).found(), [("dns-slow".to_owned(), CLIENT, 1)]);
}

#[test]
fn a_few_lost_queries_among_many_are_no_fault() {
    let asked = |lost: u16, of: u16| {
        let given = |case: Case, id: u16| {
            let asked = query_of(id, NOW - 3 * SECOND);
            let case = case.give(asked);
            if id < lost { case } else { case.give(answer_to(asked, "10.9.0.2:53", NOW - 3 * SECOND + MS)) }
        };
        (0..of).fold(Case::new(), given).found()
    };
    assert_eq!(asked(2, 40), [("dns-timeout".to_owned(), CLIENT, 0)]);
    assert_eq!(asked(10, 40), [("dns-timeout".to_owned(), CLIENT, 1)]);
}

#[test]
fn of_two_name_servers_asked_at_once_the_silent_one_is_found() {
    let (first, mut second) = (query_of(1, NOW), query_of(1, NOW));
    second.tries = 2;
    second.head.daddr = head(A, "10.9.0.3:53").daddr;
    let case = Case::new().give(first).give(second).give(answer_to(second, "10.9.0.3:53", NOW + MS));
    let report = case.report("dns", &[]);
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert!(finding.title.contains("10.9.0.2 does not answer: 1 of 1 query"), "{}", finding.title);
}

/// A client that gives up after so long, without an answer, from its n-th port.
fn gives_up(n: u16, to: &str, after_ms: u64) -> TcpState {
    let from = format!("10.9.0.1:{}", 40_000 + n);
    let mut failed: TcpState = record(at_entity(CLIENT, &from, to, tcp_state::KIND_FAILED));
    failed.duration_ns = after_ms * MS;
    failed
}

fn connects(n: u16, to: &str) -> TcpState {
    TcpState {
        head: Head { kind: tcp_state::KIND_CONNECTED, ..gives_up(n, to, 0).head },
        ..gives_up(n, to, 1)
    }
}

fn impatient(case: Case) -> Case {
    (0..5).map(|n| gives_up(n, B, 800)).fold(case, Case::give)
}

#[test]
fn clients_that_give_up_before_the_first_retransmission_are_seen() {
    let report = impatient(Case::new()).report("connect", &[]);
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert_eq!((finding.code.as_str(), finding.severity, finding.count), ("peer-unresponsive", 2, 5));
    assert!(finding.evidence[0].summary.contains("given up after 800 ms"), "{:?}", finding.evidence);
}

#[test]
fn who_opens_two_connections_for_the_faster_one_is_healthy() {
    // The slower family is given up as soon as the other one is there.
    let race = |case: Case, n| case.give(gives_up(n, "[fd00::2]:80", 20)).give(connects(n, B));
    (0..5).fold(Case::new(), race).warns_of_nothing();
    // Or after a head start, and its answer comes all the same.
    let late = |case: Case, n: u16| {
        let slow = gives_up(n, "[fd00::2]:80", 260);
        let (from, to) = (format!("10.9.0.1:{}", 40_000 + n), "[fd00::2]:80");
        case.give(slow)
            .give(connects(n, B))
            .dropped_as(CLIENT, to, &from, "NO_SOCKET", "tcp_v4_rcv", |d| d.tcp_flags = SYN | ACK)
    };
    (0..5).fold(Case::new(), late).warns_of_nothing();
}

#[test]
fn an_answer_that_finds_nobody_is_a_fault_if_there_is_no_other_address() {
    let case = impatient(Case::new());
    let late = |case: Case, n: u16| {
        let to = format!("10.9.0.1:{}", 40_000 + n);
        case.dropped_as(CLIENT, B, &to, "NO_SOCKET", "tcp_v4_rcv", |d| d.tcp_flags = SYN | ACK)
    };
    let report = (0..5).fold(case, late).report("connect", &[]);
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert!(finding.title.contains("answers only after its client has given up"), "{}", finding.title);
    assert_eq!(finding.severity, 1);
}

#[test]
fn one_connect_without_an_answer_among_many_is_no_fault() {
    let one = (0..20).map(|n| connects(n, B)).fold(Case::new().give(gives_up(30, B, 800)), Case::give);
    let mut after = connects(31, B);
    after.head.ts_ns += SECOND;
    one.give(after).warns_of_nothing();
}

#[test]
fn a_scan_of_a_host_that_answers_elsewhere_is_no_fault() {
    let at = |port: u16| format!("10.9.0.2:{port}");
    let scan = |case| (20..30).map(|port| gives_up(port, &at(port), 500)).fold(case, Case::give);
    let answered = Case::new().reset_received(CLIENT, "10.9.0.1:41000", "10.9.0.2:22", 2);
    let found = scan(answered).found();
    assert!(found.iter().all(|f| f.0 != "peer-unresponsive" || f.2 == 0), "{found:?}");
    let found = scan(Case::new()).found();
    assert_eq!(found[0].2, 2, "a host that is silent everywhere is gone: {found:?}");
}

#[test]
fn an_impatient_client_is_explained_by_the_cause_as_a_patient_one_is() {
    let full = Case::new().counted(SERVER, "netstat", "TcpExt.ListenOverflows", 4);
    impatient(full).concludes("accept-queue-overflow", SERVER);
    let dropped = |case: Case, n: u16| {
        let from = format!("10.9.0.1:{}", 40_000 + n);
        case.dropped(SERVER, &from, B, "NETFILTER_DROP", "nft_do_chain")
    };
    impatient((0..5).fold(Case::new(), dropped)).concludes("firewall-drop", SERVER);
    let down = Case::new().dropped(CLIENT, A, B, "QDISC_DROP", "__dev_queue_xmit");
    impatient(down).concludes("link-down", CLIENT);
}

#[test]
fn a_connection_that_has_been_silent_for_long_is_known_by_its_last_timeout() {
    let again = |timeouts| {
        let mut again: TcpRetransmit = record(at_entity(CLIENT, A, B, tcp_retransmit::KIND_SEGMENT));
        (again.why, again.timeouts) = (tcp_retransmit::WHY_RTO, timeouts);
        Case::new().give(again)
    };
    again(7).concludes("peer-unresponsive", CLIENT);
    again(1).warns_of_nothing();
}

fn asked_in_vain() -> Neighbour {
    let mut asked = failed_neighbour();
    (asked.head.kind, asked.new_state) = (neighbour::KIND_UNANSWERED, neighbour::NUD_INCOMPLETE);
    asked
}

#[test]
fn a_neighbour_is_missed_before_the_kernel_gives_it_up() {
    let nobody = "10.9.0.99:80";
    let case = || Case::new().give(asked_in_vain());
    case().give(gives_up(1, nobody, 1_200)).concludes("neighbour-unresolved", CLIENT);
    // The first request was lost, and the second one answered.
    let found = case().give(connects(1, nobody)).found();
    assert_eq!(found, []);
    // Nobody waits for it but the kernel.
    case().warns_of_nothing();
}

#[test]
fn a_router_that_nobody_finds_is_named_and_not_who_is_behind_it() {
    let (behind, mut router) = ("192.0.2.7:443", asked_in_vain());
    Case::new().give(router).give(gives_up(1, behind, 800)).concludes("neighbour-unresolved", CLIENT);
    router.head.kind = neighbour::KIND_FAILED;
    let failed = Case::new().give(router).give(gives_up(1, behind, 800));
    let failed = failed.dropped(CLIENT, A, behind, "NEIGH_FAILED", "neigh_invalidate");
    let report = failed.report("connect", &[]);
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert!(finding.title.contains("10.9.0.99, on the way to 192.0.2.7, does not"), "{}", finding.title);
}

#[test]
fn a_filter_of_what_asks_for_a_neighbour_is_the_cause_of_the_silence() {
    let arp = |d: &mut SkbDrop| {
        (d.ethertype, d.head.proto, d.tcp_flags, d.pkt_type) = (ETHERTYPE_ARP, 0, 0, 1);
    };
    let filtered =
        Case::new().dropped_as(SERVER, "10.9.0.1:0", "10.9.0.99:0", "NETFILTER_DROP", "nft_do_chain", arp);
    filtered
        .give(asked_in_vain())
        .give(gives_up(1, "10.9.0.99:80", 1_200))
        .concludes("firewall-drop", SERVER);
}

#[test]
fn a_path_mtu_that_connection_after_connection_does_not_learn_is_a_black_hole() {
    let attempt = |case: Case, n: u64| {
        let from = format!("10.9.0.1:{}", 40_000 + n);
        let at = NOW - n * 400 * MS;
        case.dropped_as(SERVER, &from, B, "PKT_TOO_BIG", "ip_forward", move |d| {
            (d.length, d.head.ts_ns) = (1_500, at);
        })
        .sent_again(&from, B, tcp_retransmit::WHY_RTO, 1)
    };
    (0..3).fold(Case::new(), attempt).concludes("pmtu-blackhole", SERVER);
    // Learnt once, the others know it.
    attempt(Case::new(), 1).warns_of_nothing();
}

#[test]
fn a_connect_that_a_router_elsewhere_refuses_is_found() {
    let refused = |error| TcpState { error, ..gives_up(1, "192.0.2.7:443", 3) };
    Case::new().give(refused(113)).concludes("peer-unresponsive", CLIENT);
    // A reset says it all; what is refused by a reset is no matter of routers.
    let reset = Case::new().give(refused(111)).reset_received(CLIENT, "10.9.0.1:40001", "192.0.2.7:443", 2);
    reset.concludes("reset-by-peer", CLIENT);
}

#[test]
fn a_late_segment_of_a_connection_that_has_ended_is_no_fault_and_a_syn_is_one() {
    let late = |flags| {
        let change = move |d: &mut SkbDrop| d.tcp_flags = flags;
        Case::new().dropped_as(SERVER, A, B, "TCP_RFC7323_TW_PAWS", "tcp_v4_rcv", change)
    };
    late(ACK).warns_of_nothing();
    late(SYN).concludes("paws-rejected", SERVER);
}
