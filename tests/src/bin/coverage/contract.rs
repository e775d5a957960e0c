//! The names of the contract, and the table of what became of them.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::Seen;

/// The names, one per line, `#` begins a comment.
const NAMES: &str = include_str!("../../../contract/metrics.txt");

/// What no workload here can move, and why.
const UNREACHABLE: &[(&str, &str)] = &[
    ("ipindiscards", "the kernel counts it only if it has no memory to copy a packet's header"),
    ("tcpextpfmemallocdrop", "only for packets in the emergency memory reserve (swap over network)"),
    ("tcpexttcpzerowindowdrop", "since 6.17 such a segment is refused earlier, as TCP_INVALID_END_SEQUENCE"),
    ("conntrackinsertfailed", "a race: two packets of one new flow between lookup and insertion"),
    ("conntracksearchrestart", "a race: a lookup while its entry moves to another hash chain"),
    ("tcpexttcpbacklogdrop", "a socket's lock held by a stalled process while more than its buffers arrive"),
    ("netiftxlat_netdevslow100ms", "a driver that takes 100 ms to take a packet: no driver here does"),
    ("conntrackignore", "gone since 5.10: the kernel reports 0 for ever"),
    ("ipvsconnections", "this kernel is built without IP_VS"),
    ("ipvsincomingpackets", "this kernel is built without IP_VS"),
    ("ipvsoutgoingpackets", "this kernel is built without IP_VS"),
    ("ipvsincomingbytes", "this kernel is built without IP_VS"),
    ("ipvsoutgoingbytes", "this kernel is built without IP_VS"),
    ("virtcmdlatency", "needs kprobes, which this kernel refuses: see `make test-kernels`"),
    ("virtcmdlatency100ms", "needs kprobes, which this kernel refuses: see `make test-kernels`"),
];

/// Modules that belong to the node and not to a network namespace.
pub fn is_of_the_node(name: &str) -> bool {
    ["softnet", "net_softirq_", "virtcmdlatency"].iter().any(|module| name.starts_with(module))
}

/// Prints the table; true if every name was seen changing or is known to be unreachable.
///
/// # Errors
/// If a workload moves something that is no contract name, or that is said to be unreachable.
pub fn print(seen: &BTreeMap<&'static str, Seen>) -> Result<bool> {
    let names: Vec<_> = NAMES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let short = |name: &'static str| name.strip_prefix("inspector_pod_").unwrap_or(name);
    for name in seen.keys() {
        ensure!(names.iter().any(|known| short(known) == *name), "{name} is not in the contract");
    }
    println!("{:<48} {:>12} {:>12}  workload", "metric", "before", "after");
    let mut missing = Vec::new();
    for name in &names {
        let reason = UNREACHABLE.iter().find(|(unreachable, _)| *unreachable == short(name));
        match (seen.get(short(name)), reason) {
            (Some(Seen { before, after, workload }), _) => {
                println!("{name:<48} {before:>12} {after:>12}  {workload}");
            }
            (None, Some((_, why))) => println!("{name:<48} {:>12} {:>12}  unreachable: {why}", "-", "-"),
            (None, None) => missing.push(*name),
        }
    }
    let reached = names.iter().filter(|name| seen.contains_key(short(name))).count();
    println!("\n{reached} of {} names seen changing, {} missing", names.len(), missing.len());
    missing.iter().for_each(|name| println!("missing: {name}"));
    Ok(missing.is_empty())
}

/// Prints what some workloads moved.
pub fn print_seen(seen: &BTreeMap<&'static str, Seen>) {
    for (name, Seen { before, after, workload }) in seen {
        println!("{name:<48} {before:>12} {after:>12}  {workload}");
    }
}
