//! Promise: nothing is lost silently. Produced = delivered + lost, at every stage, and whoever scrapes
//! can see that it is so.
//!
//! The machine's other traffic also makes drops, and loss is counted per probe, not per namespace.
//! Where a ring loses, a second observer that loses nothing tells how much that may be; on a quiet
//! machine it is nothing, and the sums below are exact.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use inspector::loss::Stage;
use inspector::probe::Options;
use inspector_ebpf::skb_drop::{KIND_DROP, KIND_SUMMARY};
use inspector_ebpf::{PROBES, SkbDrop, TcpReset};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::http::EventStream;
use inspector_tests::lab::{Family, Namespace, Pair, faults, feed};
use inspector_tests::scrape::Scrape;
use inspector_tests::wait;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::heavy;
use crate::observer::Observer;

const UNLIMITED: Options = Options { ring_bytes: 64 << 20, limit_per_second: 0, limit_burst: 0 };

/// Records of what a test makes: packets for want of a socket in a namespace. A young namespace
/// also drops a few multicast packets of its own.
fn own(observer: &Observer, netns: u64) -> Vec<SkbDrop> {
    let mut records = observer.records::<SkbDrop>();
    let no_socket = |drop: &SkbDrop| observer.names.drop_reason(drop.reason) == "NO_SOCKET";
    records.retain(|drop| drop.head.netns == netns && no_socket(drop));
    records
}

/// Packets that they stand for.
fn packets(observer: &Observer, netns: u64) -> u64 {
    own(observer, netns).iter().map(|drop| drop.count).sum()
}

#[test]
fn what_a_full_ring_loses_is_counted_exactly() -> Result<()> {
    let _turn = heavy();
    let pair = Pair::introduced()?;
    let netns = pair.server.cookie()?;
    let mut reference = Observer::of(&["skb-drop"], UNLIMITED)?;
    let mut tiny = Observer::of(&["skb-drop"], Options { ring_bytes: 64 << 10, ..UNLIMITED })?;
    let sent = 100_000;
    let stalled = tiny.stall();
    faults::send_udp(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT), sent, 1)?;
    drop(stalled);
    tiny.unload();
    reference.unload();

    assert_eq!((packets(&reference, netns), reference.lost(Stage::Ring, "skb-drop")), (sent, 0));
    let (delivered, lost) = (packets(&tiny, netns), tiny.lost(Stage::Ring, "skb-drop"));
    let sum = delivered + lost;
    let most = reference.records::<SkbDrop>().len() as u64;
    println!("sent {sent} = delivered {delivered} + lost {lost} (others' at most {})", most - sent);
    assert!(lost > 0, "the ring did not fill: this test proves nothing");
    assert!((sent..=most).contains(&sum), "{delivered} + {lost} is not in {sent}..={most}");
    Ok(())
}

#[test]
fn drops_whose_details_the_limit_suppresses_are_still_counted() -> Result<()> {
    let _turn = heavy();
    let pair = Pair::introduced()?;
    let netns = pair.server.cookie()?;
    let mut limited =
        Observer::of(&["skb-drop"], Options { limit_per_second: 100, limit_burst: 50, ..UNLIMITED })?;
    let sent = 50_000;
    faults::send_udp(&pair.client, pair.server_at(Family::V6, faults::CLOSED_PORT), sent, 1)?;
    limited.unload();

    let own = own(&limited, netns);
    let details = own.iter().filter(|drop| drop.head.kind == KIND_DROP).count() as u64;
    let summed: u64 = own.iter().filter(|d| d.head.kind == KIND_SUMMARY).map(|d| d.count).sum();
    println!("sent {sent} = details {details} + summed up {summed}");
    assert_eq!(details + summed, sent);
    assert!((50..sent / 10).contains(&details), "{details} details");
    assert!(limited.lost(Stage::Limit, "skb-drop") >= summed);
    for drop in own.iter().filter(|drop| drop.head.kind == KIND_SUMMARY) {
        assert_eq!(drop.ethertype, Family::V6.ethertype());
    }
    Ok(())
}

