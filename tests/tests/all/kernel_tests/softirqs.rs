//! softirq: waits and runs of the network's soft interrupts.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use inspector::probe::Options;
use inspector_ebpf::Softirq;
use inspector_ebpf::softirq::{KIND_SLOW, KIND_SUM, NET_RX, NET_TX, PHASE_RUN, PHASE_WAIT};
use inspector_tests::lab::{Family, Pair, delays, faults};

use super::{check_bucket, text_of};
use crate::heavy;
use crate::observer::Observer;

const SLOW_NS: u64 = 10_000_000;
const HELD_UP: u16 = 5555;

/// Runs of NET_RX so far, as the kernel counts them, and the CPUs on which that may be.
fn runs() -> Result<(u64, u64)> {
    let table = std::fs::read_to_string("/proc/softirqs")?;
    let line = table.lines().find(|line| line.trim_start().starts_with("NET_RX:")).context("NET_RX")?;
    let counts: Vec<u64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    Ok((counts.iter().sum(), counts.len() as u64))
}

#[test]
fn every_wait_and_run_is_in_a_sum_and_its_bucket() -> Result<()> {
    let pair = Pair::introduced()?;
    let (earliest, cpus) = runs()?;
    let mut observer = Observer::of(&["softirq"], Options::default())?;
    let (first, _) = runs()?;
    for family in Family::BOTH {
        faults::send_udp(&pair.client, pair.server_at(family, faults::CLOSED_PORT), 2_000, 10)?;
    }
    let (last, _) = runs()?;
    observer.unload();
    let (latest, _) = runs()?;
    let records = observer.records::<Softirq>();
    let sums: Vec<_> = records.iter().filter(|r| r.head.kind == KIND_SUM).collect();
    for sum in &sums {
        check_bucket(sum.bucket, sum.count, sum.duration_ns)?;
        ensure!(sum.head.netns == 0 && sum.vector <= NET_RX && sum.phase <= PHASE_RUN, "{sum:?}");
    }
    // The kernel counts a run when it begins, and the probe when it ends: each CPU may be in one. How many packets
    // a run takes is the machine's affair.
    ensure!(last > first, "no packet was received");
    for phase in [PHASE_RUN, PHASE_WAIT] {
        let counted = sums.iter().filter(|s| (s.vector, s.phase) == (NET_RX, phase)).map(|s| s.count);
        let counted: u64 = counted.sum();
        let all = (last - first).saturating_sub(cpus)..=latest - earliest + cpus;
        ensure!(all.contains(&counted), "{counted} of phase {phase}, the kernel counts {all:?}");
    }
    let delivered: u64 = records.iter().map(|record| record.count).sum();
    let status = observer.status("softirq");
    assert_eq!((delivered + status.lost, status.lost), (status.produced, 0));
    Ok(())
}

/// The sender's CPU is busy in NET_RX with a slow firewall. Meanwhile the timer of a throttled
/// queue raises NET_TX there, which has to wait.
#[test]
fn a_run_that_takes_long_and_a_wait_that_it_causes_are_told_with_their_tasks() -> Result<()> {
    let _turn = heavy();
    let (slow, throttled) = (Pair::new()?, Pair::new()?);
    delays::slow_firewall(&slow.server, "input", &format!("udp dport {HELD_UP}"))?;
    delays::throttle(&throttled.client)?;
    let observer = Observer::of(&["softirq"], Options::default())?;
    let is_slow = |record: &Softirq, cpu: usize, vector: u8, phase: u8| {
        (record.head.kind, usize::from(record.head.cpu)) == (KIND_SLOW, cpu)
            && (record.vector, record.phase) == (vector, phase)
    };
    for family in Family::BOTH {
        let (queue, held_up) = (throttled.server_at(family, 9), slow.server_at(family, HELD_UP));
        let started = Instant::now();
        // The sockets are those of the threads, which inherit the CPU.
        let cpu = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let cpu = delays::stay_on_this_cpu()?;
                let seen = |phase, vector| {
                    observer.records::<Softirq>().iter().any(|r| is_slow(r, cpu, vector, phase))
                };
                while !(seen(PHASE_RUN, NET_RX) && seen(PHASE_WAIT, NET_TX)) {
                    ensure!(started.elapsed() < Duration::from_secs(60), "no slow wait in a minute");
                    faults::send_udp(&throttled.client, queue, 3, 900)?;
                    faults::send_udp(&slow.client, held_up, 1, 10)?;
                }
                Ok(cpu)
            });
            sender.join().expect("sending does not panic")
        })?;
        let of = |what, vector, phase| {
            observer.wait_for::<Softirq>(what, |record| is_slow(record, cpu, vector, phase))
        };
        let run = of("a slow run", NET_RX, PHASE_RUN)?;
        let wait = of("a slow wait", NET_TX, PHASE_WAIT)?;
        for record in [&run, &wait] {
            println!(
                "{family:?}: {} ms, {} then {}",
                record.duration_ns / 1_000_000,
                text_of(&record.raised_comm),
                text_of(&record.comm)
            );
            assert!(record.duration_ns > SLOW_NS && record.count == 1);
            check_bucket(record.bucket, 1, record.duration_ns)?;
            ensure!(
                !text_of(&record.comm).is_empty() && !text_of(&record.raised_comm).is_empty(),
                "{record:?}"
            );
        }
    }
    Ok(())
}
