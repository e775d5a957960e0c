//! Chains and rules that could drop a packet, and which of them does: `nft list ruleset` and
//! `iptables-legacy-save`, run in the namespace that the thread is in, and of their output the lines that
//! matter; and the counters of nf_tables, read twice.
//!
//! The tools are run because nothing else names rules as those who wrote them know them. They get
//! no argument from outside, their output is bounded in time and size, and they only list.

mod policies;
mod rules;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::fact::{Fact, MAX_FACTS};
use super::params::{Params, octets};
use super::route::device_to;

use rules::{Field, Rule};

/// Time that a tool has.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of rules that are looked at.
const MAX_RULES: u64 = 4 << 20;
/// Between two readings of the counters: who is dropped tries again within a second.
const BETWEEN: Duration = Duration::from_millis(1200);
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

/// What is known of the conversation that rules may compare: its addresses, and the devices to them.
fn values_of(params: &Params<'_>) -> Vec<(Field, Vec<u8>)> {
    let ends = [("saddr", Field::Source, Field::In), ("daddr", Field::Destination, Field::Out)];
    let known = ends.into_iter().filter_map(|(name, address, device)| {
        let ip = params.address(name).ok()?;
        Some([Some((address, octets(ip))), device_to(ip).map(|name| (device, name.into_bytes()))])
    });
    known.flatten().flatten().collect()
}

/// The rules of nf_tables at two moments.
struct Counted {
    before: Vec<Rule>,
    after: Vec<Rule>,
    /// The time between the moments.
    over: Duration,
    of_flow: Vec<(Field, Vec<u8>)>,
}

impl Counted {
    /// The rules that end packets of the conversation now; if none is known to, those that end any; if none
    /// does, those that have; and all others that could, if nothing else names them.
    fn facts(&self, with_others: bool) -> Vec<Fact> {
        let before: HashMap<_, _> = self.before.iter().map(|rule| (rule.id(), rule.packets)).collect();
        let rise = |rule: &Rule| rule.packets?.checked_sub((*before.get(&rule.id())?)?);
        let ending: Vec<&Rule> = self.after.iter().filter(|rule| rule.ends.is_some()).collect();
        let chains = self.chains_of_flow();
        let fits = |rule: &Rule| match self.fit(rule) {
            Fit::Own => true,
            Fit::Any => chains.contains(&rule.chain_id()),
            Fit::Other => false,
        };
        let counted = |count: &dyn Fn(&Rule) -> Option<u64>| {
            let counts = ending.iter().filter_map(|rule| Some((*rule, count(rule).filter(|n| *n > 0)?)));
            let (own, others): (Vec<_>, Vec<_>) = counts.partition(|(rule, _)| fits(rule));
            let is_own = !own.is_empty();
            let mut found = if is_own { own } else { others };
            found.sort_by_key(|(_, packets)| Reverse(*packets));
            found.truncate(MAX_FACTS);
            (found, is_own)
        };
        let (now, is_own) = counted(&rise);
        if !now.is_empty() {
            let seconds = self.over.as_secs_f64();
            let fact = |(rule, n): (&Rule, u64)| Fact {
                text: told(rule, &format!("{n} in the last {seconds:.1} s")),
                // A rule that counts something else stands for no policy here.
                policies: if is_own { policies::of(rule, &self.after) } else { Vec::new() },
            };
            return now.into_iter().map(fact).collect();
        }
        let (ever, _) = counted(&|rule| rule.packets);
        if !ever.is_empty() || !with_others {
            let fact = |(rule, n): (&Rule, u64)| Fact::from(told(rule, &format!("{n} since it was made")));
            return ever.into_iter().map(fact).collect();
        }
        let unknown = |rule: &Rule| Fact::from(told(rule, "what it matches is not known"));
        ending.into_iter().take(MAX_FACTS).map(unknown).collect()
    }

    /// Whether a rule is for the conversation by what it compares itself.
    fn fit(&self, rule: &Rule) -> Fit {
        let mut fit = Fit::Any;
        for (field, value) in &rule.values {
            // Names of devices are filled up with zeros.
            let end = value.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let mut known = self.of_flow.iter().filter(|(of, _)| of == field).peekable();
            if known.peek().is_none() {
                continue;
            }
            if !known.any(|(_, wanted)| wanted == value || wanted[..] == value[..end]) {
                return Fit::Other;
            }
            fit = Fit::Own;
        }
        fit
    }

