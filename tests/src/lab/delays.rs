//! What takes its time in the tests: each function makes packets slow for a real reason.

use std::fmt::Write;

use anyhow::Result;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::{Namespace, run};

/// Rules per chain, and chains that each jump so often to the next: together some four million
/// rules for a packet, which take some fifty milliseconds and more.
const RULES: u32 = 200;
const JUMPS: u32 = 12;

/// A firewall with so many rules that a packet which matches `selector` (`udp dport 1`) is held up
/// for tens of milliseconds at a hook (`input`, `output`), on the CPU that handles it.
///
/// # Errors
/// If `nft` refuses the rules.
pub fn slow_firewall(at: &Namespace, hook: &str, selector: &str) -> Result<()> {
    slower_firewall(at, hook, selector, 1)
}

/// As [`slow_firewall`], so many `times` slower.
///
/// # Errors
/// If `nft` refuses the rules.
pub fn slower_firewall(at: &Namespace, hook: &str, selector: &str, times: u32) -> Result<()> {
    let mut rules = String::from("add table inet slow\n");
    for chain in ["leaf", "third", "second", "first"] {
        writeln!(rules, "add chain inet slow {chain}")?;
    }
    writeln!(rules, "add chain inet slow base {{ type filter hook {hook} priority 0; }}")?;
    (0..RULES).try_for_each(|_| writeln!(rules, "add rule inet slow leaf udp sport 1 counter"))?;
    for (from, to) in [("third", "leaf"), ("second", "third"), ("first", "second")] {
        (0..JUMPS).try_for_each(|_| writeln!(rules, "add rule inet slow {from} jump {to}"))?;
    }
    (0..times * JUMPS).try_for_each(|_| writeln!(rules, "add rule inet slow base {selector} jump first"))?;
    at.nft(&rules)
}

/// Makes `eth0` send no more than 64 kbit/s: a packet of 1000 bytes every 125 ms, with 2 s of them
/// waiting at most.
///
/// # Errors
/// If `tc` fails.
pub fn throttle(at: &Namespace) -> Result<()> {
    run("tc", &format!("-n {} qdisc add dev eth0 root tbf rate 64kbit burst 1600 latency 2s", at.name()))
        .map(drop)
}

/// Keeps the calling thread on the CPU where it is.
///
/// # Errors
/// If the kernel refuses.
pub fn stay_on_this_cpu() -> Result<usize> {
    let cpu = sched_getcpu()?;
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(cpu)
}
