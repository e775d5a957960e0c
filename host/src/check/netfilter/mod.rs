//! Chains and rules that could drop a packet, and which of them does: `nft list ruleset` and
//! `iptables-legacy-save`, run in the namespace that the thread is in, and of their output the lines that
//! matter; and the counters of nf_tables, read twice.
//!
//! The tools are run because nothing else names rules as those who wrote them know them. They get
//! no argument from outside, their output is bounded in time and size, and they only list.

mod policies;
mod rules;

use std::fs;
use std::io::{self, Read as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::fact::Fact;
use super::params::{Params, octets};
use super::route::device_to;

use rules::Rule;

/// Time that a tool has.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of rules that are looked at.
const MAX_RULES: u64 = 4 << 20;
/// Between two readings of the counters: who is dropped tries again within a second.
const BETWEEN: Duration = Duration::from_millis(1200);
/// Chains that lead to a rule, one to the next.
const DEPTH: usize = 8;
/// Bytes of the comments of one rule.
const COMMENTS: usize = 200;

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

/// What a rule that is for this conversation compares packets with: its addresses, and the devices to them.
fn values_of(params: &Params<'_>) -> Vec<Vec<u8>> {
    let addresses = ["saddr", "daddr"].map(|name| params.address(name).ok());
    let addresses = addresses.into_iter().flatten();
    addresses.flat_map(|ip| [Some(octets(ip)), device_to(ip).map(String::into_bytes)]).flatten().collect()
}

/// The rules of nf_tables at two moments.
struct Counted {
    before: Vec<Rule>,
    after: Vec<Rule>,
    /// The time between the moments.
    over: Duration,
    of_flow: Vec<Vec<u8>>,
}

impl Counted {
    /// The rules that end packets of the conversation now; if none does, those that have; and all others
    /// that could, if nothing else names them.
    fn facts(&self, with_others: bool) -> Vec<Fact> {
        let ending: Vec<&Rule> = self.after.iter().filter(|rule| rule.ends.is_some()).collect();
        let now: Vec<(&Rule, u64)> = ending
            .iter()
            .filter_map(|rule| Some((*rule, self.rise(rule)?)))
            .filter(|(_, n)| *n > 0)
            .collect();
        let ever = ending.iter().filter_map(|rule| Some((*rule, rule.packets.filter(|n| *n > 0)?))).collect();
        let seconds = self.over.as_secs_f64();
        let mut facts: Vec<Fact> = self
            .of_conversation(now)
            .into_iter()
            .map(|(rule, n)| self.fact(rule, &format!("{n} in the last {seconds:.1} s")))
            .collect();
        if facts.is_empty() {
            let ever: Vec<(&Rule, u64)> = self.of_conversation(ever);
            facts
                .extend(ever.into_iter().map(|(rule, n)| self.fact(rule, &format!("{n} since it was made"))));
        }
        if facts.is_empty() && with_others {
            facts.extend(ending.into_iter().map(|rule| self.fact(rule, "what it matches is not known")));
        }
        facts
    }

    fn rise(&self, rule: &Rule) -> Option<u64> {
        let before = self.before.iter().find(|other| other.is(rule))?;
        rule.packets?.checked_sub(before.packets?)
    }

    /// Those for the conversation, by what they and the rules that lead to them compare; all, if none is.
    fn of_conversation<'a>(&self, rules: Vec<(&'a Rule, u64)>) -> Vec<(&'a Rule, u64)> {
        let of_it: Vec<_> = rules.iter().filter(|(rule, _)| self.concerns(rule, DEPTH)).copied().collect();
        if of_it.is_empty() { rules } else { of_it }
    }

    fn concerns(&self, rule: &Rule, depth: usize) -> bool {
        let is_value = |value: &Vec<u8>| {
            // Names of devices are filled up with zeros.
            let end = value.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            self.of_flow.iter().any(|wanted| wanted == value || wanted[..] == value[..end])
        };
        let leads_here =
            |other: &&Rule| other.table == rule.table && other.leads_to.as_ref() == Some(&rule.chain);
        rule.values.iter().any(is_value)
            || depth > 0 && self.after.iter().filter(leads_here).any(|other| self.concerns(other, depth - 1))
    }

    fn fact(&self, rule: &Rule, how_many: &str) -> Fact {
        let ends = rule.ends.unwrap_or_default();
        let mut text = format!("nf_tables: {}: {ends} packets ({how_many})", rule.place());
        if !rule.comments.is_empty() {
            let comments = crate::text::escape::admit(rule.comments.join("; "), COMMENTS);
            text.push_str(&format!(", commented {comments:?}"));
        }
        Fact { text, policies: policies::of(rule, &self.after) }
    }
}

/// What a tool prints; or a fact that says why it is not known.
fn run(tool: &str, args: &[&str], deadline: Instant) -> Result<String, String> {
    let failed = |e: io::Error| format!("{tool} cannot be run: {e}");
    let mut command = Command::new(tool);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => format!("{tool} is not installed: its rules are not known"),
        _ => failed(e),
    })?;
    let output = child.stdout.take().ok_or_else(|| format!("{tool} has no output"))?;
    let (done, rules) = channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let read = output.take(MAX_RULES).read_to_end(&mut text);
        let _ = done.send(read.map(|_| String::from_utf8_lossy(&text).into_owned()));
    });
    let rules = rules.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    // It has printed what it has to, or more than it may, or it hangs.
    let _ = child.kill();
    let _ = child.wait();
    rules.map_err(|_| format!("{tool} was not done in time"))?.map_err(failed)
}

