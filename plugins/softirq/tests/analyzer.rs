//! The analyzer as its host sees it: records in, series and events out.

use inspector_sdk::Analyzer;
use inspector_sdk::probes::record::IntoBytes;
use inspector_sdk::probes::softirq::{KIND_SLOW, KIND_SUM, NET_RX, PHASE_RUN, PHASE_WAIT};
use inspector_sdk::probes::sum::BOUNDS_NS;
use inspector_sdk::probes::{Softirq, VirtioCommand};
use inspector_sdk::testing::{Harness, World, head, record};
use softirq::SoftirqAnalyzer;

const HOST: u32 = 7;
const MS: u64 = 1_000_000;

fn start() -> Harness<SoftirqAnalyzer> {
    let mut harness: Harness<SoftirqAnalyzer> =
        Harness::start(World { entities: vec![3, HOST], host: HOST, ..World::default() }).expect("it starts");
    harness.hook(|analyzer| analyzer.added(&[3, HOST]));
    harness
}

fn sum(phase: u8, count: u64, each_ns: u64) -> Softirq {
    let bucket = BOUNDS_NS.iter().position(|bound| each_ns <= *bound).expect("below 5 s") as u16;
    let mut sum: Softirq = record(head("0.0.0.0:0", "0.0.0.0:0"));
    (sum.head.kind, sum.head.netns, sum.head.entity) = (KIND_SUM, 0, 0);
    Softirq { count, duration_ns: count * each_ns, bucket, vector: NET_RX, phase, ..sum }
}

fn named(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    comm.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    comm
}

#[test]
fn sums_make_the_contracts_counters_and_the_histogram_of_the_node() {
    let mut host = start();
    let sums = [
        sum(PHASE_WAIT, 1000, 2_000),
        sum(PHASE_WAIT, 3, 10 * MS),
        sum(PHASE_WAIT, 2, 11 * MS),
        sum(PHASE_RUN, 1, 120 * MS),
    ];
    host.batch(5, &sums);
    let value = |name: &str| host.value(&format!("inspector_pod_net_softirq_{name}"), HOST, &[]);
    assert_eq!(value("schedslow"), Some(2.0), "10 ms is not more than 10 ms");
    assert_eq!(value("schedslow100ms"), Some(0.0));
    assert_eq!((value("excuteslow"), value("excuteslow100ms")), (Some(1.0), Some(1.0)));
    let latency = |phase| {
        let labels = ["NET_RX", phase];
        let name = "inspector_softirq_latency_seconds";
        (host.value(name, HOST, &labels), host.sum(name, HOST, &labels).map(|sum| (sum * 1e6).round()))
    };
    assert_eq!(latency("wait"), (Some(1005.0), Some(54_000.0)));
    assert_eq!(latency("run"), (Some(1.0), Some(120_000.0)));
    assert!(host.events().is_empty(), "events are of single ones");
}

#[test]
fn a_slow_one_is_an_event_with_its_tasks_and_is_not_counted_again() {
    let mut host = start();
    let slow = |phase, ns| Softirq {
        duration_ns: ns,
        comm: named("ksoftirqd/1"),
        pid: 24,
        raised_comm: named("burn\u{1b}[0m"),
        raised_pid: 99,
        head: inspector_sdk::probes::Head { kind: KIND_SLOW, cpu: 1, ..sum(phase, 1, ns).head },
        ..sum(phase, 1, ns)
    };
    host.batch(
        5,
        &[
            slow(PHASE_WAIT, 26 * MS),
            slow(PHASE_WAIT, 126 * MS),
            slow(PHASE_RUN, 26 * MS),
            slow(PHASE_RUN, 126 * MS),
        ],
    );
    let events = host.events();
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "NETSOFTIRQ_SCHED_SLOW",
            "NETSOFTIRQ_SCHED_100MS",
            "NETSOFTIRQ_EXCUTE_SLOW",
            "NETSOFTIRQ_EXCUTE_100MS"
        ]
    );
    assert_eq!(
        events[0].message,
        "vector=NET_RX cpu=1 duration_ms=26.000 raised_in=burn[0m/99 ran_in=ksoftirqd/1/24"
    );
    assert!(events.iter().all(|event| event.entity == HOST));
    assert_eq!(host.value("inspector_pod_net_softirq_schedslow", HOST, &[]), Some(0.0));
}

#[test]
fn commands_are_timed_and_slow_ones_told() {
    let mut host = start();
    let command = |ms: u64, ok| {
        let command: VirtioCommand = record(head("0.0.0.0:0", "0.0.0.0:0"));
        VirtioCommand { duration_ns: ms * MS, ok, known: 1, class: 4, comm: named("ip"), pid: 8, ..command }
    };
    host.batch(5, &[command(1, 1), command(11, 0), command(101, 1)]);
    let value = |name: &str| host.value(name, HOST, &[]);
    assert_eq!(value("inspector_virtio_command_seconds"), Some(3.0));
    assert_eq!(value("inspector_virtio_commands_refused_total"), Some(1.0));
    assert_eq!(value("inspector_pod_virtcmdlatency"), Some(2.0));
    assert_eq!(value("inspector_pod_virtcmdlatency100ms"), Some(1.0));
    let events = host.events();
    assert_eq!((events[0].kind.as_str(), events[1].kind.as_str()), ("VIRTCMDEXCUTE", "VIRTCMDEXCUTE_100MS"));
    assert_eq!(events[0].message, "duration_ms=11.000 task=ip/8 class=4 command=0 accepted=false");
}

#[test]
fn totals_survive_a_reload_and_a_storm_is_told_as_a_number() {
    let mut host = start();
    host.batch(5, &[sum(PHASE_RUN, 4, 20 * MS)]);
    let saved = host.hook(|analyzer| analyzer.save());
    let mut host = start();
    host.hook(|analyzer| analyzer.restore("0", &saved)).expect("own bytes");
    let mut one = sum(PHASE_RUN, 1, 20 * MS);
    one.head.kind = KIND_SLOW;
    host.batch(5, &[one; 80]);
    assert_eq!(host.value("inspector_pod_net_softirq_excuteslow", HOST, &[]), Some(4.0));
    assert_eq!(host.events().len(), 50);
    host.hook(|analyzer| analyzer.tick(6));
    assert_eq!(host.events()[0].message, "30 more whose details are not shown");
}
