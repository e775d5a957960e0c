//! What is wrong with the packet itself: damaged, malformed, in pieces, or for no tunnel.

use inspector_sdk::protocol::TCP;
use inspector_sdk::tcp::LISTEN;
use inspector_sdk::{Severity, kernel};

use crate::codes::Code;
use crate::confidence::Confidence;
use crate::counters::counter;
use crate::fact::{Segment, What};
use crate::finding::Conclusion;
use crate::findings::Findings;
use crate::rules::Rule;
use crate::rules::traffic::{is_for_no_tunnel, is_martian, outage};
use crate::title::{Title, plural};
use crate::window::{Dropped, Window};

/// More than a kernel has.
const REASONS: u32 = 256;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule::new("a checksum is wrong", checksum).finds(&[Code::ChecksumError]),
    Rule::new("headers make no sense", malformed).finds(&[Code::MalformedPacket]),
    Rule::new("fragments never complete", reassembly).finds(&[Code::ReassemblyFailure]),
    Rule::new("no tunnel accepts it", overlay).finds(&[Code::OverlayMisconfigured]),
    Rule::new("timestamps go backwards", paws).finds(&[Code::PawsRejected]),
    Rule::new("segments outside of the window", invalid_segment).finds(&[Code::TcpInvalidSegment]),
    Rule::new("segments without the signature that their socket asks for", signature)
        .finds(&[Code::TcpInvalidSegment]),
    Rule::new("a packet capture is too slow", capture).finds(&[Code::CaptureOverflow]),
];

fn each(window: &Window, findings: &mut Findings, code: Code, what: &str, is_so: impl Fn(&Dropped) -> bool) {
    for drop in window.missed().filter(|drop| is_so(drop)) {
        let title = Title::counting(format!("{what}: "), "packet", "");
        let found = Conclusion::of_drop(code, drop, title).confidence(Confidence::Certain);
        findings.add(found.with_affected(window));
    }
}

fn checksum(window: &Window, findings: &mut Findings) {
    each(window, findings, Code::ChecksumError, "damaged packets (wrong checksum)", |drop| {
        drop.is(&["TCP_CSUM", "UDP_CSUM", "IP_CSUM", "ICMP_CSUM", "SKB_CSUM"])
    });
}

/// Reasons for which the kernel refuses headers.
const MALFORMED: &[&str] = &[
    "IP_INHDR",
    "IP_NOPROTO",
    "PKT_TOO_SMALL",
    "HDR_TRUNC",
    "DEV_HDR",
    "INVALID_PROTO",
    "IPV6_BAD_EXTHDR",
    "IP_INVALID_DEST",
    "IPV6_NDISC_FRAG",
    "IPV6_NDISC_HOP_LIMIT",
    "IPV6_NDISC_BAD_CODE",
    "IPV6_NDISC_BAD_OPTIONS",
];

/// Frames of a protocol for whom it concerns (LLDP, spanning tree) are no fault.
fn malformed(window: &Window, findings: &mut Findings) {
    let what = "packets whose headers make no sense";
    each(window, findings, Code::MalformedPacket, what, |drop| {
        let is_forwarded = drop.within(&["ip_forward", "ip6_forward"]);
        (drop.is(MALFORMED) && !is_forwarded && !is_martian(window, drop))
            || (drop.is(&["UNHANDLED_PROTO"]) && !drop.is_multicast)
    });
}

/// Functions that do nothing else but put fragments together.
const DEFRAGMENTERS: &[&str] = &[
    "ip_defrag",
    "ip_expire",
    "ip6_frag",
    "ip6frag",
    "ipv6_frag",
    "frag_expire",
    "inet_frag",
    "nf_ct_frag6",
];

/// Kernels before 6.6 have no reason for it, but the functions tell.
fn reassembly(window: &Window, findings: &mut Findings) {
    let what = "fragments that never become a packet";
    each(window, findings, Code::ReassemblyFailure, what, |drop| {
        drop.is(&["FRAG_REASM_TIMEOUT", "DUP_FRAG", "FRAG_TOO_FAR"])
            || (drop.is(&["NOT_SPECIFIED"]) && drop.within(DEFRAGMENTERS))
    });
    for (entity, amount) in window.risen(counter::REASSEMBLY_FAILED) {
        if !findings.has(&[Code::ReassemblyFailure], entity) {
            let title = format!("{what}: {}", amount.count);
            let found = Conclusion::new(Code::ReassemblyFailure, entity, amount, title);
            findings.add(found.rose("ReasmFails", amount));
        }
    }
}

/// What travels inside suffers under addresses that nothing joins to the tunnel's, so a tunnel that
/// does not work outranks it.
fn overlay(window: &Window, findings: &mut Findings) {
    for drop in window.drops.iter().filter(|drop| is_for_no_tunnel(drop)) {
        let before = format!("no tunnel ends at UDP port {}: ", drop.flow.dport);
        let title = Title::counting(before, "tunnel packet", " refused");
        let is_inside = |what: &What| what.is_unresolved() || what.is_silence() || what.is_retransmit();
        let suffers = window.of(is_inside).any(|(key, _)| window.owns(key.entity, drop.flow.source()));
        let found = Conclusion::of_drop(Code::OverlayMisconfigured, drop, title)
            .severity(if suffers { Severity::Critical } else { Severity::Warning })
            .confidence(Confidence::Certain);
        findings.add(found.with_affected(window));
    }
    let what = "tunnel packets that no tunnel here accepts";
    each(window, findings, Code::OverlayMisconfigured, what, |drop| {
        drop.is(&["VXLAN_VNI_NOT_FOUND", "VXLAN_INVALID_HDR", "VXLAN_ENTRY_EXISTS", "LOCAL_MAC"])
            || drop.is(&["NO_TX_TARGET", "IP_TUNNEL_ECN", "TUNNEL_TXINFO", "RECURSION_LIMIT"])
            || (drop.is(&["NOT_SPECIFIED"]) && drop.within(&["vxlan_rcv", "geneve", "gre_rcv", "ip_tunnel"]))
    });
}

