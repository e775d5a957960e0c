//! The analyzer as its host sees it: tables in, series out; and the names that are a contract.

use std::collections::{BTreeSet, HashMap};

use inspector_sdk::Analyzer;
use inspector_sdk::testing::{Harness, World};
use pod_counters::PodCounters;

/// The names of the contract, as dashboards query them, by module.
const CONTRACT: &[(&str, &str)] = &[
    (
        "tcp",
        "activeopens passiveopens retranssegs attemptfails estabresets currestab insegs outsegs inerrs outrsts",
    ),
    ("udp", "indatagrams noports inerrors outdatagrams rcvbuferrors sndbuferrors incsumerrors ignoredmulti"),
    (
        "ip",
        "innoroutes intruncatedpkts forwarding defaultttl inreceives inhdrerrors inaddrerrors forwdatagrams \
         inunknownprotos indiscards indelivers outrequests outdiscards outnoroutes reasmtimeout reasmreqds \
         reasmoks reasmfails fragoks fragfails fragcreates",
    ),
    (
        "tcpext",
        "listendrops listenoverflows tcpsynretrans tcpfastretrans tcpretransfail tcptimeouts tcpabortonclose \
         tcpabortonmemory tcpabortontimeout tcpabortonlinger tcpabortondata tcpabortfailed \
         tcpackskippedsynrecv tcpackskippedpaws tcpackskippedseq tcpackskippedfinwait2 \
         tcpackskippedtimewait tcpackskippedchallenge tcprcvqdrop tcpmemorypressures \
         tcpmemorypressureschrono pawsactive pawsestab embryonicrsts tcpwinprobe tcpkeepalive tcpmtupfail \
         tcpmtupsuccess tcpzerowindowdrop tcpbacklogdrop pfmemallocdrop tcpwqueuetoobig",
    ),
    ("netdev", "rxbytes rxerrors txbytes txerrors rxpackets rxdropped txpackets txdropped"),
    ("sock", "inuse orphan tw alloc mem"),
    (
        "tcpsummary",
        "tcpestablishedconn tcptimewaitconn tcpclosewaitconn tcpsynsentconn tcpsynrecvconn tcptxqueue tcprxqueue",
    ),
    ("softnet", "processed dropped time_squeeze"),
    (
        "conntrack",
        "found invalid ignore insert insertfailed drop earlydrop error searchrestart entries maxentries",
    ),
    ("qdisc", "bytes packets drops qlen backlog overlimits"),
    ("fd", "openfd opensocket"),
    ("io", "ioreadsyscall iowritesyscall ioreadbytes iowritebytes"),
    ("ipvs", "connections incomingpackets outgoingpackets incomingbytes outgoingbytes"),
];

fn world() -> World {
    World {
        entities: vec![1],
        columns: HashMap::from([
            ("snmp", vec!["Ip.InReceives", "Tcp.ActiveOpens", "Tcp.PassiveOpens", "Udp6.InDatagrams"]),
            ("netstat", vec!["TcpExt.ListenDrops", "IpExt.InNoRoutes"]),
            ("netdev", vec!["interface", "counted", "rx_bytes", "rx_errs"]),
            ("qdisc", vec!["interface", "kind", "root", "bytes"]),
            ("softnet", vec!["cpu", "processed", "time_squeeze"]),
            ("conntrack", vec!["found", "entries", "max_entries"]),
            ("sockstat", vec!["sockets.used", "TCP.inuse", "TCP.mem", "TCP6.inuse"]),
        ]),
        tables: HashMap::from([
            (("snmp", 1), (vec![10, 20, 30, 40], vec![])),
            (("netstat", 1), (vec![5, 6], vec![])),
            (
                ("netdev", 1),
                (
                    vec![0, 0, 1_000, 1, 1, 1, 200, 2, 2, 0, 200, 2, 3, 1, 30, 3],
                    vec!["lo", "br0", "port", "eth1"],
                ),
            ),
            (("qdisc", 1), (vec![0, 1, 1, 70, 0, 2, 0, 70, 3, 1, 1, 5], vec!["eth0", "htb", "fq", "eth1"])),
            (("softnet", 1), (vec![0, 100, 1, 1, 11, 2], vec![])),
            (("conntrack", 1), (vec![1, 2, 3], vec![])),
            (("sockstat", 1), (vec![99, 7, 8, 9], vec![])),
        ]),
        ..World::default()
    }
}

fn ticked(world: World) -> Harness<PodCounters> {
    let mut host = Harness::<PodCounters>::start(world).expect("it starts");
    host.hook(|analyzer| analyzer.tick(1));
    host
}

#[test]
fn every_name_of_the_contract_is_declared_and_no_other() {
    let expected: BTreeSet<String> = CONTRACT
        .iter()
        .flat_map(|(module, names)| {
            names.split_whitespace().map(move |n| format!("inspector_pod_{module}{n}"))
        })
        .collect();
    let description = PodCounters::describe();
    let declared: Vec<_> = description.metrics.iter().map(|metric| metric.name.clone()).collect();
    assert_eq!(declared.len(), expected.len(), "a name is declared twice");
    assert_eq!(declared.into_iter().collect::<BTreeSet<_>>(), expected);
    assert!(description.metrics.iter().all(|metric| metric.kind == "unknown" && metric.labels.is_empty()));
}

