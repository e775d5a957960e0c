//! What is wrong with the packet itself: damaged, malformed, in pieces, or for no tunnel.

use inspector_sdk::flow::TCP;
use inspector_sdk::kernel;

use crate::counters::counter;
use crate::fact::{Segment, What};
use crate::finding::{CRITICAL, Conclusion, Findings, INFO, WARNING, plural, total};
use crate::rules::Rule;
use crate::rules::firewall::outage;
use crate::rules::routes::is_martian;
use crate::view::{Dropped, View};

const UDP: u8 = 17;
/// More than a kernel has.
const REASONS: u32 = 256;

/// The rules.
pub const RULES: &[Rule] = &[
    Rule { name: "a checksum is wrong", judge: checksum },
    Rule { name: "headers make no sense", judge: malformed },
    Rule { name: "fragments never complete", judge: reassembly },
    Rule { name: "no tunnel accepts it", judge: overlay },
    Rule { name: "timestamps go backwards", judge: paws },
    Rule { name: "segments outside of the window", judge: invalid_segment },
    Rule { name: "segments without the signature that their socket asks for", judge: signature },
    Rule { name: "a packet capture is too slow", judge: capture },
];

fn each(
    view: &View,
    findings: &mut Findings,
    code: &'static str,
    confidence: u8,
    what: &str,
    is: impl Fn(&Dropped) -> bool,
) {
    for d in view.drops.iter().filter(|d| !d.is_noise && is(d)) {
        let title = format!("{what}: {}", total("packet"));
        findings.add(Conclusion::of_drop(code, d, title).confidence(confidence).felt_by(view));
    }
}

fn checksum(view: &View, findings: &mut Findings) {
    each(view, findings, "checksum-error", 93, "damaged packets (wrong checksum)", |d| {
        d.is(&["TCP_CSUM", "UDP_CSUM", "IP_CSUM", "ICMP_CSUM", "SKB_CSUM"])
    });
}

/// Frames of a protocol for whom it concerns (LLDP, spanning tree) are no fault.
fn malformed(view: &View, findings: &mut Findings) {
    let reasons = [
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
    each(view, findings, "malformed-packet", 90, "packets whose headers make no sense", |d| {
        (d.is(&reasons) && !d.within(&["ip_forward", "ip6_forward"]) && !is_martian(view, d))
            || (d.is(&["UNHANDLED_PROTO"]) && !d.drop.to_many)
    });
}

/// Kernels before 6.6 have no reason for it, but the functions do nothing else.
fn reassembly(view: &View, findings: &mut Findings) {
    each(view, findings, "reassembly-failure", 93, "fragments that never become a packet", |d| {
        d.is(&["FRAG_REASM_TIMEOUT", "DUP_FRAG", "FRAG_TOO_FAR"])
            || (d.is(&["NOT_SPECIFIED"])
                && d.within(&[
                    "ip_defrag",
                    "ip_expire",
                    "ip6_frag",
                    "ip6frag",
                    "ipv6_frag",
                    "frag_expire",
                    "inet_frag",
                    "nf_ct_frag6",
                ]))
    });
    for (entity, amount) in view.risen(counter::REASSEMBLY_FAILED) {
        if !findings.has(&["reassembly-failure"], entity) {
            let title = format!("fragments that never become a packet: {}", amount.count);
            findings.add(
                Conclusion::new("reassembly-failure", entity, amount, title)
                    .confidence(85)
                    .rose("ReasmFails", amount),
            );
        }
    }
}

/// UDP ports of tunnels: VXLAN (IANA's and Linux's first one), Geneve.
const TUNNELS: [u16; 3] = [4789, 8472, 6081];

/// Whether packets of a tunnel find no socket: then no tunnel of that kind ends here.
pub fn is_for_no_tunnel(d: &Dropped) -> bool {
    d.is(&["NO_SOCKET"]) && d.flow.proto == UDP && TUNNELS.contains(&d.flow.dport)
}

/// What travels inside suffers under addresses that nothing joins to the tunnel's, so a tunnel that
/// does not work outranks it.
fn overlay(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| is_for_no_tunnel(d)) {
        let title =
            format!("no tunnel ends at UDP port {}: {} refused", d.flow.dport, total("tunnel packet"));
        let inside = |what: &What| {
            what.is_unresolved() || what.is_silence() || matches!(what, What::Retransmit { .. })
        };
        let suffers = view.of(inside).any(|(key, _)| view.owns(key.entity, d.flow.source()));
        let severity = if suffers { CRITICAL } else { WARNING };
        let found = Conclusion::of_drop("overlay-misconfigured", d, title).confidence(93);
        findings.add(found.severity(severity).felt_by(view));
    }
    each(view, findings, "overlay-misconfigured", 93, "tunnel packets that no tunnel here accepts", |d| {
        d.is(&["VXLAN_VNI_NOT_FOUND", "VXLAN_INVALID_HDR", "VXLAN_ENTRY_EXISTS", "LOCAL_MAC", "NO_TX_TARGET"])
            || d.is(&["IP_TUNNEL_ECN", "TUNNEL_TXINFO", "RECURSION_LIMIT"])
            || (d.is(&["NOT_SPECIFIED"]) && d.within(&["vxlan_rcv", "geneve", "gre_rcv", "ip_tunnel"]))
    });
}

