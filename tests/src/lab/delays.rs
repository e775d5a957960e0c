//! What takes its time in the tests: each function makes packets slow for a real reason.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::{Connection, Family, Global, Held, Namespace, Pair, faults, run};

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
    at.tc("qdisc add dev eth0 root tbf rate 64kbit burst 1600 latency 2s")
}

/// The sender's CPU is busy in NET_RX with the firewall when the timer of another pair's throttled
/// queue raises NET_TX there: a soft interrupt waits for another.
///
/// # Errors
/// If a part of it fails.
pub fn busy_soft_interrupt(pair: &Pair, family: Family) -> Result<Held> {
    const SLOW: u16 = 5555;
    const FAST: u16 = 5556;
    let throttled = Pair::new()?;
    slower_firewall(&pair.server, "input", &format!("udp dport {SLOW}"), 5)?;
    throttle(&throttled.client)?;
    // Somebody listens, so that nothing but the delay is wrong.
    let slow = pair.server.udp(pair.server_at(family, SLOW))?;
    let fast = throttled.server.udp(throttled.server_at(family, FAST))?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            stay_on_this_cpu()?;
            for _ in 0..5 {
                faults::send_udp(&throttled.client, throttled.server_at(family, FAST), 4, 900)?;
                faults::send_udp(&pair.client, pair.server_at(family, SLOW), 1, 10)?;
            }
            Ok(())
        });
        sender.join().expect("sending does not panic")
    })?;
    Ok(Box::new((slow, fast, throttled)))
}

/// One write that the sender's stack cuts into many packets at once, while the CPUs may keep none
/// waiting: most are dropped, and sent again once the settings of the machine are back.
///
/// # Errors
/// If a part of it fails.
pub fn no_backlog(pair: &Pair, family: Family) -> Result<Held> {
    pair.client.run(|| run("ethtool", "-K eth0 tso off"))?;
    let mut connection = Connection::open(pair, family)?;
    connection.exchange(10_000, 1)?;
    {
        let _backlog = Global::set("/proc/sys/net/core/netdev_max_backlog", "0")?;
        let _budget = Global::set("/proc/sys/net/core/netdev_budget", "1")?;
        connection.client.write_all(&[0; 60_000])?;
        sleep(Duration::from_millis(20));
    }
    connection.server.read_exact(&mut [0; 60_000])?;
    Ok(Box::new(connection))
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
