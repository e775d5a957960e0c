//! Each conclusion from the records and counters that its fault makes, beside the look-alike that
//! must not be taken for it.
//!
//! Longer than other files, because it is a list: a case for each rule, beside what makes them.

#[path = "rules/commands.rs"]
mod commands;
#[path = "rules/ongoing.rs"]
mod ongoing;
#[path = "rules/translated.rs"]
mod translated;

use std::collections::HashMap;

use diagnosis::Diagnosis;
use inspector_sdk::Analyzer as _;
use inspector_sdk::analyzer::{Finding, Report, Request};
use inspector_sdk::probes::record::FLAG_SOCKET;
use inspector_sdk::probes::{
    Dns, Head, Icmp, Neighbour, Record, SkbDrop, SocketError, TcpReset, TcpRetransmit, TcpState, dns, icmp,
    neighbour, socket_error, tcp_reset, tcp_retransmit, tcp_state,
};
use inspector_sdk::protocol::{ETHERTYPE_ARP, UDP};
use inspector_sdk::tcp::{ACK, SYN};
use inspector_sdk::testing::{Harness, World, head, record};

const CLIENT: u32 = 1;
const SERVER: u32 = 2;
const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 100 * SECOND;
const A: &str = "10.9.0.1:40000";
const B: &str = "10.9.0.2:80";

/// Reasons and functions, each under its index.
const REASONS: &[&str] = &[
    "NOT_SPECIFIED",
    "NO_SOCKET",
    "NETFILTER_DROP",
    "QDISC_DROP",
    "PKT_TOO_BIG",
    "TCP_OLD_SEQUENCE",
    "OTHERHOST",
    "SOCKET_FILTER",
    "NEIGH_FAILED",
    "IP_INADDRERRORS",
    "PACKET_SOCK_ERROR",
    "IP_INHDR",
    "FUTURE_REASON",
    "TCP_INVALID_SEQUENCE",
    "TCP_MD5NOTFOUND",
    "XFRM_POLICY",
    "BRIDGE_INGRESS_STP_STATE",
    "TCP_RFC7323_TW_PAWS",
    "TCP_ZEROWINDOW",
    "TCP_RFC7323_PAWS_ACK",
    "IPV6DISABLED",
    "TC_EGRESS",
];
const SYMBOLS: &[&str] = &[
    "tcp_v4_rcv",
    "nft_do_chain",
    "nf_hook_slow",
    "nf_queue",
    "ip_error",
    "__dev_queue_xmit",
    "__dev_forward_skb2",
    "ip_forward",
    "tcp_validate_incoming",
    "veth_xdp_rcv_skb",
    "ip_rcv_core",
    "neigh_invalidate",
    "packet_rcv",
    "__udp4_lib_rcv",
    "udp_queue_rcv_one_skb",
    "some_function",
    "ip_rcv_finish_core",
    "br_dev_queue_push_xmit",
];
const RESETS: &[&str] =
    &["NOT_SPECIFIED", "NO_SOCKET", "TCP_ABORT_ON_CLOSE", "TCP_TIMEWAIT_SOCKET", "TCP_KEEPALIVE_TIMEOUT"];
const NETSTAT: &[&str] = &[
    "TcpExt.ListenOverflows",
    "TcpExt.ListenDrops",
    "TcpExt.SyncookiesSent",
    "TcpExt.TCPToZeroWindowAdv",
    "TcpExt.TCPWinProbe",
];
const QDISC: &[&str] = &["drops", "bytes", "backlog"];

struct Case {
    host: Harness<Diagnosis>,
}

fn index(names: &[&str], name: &str) -> usize {
    names.iter().position(|known| *known == name).expect("a name of the list")
}

