//! What a finding suggests to do, and how it is read.

use super::*;

/// Commands of the first finding with this code.
fn commands(case: Case, code: &str) -> Vec<String> {
    let report = case.report("node", &[]);
    let finding = report.findings.iter().find(|finding| finding.code == code);
    let actions = &finding.unwrap_or_else(|| panic!("no {code}: {:?}", report.findings)).actions;
    actions.iter().filter_map(|action| action.command.clone()).collect()
}

#[test]
fn commands_name_what_is_known() {
    let dns = commands(Case::new().give(query(NOW)), "dns-timeout");
    assert_eq!(dns[0], "ip netns exec e1 dig @10.9.0.2");
    let silent = || commands(Case::new().sent_again(A, B, tcp_retransmit::WHY_SYN, 2), "peer-unresponsive");
    assert_eq!(silent()[0], "ip netns exec e1 tcpdump -ni any host 10.9.0.2");
    let unknown = Case::new().dropped(SERVER, A, B, "FUTURE_REASON", "some_function");
    assert_eq!(commands(unknown, "unexplained-drop"), ["inspector explain FUTURE_REASON"]);
}

#[test]
fn a_neighbour_is_asked_for_with_the_tool_of_its_family() {
    let ask = |address: &str| {
        let mut failed = failed_neighbour();
        failed.head.daddr = head("[::]:0", address).daddr;
        commands(Case::new().give(failed), "neighbour-unresolved")[1].clone()
    };
    assert_eq!(ask("10.9.0.99:0"), "ip netns exec e1 arping -c 3 10.9.0.99");
    assert_eq!(ask("[fd00::99]:0"), "ip netns exec e1 ping -6 -c 3 fd00::99");
    assert_eq!(ask("[fe80::99]:0"), "ip netns exec e1 ping -6 -c 3 fe80::99%DEVICE");
}

#[test]
fn a_hostile_name_of_an_entity_is_one_word_of_a_command() {
    let named = Case::with(|world| world.names = HashMap::from([(SERVER, "op;touch x$(id)")]));
    let all = commands(named.dropped(SERVER, A, B, "NETFILTER_DROP", "nft_do_chain"), "firewall-drop");
    assert!(!all.is_empty());
    for command in all {
        assert!(command.starts_with("ip netns exec 'op;touch x$(id)' nft "), "{command}");
    }
}

#[test]
fn what_is_concluded_of_two_protocols_is_told_apart() {
    let udp_port = |case: Case| {
        case.dropped_as(SERVER, A, "10.9.0.2:9999", "NO_SOCKET", "__udp4_lib_rcv", udp).dropped_as(
            SERVER,
            "10.9.0.1:40002",
            "10.9.0.2:9999",
            "NO_SOCKET",
            "__udp4_lib_rcv",
            udp,
        )
    };
    let closed = udp_port(Case::new().dropped(SERVER, A, B, "NO_SOCKET", "tcp_v4_rcv"));
    let report = closed.report("node", &[]);
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert!(finding.title.ends_with("TCP port 80 of 10.9.0.2; 1 connection refused"), "{}", finding.title);
    assert_eq!(finding.count, 1);
    let lines: Vec<_> = finding.evidence.iter().map(|line| line.summary.as_str()).collect();
    let of_udp: Vec<_> = lines.iter().filter(|line| line.contains("udp4")).collect();
    assert!(of_udp.len() == 2 && of_udp.iter().all(|line| line.starts_with("UDP: ")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("also: nobody listens on UDP port 9999")), "{lines:?}");
}

#[test]
fn evidence_that_reads_the_same_is_one_line() {
    let one = |case: Case, n: u8| {
        // A segment with other flags is another fact with the same text.
        let flags = [ACK, SYN, SYN | ACK][usize::from(n)];
        case.dropped_as(SERVER, A, B, "NETFILTER_DROP", "nft_do_chain", move |d| {
            (d.head.ts_ns, d.tcp_flags) = (NOW - u64::from(n) * SECOND, flags);
        })
    };
    let report = (0..3).fold(Case::new(), one).report("loss", &[]);
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    let drops: Vec<_> = finding.evidence.iter().filter(|line| line.summary.contains("dropped in")).collect();
    let [line] = &drops[..] else { panic!("{drops:?}") };
    assert!(line.summary.ends_with("(3 times)") && line.at == Some(NOW), "{line:?}");
}