struct Wanted {
    /// `input`, `output`, `forward` …; empty = all.
    hook: String,
    port: Option<u16>,
}

impl Wanted {
    /// The output of `nft list ruleset` is one statement a line, in the braces of its chain and table.
    fn of_nft(&self, rules: &str) -> Vec<String> {
        let (mut table, mut chain) = (String::new(), None);
        let mut facts = Vec::new();
        for line in rules.lines().map(str::trim) {
            let (statement, handle) = line.split_once(" # handle ").unwrap_or((line, ""));
            if let Some(name) = statement.strip_prefix("table ").and_then(|rest| rest.strip_suffix(" {")) {
                name.clone_into(&mut table);
            } else if let Some(name) =
                statement.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {"))
            {
                chain = Some((name.to_owned(), true));
            } else if statement == "}" {
                chain = None;
            } else if let Some((name, is_wanted)) = &mut chain {
                if let Some(hook) = hook_of(statement) {
                    *is_wanted = self.is_hook(hook);
                }
                if *is_wanted && self.matters(statement, "policy drop") {
                    let handle =
                        if handle.is_empty() { String::new() } else { format!(" (handle {handle})") };
                    facts.push(format!("nft: table {table}, chain {name}: {statement}{handle}"));
                }
            }
        }
        facts
    }

    /// The output of `iptables-save`: `*table`, `:CHAIN POLICY …`, `-A CHAIN rule`.
    fn of_iptables(&self, rules: &str) -> Vec<String> {
        let mut table = "";
        let mut facts = Vec::new();
        for line in rules.lines() {
            let chain = line.strip_prefix(':').or_else(|| line.strip_prefix("-A ")).unwrap_or_default();
            let chain = chain.split(' ').next().unwrap_or_default().to_ascii_lowercase();
            let built_in =
                ["input", "output", "forward", "prerouting", "postrouting"].contains(&chain.as_str());
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if !chain.is_empty()
                && (!built_in || self.is_hook(&chain))
                && self.matters(line, &format!(":{} DROP", chain.to_ascii_uppercase()))
            {
                facts.push(format!("iptables-legacy: table {table}: {line}"));
            }
        }
        facts
    }

    fn is_hook(&self, hook: &str) -> bool {
        self.hook.is_empty() || self.hook == hook
    }

    /// A verdict that ends a packet, a policy that does, or the port.
    fn matters(&self, statement: &str, policy: &str) -> bool {
        let word = |wanted: &str| {
            let mut words = statement.split(|c: char| !c.is_ascii_alphanumeric());
            words.any(|word| word == wanted)
        };
        let ends = ["drop", "reject", "DROP", "REJECT"].iter().any(|verdict| word(verdict));
        let is_policy = statement.starts_with(':') || statement.contains("policy ");
        let names_port = self.port.is_some_and(|port| word(&port.to_string()));
        if is_policy { statement.contains(policy) } else { ends || names_port }
    }
}

fn hook_of(statement: &str) -> Option<&str> {
    statement.strip_prefix("type ")?.split_once(" hook ")?.1.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(hook: &str, port: Option<u16>) -> Wanted {
        Wanted { hook: hook.to_owned(), port }
    }

    #[test]
    fn of_nft_only_what_could_drop_at_the_hook_is_told() {
        let rules = "\
table inet filter { # handle 7
\tset blocked { # handle 2
\t\ttype ipv4_addr
\t\telements = { 10.0.0.1 }
\t}

\tchain in { # handle 1
\t\ttype filter hook input priority 0; policy drop;
\t\ttcp dport 22 accept # handle 3
\t\ttcp dport 80 drop # handle 4
\t\tcounter packets 80 bytes 1 accept # handle 5
\t}

\tchain out { # handle 6
\t\ttype filter hook output priority 0; policy accept;
\t\ttcp dport 80 drop # handle 8
\t}

\tchain own { # handle 9
\t\tip saddr @blocked reject with icmp port-unreachable # handle 10
\t}
}
";
        assert_eq!(
            wanted("input", Some(22)).of_nft(rules),
            [
                "nft: table inet filter, chain in: type filter hook input priority 0; policy drop;",
                "nft: table inet filter, chain in: tcp dport 22 accept (handle 3)",
                "nft: table inet filter, chain in: tcp dport 80 drop (handle 4)",
                "nft: table inet filter, chain own: ip saddr @blocked reject with icmp port-unreachable (handle 10)",
            ]
        );
    }

    #[test]
    fn of_iptables_too() {
        let rules = "\
# Generated
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:own - [0:0]
-A INPUT -p tcp -m tcp --dport 80 -j DROP
-A OUTPUT -p tcp -m tcp --dport 80 -j DROP
-A own -j REJECT --reject-with icmp-port-unreachable
COMMIT
";
        let input = wanted("input", None).of_iptables(rules);
        assert_eq!(
            input,
            [
                "iptables-legacy: table filter: -A INPUT -p tcp -m tcp --dport 80 -j DROP",
                "iptables-legacy: table filter: -A own -j REJECT --reject-with icmp-port-unreachable",
            ]
        );
        assert!(wanted("forward", None).of_iptables(rules)[0].ends_with(":FORWARD DROP [0:0]"));
    }

    #[test]
    fn a_tool_that_is_missing_or_hangs_is_said_so() {
        let soon = Instant::now() + Duration::from_millis(200);
        assert_eq!(
            run("inspector-no-such-tool", &[], soon),
            Err("inspector-no-such-tool is not installed: its rules are not known".to_owned())
        );
        assert_eq!(run("sleep", &["60"], soon), Err("sleep was not done in time".to_owned()));
    }
}
