//! What the analyzer needs where everything comes at once: a plugin has 16 MiB (`plugins.memory_mib`).

use std::collections::HashMap;

use diagnosis::Diagnosis;
use inspector_sdk::Analyzer as _;
use inspector_sdk::analyzer::Request;
use inspector_sdk::probes::{Head, Record, SkbDrop, TcpRetransmit, TcpState, tcp_retransmit, tcp_state};
use inspector_sdk::tcp::SYN;
use inspector_sdk::testing::{Harness, World, head, record};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const SECOND: u64 = 1_000_000_000;
const ENTITIES: u32 = 1_500;
/// Of which so many are in trouble.
const TROUBLED: u32 = 300;
/// Facts of each second.
const FACTS: u32 = 600;
const TRANSLATED: u64 = 10_000;
/// Pointers and lengths are half as long in the sandbox. The rest of the 16 MiB is for the stack, and for what
/// lies unused between what is used.
const ROOM: usize = 13 << 20;

const SNMP: &[&str] =
    &["Tcp.OutSegs", "Tcp.InSegs", "Udp.OutDatagrams", "Udp.InDatagrams", "Tcp.RetransSegs", "Tcp.OutRsts"];
const CONNTRACK: &[&str] = &["drop", "early_drop", "insert_failed", "entries", "max_entries"];
const NAT: &[&str] = &[
    "proto",
    "src_hi",
    "src_lo",
    "sport",
    "dst_hi",
    "dst_lo",
    "dport",
    "from_hi",
    "from_lo",
    "from_port",
    "to_hi",
    "to_lo",
    "to_port",
];

fn ip(entity: u32) -> &'static str {
    Box::leak(format!("10.9.{}.{}", entity / 250, entity % 250 + 1).into_boxed_str())
}

/// Another flow each time, so that none is counted with another one.
fn at<R: Record>(number: u32, now: u64, kind: u16) -> R {
    let port = 32_768 + number % 28_000;
    let entity = 1 + number % TROUBLED;
    let from = format!("10.9.0.{}:{port}", 1 + entity % 250);
    let to = format!("10.{}.{}.{}:80", 10 + number % 200, number / 250 % 250, number % 250);
    record(Head { entity, kind, ts_ns: now, ..head(&from, &to) })
}

#[test]
fn a_storm_on_a_node_of_a_thousand_entities_stays_within_what_a_plugin_may_have() {
    let columns = [("snmp", SNMP.to_vec()), ("conntrack", CONNTRACK.to_vec()), ("nat", NAT.to_vec())];
    let counted = |second: u64| vec![second * 7; SNMP.len()];
    let connection = |number: u64| [6, 1, 1, number, 2, 2, 80, 1, 1, number, 3, 3, 8080];
    let mut world = World {
        drop_reasons: HashMap::from([(1, "NETFILTER_DROP")]),
        symbols: HashMap::from([(1, ("nft_do_chain", 0))]),
        entities: (1..=ENTITIES).collect(),
        ips: (1..=ENTITIES).map(|entity| (entity, vec![ip(entity)])).collect(),
        columns: HashMap::from(columns),
        ..World::default()
    };
    let nat = (0..TRANSLATED).flat_map(connection).collect();
    world.tables.insert(("nat", 1), (nat, vec![]));
    for entity in 1..=ENTITIES {
        world.tables.insert(("snmp", entity), (counted(0), vec![]));
        world.tables.insert(("conntrack", entity), (vec![0, 0, 0, 9, 10], vec![]));
    }
    let before = MEMORY.current_usage();
    let mut host = Harness::<Diagnosis>::start(world).expect("it starts");

    let mut number = 0;
    for second in 1..=960 {
        let now = second * SECOND;
        for entity in 1..=ENTITIES {
            host.set_table("snmp", entity, (counted(second), vec![]));
        }
        for _ in 0..FACTS / 3 {
            let mut dropped: SkbDrop = at(number, now, 1);
            (dropped.reason, dropped.location, dropped.count) = (1, 1, 1);
            (dropped.length, dropped.ethertype, dropped.tcp_flags) = (60, 0x0800, SYN);
            host.batch(now, &[dropped]);
            let mut again: TcpRetransmit = at(number + 1, now, tcp_retransmit::KIND_SEGMENT);
            again.why = tcp_retransmit::WHY_SYN;
            host.batch(now, &[again]);
            let state: TcpState = at(number + 2, now, tcp_state::KIND_CONNECTED);
            host.batch(now, &[state]);
            number += 3;
        }
        host.hook(|analyzer| analyzer.tick(now));
        host.events();
    }
    for (scenario, window_ms) in [("node", 60_000), ("connect", 900_000), ("node", 900_000)] {
        let request =
            Request { scenario: scenario.to_owned(), entities: vec![], now: 960 * SECOND, window_ms };
        let report = host.hook(|analyzer| analyzer.diagnose(&request)).expect("a known scenario");
        assert!(report.findings.iter().any(|found| found.code == "firewall-drop"), "{:?}", report.findings);
    }
    let most = MEMORY.peak_usage() - before;
    assert!(most < ROOM, "{most} bytes at most, {} now", MEMORY.current_usage() - before);
}
