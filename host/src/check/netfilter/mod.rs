//! Chains and rules that could drop a packet, and which of them does: what the tools print of the namespace that
//! the thread is in ([`printed`]), and the counters of nf_tables, read twice ([`counted`]).

mod counted;
mod policies;
mod printed;
mod rules;

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::fact::Fact;
use super::params::{Params, octets};
use super::route::device_to;

use counted::Counted;
use printed::{Wanted, run};
use rules::Field;

/// Time that a tool has.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two readings of the counters: who is dropped tries again within a second.
const BETWEEN: Duration = Duration::from_millis(1200);

/// One fact per rule or policy that drops or rejects, or that names the port; those that did so come first.
pub(super) fn look(params: &Params<'_>, deadline: Instant) -> io::Result<Vec<Fact>> {
    let (hook, port) = (params.text("hook").unwrap_or_default().to_owned(), params.port("dport")?);
    let begun = Instant::now();
    let before = rules::read();
    let patience = deadline.min(begun + PATIENCE);
    let wanted = Wanted { hook, port };
    let printed = run("nft", &["-a", "-n", "list", "ruleset"], patience);
    let mut by_tools = Vec::new();
    for (tables, tool) in
        [("ip_tables_names", "iptables-legacy-save"), ("ip6_tables_names", "ip6tables-legacy-save")]
    {
        // Tables that are listed here are loaded; asking for others would load them.
        let loaded = fs::read_to_string(format!("/proc/thread-self/net/{tables}")).unwrap_or_default();
        if !loaded.trim().is_empty() {
            match run(tool, &[], patience) {
                Ok(rules) => by_tools.extend(wanted.of_iptables(&rules)),
                Err(why) => by_tools.push(why),
            }
        }
    }
    let mut facts = match before {
        Ok(before) => {
            let is_counted = before.iter().any(|rule| rule.ends.is_some() && rule.packets.is_some());
            let later = is_counted.then(|| {
                thread::sleep((begun + BETWEEN).min(deadline).saturating_duration_since(Instant::now()));
                rules::read().ok()
            });
            let after = later.flatten().unwrap_or_else(|| before.clone());
            Counted { before, after, over: begun.elapsed(), of_flow: values_of(params) }
                .facts(printed.is_err())
        }
        Err(error) => vec![Fact::from(format!("the rules of nf_tables cannot be read: {error}"))],
    };
    match printed {
        Ok(rules) => facts.extend(wanted.of_nft(&rules).into_iter().map(Fact::from)),
        Err(why) => facts.push(Fact::from(why)),
    }
    facts.extend(by_tools.into_iter().map(Fact::from));
    if facts.is_empty() {
        facts.push(Fact::from("no rule drops, rejects or names the port".to_owned()));
    }
    Ok(facts)
}

/// What is known of the conversation that rules may compare: its addresses, and the devices to them.
fn values_of(params: &Params<'_>) -> Vec<(Field, Vec<u8>)> {
    let ends = [("saddr", Field::Source, Field::In), ("daddr", Field::Destination, Field::Out)];
    let known = ends.into_iter().filter_map(|(name, address, device)| {
        let ip = params.address(name).ok()?;
        Some([Some((address, octets(ip))), device_to(ip).map(|name| (device, name.into_bytes()))])
    });
    known.flatten().flatten().collect()
}
