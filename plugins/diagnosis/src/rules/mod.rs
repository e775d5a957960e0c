//! What is concluded from what. Each rule is a short function with a name; those of [`CAUSES`] run
//! first, then those of [`SYMPTOMS`], which conclude only what no cause explains. A rule declares the
//! codes that it concludes and those that it asks for; tests check that it keeps to them and that the
//! order of the lists gives it what it asks for.
//!
//! - [`listening`], [`queues`]: services that are not there or cannot keep up.
//! - [`firewall`], [`programs`]: filters that people configured.
//! - [`routes`], [`link`], [`neighbours`], [`packets`]: the path, the wire, the hosts on it, and what is
//!   wrong with the packet itself.
//! - [`sockets`], [`resets`]: ends of connections.
//! - [`latency`], [`dns`]: what is slow, and names.
//! - [`silence`]: the symptoms.
//! - [`traffic`]: what several of them want to know of packets.

pub mod dns;
pub mod firewall;
pub mod latency;
pub mod link;
pub mod listening;
pub mod neighbours;
pub mod packets;
pub mod programs;
pub mod queues;
pub mod resets;
pub mod routes;
pub mod silence;
pub mod sockets;
pub mod traffic;

use crate::codes::Code;
use crate::findings::Findings;
use crate::window::Window;

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// What it is called.
    pub name: &'static str,
    /// Codes that it may conclude.
    pub finds: &'static [Code],
    /// Codes that it asks for: a rule that may conclude one of them runs before this one. Codes that it
    /// concludes itself need not be here.
    pub after: &'static [Code],
    /// Adds what it concludes.
    pub judge: fn(&Window, &mut Findings),
}

impl Rule {
    const fn new(name: &'static str, judge: fn(&Window, &mut Findings)) -> Self {
        Self { name, finds: &[], after: &[], judge }
    }

    const fn finds(self, finds: &'static [Code]) -> Self {
        Self { finds, ..self }
    }

    const fn after(self, after: &'static [Code]) -> Self {
        Self { after, ..self }
    }
}

/// Rules that find causes, in their order.
pub const CAUSES: &[&[Rule]] = &[
    firewall::RULES,
    programs::RULES,
    queues::RULES,
    routes::RULES,
    link::RULES,
    neighbours::RULES,
    packets::RULES,
    sockets::RULES,
    resets::RULES,
    listening::RULES,
    latency::RULES,
    dns::RULES,
];

/// Rules that conclude symptoms.
pub const SYMPTOMS: &[&[Rule]] = &[silence::RULES];

/// All rules, in the order in which they run.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    CAUSES.iter().chain(SYMPTOMS).copied().flatten()
}