/// A late segment of a connection that has ended is missed by nobody; a SYN is.
fn paws(view: &View, findings: &mut Findings) {
    let reasons = ["TCP_RFC7323_PAWS", "TCP_RFC7323_PAWS_ACK", "TCP_RFC7323_TW_PAWS", "TCP_RFC7323_TSECR"];
    for d in view.drops.iter().filter(|d| d.is(&reasons)) {
        let title = format!(
            "timestamps went backwards (an address translator, or a connection's numbers used again): {}",
            total("packet")
        );
        let found = Conclusion::of_drop("paws-rejected", d, title).confidence(93).felt_by(view);
        let is_late = d.is(&["TCP_RFC7323_TW_PAWS"]) && d.drop.segment != Segment::Syn;
        findings.add(if is_late { found.severity(INFO) } else { found });
    }
    for (entity, amount) in view.risen(counter::PAWS) {
        if !findings.has(&["paws-rejected"], entity) {
            let title = format!("timestamps went backwards: {} refused", total("segment"));
            findings.add(
                Conclusion::new("paws-rejected", entity, amount, title)
                    .confidence(85)
                    .rose("PAWS counters", amount),
            );
        }
    }
}

/// A sender that probes a closed window is out of it on purpose.
fn invalid_segment(view: &View, findings: &mut Findings) {
    let reasons = [
        "TCP_INVALID_SEQUENCE",
        "TCP_INVALID_END_SEQUENCE",
        "TCP_INVALID_ACK_SEQUENCE",
        "TCP_INVALID_SYN",
        "TCP_ACK_UNSENT_DATA",
        "TCP_OVERWINDOW",
        "TCP_TOO_OLD_ACK",
        "TCP_FLAGS",
    ];
    for d in view.drops.iter().filter(|d| d.is(&reasons) && d.flow.proto == TCP && !d.is_noise) {
        let window_closed = view.rise(d.entity, counter::TO_ZERO_WINDOW) > 0;
        let pressed = view.rise(d.entity, counter::PRUNED) > 0;
        // A listener's answer to a stray segment is the reset that says more.
        let stray =
            view.resets.iter().any(|r| r.entity == d.entity && r.flow.meets(&d.flow) && r.reset.state == 10);
        if window_closed || pressed || stray {
            continue;
        }
        let challenged = view.counter(d.entity, counter::CHALLENGE_ACKS);
        let title =
            format!("segments that fit no window or state: {} refused", plural(d.amount.count, "segment"));
        let mut found = Conclusion::of_drop("tcp-invalid-segment", d, title).confidence(88);
        // Before 6.4 a segment that had arrived already has the same reason as one that fits nowhere.
        if d.is(&["TCP_INVALID_SEQUENCE"]) && challenged.is_none() && !has_reason("TCP_OLD_SEQUENCE") {
            found = found.severity(INFO).although("this kernel does not tell it from a duplicate", 30);
        }
        if let Some(amount) = challenged {
            found = found.rose("TCPChallengeACK", amount);
        }
        findings.add(found.felt_by(view));
    }
}

/// Both ends have to agree on a key (RFC 2385, RFC 5925); BGP sessions do.
fn signature(view: &View, findings: &mut Findings) {
    let reasons = [
        "TCP_AUTH_HDR",
        "TCP_MD5NOTFOUND",
        "TCP_MD5UNEXPECTED",
        "TCP_MD5FAILURE",
        "TCP_AONOTFOUND",
        "TCP_AOUNEXPECTED",
        "TCP_AOKEYNOTFOUND",
        "TCP_AOFAILURE",
    ];
    for d in view.drops.iter().filter(|d| d.is(&reasons)) {
        let title = format!(
            "TCP signatures (MD5 or AO) are missing, wrong or not expected: {} refused",
            total("segment")
        );
        let found = Conclusion::of_drop("tcp-invalid-segment", d, title).confidence(93);
        findings.add(found.severity(outage(view, &d.flow)).felt_by(view));
    }
}

/// Whether this kernel has a reason of that name.
fn has_reason(name: &str) -> bool {
    (0..REASONS).any(|number| &*kernel::drop_reason(number) == name)
}

/// Only the capture misses them. Nothing suffers, so no conversation is explained by it.
fn capture(view: &View, findings: &mut Findings) {
    for d in view.drops.iter().filter(|d| d.is(&["PACKET_SOCK_ERROR"])) {
        let title = format!(
            "a packet capture is too slow and misses {}; the traffic itself goes on",
            total("packet")
        );
        findings.add(Conclusion::new("capture-overflow", d.entity, d.amount, title).severity(INFO).drops(d));
    }
}
