//! The analyzer as its host sees it: records in, series and events out.

use inspector_sdk::Analyzer;
use inspector_sdk::probes::qdisc::{OP_DEQUEUE, OP_ENQUEUE, OP_UNTIMED};
use inspector_sdk::probes::sum::BOUNDS_NS;
use inspector_sdk::probes::tx_latency::{STAGE_DRIVER, STAGE_ERROR, STAGE_KERNEL, STAGE_QDISC, STAGE_UNSEEN};
use inspector_sdk::probes::{Qdisc, RxLatency, TxLatency, tx_latency};
use inspector_sdk::testing::{Harness, World, head, record};
use latency::Latency;

const POD: u32 = 1;
const MS: u64 = 1_000_000;
const SLOW: u16 = 1;
const SUM: u16 = 2;

fn start() -> Harness<Latency> {
    let mut harness: Harness<Latency> =
        Harness::start(World { entities: vec![POD], ..World::default() }).expect("it starts");
    harness.hook(|analyzer| analyzer.added(&[POD]));
    harness
}

fn bucket(ns: u64) -> u16 {
    BOUNDS_NS.iter().position(|bound| ns <= *bound).expect("below 5 s") as u16
}

fn transmit(kind: u16, stage: u8, count: u64, each_ns: u64) -> TxLatency {
    let mut packet: TxLatency = record(head("10.0.0.1:4000", "10.0.0.2:80"));
    packet.head.kind = kind;
    packet.device[..4].copy_from_slice(b"eth0");
    TxLatency { count, stage, duration_ns: count * each_ns, bucket: bucket(each_ns), ..packet }
}

fn receive(kind: u16, count: u64, each_ns: u64) -> RxLatency {
    let mut segment: RxLatency = record(head("10.0.0.2:80", "10.0.0.1:4000"));
    (segment.head.kind, segment.head.tcp_state) = (kind, 1);
    RxLatency { count, duration_ns: count * each_ns, bucket: bucket(each_ns), length: 52, ..segment }
}

#[test]
fn sums_make_the_contracts_counters_and_the_histograms() {
    let mut host = start();
    host.batch(
        5,
        &[
            transmit(SUM, STAGE_QDISC, 1000, 3_000),
            transmit(SUM, STAGE_QDISC, 5, 150 * MS),
            transmit(SUM, STAGE_DRIVER, 1, 101 * MS),
            transmit(SUM, STAGE_KERNEL, 7, 100 * MS),
            transmit(SUM, STAGE_KERNEL, 2, 300 * MS),
            transmit(SUM, STAGE_UNSEEN, 40, 0),
            transmit(SUM, STAGE_ERROR, 6, 0),
        ],
    );
    host.batch(6, &[receive(SUM, 3, 5 * MS), receive(SUM, 4, 20 * MS), receive(SUM, 1, 200 * MS)]);
    let value = |name: &str| host.value(name, POD, &[]);
    for (name, wanted) in [
        ("netiftxlat_qdiscslow100ms", 5.0),
        ("netiftxlat_netdevslow100ms", 1.0),
        ("kernellatency_txslow", 9.0),
        ("kernellatency_txslow100ms", 2.0),
        ("kernellatency_rxslow", 5.0),
        ("kernellatency_rxslow100ms", 1.0),
    ] {
        assert_eq!(value(&format!("inspector_pod_{name}")), Some(wanted), "{name}");
    }
    assert_eq!(value("inspector_transmit_unseen_total"), Some(40.0));
    assert_eq!(value("inspector_transmit_errors_total"), Some(6.0));
    let stage = |stage| host.value("inspector_transmit_latency_seconds", POD, &[stage]);
    assert_eq!((stage("qdisc"), stage("driver"), stage("kernel")), (Some(1005.0), Some(1.0), Some(9.0)));
    assert_eq!(value("inspector_receive_latency_seconds"), Some(8.0));
    let total = host.sum("inspector_receive_latency_seconds", POD, &[]).expect("observed");
    assert!((total - 0.295).abs() < 1e-9, "{total}");
    assert!(host.events().is_empty(), "events are of single ones");
}

#[test]
fn a_slow_packet_is_the_event_of_its_stage() {
    let mut host = start();
    let mut driver = transmit(SLOW, STAGE_DRIVER, 1, 120 * MS);
    driver.head.flags = 0;
    let mut refused = transmit(tx_latency::KIND_ERROR, STAGE_ERROR, 1, 0);
    (refused.head.flags, refused.code, refused.length) = (0, 1, 60);
    host.batch(
        5,
        &[
            transmit(SLOW, STAGE_QDISC, 1, 50 * MS),
            transmit(SLOW, STAGE_QDISC, 1, 130 * MS),
            transmit(SLOW, STAGE_KERNEL, 1, 50 * MS),
            driver,
            refused,
        ],
    );
    host.batch(6, &[receive(SLOW, 1, 45 * MS)]);
    let events = host.events();
    let told: Vec<_> = events.iter().map(|event| format!("{} {}", event.kind, event.message)).collect();
    assert_eq!(
        told,
        [
            "NETIFTXLAT_QDISC 10.0.0.1:4000 -> 10.0.0.2:80 device=eth0 duration_ms=130.000 length=0",
            "TXKERNEL_SLOW 10.0.0.1:4000 -> 10.0.0.2:80 device=eth0 duration_ms=50.000 length=0",
            "NETIFTXLAT_XMIT device=eth0 duration_ms=120.000 length=0",
            "NETIFTX_ERROR device=eth0 code=1 length=60",
            "RXKERNEL_SLOW 10.0.0.2:80 -> 10.0.0.1:4000 state=TCP_ESTABLISHED duration_ms=45.000 length=52",
        ]
    );
    assert!(events.iter().all(|event| event.entity == POD && event.severity == 1));
    assert_eq!(host.value("inspector_pod_kernellatency_rxslow", POD, &[]), Some(0.0), "sums count");
}

#[test]
fn queues_are_counted_by_device() {
    let mut host = start();
    let sum = |op, count, duration_ns| {
        let sum: Qdisc = record(head("0.0.0.0:0", "0.0.0.0:0"));
        Qdisc { op, count, duration_ns, ifindex: 2, ..sum }
    };
    host.batch(5, &[sum(OP_ENQUEUE, 9, 0), sum(OP_DEQUEUE, 6, 60 * MS), sum(OP_UNTIMED, 3, 0)]);
    assert_eq!(host.value("inspector_qdisc_enqueued_total", POD, &["2"]), Some(9.0));
    assert_eq!(host.value("inspector_qdisc_dequeued_total", POD, &["2"]), Some(9.0));
    assert_eq!(host.value("inspector_qdisc_sojourn_seconds", POD, &[]), Some(6.0));
}

#[test]
fn totals_survive_a_reload_and_a_storm_is_told_as_a_number() {
    let mut host = start();
    host.batch(5, &[receive(SUM, 4, 20 * MS)]);
    let saved = host.hook(|analyzer| analyzer.save());
    let mut host = start();
    host.hook(|analyzer| analyzer.restore("0", &saved)).expect("own bytes");
    host.batch(5, &vec![receive(SLOW, 1, 20 * MS); 130]);
    assert_eq!(host.value("inspector_pod_kernellatency_rxslow", POD, &[]), Some(4.0));
    assert_eq!(host.events().len(), 100);
    host.hook(|analyzer| analyzer.tick(6));
    assert_eq!(host.events()[0].message, "30 more whose details are not shown");
}
