//! The analyzer as its host sees it: records in, series and events out.

use std::collections::HashMap;

use inspector_sdk::Analyzer;
use inspector_sdk::probes::SkbDrop;
use inspector_sdk::probes::skb_drop::{KIND_DROP, KIND_SUMMARY};
use inspector_sdk::protocol::{ETHERTYPE_ARP, TCP, UDP};
use inspector_sdk::testing::{Harness, World, head, record};
use packet_loss::PacketLoss;

const NO_SOCKET: u32 = 3;
const NETFILTER_DROP: u32 = 12;
const OLD_DATA: u32 = 33;
const UDP_RCV: u64 = 0x1000;
const NF_HOOK: u64 = 0x2000;
const TCP_DATA: u64 = 0x3000;

fn world() -> World {
    World {
        drop_reasons: HashMap::from([
            (NO_SOCKET, "NO_SOCKET"),
            (NETFILTER_DROP, "NETFILTER_DROP"),
            (OLD_DATA, "TCP_OLD_DATA"),
        ]),
        symbols: HashMap::from([
            (UDP_RCV, ("__udp4_lib_rcv", 0x4a)),
            (NF_HOOK, ("nf_hook_slow", 0xc1)),
            (TCP_DATA, ("tcp_data_queue", 0x10)),
        ]),
        entities: vec![1, 2],
        ..World::default()
    }
}

fn start() -> Harness<PacketLoss> {
    Harness::start(world()).expect("it starts")
}

fn tick(host: &mut Harness<PacketLoss>) {
    host.hook(|analyzer| analyzer.tick(6));
}

fn drop(reason: u32, location: u64) -> SkbDrop {
    let mut drop: SkbDrop = record(head("10.0.0.1:4000", "10.0.0.2:53"));
    drop.head.kind = KIND_DROP;
    drop.head.proto = UDP;
    (drop.reason, drop.location, drop.count, drop.length, drop.ethertype) = (reason, location, 1, 60, 0x0800);
    drop
}

#[test]
fn a_drop_is_counted_and_shown_with_everything_known_of_it() {
    let mut host = start();
    host.batch(5, &[drop(NO_SOCKET, UDP_RCV)]);
    assert_eq!(host.value("inspector_drops_total", 1, &["NO_SOCKET", "__udp4_lib_rcv", "drop"]), Some(1.0));
    let events = host.events();
    assert_eq!(events[0].kind, "PACKETLOSS");
    assert_eq!((events[0].severity, events[0].entity, events[0].at), (1, 1, 1));
    assert_eq!(
        events[0].message,
        "10.0.0.1:4000 -> 10.0.0.2:53 protocol=UDP reason=NO_SOCKET location=__udp4_lib_rcv+0x4a length=60"
    );
    let attrs: Vec<_> = events[0].attrs.iter().map(|a| format!("{}={}", a.name, a.value)).collect();
    assert_eq!(
        attrs.join(" "),
        "protocol=UDP saddr=10.0.0.1 sport=4000 daddr=10.0.0.2 dport=53 reason=NO_SOCKET \
         location=__udp4_lib_rcv+0x4a length=60 ifindex=0 class=drop"
    );
}

#[test]
fn where_places_have_no_names_totals_by_place_have_no_value() {
    let mut host =
        Harness::<PacketLoss>::start(World { symbols: HashMap::new(), ..world() }).expect("it starts");
    host.hook(|analyzer| analyzer.added(&[1, 2]));
    host.batch(5, &[drop(NO_SOCKET, UDP_RCV)]);
    tick(&mut host);
    let total = |name: &str, entity| host.value(&format!("inspector_pod_packetloss_{name}"), entity, &[]);
    for (entity, drops) in [(1, 1.0), (2, 0.0)] {
        assert_eq!((total("total", entity), total("netfilter", entity)), (Some(drops), Some(0.0)));
        for name in ["abnormal", "tcpstatm", "tcprcv", "tcphandle"] {
            assert!(total(name, entity).is_some_and(f64::is_nan), "{name} is {:?}", total(name, entity));
        }
    }
}

#[test]
fn a_storm_of_one_cause_does_not_hide_the_first_drop_of_another() {
    let mut host = start();
    host.batch(5, &vec![drop(NETFILTER_DROP, NF_HOOK); 2_000]);
    host.batch(6, &[drop(NO_SOCKET, UDP_RCV)]);
    let events = host.events();
    let shown = |reason: &str| events.iter().filter(|event| event.message.contains(reason)).count();
    assert!(shown("reason=NETFILTER_DROP") < 600, "the storm has its limit: {}", shown("NETFILTER_DROP"));
    assert_eq!(shown("10.0.0.1:4000 -> 10.0.0.2:53 protocol=UDP reason=NO_SOCKET"), 1);
}

