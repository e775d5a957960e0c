//! What the kernel counts in a namespace, by the names that `nstat` gives: `TcpExtListenOverflows`,
//! `IpInAddrErrors`, `Icmp6OutTimeExcds`; and of links, such as `eth0 tx drop`.
//!
//! A new namespace begins at zero, so what is there was made there.

use std::fs::read_to_string;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Namespace, run};
use crate::wait;

/// Far beyond what any fault of the lab takes to show in a counter.
const PATIENCE: Duration = Duration::from_secs(20);

/// Columns of `/proc/net/dev` that tests look at, by position behind the link's name.
const LINK: &[(&str, usize)] = &[("rx bytes", 0), ("rx drop", 3), ("tx bytes", 8), ("tx drop", 11)];

/// The present value of a counter; 0 if this kernel does not have it.
///
/// # Errors
/// If the namespace is gone.
pub fn counter(at: &Namespace, name: &str) -> Result<u64> {
    at.run(|| {
        let table =
            |file: &str| read_to_string(format!("/proc/thread-self/net/{file}")).context("its counters");
        let found = in_pairs(&table("snmp")?, name).or(in_pairs(&table("netstat")?, name));
        // Absent where IPv6 is.
        let six = table("snmp6").unwrap_or_default();
        Ok(found.or(in_lines(&six, name)).or(of_link(&table("dev")?, name)).unwrap_or(0))
    })
}

/// Waits until a counter of the namespace is `at_least` so high: the proof that a fault happened.
///
/// # Errors
/// If it does not get there.
pub fn counted(at: &Namespace, name: &str, at_least: u64) -> Result<()> {
    let mut last = 0;
    let reached = wait::within(PATIENCE, name, || {
        last = counter(at, name).ok()?;
        (last >= at_least).then_some(())
    });
    reached.with_context(|| format!("{name} is {last}, not {at_least}, in {}", at.name()))
}

/// Waits until the host has given up a neighbour: three requests in vain, three seconds.
///
/// # Errors
/// If it gives up none.
pub fn neighbour_failed(at: &Namespace) -> Result<()> {
    wait::within(PATIENCE, "the neighbour to fail", || {
        at.ip("neigh show").ok()?.contains("FAILED").then_some(())
    })
}

/// Packets that match the one rule of the host's nft that counts.
///
/// # Errors
/// If there is none.
pub fn matched(at: &Namespace) -> Result<u64> {
    behind("counter packets ", &at.run(|| run("nft", "list ruleset"))?)
}

/// Packets that the first queue of a link has dropped.
///
/// # Errors
/// If there is no such link, or nothing counts there.
pub fn queue_dropped(at: &Namespace, link: &str) -> Result<u64> {
    behind("dropped ", &run("tc", &format!("-s -n {} qdisc show dev {link}", at.name()))?)
}

/// The number behind a word in what a tool shows.
///
/// # Errors
/// If there is none.
pub fn behind(word: &str, shown: &str) -> Result<u64> {
    let rest = shown.split_once(word).map(|(_, rest)| rest);
    let digits = rest.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    digits.and_then(|digits| digits.parse().ok()).with_context(|| format!("no {word:?} in {shown}"))
}

/// Waits until a number that a tool shows is `at_least` so high.
///
/// # Errors
/// If it does not get there.
pub fn reaches(at_least: u64, what: impl Fn() -> Result<u64>) -> Result<()> {
    let mut last = None;
    let reached = wait::within(PATIENCE, "a number to rise", || {
        last = what().ok();
        (last? >= at_least).then_some(())
    });
    reached.with_context(|| format!("{last:?} instead of {at_least}"))
}

/// A line of names above one of values, both beginning with the protocol.
fn in_pairs(table: &str, name: &str) -> Option<u64> {
    let lines: Vec<_> = table.lines().filter_map(|line| line.split_once(':')).collect();
    lines.as_chunks::<2>().0.iter().find_map(|pair| {
        let [(protocol, names), (_, values)] = pair;
        let wanted = name.strip_prefix(protocol)?;
        let at = names.split_whitespace().position(|found| found == wanted)?;
        values.split_whitespace().nth(at)?.parse().ok()
    })
}

/// A name and its value in each line.
fn in_lines(table: &str, name: &str) -> Option<u64> {
    table.lines().find_map(|line| {
        let (found, value) = line.split_once(char::is_whitespace)?;
        if found == name { value.trim().parse().ok() } else { None }
    })
}

/// `eth0 tx drop` in `/proc/net/dev`.
fn of_link(table: &str, name: &str) -> Option<u64> {
    let (link, column) = name.split_once(' ')?;
    let (_, at) = LINK.iter().find(|(known, _)| *known == column)?;
    let row = table.lines().find_map(|line| line.trim().strip_prefix(link)?.strip_prefix(':'))?;
    row.split_whitespace().nth(*at)?.parse().ok()
}