#[test]
fn help_names_the_kernels_counter() {
    let description = PodCounters::describe();
    let help =
        |name: &str| description.metrics.iter().find(|m| m.name == name).expect("declared").help.clone();
    assert_eq!(help("inspector_pod_tcpactiveopens"), "Tcp ActiveOpens of /proc/net/snmp");
    assert_eq!(help("inspector_pod_ipinnoroutes"), "IpExt InNoRoutes of /proc/net/netstat");
    assert_eq!(help("inspector_pod_sockinuse"), "TCP inuse + TCP6 inuse of /proc/net/sockstat and sockstat6");
}

#[test]
fn every_kernel_counter_stands_under_its_own_name() {
    let host = ticked(world());
    assert_eq!(host.value("inspector_pod_tcpactiveopens", 1, &[]), Some(20.0));
    assert_eq!(host.value("inspector_pod_tcppassiveopens", 1, &[]), Some(30.0));
    assert_eq!(host.value("inspector_pod_ipinreceives", 1, &[]), Some(10.0));
    assert_eq!(host.value("inspector_pod_ipinnoroutes", 1, &[]), Some(6.0));
    assert_eq!(host.value("inspector_pod_tcpextlistendrops", 1, &[]), Some(5.0));
}

#[test]
fn a_queueing_discipline_below_another_one_is_not_counted_twice() {
    assert_eq!(ticked(world()).value("inspector_pod_qdiscbytes", 1, &[]), Some(75.0));
}

#[test]
fn cpus_add_up() {
    let host = ticked(world());
    assert_eq!(host.value("inspector_pod_softnetprocessed", 1, &[]), Some(111.0));
    assert_eq!(host.value("inspector_pod_softnettime_squeeze", 1, &[]), Some(3.0));
}

#[test]
fn a_counter_that_ended_with_an_older_kernel_is_not_shown() {
    let host = ticked(world());
    assert_eq!(host.value("inspector_pod_conntrackmaxentries", 1, &[]), Some(3.0));
    assert_eq!(host.value("inspector_pod_conntrackignore", 1, &[]), None);
}

#[test]
fn interfaces_that_another_one_counts_do_not_add_up() {
    let host = ticked(world());
    assert_eq!(host.value("inspector_pod_netdevrxbytes", 1, &[]), Some(230.0));
    assert_eq!(host.value("inspector_pod_netdevrxerrors", 1, &[]), Some(5.0));
}

#[test]
fn sockets_of_both_families_are_in_use() {
    let host = ticked(world());
    assert_eq!(host.value("inspector_pod_sockinuse", 1, &[]), Some(16.0));
    assert_eq!(host.value("inspector_pod_sockmem", 1, &[]), Some(8.0));
}

#[test]
fn with_ipv6_off_the_ipv4_sockets_remain() {
    let mut world = world();
    world.columns.insert("sockstat", vec!["TCP.inuse"]);
    world.tables.insert(("sockstat", 1), (vec![7], vec![]));
    assert_eq!(ticked(world).value("inspector_pod_sockinuse", 1, &[]), Some(7.0));
}

#[test]
fn a_counter_that_the_kernel_lacks_is_not_shown_as_zero() {
    assert_eq!(ticked(world()).value("inspector_pod_tcpexttcpwqueuetoobig", 1, &[]), None);
}

#[test]
fn a_missing_source_costs_only_its_own_counters() {
    let mut world = world();
    world.columns.remove("netstat");
    let host = ticked(world);
    assert_eq!(host.value("inspector_pod_tcpextlistendrops", 1, &[]), None);
    assert_eq!(host.value("inspector_pod_tcpactiveopens", 1, &[]), Some(20.0));
}

#[test]
fn an_entity_that_vanished_meanwhile_does_not_hurt_the_others() {
    let mut world = world();
    world.entities = vec![7, 1];
    assert_eq!(ticked(world).value("inspector_pod_tcpactiveopens", 1, &[]), Some(20.0));
}

#[test]
fn what_cannot_be_read_any_more_is_not_shown_with_its_last_value() {
    let mut host = ticked(world());
    host.remove_table("conntrack", 1);
    let before = host.value("inspector_pod_conntrackentries", 1, &[]);
    host.hook(|analyzer| analyzer.tick(2));
    assert_eq!(host.value("inspector_pod_conntrackentries", 1, &[]), before, "one interval late is not gone");
    host.hook(|analyzer| analyzer.tick(3));
    assert!(host.value("inspector_pod_conntrackentries", 1, &[]).is_some_and(f64::is_nan));
    assert_eq!(host.value("inspector_pod_tcpactiveopens", 1, &[]), Some(20.0));
}

#[test]
fn all_entities_leave_in_one_call_per_tick() {
    assert_eq!(ticked(world()).metric_calls().0, 1);
}