impl Case {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// In a world that differs.
    fn with(change: impl Fn(&mut World)) -> Self {
        let by_index =
            |names: &[&'static str]| (0u32..).zip(names.iter().copied()).collect::<HashMap<_, _>>();
        let columns = HashMap::from([
            ("netstat", NETSTAT.to_vec()),
            ("qdisc", QDISC.to_vec()),
            ("conntrack", vec!["drop"]),
        ]);
        let mut world = World {
            drop_reasons: by_index(REASONS),
            reset_reasons: by_index(RESETS),
            symbols: (1u64..).zip(SYMBOLS.iter().map(|name| (*name, 0))).collect(),
            entities: vec![CLIENT, SERVER],
            since: HashMap::from([(CLIENT, 2), (SERVER, 2)]),
            ips: HashMap::from([(CLIENT, vec!["10.9.0.1"]), (SERVER, vec!["10.9.0.2"])]),
            columns,
            ..World::default()
        };
        change(&mut world);
        Self { host: Harness::start(world).expect("it starts") }
    }

    fn give<R: Record>(mut self, record: R) -> Self {
        self.host.batch(NOW, &[record]);
        self
    }

    fn dropped(self, at: u32, from: &str, to: &str, reason: &str, symbol: &str) -> Self {
        self.dropped_as(at, from, to, reason, symbol, |_| {})
    }

    fn dropped_as(
        self,
        at: u32,
        from: &str,
        to: &str,
        reason: &str,
        symbol: &str,
        change: impl Fn(&mut SkbDrop),
    ) -> Self {
        let mut drop: SkbDrop = record(at_entity(at, from, to, 1));
        (drop.reason, drop.location) = (index(REASONS, reason) as u32, index(SYMBOLS, symbol) as u64 + 1);
        (drop.count, drop.length, drop.ethertype, drop.tcp_flags) = (1, 60, 0x0800, SYN);
        change(&mut drop);
        self.give(drop)
    }

    fn reset(self, at: u32, from: &str, to: &str, reason: &str, change: impl Fn(&mut TcpReset)) -> Self {
        let mut reset: TcpReset = record(at_entity(at, from, to, tcp_reset::KIND_SENT));
        (reset.has_reason, reset.reason) = (1, index(RESETS, reason) as u32);
        change(&mut reset);
        self.give(reset)
    }

    fn reset_received(self, at: u32, from: &str, to: &str, state: u8) -> Self {
        let mut reset: TcpReset = record(at_entity(at, from, to, tcp_reset::KIND_RECEIVED));
        reset.head.tcp_state = state;
        self.give(reset)
    }

    fn sent_again(self, from: &str, to: &str, why: u8, times: u32) -> Self {
        (0..times).fold(self, |case, _| {
            let mut again: TcpRetransmit = record(at_entity(CLIENT, from, to, tcp_retransmit::KIND_SEGMENT));
            again.why = why;
            case.give(again)
        })
    }

    fn counted(mut self, at: u32, source: &'static str, column: &str, value: u64) -> Self {
        let columns: &[&str] = match source {
            "netstat" => NETSTAT,
            "qdisc" => QDISC,
            _ => &["drop"],
        };
        let mut row = vec![0; columns.len()];
        row[index(columns, column)] = value;
        self.host.set_table(source, at, (row, vec![]));
        self
    }

    fn report(mut self, scenario: &str, entities: &[u32]) -> Report {
        self.host.hook(|analyzer| analyzer.tick(NOW + SECOND));
        let request = Request {
            scenario: scenario.to_owned(),
            entities: entities.to_vec(),
            now: NOW + 2 * SECOND,
            window_ms: 60_000,
        };
        self.host.hook(|analyzer| analyzer.diagnose(&request)).expect("a known scenario")
    }

    /// Code, first entity and severity of each finding.
    fn found(self) -> Vec<(String, u32, u8)> {
        let place = |f: &Finding| (f.code.clone(), f.entities.first().copied().unwrap_or(0), f.severity);
        self.report("node", &[]).findings.iter().map(place).collect()
    }

    #[track_caller]
    fn concludes(self, code: &str, at: u32) {
        let found = self.found();
        let (first, others) = found.split_first().expect("a finding");
        assert_eq!((first.0.as_str(), first.1), (code, at), "{found:?}");
        assert!(others.iter().all(|other| other.2 == 0), "a second cause: {found:?}");
    }

    #[track_caller]
    fn warns_of_nothing(self) {
        let found = self.found();
        assert!(found.iter().all(|finding| finding.2 == 0), "{found:?}");
    }
}

fn at_entity(entity: u32, from: &str, to: &str, kind: u16) -> Head {
    Head { entity, kind, ts_ns: NOW, ..head(from, to) }
}

fn udp(drop: &mut SkbDrop) {
    (drop.head.proto, drop.tcp_flags) = (UDP, 0);
}

#[test]
fn a_closed_port_is_found_with_reset_reasons_and_without() {
    let closed =
        |case: Case| case.dropped(SERVER, A, B, "NO_SOCKET", "tcp_v4_rcv").reset_received(CLIENT, A, B, 2);
    let with_reason =
        closed(Case::new()).reset(SERVER, B, A, "NO_SOCKET", |r| (r.has_segment, r.tcp_flags) = (1, SYN));
    let report = with_reason.report("connect", &[CLIENT]);
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert_eq!(
        (finding.code.as_str(), &finding.entities[..], finding.count),
        ("port-not-listening", &[SERVER, CLIENT][..], 1)
    );
    // Linux 6.1 has no event for a reset without a socket.
    closed(Case::new()).concludes("port-not-listening", SERVER);
}

#[test]
fn many_closed_ports_of_one_host_are_one_finding_that_says_so() {
    let mut case = Case::new();
    for port in 81..=86 {
        case = case.dropped(SERVER, A, &format!("10.0.0.2:{port}"), "NO_SOCKET", "tcp_v4_rcv");
    }
    let report = case.report("connect", &[SERVER]);
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    let title = "nobody listens on 6 TCP ports (81, 82, 83, 84, …) of 10.0.0.2; 6 connections refused";
    assert!(finding.title.ends_with(title), "{}", finding.title);
}

#[test]
fn a_segment_of_a_lost_connection_is_no_closed_port() {
    let case = Case::new().dropped_as(SERVER, A, B, "NO_SOCKET", "tcp_v4_rcv", |d| d.tcp_flags = ACK);
    case.reset(SERVER, B, A, "NO_SOCKET", |r| (r.has_segment, r.tcp_flags) = (1, ACK))
        .reset_received(CLIENT, A, B, 1)
        .concludes("stale-connection", SERVER);
}

#[test]
fn a_firewall_that_drops_outranks_the_retransmissions_it_makes() {
    Case::new()
        .dropped(SERVER, A, B, "NETFILTER_DROP", "nft_do_chain")
        .sent_again(A, B, tcp_retransmit::WHY_SYN, 3)
        .concludes("firewall-drop", SERVER);
}

#[test]
fn a_firewall_that_answers_refuses() {
    let case = || Case::new().dropped(SERVER, A, B, "NETFILTER_DROP", "nft_do_chain");
    case().reset_received(CLIENT, A, B, 2).concludes("firewall-reject", SERVER);
    let mut sent: Icmp = record(at_entity(SERVER, A, B, icmp::KIND_ICMP));
    (sent.icmp_type, sent.code) = (3, 3);
    case().give(sent).concludes("firewall-reject", SERVER);
}

#[test]
fn a_full_tracking_table_is_told_from_an_old_rule_by_its_counter() {
    let case = || Case::new().dropped(SERVER, A, B, "NETFILTER_DROP", "nf_hook_slow");
    case().counted(SERVER, "conntrack", "drop", 7).concludes("conntrack-full", SERVER);
    case().concludes("firewall-drop", SERVER);
}

#[test]
fn queues_that_make_no_event_are_found_by_their_counters() {
    let syns = |case: Case| case.sent_again(A, B, tcp_retransmit::WHY_SYN, 2);
    syns(Case::new())
        .counted(SERVER, "netstat", "TcpExt.ListenOverflows", 4)
        .concludes("accept-queue-overflow", SERVER);
    syns(Case::new())
        .counted(SERVER, "netstat", "TcpExt.SyncookiesSent", 100)
        .concludes("syn-queue-overflow", SERVER);
    syns(Case::new()).concludes("peer-unresponsive", CLIENT);
}

#[test]
fn what_a_firewall_drops_is_no_evidence_of_a_full_queue() {
    let elsewhere = "10.9.0.1:40001";
    let report = Case::new()
        .dropped(SERVER, elsewhere, "10.9.0.2:81", "NETFILTER_DROP", "nft_do_chain")
        .sent_again(elsewhere, "10.9.0.2:81", tcp_retransmit::WHY_SYN, 2)
        .sent_again(A, B, tcp_retransmit::WHY_SYN, 2)
        .counted(SERVER, "netstat", "TcpExt.ListenOverflows", 4)
        .report("connect", &[]);
    let evidence = |code: &str| {
        let found = report.findings.iter().find(|found| found.code == code).expect(code);
        found.evidence.iter().map(|evidence| evidence.summary.as_str()).collect::<Vec<_>>().join("; ")
    };
    let (queue, firewall) = (evidence("accept-queue-overflow"), evidence("firewall-drop"));
    assert!(queue.contains(B) && !queue.contains("10.9.0.2:81"), "{queue}");
    assert!(firewall.contains("10.9.0.2:81") && !firewall.contains(B), "{firewall}");
}

#[test]
fn a_queue_that_drops_is_told_from_a_link_without_carrier_by_its_counter() {
    let case = || Case::new().dropped(CLIENT, A, B, "QDISC_DROP", "__dev_queue_xmit");
    case().counted(CLIENT, "qdisc", "drops", 3).concludes("qdisc-drop", CLIENT);
    case().concludes("link-down", CLIENT);
}

#[test]
fn a_queue_is_long_by_the_time_it_takes_and_not_by_its_bytes() {
    // So many readings, a second apart, find as many bytes waiting, and as many sent since the last.
    let found = |readings: u64, waiting: u64, sent: u64| {
        let mut case = Case::new();
        for n in 0..=readings {
            let waiting = if n == 0 { 0 } else { waiting };
            case.host.set_table("qdisc", CLIENT, (vec![0, n * sent, waiting], vec![]));
            case.host.hook(|analyzer| analyzer.tick(NOW - (readings - n) * SECOND));
        }
        case.found()
    };
    let delay = |severity| [("queueing-delay".to_owned(), CLIENT, severity)];
    assert_eq!(found(2, 100_000, 250_000), delay(1));
    assert_eq!(found(1, 100_000, 250_000), delay(0));
    assert_eq!(found(2, 100_000, 125_000_000), []);
}

#[test]
fn the_other_end_of_a_link_is_down_or_takes_smaller_packets() {
    let case = |length| {
        Case::new()
            .dropped_as(CLIENT, A, B, "NOT_SPECIFIED", "__dev_forward_skb2", move |d| d.length = length)
    };
    case(1_500).concludes("link-mtu-mismatch", CLIENT);
    case(60).concludes("link-down", CLIENT);
}

#[test]
fn a_bridge_with_a_narrow_port_drops_what_is_large() {
    Case::new()
        .dropped_as(SERVER, A, B, "NOT_SPECIFIED", "br_dev_queue_push_xmit", |d| d.length = 1_400)
        .concludes("link-mtu-mismatch", SERVER);
}

#[test]
fn a_drop_behind_a_translation_explains_the_connect_before_it() {
    let service = "10.96.0.10:443";
    let again = tcp_retransmit::WHY_SYN;
    Case::new()
        .dropped(SERVER, A, B, "NETFILTER_DROP", "nft_do_chain")
        .sent_again(A, service, again, 2)
        .concludes("firewall-drop", SERVER);
    // Another port of the client is another connection.
    let found = Case::new()
        .dropped(SERVER, A, B, "NETFILTER_DROP", "nft_do_chain")
        .sent_again("10.9.0.1:40001", service, again, 2)
        .found();
    assert!(found.iter().any(|f| f.0 == "peer-unresponsive"), "{found:?}");
}

#[test]
fn a_reset_that_came_from_a_translated_address_was_sent_here() {
    let reset = |case: Case, sender| {
        case.reset(SERVER, sender, "10.9.0.99:1025", "NO_SOCKET", |r| {
            (r.has_segment, r.tcp_flags) = (1, ACK);
        })
        .reset_received(CLIENT, A, B, 1)
        .found()
    };
    let own = |found: &[(String, u32, u8)]| found.iter().any(|f| f.0 == "reset-by-peer");
    let found = reset(Case::new(), B);
    assert!(found[0].0 == "stale-connection" && !own(&found), "{found:?}");
    let found = reset(Case::new(), "10.9.0.2:81");
    assert!(own(&found), "another port is another service: {found:?}");
}

#[test]
fn frames_for_others_are_no_fault_unless_somebody_misses_them() {
    let case = || Case::new().dropped(CLIENT, A, B, "OTHERHOST", "ip_rcv_core");
    case().warns_of_nothing();
    case().sent_again(A, B, tcp_retransmit::WHY_SYN, 2).concludes("wrong-destination-mac", CLIENT);
}

#[test]
fn strangers_that_try_every_port_are_background_unless_they_insist() {
    let knock = |case: Case, n: u16| {
        let (from, to) = (format!("198.51.100.{n}:{}", 40_000 + n), format!("10.9.0.2:{}", 1_000 + n));
        case.dropped(SERVER, &from, &to, "NETFILTER_DROP", "nft_do_chain")
    };
    let scan = || (1..=6).fold(Case::new(), knock);
    scan().warns_of_nothing();
    knock(scan(), 1).concludes("firewall-drop", SERVER);
}

#[test]
fn path_mtu_discovery_is_no_fault_until_it_is_stuck() {
    let big = |case: Case, at: u64| {
        case.dropped_as(SERVER, A, B, "PKT_TOO_BIG", "ip_forward", move |d| {
            (d.length, d.head.ts_ns) = (1_500, at)
        })
    };
    let once = big(Case::new(), NOW).sent_again(A, B, tcp_retransmit::WHY_FAST, 2).found();
    assert_eq!(once, [("packet-too-big".to_owned(), SERVER, 0)]);
    big(big(Case::new(), NOW - 2 * SECOND), NOW)
        .sent_again(A, B, tcp_retransmit::WHY_RTO, 3)
        .concludes("pmtu-blackhole", SERVER);
}

#[test]
fn programs_are_told_apart_by_where_they_sit() {
    Case::new().dropped(SERVER, A, B, "NOT_SPECIFIED", "veth_xdp_rcv_skb").concludes("xdp-drop", SERVER);
    Case::new().dropped(SERVER, A, B, "SOCKET_FILTER", "tcp_v4_rcv").concludes("cgroup-bpf-drop", SERVER);
    Case::new()
        .dropped_as(SERVER, A, B, "SOCKET_FILTER", "udp_queue_rcv_one_skb", udp)
        .concludes("socket-filter-drop", SERVER);
}

#[test]
fn routers_say_what_they_lack() {
    Case::new()
        .dropped(SERVER, A, "10.8.0.1:80", "NOT_SPECIFIED", "ip_error")
        .concludes("route-blocked", SERVER);
    Case::new()
        .dropped(SERVER, A, "10.8.0.1:80", "IP_INADDRERRORS", "ip_error")
        .concludes("forwarding-disabled", SERVER);
    Case::new().dropped(SERVER, A, "10.8.0.1:80", "IP_INHDR", "ip_forward").concludes("ttl-exceeded", SERVER);
}

#[test]
fn what_is_refused_for_its_lack_of_a_signature_or_by_a_policy_is_named() {
    Case::new()
        .dropped(SERVER, A, B, "TCP_MD5NOTFOUND", "tcp_v4_rcv")
        .concludes("tcp-invalid-segment", SERVER);
    Case::new().dropped(SERVER, A, B, "XFRM_POLICY", "tcp_v4_rcv").concludes("firewall-drop", SERVER);
}

#[test]
fn a_blocked_port_of_a_bridge_is_a_fault_only_to_who_waits_for_what_it_drops() {
    let asks = |d: &mut SkbDrop| (d.pkt_type, d.ethertype) = (1, ETHERTYPE_ARP);
    let blocked = |case: Case, change: fn(&mut SkbDrop)| {
        case.dropped_as(
            SERVER,
            "10.9.0.1:0",
            "10.9.0.99:0",
            "BRIDGE_INGRESS_STP_STATE",
            "some_function",
            change,
        )
    };
    blocked(Case::new(), |_| {}).concludes("link-down", SERVER);
    blocked(Case::new(), asks).warns_of_nothing();
    blocked(Case::new().give(failed_neighbour()), asks).concludes("link-down", SERVER);
}

fn failed_neighbour() -> Neighbour {
    let mut failed: Neighbour =
        record(at_entity(CLIENT, "10.9.0.1:0", "10.9.0.99:0", neighbour::KIND_FAILED));
    failed.old_state = neighbour::NUD_INCOMPLETE;
    failed
}

#[test]
fn who_hangs_up_its_own_connection_is_no_fault() {
    let opened = || {
        let opened: TcpState = record(at_entity(CLIENT, A, B, tcp_state::KIND_CONNECTED));
        Case::new().give(opened)
    };
    let abort = |r: &mut TcpReset| (r.has_socket, r.head.tcp_state) = (1, 7);
    opened()
        .reset_received(SERVER, B, A, 1)
        .reset(CLIENT, A, B, "TCP_ABORT_ON_CLOSE", abort)
        .warns_of_nothing();
    let by_server = opened().reset_received(CLIENT, A, B, 1).reset(SERVER, B, A, "TCP_ABORT_ON_CLOSE", abort);
    by_server.concludes("reset-by-application", SERVER);
}

#[test]
fn a_queue_to_a_program_that_is_gone_and_a_tunnel_that_is_not_there_are_named() {
    Case::new().dropped(SERVER, A, B, "NOT_SPECIFIED", "nf_queue").concludes("firewall-drop", SERVER);
    Case::new()
        .dropped_as(SERVER, A, "10.9.0.2:8472", "NO_SOCKET", "__udp4_lib_rcv", udp)
        .concludes("overlay-misconfigured", SERVER);
    let traced = Case::new().dropped_as(SERVER, A, "10.9.0.2:33437", "NO_SOCKET", "__udp4_lib_rcv", udp);
    traced.warns_of_nothing();
}

#[test]
fn a_service_that_was_away_for_a_moment_is_no_fault() {
    let served = |case: Case, at: u64| {
        let mut accepted: TcpState = record(at_entity(SERVER, B, A, tcp_state::KIND_ACCEPTED));
        accepted.head.ts_ns = at;
        (0..20).fold(case, |case, _| case.give(accepted))
    };
    let refused = || Case::new().dropped(SERVER, A, B, "NO_SOCKET", "tcp_v4_rcv");
    served(refused(), NOW + SECOND).warns_of_nothing();
    let twice = refused().dropped(SERVER, A, B, "NO_SOCKET", "tcp_v4_rcv");
    served(twice, NOW - SECOND).concludes("port-not-listening", SERVER);
}

#[test]
fn what_goes_well_at_the_same_loopback_address_elsewhere_or_at_another_port_excuses_nothing() {
    let (from, to) = ("127.0.0.1:40000", "127.0.0.1:81");
    let refused = |case: Case| case.dropped(SERVER, from, to, "NO_SOCKET", "tcp_v4_rcv");
    let served = |entity, at| {
        let mut accepted: TcpState =
            record(at_entity(entity, at, "127.0.0.1:41000", tcp_state::KIND_ACCEPTED));
        accepted.head.ts_ns = NOW + SECOND;
        (0..20).fold(refused(refused(Case::new())), |case, _| case.give(accepted)).found()
    };
    let closed_port = |severity| [("port-not-listening".to_owned(), SERVER, severity)];
    assert_eq!(served(SERVER, to), closed_port(0));
    assert_eq!(served(CLIENT, to), closed_port(2));
    assert_eq!(served(SERVER, "127.0.0.1:80"), closed_port(2));
}

#[test]
fn a_frame_for_another_host_is_a_fault_only_if_its_packet_is_for_this_one() {
    Case::new().dropped(SERVER, A, B, "OTHERHOST", "ip_rcv_core").concludes("wrong-destination-mac", SERVER);
    Case::new().dropped(SERVER, A, "10.9.0.77:80", "OTHERHOST", "ip_rcv_core").warns_of_nothing();
}

#[test]
fn a_martian_is_known_by_its_address_where_the_kernel_has_no_reason() {
    Case::new()
        .dropped(SERVER, "127.0.0.1:9", B, "NOT_SPECIFIED", "ip_rcv_finish_core")
        .concludes("martian-source", SERVER);
}

#[test]
fn a_receiver_that_does_not_read_outranks_the_probes_of_its_window() {
    let probe = |d: &mut SkbDrop| (d.tcp_flags, d.count) = (ACK, 3);
    Case::new()
        .counted(SERVER, "netstat", "TcpExt.TCPToZeroWindowAdv", 1)
        .counted(CLIENT, "netstat", "TcpExt.TCPWinProbe", 3)
        .dropped_as(SERVER, A, B, "TCP_INVALID_SEQUENCE", "tcp_validate_incoming", probe)
        .concludes("receiver-not-reading", SERVER);
}

#[test]
fn resets_name_their_sender_and_why() {
    let established = |case: Case| case.reset_received(CLIENT, A, B, 1);
    established(Case::new())
        .reset(SERVER, B, A, "TCP_ABORT_ON_CLOSE", |r| r.has_socket = 1)
        .concludes("reset-by-application", SERVER);
    established(Case::new())
        .reset(SERVER, B, A, "TCP_TIMEWAIT_SOCKET", |r| (r.has_segment, r.tcp_flags) = (1, ACK))
        .concludes("reset-after-close", SERVER);
    established(Case::new()).concludes("reset-by-peer", CLIENT);
    // Before 6.10: no reason, but nothing provoked it.
    established(Case::new())
        .reset(SERVER, B, A, "NOT_SPECIFIED", |r| (r.has_reason, r.has_socket, r.head.tcp_state) = (0, 1, 7))
        .concludes("reset-by-application", SERVER);
}

#[test]
fn an_unresolved_neighbour_is_one_finding_with_what_it_stops() {
    let case = Case::new().give(failed_neighbour()).dropped(
        CLIENT,
        A,
        "10.9.0.99:80",
        "NEIGH_FAILED",
        "neigh_invalidate",
    );
    case.sent_again(A, "10.9.0.99:80", tcp_retransmit::WHY_SYN, 3).concludes("neighbour-unresolved", CLIENT);
}

#[test]
fn local_ports_are_exhausted_if_a_connect_never_had_one() {
    let mut failed: TcpState = record(at_entity(CLIENT, "10.9.0.1:0", B, tcp_state::KIND_FAILED));
    failed.head.flags = FLAG_SOCKET | 8;
    Case::new().give(failed).concludes("local-port-exhaustion", CLIENT);
}

#[test]
fn memory_limits_are_found() {
    let memory: SocketError = record(at_entity(SERVER, B, A, socket_error::KIND_MEMORY));
    Case::new().give(memory).concludes("socket-memory-pressure", SERVER);
}

fn query(at: u64) -> Dns {
    let mut query: Dns = record(at_entity(CLIENT, A, "10.9.0.2:53", dns::KIND_QUERY));
    (query.head.proto, query.tries, query.head.ts_ns) = (UDP, 1, at);
    query
}

fn answer(rcode: u8, latency_ns: u64) -> Dns {
    let mut answer = query(NOW);
    (answer.head.kind, answer.rcode, answer.latency_ns, answer.matched) =
        (dns::KIND_ANSWER, rcode, latency_ns, 1);
    answer
}

#[test]
fn names_fail_for_different_reasons() {
    Case::new().give(query(NOW)).concludes("dns-timeout", CLIENT);
    Case::new().give(query(NOW)).give(answer(2, 1_000_000)).concludes("dns-error", CLIENT);
    Case::new().give(query(NOW)).give(answer(0, 400_000_000)).concludes("dns-slow", CLIENT);
    // A search list: one name does not exist, the next one does.
    Case::new()
        .give(query(NOW))
        .give(query(NOW))
        .give(answer(3, 1_000_000))
        .give(answer(0, 1_000_000))
        .warns_of_nothing();
    // The answer found its port closed.
    let late = |d: &mut SkbDrop| udp(d);
    Case::new()
        .give(query(NOW))
        .dropped_as(CLIENT, "10.9.0.2:53", A, "NO_SOCKET", "__udp4_lib_rcv", late)
        .concludes("dns-timeout", CLIENT);
}

#[test]
fn noise_gives_nothing() {
    Case::new().warns_of_nothing();
    Case::new().dropped(SERVER, A, B, "TCP_OLD_SEQUENCE", "tcp_validate_incoming").warns_of_nothing();
    Case::new().sent_again(A, B, tcp_retransmit::WHY_TLP, 20).warns_of_nothing();
    Case::new().sent_again(A, B, tcp_retransmit::WHY_FAST, 2).warns_of_nothing();
    // Reports of multicast groups, while a link comes up.
    Case::new()
        .dropped_as(SERVER, "[fd00::1]:0", "[ff02::16]:0", "NOT_SPECIFIED", "__dev_forward_skb2", udp)
        .warns_of_nothing();
    // A window that closed and opened again.
    Case::new().counted(SERVER, "netstat", "TcpExt.TCPToZeroWindowAdv", 1).warns_of_nothing();
    let capture = Case::new().dropped(SERVER, A, B, "PACKET_SOCK_ERROR", "packet_rcv").found();
    assert_eq!(capture, [("capture-overflow".to_owned(), SERVER, 0)]);
}

#[test]
fn a_reason_that_no_rule_knows_is_shown_and_not_hidden() {
    let report = Case::new().dropped(SERVER, A, B, "FUTURE_REASON", "some_function").report("loss", &[]);
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert_eq!(finding.code, "unexplained-drop");
    assert!(
        finding.title.contains("FUTURE_REASON") && finding.title.contains("some_function"),
        "{}",
        finding.title
    );
}

#[test]
fn what_is_benign_or_an_effect_of_a_known_cause_is_no_finding_of_its_own() {
    let dropped = |reason: &str| Case::new().dropped(SERVER, A, B, reason, "some_function").found();
    assert_eq!(dropped("TCP_ZEROWINDOW"), []);
    assert_eq!(dropped("TCP_RFC7323_PAWS_ACK"), []);
    assert_eq!(dropped("IPV6DISABLED"), [("unexplained-drop".to_owned(), SERVER, 0)]);
}

#[test]
fn a_finding_says_whether_it_is_a_cause_or_a_symptom() {
    let role = |case: Case| case.report("node", &[]).findings[0].role.clone();
    assert_eq!(role(Case::new().dropped(SERVER, A, B, "NETFILTER_DROP", "nft_do_chain")), "cause");
    assert_eq!(role(Case::new().sent_again(A, B, tcp_retransmit::WHY_SYN, 2)), "symptom");
}

#[test]
fn what_speaks_against_a_conclusion_makes_it_one_level_less_sure() {
    let first = |case: Case| {
        let finding = case.report("node", &[]).findings.remove(0);
        (finding.confidence, finding.evidence.iter().filter(|line| line.kind == "against").count())
    };
    let egress = Case::new().dropped(SERVER, A, B, "TC_EGRESS", "some_function");
    assert_eq!(first(egress), (95, 0));
    assert_eq!(first(Case::new().dropped(SERVER, A, B, "SOCKET_FILTER", "tcp_v4_rcv")), (85, 1));
}

#[test]
fn a_question_about_one_entity_gets_its_own_causes_and_those_it_feels() {
    let case = || {
        Case::new().dropped(SERVER, A, B, "NETFILTER_DROP", "nft_do_chain").sent_again(
            A,
            B,
            tcp_retransmit::WHY_SYN,
            3,
        )
    };
    let codes = |entities: &[u32]| {
        case().report("node", entities).findings.iter().map(|f| f.code.clone()).collect::<Vec<_>>()
    };
    assert_eq!(codes(&[CLIENT]), ["firewall-drop"]);
    assert_eq!(codes(&[SERVER]), ["firewall-drop"]);
    assert!(codes(&[3]).is_empty());
    assert!(case().report("dns", &[]).findings.iter().all(|f| f.code != "reset-by-peer"));
}

#[test]
fn findings_begin_and_end_as_events_and_are_counted() {
    let mut case = Case::new().dropped(SERVER, A, B, "NETFILTER_DROP", "nft_do_chain");
    let kinds = |case: &mut Case| case.host.events().into_iter().map(|event| event.kind).collect::<Vec<_>>();
    case.host.hook(|analyzer| analyzer.tick(NOW + SECOND));
    assert_eq!(kinds(&mut case), ["FINDING_BEGAN"]);
    assert_eq!(case.host.value("inspector_findings_total", SERVER, &["firewall-drop", "1"]), Some(1.0));
    case.host.hook(|analyzer| analyzer.tick(NOW + 15 * SECOND));
    assert_eq!(kinds(&mut case), [""; 0]);
    case.host.hook(|analyzer| analyzer.tick(NOW + 60 * SECOND));
    assert_eq!(kinds(&mut case), ["FINDING_ENDED"]);
}
