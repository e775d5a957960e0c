//! What `nft list ruleset` and `iptables-legacy-save` print, and of that the lines that matter.
//!
//! The tools are run because nothing else names rules as those who wrote them know them. They get
//! no argument from outside, their output is bounded in time and size, and they only list.

use std::io::{self, Read as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

/// Bytes of rules that are looked at.
const MAX_RULES: u64 = 4 << 20;

/// What a tool prints; or a fact that says why it is not known.
pub(super) fn run(tool: &str, args: &[&str], deadline: Instant) -> Result<String, String> {
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

/// Which lines matter.
pub(super) struct Wanted {
    /// `input`, `output`, `forward` …; empty = all.
    pub(super) hook: String,
    /// Also what names this port.
    pub(super) port: Option<u16>,
}

impl Wanted {
    /// The output of `nft list ruleset` is one statement a line, in the braces of its chain and table.
    pub(super) fn of_nft(&self, rules: &str) -> Vec<String> {
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
    pub(super) fn of_iptables(&self, rules: &str) -> Vec<String> {
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
    use std::time::Duration;

    use super::*;

    fn wanted(hook: &str, port: Option<u16>) -> Wanted {
        Wanted { hook: hook.to_owned(), port }
    }

    #[test]
    pub(super) fn of_nft_only_what_could_drop_at_the_hook_is_told() {
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
    pub(super) fn of_iptables_too() {
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
