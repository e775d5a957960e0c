//! The cases of the lab that need no more than a guest has, and what is concluded of them here.

use std::time::Duration;

use anyhow::Result;
use inspector_tests::agent::Settings;
use inspector_tests::exam::score::Mark;
use inspector_tests::exam::{Exam, Examiner, Manner};

use crate::{PATIENCE, say};

/// What is left out needs iptables, cgroups of version 1, `ethtool` or a module that is not packed.
const CASES: &[&str] = &[
    "baseline",
    "baseline_deploy/6",
    "baseline_udp_echo",
    "tcp_closed_port",
    "tcp_closed_port/6",
    "udp_closed_port",
    "listen_overflow",
    "synflood_no_cookies",
    "time_wait_overflow",
    "ports_exhausted",
    "app_close_unread",
    "app_linger0/6",
    "write_after_close",
    "tcp_ack_no_conn",
    "duplicate_ip",
    "tcp_out_of_window",
    "paws_rejected",
    "nft_drop_in",
    "nft_drop_in/6",
    "tc_bpf_ingress_drop",
    "xdp_drop_native",
    "tc_tbf",
    "route_blackhole_local",
    "route_prohibit_local/6",
    "no_route_local",
    "route_blackhole_forward",
    "route_unreachable_forward/6",
    "no_route_forward",
    "ip_forward_off",
    "ttl_exceeded",
    "mtu_pmtud_ok",
    "veth_down_peer",
    "arp_fail",
    "arp_wrong_mac",
    "rp_filter",
    "martian_sources",
    "tcp_bad_csum",
    "frag_timeout",
    "udp_rcvbuf_overflow",
    "tcp_zero_window",
    "sock_filter_drop",
    "dns_servfail",
    "peer_silent",
    "tcp_loss",
];

/// So many faults must be concluded right on every kernel. Not all can be: 6.1 tells of no reset
/// without a socket, and has no names for many reasons.
const GOAL: usize = 15;

/// Asks about each case and says the answer in one line; returns how many are missing to the goal,
/// with every false alarm.
pub fn examine(settings: &Settings) -> Result<usize> {
    // An interpreted processor reads the counters late, and delivers them late.
    let manner = Manner { settle: Some(Duration::from_secs(5)), ..Manner::default() };
    let examiner = Examiner::start(settings, PATIENCE, manner)?;
    let (mut right, mut alarms) = (0, 0);
    let exams = CASES.iter().map(|name| Exam::named(name)).collect::<Result<Vec<_>>>()?;
    examiner.examine(exams.into_iter(), |row| {
        right += usize::from(row.mark == Mark::Right && !row.exam.case.expect.is_empty());
        alarms += usize::from(row.mark == Mark::FalseAlarm);
        let findings: Vec<_> = row.findings.iter().map(ToString::to_string).collect();
        let name = row.exam.name();
        say(&format!("lab {:<11} {name:<28} {} {}", row.mark.shown(), findings.join(", "), row.error));
    });
    let healthy = CASES.iter().filter(|name| name.starts_with("baseline")).count();
    say(&format!("lab {right} of {} faults right, {alarms} false alarms", CASES.len() - healthy));
    Ok(GOAL.saturating_sub(right) + alarms)
}