/// A late segment of a connection that has ended is missed by nobody; a SYN is.
fn paws(window: &Window, findings: &mut Findings) {
    for drop in window.dropped_for(&["TCP_RFC7323_PAWS", "TCP_RFC7323_TW_PAWS", "TCP_RFC7323_TSECR"]) {
        let before =
            "timestamps went backwards (an address translator, or a connection's numbers used again): ";
        let found = Conclusion::of_drop(Code::PawsRejected, drop, Title::counting(before, "packet", ""))
            .confidence(Confidence::Certain)
            .with_affected(window);
        let is_late = drop.is(&["TCP_RFC7323_TW_PAWS"]) && drop.segment != Segment::Syn;
        findings.add(if is_late { found.severity(Severity::Info) } else { found });
    }
    for (entity, amount) in window.risen(counter::PAWS) {
        if !findings.has(&[Code::PawsRejected], entity) {
            let title = Title::counting("timestamps went backwards: ", "segment", " refused");
            let found = Conclusion::new(Code::PawsRejected, entity, amount, title);
            findings.add(found.rose("PAWS counters", amount));
        }
    }
}

/// Reasons for which a segment does not fit its connection.
const INVALID: &[&str] = &[
    "TCP_INVALID_SEQUENCE",
    "TCP_INVALID_END_SEQUENCE",
    "TCP_INVALID_ACK_SEQUENCE",
    "TCP_INVALID_SYN",
    "TCP_ACK_UNSENT_DATA",
    "TCP_OVERWINDOW",
    "TCP_TOO_OLD_ACK",
    "TCP_FLAGS",
];

/// A sender that probes a closed window is out of it on purpose.
fn invalid_segment(window: &Window, findings: &mut Findings) {
    let invalid = window.missed().filter(|drop| drop.flow.proto == TCP && drop.is(INVALID));
    for drop in invalid.filter(|drop| !is_explained_segment(window, drop)) {
        let challenged = window.counter(drop.entity, counter::CHALLENGE_ACKS);
        let segments = plural(drop.amount.count, "segment");
        let title = format!("segments that fit no window or state: {segments} refused");
        let mut found = Conclusion::of_drop(Code::TcpInvalidSegment, drop, title);
        // Before 6.4 a segment that had arrived already has the same reason as one that fits nowhere.
        if drop.is(&["TCP_INVALID_SEQUENCE"]) && challenged.is_none() && !has_reason("TCP_OLD_SEQUENCE") {
            found = found.severity(Severity::Info).although("this kernel does not tell it from a duplicate");
        }
        if let Some(amount) = challenged {
            found = found.rose("TCPChallengeACK", amount);
        }
        findings.add(found.with_affected(window));
    }
}

/// Whether a closed window, a lack of memory, or a listener that resets a stray segment explains it.
fn is_explained_segment(window: &Window, drop: &Dropped) -> bool {
    let is_window_closed = window.rise(drop.entity, counter::TO_ZERO_WINDOW) > 0;
    let is_pressed = window.rise(drop.entity, counter::PRUNED) > 0;
    let mut resets = window.resets_on(&drop.flow);
    let is_stray = resets.any(|reset| reset.entity == drop.entity && reset.state == LISTEN);
    is_window_closed || is_pressed || is_stray
}

/// Reasons for which a signature fails.
const SIGNATURE: &[&str] = &[
    "TCP_AUTH_HDR",
    "TCP_MD5NOTFOUND",
    "TCP_MD5UNEXPECTED",
    "TCP_MD5FAILURE",
    "TCP_AONOTFOUND",
    "TCP_AOUNEXPECTED",
    "TCP_AOKEYNOTFOUND",
    "TCP_AOFAILURE",
];

/// Both ends have to agree on a key (RFC 2385, RFC 5925); BGP sessions do.
fn signature(window: &Window, findings: &mut Findings) {
    for drop in window.dropped_for(SIGNATURE) {
        let before = "TCP signatures (MD5 or AO) are missing, wrong or not expected: ";
        let title = Title::counting(before, "segment", " refused");
        let found = Conclusion::of_drop(Code::TcpInvalidSegment, drop, title).confidence(Confidence::Certain);
        findings.add(found.severity(outage(window, &drop.flow)).with_affected(window));
    }
}

/// Whether this kernel has a reason of that name.
fn has_reason(name: &str) -> bool {
    (0..REASONS).any(|number| &*kernel::drop_reason(number) == name)
}

/// Only the capture misses them. Nothing suffers, so no conversation is explained by it.
fn capture(window: &Window, findings: &mut Findings) {
    for drop in window.dropped_for(&["PACKET_SOCK_ERROR"]) {
        let before = "a packet capture is too slow and misses ";
        let title = Title::counting(before, "packet", "; the traffic itself goes on");
        let found = Conclusion::new(Code::CaptureOverflow, drop.entity, drop.amount, title);
        findings.add(found.severity(Severity::Info).drops(drop));
    }
}
