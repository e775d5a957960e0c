//! skb-drop: packets that the kernel frees without delivering them.

use anyhow::Result;
use inspector::probe::Options;
use inspector_ebpf::SkbDrop;
use inspector_ebpf::record::{FLAG_DEVICE, FLAG_PACKET};
use inspector_ebpf::skb_drop::KIND_DROP;
use inspector_tests::lab::{Family, Pair, faults};

use super::{SYN, TCP, UDP, check_head, eth0, is};
use crate::observer::Observer;

#[test]
fn a_datagram_to_a_closed_port_is_dropped_for_want_of_a_socket() -> Result<()> {
    let (pair, observer) = (Pair::new()?, Observer::of(&["skb-drop"], Options::default())?);
    let netns = pair.server.cookie()?;
    for (family, function) in [(Family::V4, "__udp4_lib_rcv"), (Family::V6, "__udp6_lib_rcv")] {
        let to = pair.server_at(family, faults::CLOSED_PORT);
        let from = faults::send_udp(&pair.client, to, 1, 111)?;
        let drop = observer.wait_for::<SkbDrop>("the datagram", |d| is(&d.head, netns, UDP, from, to))?;
        check_head(&drop.head, KIND_DROP, 0)?;
        assert_eq!(drop.head.flags & (FLAG_PACKET | FLAG_DEVICE), FLAG_PACKET | FLAG_DEVICE);
        assert_eq!(observer.names.drop_reason(drop.reason), "NO_SOCKET");
        let symbol = observer.names.symbol_at(drop.location).expect("a kernel function").name;
        assert_eq!(symbol, function);
        assert_eq!(drop.count, 1);
        assert_eq!(drop.ifindex, eth0(&pair.server)?);
        assert_eq!(drop.length, 8 + 111, "the IP header has been pulled off by then");
        assert_eq!(drop.ethertype, family.ethertype());
        assert_eq!((drop.tcp_flags, drop.pkt_type), (0, 0));
    }
    Ok(())
}

#[test]
fn a_segment_that_nft_drops_is_dropped_by_netfilter() -> Result<()> {
    let (pair, observer) = (Pair::new()?, Observer::of(&["skb-drop"], Options::default())?);
    let netns = pair.server.cookie()?;
    faults::drop_incoming(&pair.server, "tcp", 4242)?;
    for family in Family::BOTH {
        let to = pair.server_at(family, 4242);
        let (_connecting, from) = faults::start_connect(&pair.client, to)?;
        let drop = observer.wait_for::<SkbDrop>("the SYN", |d| is(&d.head, netns, TCP, from, to))?;
        check_head(&drop.head, KIND_DROP, 0)?;
        assert_eq!(drop.head.flags & (FLAG_PACKET | FLAG_DEVICE), FLAG_PACKET | FLAG_DEVICE);
        assert_eq!(observer.names.drop_reason(drop.reason), "NETFILTER_DROP");
        let symbol = observer.names.symbol_at(drop.location).expect("a kernel function").name;
        assert!(symbol.starts_with("nft_do_chain"), "{symbol}");
        assert_eq!(drop.count, 1);
        assert_eq!(drop.ifindex, eth0(&pair.server)?);
        assert_eq!(drop.length, family.header_bytes() + 40, "IP header, TCP header and its SYN options");
        assert_eq!(drop.ethertype, family.ethertype());
        assert_eq!((drop.tcp_flags, drop.pkt_type), (SYN, 0));
    }
    Ok(())
}

#[test]
fn a_syn_to_a_closed_port_is_dropped_in_the_servers_namespace() -> Result<()> {
    let (pair, observer) = (Pair::new()?, Observer::of(&["skb-drop"], Options::default())?);
    let netns = pair.server.cookie()?;
    for family in Family::BOTH {
        let to = pair.server_at(family, faults::CLOSED_PORT);
        let from = faults::connect_to_closed_port(&pair.client, to)?;
        let drop = observer.wait_for::<SkbDrop>("the SYN", |d| is(&d.head, netns, TCP, from, to))?;
        assert_eq!(observer.names.drop_reason(drop.reason), "NO_SOCKET");
        assert_eq!(drop.tcp_flags, SYN);
    }
    Ok(())
}

#[test]
fn a_packet_that_is_delivered_is_no_drop() -> Result<()> {
    let (pair, observer) = (Pair::new()?, Observer::of(&["skb-drop"], Options::default())?);
    let (client, server) = (pair.client.cookie()?, pair.server.cookie()?);
    for family in Family::BOTH {
        let mut connection = inspector_tests::lab::Connection::open(&pair, family)?;
        connection.exchange(100_000, 100_000)?;
        connection.close()?;
    }
    // A later drop shows that everything before it has been seen.
    let to = pair.server_at(Family::V4, faults::CLOSED_PORT);
    let from = faults::send_udp(&pair.client, to, 1, 0)?;
    observer.wait_for::<SkbDrop>("the marker", |d| is(&d.head, server, UDP, from, to))?;
    let of_pair = |d: &SkbDrop| [client, server].contains(&d.head.netns) && d.head.proto == TCP;
    let drops = observer.records::<SkbDrop>().into_iter().filter(of_pair);
    let mut reasons: Vec<_> = drops.map(|drop| observer.names.drop_reason(drop.reason)).collect();
    // What waits in a socket that is torn down; analyzers take it for noise.
    reasons.retain(|reason| reason != "QUEUE_PURGE");
    assert_eq!(reasons, Vec::<String>::new());
    Ok(())
}