    /// The chains to which a rule for the conversation leads, one to the next.
    fn chains_of_flow(&self) -> HashSet<(&str, &str)> {
        let mut next: HashMap<_, Vec<_>> = HashMap::new();
        let mut waiting = Vec::new();
        for (rule, to) in self.after.iter().filter_map(|rule| Some((rule, rule.target()?))) {
            match self.fit(rule) {
                Fit::Own => waiting.push(to),
                Fit::Any => next.entry(rule.chain_id()).or_default().push(to),
                Fit::Other => {}
            }
        }
        let mut found = HashSet::new();
        while let Some(chain) = waiting.pop() {
            if found.insert(chain) {
                waiting.extend(next.get(&chain).into_iter().flatten());
            }
        }
        found
    }
}

/// Whether a rule is for a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// It names something of it.
    Own,
    /// It names nothing of any.
    Any,
    /// It names something else.
    Other,
}

/// A rule that ends packets, for people.
fn told(rule: &Rule, how_many: &str) -> String {
    let ends = rule.ends.unwrap_or_default();
    let mut text = format!("nf_tables: {}: {ends} packets ({how_many})", rule.place());
    if !rule.comments.is_empty() {
        let comments = crate::text::escape::admit(rule.comments.join("; "), COMMENTS);
        text.push_str(&format!(", commented {comments:?}"));
    }
    text
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

    fn rule(chain: &str, handle: u64, to: &str, daddr: Option<u8>) -> Rule {
        Rule {
            table: "ip filter".to_owned(),
            chain: chain.to_owned(),
            handle,
            leads_to: Some(to.to_owned()).filter(|to| !to.is_empty()),
            values: daddr.into_iter().map(|last| (Field::Destination, vec![10, 0, 0, last])).collect(),
            ..Rule::default()
        }
    }

    /// A pod's chain of kube-router, whose rule has ended so many packets.
    fn pod(last: u8, packets: u64) -> Vec<Rule> {
        let (chain, at) = (format!("KUBE-POD-FW-{last}"), u64::from(last) * 10);
        let mut policy = rule(&chain, at + 1, "KUBE-NWPLCY", None);
        policy.comments = vec![format!("run through nw policy p{last}")];
        let mut end = rule(&chain, at + 2, "", None);
        end.comments = vec!["REJECT traffic destined for POD name:a namespace: shop".to_owned()];
        (end.ends, end.packets) = (Some("rejects"), Some(packets));
        vec![rule("FORWARD", at, &chain, Some(last)), policy, end]
    }

    fn counted(before: Vec<Rule>, after: Vec<Rule>) -> Vec<Fact> {
        let of_flow = vec![(Field::Destination, vec![10, 0, 0, 2])];
        Counted { before, after, over: Duration::from_secs(1), of_flow }.facts(false)
    }

    #[test]
    fn only_a_rule_that_ends_packets_of_the_conversation_now_names_a_policy() {
        let at = |own: u64, other: u64| [pod(2, own), pod(3, other)].concat();
        let names = |facts: &[Fact]| facts.iter().flat_map(|fact| fact.policies.clone()).collect::<Vec<_>>();
        let now = counted(at(5, 5), at(7, 9));
        assert_eq!(names(&now), ["NetworkPolicy shop/p2"]);
        assert!(now[0].text.contains("(2 in the last 1.0 s)"), "{now:?}");
        let of_another = counted(at(5, 5), at(5, 9));
        assert!(of_another[0].text.contains("KUBE-POD-FW-3"), "{of_another:?}");
        assert_eq!(names(&of_another), [""; 0]);
        let once = counted(at(5, 0), at(5, 0));
        assert!(once[0].text.contains("(5 since it was made)"), "{once:?}");
        assert_eq!(names(&once), [""; 0]);
    }

    #[test]
    fn chains_that_lead_to_each_other_in_many_ways_are_walked_once() {
        let mut rules = pod(2, 5);
        for (layer, jump) in (0..20).flat_map(|layer| (0..30).map(move |jump| (layer, jump))) {
            rules.push(rule(
                &format!("l{layer}"),
                1000 + layer * 30 + jump,
                &format!("l{}", layer + 1),
                None,
            ));
        }
        rules.push(rule("KUBE-POD-FW-2", 999, "l0", None));
        let mut after = rules.clone();
        after[2].packets = Some(6);
        assert_eq!(counted(rules, after)[0].policies, ["NetworkPolicy shop/p2"]);
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