#[test]
fn resets_that_the_limit_suppresses_are_counted() -> Result<()> {
    let _turn = heavy();
    let pair = Pair::new()?;
    let netns = pair.server.cookie()?;
    let mut reference = Observer::of(&["tcp-reset"], UNLIMITED)?;
    let mut limited =
        Observer::of(&["tcp-reset"], Options { limit_per_second: 50, limit_burst: 10, ..UNLIMITED })?;
    let refusals = 1000;
    for _ in 0..refusals {
        faults::connect_to_closed_port(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT))?;
    }
    limited.unload();
    reference.unload();

    let own = |observer: &Observer| {
        observer.records::<TcpReset>().iter().filter(|r| r.head.netns == netns).count() as u64
    };
    assert_eq!(own(&reference), refusals);
    // The client's namespace received each of them, and suppressed as many: it counts as well.
    let (all, lost) = (limited.records::<TcpReset>().len() as u64, limited.lost(Stage::Limit, "tcp-reset"));
    let produced = reference.records::<TcpReset>().len() as u64;
    println!("produced {produced} = delivered {all} + lost {lost}");
    // Between the two loads and unloads, others may have made a few.
    assert!(own(&limited) < refusals / 2);
    assert!(all + lost >= 2 * refusals && all + lost <= produced, "{all} + {lost} of {produced}");
    Ok(())
}

/// Drops that interrupt drops: on CPU 0 a process of the server sends what nft drops, and packets
/// that CPU 1 sends are steered there (RPS) and dropped in soft interrupts.
#[test]
fn runs_that_the_kernel_skipped_are_told_beside_what_was_produced() -> Result<()> {
    let _turn = heavy();
    ensure!(std::thread::available_parallelism()?.get() > 1, "one CPU does not interrupt another");
    let pair = Pair::new()?;
    let name = pair.server.name();
    feed("ip", &format!("netns exec {name} tee /sys/class/net/eth0/queues/rx-0/rps_cpus"), "1")?;
    pair.server.filter("output", "udp dport 4242 drop")?;
    let mut observer = Observer::of(&["skb-drop"], Options::default())?;
    let missed = |observer: &Observer| observer.status("skb-drop").hooks[0].missed;
    let end = Instant::now() + Duration::from_secs(20);
    let going = |observer: &Observer| missed(observer) == 0 && Instant::now() < end;
    std::thread::scope(|scope| -> Result<()> {
        let dropped = scope.spawn(|| -> Result<()> {
            pin(0)?;
            let (socket, to) = (udp(&pair.server)?, (pair.client_ip(Family::V4), 4242));
            while going(&observer) {
                // Refused with EPERM, each of them.
                (0..1_000).for_each(|_| drop(socket.send_to(b"out", to)));
            }
            Ok(())
        });
        pin(1)?;
        let (socket, to) = (udp(&pair.client)?, pair.server_at(Family::V4, faults::CLOSED_PORT));
        while going(&observer) {
            // Told of closed ports now and then.
            (0..1_000).for_each(|_| drop(socket.send_to(b"in", to)));
        }
        dropped.join().expect("sending does not panic")
    })?;
    observer.unload();
    let status = observer.status("skb-drop");
    println!("produced {}, missed {} runs", status.produced, status.hooks[0].missed);
    assert!(status.hooks[0].missed > 0, "no run was skipped within 20 s");
    Ok(())
}