/// Everything that can be concluded.
pub fn judge(window: &Window) -> Findings {
    let mut findings = Findings::default();
    all().for_each(|rule| (rule.judge)(window, &mut findings));
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Source text of each file with rules.
    const SOURCES: &[(&[Rule], &str)] = &[
        (firewall::RULES, include_str!("firewall.rs")),
        (programs::RULES, include_str!("programs.rs")),
        (queues::RULES, include_str!("queues.rs")),
        (routes::RULES, include_str!("routes.rs")),
        (link::RULES, include_str!("link.rs")),
        (neighbours::RULES, include_str!("neighbours.rs")),
        (packets::RULES, include_str!("packets.rs")),
        (sockets::RULES, include_str!("sockets.rs")),
        (resets::RULES, include_str!("resets.rs")),
        (listening::RULES, include_str!("listening.rs")),
        (latency::RULES, include_str!("latency.rs")),
        (dns::RULES, include_str!("dns.rs")),
        (silence::RULES, include_str!("silence.rs")),
    ];

    #[test]
    fn each_rule_runs_after_those_that_conclude_what_it_asks_for() {
        for (at, rule) in all().enumerate() {
            let before = |code: &Code| all().take(at).any(|other| other.finds.contains(code));
            let missing: Vec<_> = rule.after.iter().filter(|code| !before(code)).collect();
            assert!(
                missing.is_empty(),
                "{:?} asks for {missing:?}, which no rule before it finds",
                rule.name
            );
        }
    }

    #[test]
    fn a_cause_that_is_asked_for_is_complete_before_it_is() {
        for (at, rule) in all().enumerate() {
            let late =
                all().skip(at + 1).find(|other| other.finds.iter().any(|code| rule.after.contains(code)));
            assert!(
                late.is_none(),
                "{:?} asks for what {:?} finds later",
                rule.name,
                late.map(|rule| rule.name)
            );
        }
    }

    #[test]
    fn each_code_is_concluded_by_some_rule() {
        for code in Code::ALL {
            assert!(all().any(|rule| rule.finds.contains(code)), "nothing concludes {code:?}");
        }
    }

    #[test]
    fn rules_name_the_codes_that_their_functions_name_and_no_others() {
        for (rules, source) in SOURCES {
            let code = code_of(source);
            let functions = functions(&code);
            for rule in *rules {
                let judge = judge_of(source, rule.name);
                let named = codes_of(judge, &functions, &mut Vec::new());
                let declared: Vec<_> =
                    rule.finds.iter().chain(rule.after).map(|code| format!("{code:?}")).collect();
                let undeclared: Vec<_> = named.iter().filter(|code| !declared.contains(code)).collect();
                assert!(undeclared.is_empty(), "{:?} does not declare {undeclared:?}", rule.name);
                let found = rule.finds.iter().map(|code| format!("{code:?}"));
                let unused: Vec<_> = found.filter(|code| !named.contains(code)).collect();
                assert!(unused.is_empty(), "{:?} never names {unused:?}", rule.name);
            }
        }
    }

    /// The function that a rule of this name runs.
    fn judge_of<'a>(source: &'a str, rule: &str) -> &'a str {
        let (_, row) = source.split_once(&format!("{rule:?},")).expect("the rule is in its file");
        row.split(')').next().unwrap_or_default().trim()
    }

    /// A file without its tests, comments and texts.
    fn code_of(source: &str) -> String {
        let code = source.split("#[cfg(test)]").next().unwrap_or(source);
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n").split('"').step_by(2).collect()
    }

    /// Text of each function of a file by its name, and of each constant, which may list codes.
    fn functions(code: &str) -> BTreeMap<&str, &str> {
        let starts = ["\nfn ", "\npub fn ", "\n    fn ", "\n    pub fn ", "\nconst ", "\npub const "];
        let ends_of = |start: &&str| code.match_indices(*start).map(|(at, found)| at + found.len()).collect();
        let mut begins: Vec<usize> = starts.iter().flat_map(|start| -> Vec<_> { ends_of(start) }).collect();
        begins.sort_unstable();
        let ends = begins.iter().skip(1).copied().chain([code.len()]);
        let bodies = begins.iter().zip(ends).map(|(begin, end)| &code[*begin..end]);
        bodies.map(|body| (body.split(['(', ':', '<']).next().unwrap_or_default(), body)).collect()
    }

    fn codes_in(text: &str) -> Vec<String> {
        let names = text.split("Code::").skip(1);
        let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric()).collect::<String>();
        let is_constant = |name: &String| name.chars().all(char::is_uppercase);
        names.map(name).filter(|name| !is_constant(name)).collect()
    }

    /// Codes that a function names, or one that it calls in its file.
    fn codes_of<'a>(
        function: &'a str,
        functions: &BTreeMap<&'a str, &'a str>,
        seen: &mut Vec<&'a str>,
    ) -> Vec<String> {
        let Some(body) = functions.get(function).filter(|_| !seen.contains(&function)) else {
            return Vec::new();
        };
        seen.push(function);
        let mut codes = codes_in(body);
        let called = functions.keys().filter(|name| is_named(body, name)).copied().collect::<Vec<_>>();
        called.into_iter().for_each(|name| codes.extend(codes_of(name, functions, seen)));
        codes
    }

    fn is_named(body: &str, name: &str) -> bool {
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        body.match_indices(name).any(|(at, _)| {
            !is_word(body[..at].chars().next_back()) && !is_word(body[at + name.len()..].chars().next())
        })
    }
}