#[test]
fn noise_is_counted_but_neither_abnormal_nor_a_warning() {
    let mut host = start();
    let mut old = drop(OLD_DATA, TCP_DATA);
    (old.head.proto, old.head.tcp_state) = (TCP, 1);
    host.batch(5, &[old]);
    tick(&mut host);
    assert_eq!(host.value("inspector_pod_packetloss_total", 1, &[]), Some(1.0));
    assert_eq!(host.value("inspector_pod_packetloss_abnormal", 1, &[]), Some(0.0));
    let events = host.events();
    assert_eq!(events[0].severity, 0);
    assert!(events[0].attrs.iter().any(|a| a.name == "state" && a.value == "TCP_ESTABLISHED"));
}

#[test]
fn an_arp_packet_is_called_arp() {
    let mut host = start();
    let mut arp = drop(NETFILTER_DROP, NF_HOOK);
    (arp.head.proto, arp.head.flags, arp.ethertype) = (0, 1, ETHERTYPE_ARP);
    host.batch(5, &[arp]);
    assert_eq!(host.events()[0].attrs[0].value, "ARP");
}

#[test]
fn a_storm_is_counted_to_the_last_drop_and_told_in_one_event() {
    let mut host = start();
    let storm: Vec<_> = (0..10_000).map(|_| drop(NETFILTER_DROP, NF_HOOK)).collect();
    for chunk in storm.chunks(512) {
        host.batch(5, chunk);
    }
    let shown = host.events().len();
    tick(&mut host);
    assert_eq!(host.value("inspector_pod_packetloss_netfilter", 1, &[]), Some(10_000.0));
    let summary = host.events();
    assert_eq!(summary.len(), 1);
    assert_eq!(
        summary[0].message,
        format!(
            "{} drops whose details were suppressed reason=NETFILTER_DROP location=nf_hook_slow",
            10_000 - shown
        )
    );
}

#[test]
fn a_storm_in_one_entity_hides_no_drop_of_another() {
    let mut host = start();
    let mut storm: Vec<_> = (0..5_000).map(|_| drop(NO_SOCKET, UDP_RCV)).collect();
    for victim in storm.iter_mut().step_by(50) {
        victim.head.entity = 2;
    }
    host.batch(5, &storm);
    assert_eq!(host.events().iter().filter(|event| event.entity == 2).count(), 100);
}

#[test]
fn what_the_kernel_suppressed_is_counted_in_full() {
    let mut host = start();
    let mut summary = drop(NO_SOCKET, UDP_RCV);
    (summary.head.kind, summary.head.flags, summary.count) = (KIND_SUMMARY, 0, 90_000);
    host.batch(5, &[summary, drop(NO_SOCKET, UDP_RCV)]);
    assert_eq!(host.events().len(), 1, "a summary has no details to show");
    tick(&mut host);
    assert_eq!(host.value("inspector_pod_packetloss_total", 1, &[]), Some(90_001.0));
}

#[test]
fn a_batch_costs_one_call_and_names_are_asked_for_once() {
    let mut host = start();
    let batch: Vec<_> = (0..512).map(|_| drop(NO_SOCKET, UDP_RCV)).collect();
    for now in 0..100 {
        host.batch(now, &batch);
    }
    assert_eq!(host.metric_calls(), (100, 1));
}

#[test]
fn an_entity_starts_at_zero_and_a_vanished_one_afresh() {
    let mut host = start();
    host.hook(|analyzer| analyzer.added(&[1, 2]));
    assert_eq!(host.value("inspector_pod_packetloss_total", 2, &[]), Some(0.0));
    host.batch(5, &[drop(NO_SOCKET, UDP_RCV)]);
    host.removed(&[1]);
    host.batch(6, &[drop(NO_SOCKET, UDP_RCV)]);
    tick(&mut host);
    assert_eq!(host.value("inspector_pod_packetloss_total", 1, &[]), Some(1.0));
}

#[test]
fn totals_go_on_after_a_reload() {
    let mut old = start();
    old.batch(5, &[drop(NO_SOCKET, UDP_RCV)]);
    let state = old.hook(|a| a.save());
    let mut new = start();
    new.hook(|a| a.restore("0.1.0", &state)).expect("own bytes");
    new.batch(6, &[drop(NO_SOCKET, UDP_RCV)]);
    tick(&mut new);
    assert_eq!(new.value("inspector_pod_packetloss_total", 1, &[]), Some(2.0));
}

#[test]
fn neighbour_discovery_without_a_way_is_noise_and_a_missing_route_is_not() {
    const INNOROUTES: u32 = 40;
    let mut world = world();
    world.drop_reasons.insert(INNOROUTES, "IP_INNOROUTES");
    let mut host = Harness::<PacketLoss>::start(world).expect("it starts");
    let to = |destination: &str| {
        let mut drop = drop(INNOROUTES, UDP_RCV);
        drop.head.daddr = head("[fd00::1]:1", destination).daddr;
        drop
    };
    host.batch(5, &[to("[ff02::16]:0"), to("[fd00::2]:53")]);
    let severities: Vec<_> = host.events().iter().map(|event| event.severity).collect();
    assert_eq!(severities, [0, 1]);
}