fn pin(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

fn udp(at: &Namespace) -> Result<UdpSocket> {
    at.udp((Ipv4Addr::UNSPECIFIED, 0))
}

/// What a probe produced and is neither delivered, nor folded, nor lost, by one scrape; none if it
/// is nothing.
fn unaccounted(scrape: &Scrape, probe: &str) -> Option<String> {
    let of = |name: &str| scrape.sum(name, &[("probe", probe)]).unwrap_or(f64::NAN);
    let lost = |stage| scrape.sum("inspector_lost_total", &[("stage", stage), ("name", probe)]);
    let [produced, events, folded] =
        ["produced", "events", "folded"].map(|what| of(&format!("inspector_probe_{what}_total")));
    let (ring, limit) = (lost("ring").unwrap_or(f64::NAN), lost("limit").unwrap_or(f64::NAN));
    let sum = format!("{probe}: {produced} = {events} + {folded} + {ring} (ring) + {limit} (limit)");
    println!("{sum}");
    (produced != events + folded + ring + limit).then_some(sum)
}

#[test]
fn one_scrape_tells_what_became_of_everything_that_every_probe_produced() -> Result<()> {
    let _turn = heavy();
    let (sent, refusals) = (50_000, 300);
    // A storm beyond the limits, and one beyond the rings: the agent stands still meanwhile.
    for (limits, stage) in [
        ("probes.limit_per_second = 50\nprobes.limit_burst = 50", "limit"),
        ("probes.limit_per_second = 10000000\nprobes.limit_burst = 10000000\nprobes.ring_kib = 64", "ring"),
    ] {
        let pair = Pair::introduced()?;
        let config = format!("plugins.disabled = []\n{limits}");
        let agent = Agent::start(&Settings { config, ..Settings::default() })?;
        let to = pair.server_at(Family::V4, faults::CLOSED_PORT);
        let process = Pid::from_raw(agent.pid().cast_signed());
        kill(process, Signal::SIGSTOP)?;
        let stormed = faults::send_udp(&pair.client, to, sent, 1);
        kill(process, Signal::SIGCONT)?;
        stormed?;
        (0..refusals).try_for_each(|_| faults::connect_to_closed_port(&pair.client, to).map(drop))?;
        let mut off = Vec::new();
        let scrape = wait::until("every probe to account for what it produced", || {
            let scrape = agent.scrape().ok()?;
            let of = |name: &str, probe| scrape.sum(name, &[("probe", probe)]);
            let whole = of("inspector_probe_produced_total", "skb-drop")? >= sent as f64;
            // Without what is folded the sums would not be right. Reading the metrics is such traffic.
            let folding = ["softirq", "tx-latency", "rx-latency", "socket-latency"];
            let folds = folding.iter().all(|probe| of("inspector_probe_folded_total", probe) > Some(0.0));
            off = PROBES.iter().filter_map(|probe| unaccounted(&scrape, probe.name)).collect();
            (whole && folds && off.is_empty()).then_some(scrape)
        });
        let scrape = scrape.inspect_err(|_| eprintln!("{stage}: {off:#?}"))?;
        let lost = scrape.sum("inspector_lost_total", &[("stage", stage)]);
        ensure!(lost > Some(0.0), "nothing was lost at stage {stage}: this test proves less than it says");
        assert!(agent.stop()?.success());
    }
    Ok(())
}

#[test]
fn as_much_as_comes_at_once_ends_no_analyzer() -> Result<()> {
    let _turn = heavy();
    // An analyzer tells some hundred drops a second of each in full, so that it takes many for many events.
    let storms = (0..16).map(|at| Namespace::new(&format!("storm{at}"))).collect::<Result<Vec<_>>>()?;
    let config = "plugins.disabled = []\nprobes.limit_per_second = 10000000\nprobes.limit_burst = 10000000";
    let agent = Agent::start(&Settings { config: config.to_owned(), ..Settings::default() })?;
    wait::until("every namespace to be known", || {
        let known = agent.api("/api/v1/entities").ok()?.to_string();
        storms.iter().all(|storm| known.contains(storm.name())).then_some(())
    })?;
    let (refusals, to) = (600, (Ipv4Addr::LOCALHOST, faults::CLOSED_PORT).into());
    // While it stands still all of it waits, and then comes in the longest batches that there are.
    let process = Pid::from_raw(agent.pid().cast_signed());
    kill(process, Signal::SIGSTOP)?;
    let refuse = |storm: &Namespace| {
        (0..refusals).try_for_each(|_| faults::connect_to_closed_port(storm, to).map(drop))
    };
    let stormed = storms.iter().try_for_each(refuse);
    kill(process, Signal::SIGCONT)?;
    stormed?;
    let scrape = wait::until("every drop", || {
        let scrape = agent.scrape().ok()?;
        let dropped = |storm: &Namespace| scrape.sum("inspector_drops_total", &[("pod", storm.name())]);
        storms.iter().all(|storm| dropped(storm) >= Some(f64::from(refusals))).then_some(scrape)
    })?;
    let traps: Vec<_> =
        scrape.find("inspector_plugin_traps_total", &[]).filter(|traps| traps.value > 0.0).collect();
    ensure!(traps.is_empty(), "{traps:?}");
    assert_eq!(scrape.sum("inspector_lost_total", &[("stage", "queue")]).unwrap_or(0.0), 0.0);
    assert!(agent.stop()?.success());
    Ok(())
}

#[test]
fn a_storm_in_one_namespace_costs_another_one_nothing() -> Result<()> {
    let _turn = heavy();
    let (storm, calm) = (Pair::new()?, Pair::new()?);
    let agent = Agent::start(&Settings::default())?;
    let query = format!("type=PACKETLOSS&pod={}", calm.server.name());
    let stream = EventStream::open(agent.events, &query)?;
    let (million, over) = (1_000_000, AtomicBool::new(false));

    let to = calm.server_at(Family::V4, faults::CLOSED_PORT);
    let quiet = std::thread::scope(|scope| {
        let calm = scope.spawn(|| {
            let going = |sent| sent < 300 || !over.load(Ordering::Relaxed);
            faults::send_udp_evenly(&calm.client, to, 100, 50, going)
        });
        let to = storm.server_at(Family::V4, faults::CLOSED_PORT);
        // Many flows, so that no folding of equal events helps.
        let stormed =
            (0..100).try_for_each(|_| faults::send_udp(&storm.client, to, million / 100, 1).map(drop));
        over.store(true, Ordering::Relaxed);
        let quiet = calm.join().expect("sending does not panic");
        stormed.and(quiet)
    })?;

    // The kernel drops a packet of its own there now and then, such as a multicast report.
    let sent = |event: &&Value| event["attrs"]["reason"] == "NO_SOCKET";
    let seen =
        || stream.received().iter().filter(sent).filter_map(|event| event["count"].as_u64()).sum::<u64>();
    let arrived = wait::until("every event of the calm namespace", || (seen() == quiet).then_some(()));
    arrived.inspect_err(|_| eprintln!("{} of {quiet} arrived", seen()))?;
    assert!(stream.received().iter().all(|event| event.get("lost").is_none()));

    let total = |pod: &str| {
        let made = [("pod", pod), ("reason", "NO_SOCKET")];
        agent.scrape().ok()?.sum("inspector_drops_total", &made).map(|total| total as u64)
    };
    let settled = wait::until("every drop of the storm", || {
        (total(storm.server.name()) == Some(million)).then_some(())
    });
    let scrape = agent.scrape()?;
    let lost: Vec<_> = scrape.find("inspector_lost_total", &[]).filter(|lost| lost.value > 0.0).collect();
    println!("storm {:?}, calm {quiet}, lost {lost:?}", total(storm.server.name()));
    settled?;
    ensure!(total(calm.server.name()) == Some(quiet), "calm: {:?}", total(calm.server.name()));
    let limited = scrape.sum("inspector_lost_total", &[("stage", "limit"), ("name", "skb-drop")]);
    assert!(limited.is_some_and(|n| n > 900_000.0), "the limit held back {limited:?}");
    for stage in ["ring", "queue", "quota", "stream"] {
        assert_eq!(scrape.sum("inspector_lost_total", &[("stage", stage)]).unwrap_or(0.0), 0.0, "{stage}");
    }
    assert!(agent.stop()?.success());
    Ok(())
}
