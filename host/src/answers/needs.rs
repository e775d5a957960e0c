//! What a question rests on: probes and sources without which finding nothing means nothing.
//!
//! A question rests on what shows that something is wrong at all. What only tells one cause from
//! another is worth having, and no more: hardly any kernel gives everything, and a healthy node is
//! to be called healthy on all of them. The host knows this and does not ask the analyzers, because
//! a guest that is blind is not the one to say so.
//!
//! An analyzer need not see everything that a question rests on, only what it subscribes to. The
//! questions of other people's analyzers are not known here: they rest on all that those subscribe to.

use std::collections::BTreeSet;

use inspector_ebpf::{PROBES, Probe};

use crate::status::{HookState, HookStatus, PluginStatus, ProbeState, ProbeStatus};

/// The question that rests on all that any other rests on.
const NODE: &str = "node";

/// The questions that the product promises to answer, and the sources that each rests on. Which
/// probes, the probes say themselves ([`Probe::answers`]).
const KNOWN: &[(&str, &[&str])] = &[
    ("connect", &["snmp", "netstat"]),
    ("reset", &["snmp"]),
    ("loss", &["snmp", "netstat", "netdev", "qdisc"]),
    ("latency", &["snmp", "netstat", "qdisc"]),
    ("dns", &["snmp"]),
    ("gateway", &["snmp", "netstat"]),
    (NODE, &["snmp", "netstat", "netdev", "qdisc"]),
];

/// What some analyzers must see, so that finding nothing means that nothing is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs<'a> {
    /// Probes.
    pub probes: BTreeSet<&'a str>,
    /// Sources.
    pub sources: BTreeSet<&'a str>,
}

impl<'a> Needs<'a> {
    /// What a question rests on with the analyzers that are asked.
    pub fn of(scenario: &str, asked: &[&'a PluginStatus]) -> Self {
        let mut needs = Self::default();
        for analyzer in asked {
            let (probes, sources) = of_analyzer(scenario, analyzer);
            needs.probes.extend(probes);
            needs.sources.extend(sources);
        }
        needs
    }
}

fn of_analyzer<'a>(scenario: &str, analyzer: &'a PluginStatus) -> (Vec<&'a str>, Vec<&'a str>) {
    if let Some((_, sources)) = KNOWN.iter().find(|(known, _)| *known == scenario) {
        let probes = names(&analyzer.probes);
        let probes: Vec<_> = probes.into_iter().filter(|name| rests_on(scenario, name)).collect();
        let sources = among(&analyzer.sources, sources);
        if !probes.is_empty() || !sources.is_empty() {
            return (probes, sources);
        }
    }
    (names(&analyzer.probes), names(&analyzer.sources))
}

fn among<'a>(declared: &'a [String], known: &[&str]) -> Vec<&'a str> {
    names(declared).into_iter().filter(|name| known.contains(name)).collect()
}

fn names(declared: &[String]) -> Vec<&str> {
    declared.iter().map(String::as_str).collect()
}

fn probe(name: &str) -> Option<&'static Probe> {
    PROBES.iter().find(|probe| probe.name == name)
}

fn rests_on(scenario: &str, name: &str) -> bool {
    match scenario {
        NODE => matters(name),
        _ => probe(name).is_some_and(|probe| probe.answers.contains(&scenario)),
    }
}

/// Whether any question that is known rests on a probe.
pub fn matters(name: &str) -> bool {
    probe(name).is_some_and(|probe| !probe.answers.is_empty())
}

/// Whether a hook shows no more than a detail.
pub fn is_detail(hook: &str) -> bool {
    PROBES.iter().flat_map(|probe| probe.hooks).any(|known| known.is_detail && known.name() == hook)
}

/// Whether a probe shows too little for a question that rests on it.
pub fn is_blind(probe: &ProbeStatus) -> bool {
    let lacks = |hook: &HookStatus| hook.state != HookState::Attached && !is_detail(&hook.hook);
    match probe.state {
        ProbeState::Down => true,
        ProbeState::Partial => probe.hooks.iter().any(lacks),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use inspector_ebpf::Kernel;

    use super::*;

    fn analyzer(probes: &[&str], sources: &[&str]) -> PluginStatus {
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        PluginStatus { probes: text(probes), sources: text(sources), ..PluginStatus::default() }
    }

    fn probes_of<'a>(scenario: &str, analyzer: &'a PluginStatus) -> Vec<&'a str> {
        Needs::of(scenario, &[analyzer]).probes.into_iter().collect()
    }

    #[test]
    fn every_question_that_rests_on_a_probe_is_known_here() {
        for scenario in PROBES.iter().flat_map(|probe| probe.answers) {
            assert!(*scenario != NODE && KNOWN.iter().any(|(known, _)| known == scenario), "{scenario}");
        }
        for (scenario, _) in KNOWN {
            assert!(PROBES.iter().any(|probe| rests_on(scenario, probe.name)), "{scenario}");
        }
    }

    #[test]
    fn whether_a_node_is_healthy_rests_on_all_sources_that_any_question_rests_on() {
        let (_, node) = KNOWN.iter().find(|(known, _)| *known == NODE).expect("the usual question");
        for (scenario, sources) in KNOWN {
            assert!(sources.iter().all(|source| node.contains(source)), "{scenario}");
        }
    }

    #[test]
    fn what_questions_rest_on_is_there_on_the_oldest_kernel_that_users_are_told_of() {
        for probe in PROBES.iter().filter(|probe| matters(probe.name)) {
            for hook in probe.hooks.iter().filter(|hook| !hook.is_detail) {
                assert!(hook.since <= Kernel::MINIMUM, "{}: {}", probe.name, hook.name());
            }
        }
    }

    #[test]
    fn an_analyzer_need_not_see_what_it_never_looks_at() {
        let built_in = analyzer(&["dns", "skb-drop", "socket-latency", "tcp-reset"], &["snmp", "softnet"]);
        assert_eq!(probes_of("dns", &built_in), ["dns"]);
        assert_eq!(probes_of("reset", &built_in), ["skb-drop", "tcp-reset"]);
        let datagrams = analyzer(&["skb-drop"], &["snmp"]);
        assert_eq!(probes_of("node", &datagrams), ["skb-drop"]);
        let both = Needs::of("node", &[&built_in, &datagrams]);
        assert_eq!(both.sources.into_iter().collect::<Vec<_>>(), ["snmp"]);
    }

    #[test]
    fn a_question_that_is_not_known_rests_on_all_that_its_analyzer_subscribes_to() {
        let own = analyzer(&["socket-latency", "virtio-command"], &["fd"]);
        assert_eq!(probes_of("moon", &own), ["socket-latency", "virtio-command"]);
        // Nor is one known that is called like a known one and looks at none of the same things.
        assert_eq!(probes_of("dns", &own), ["socket-latency", "virtio-command"]);
        assert_eq!(Needs::of("moon", &[&own]).sources.into_iter().collect::<Vec<_>>(), ["fd"]);
    }

    #[test]
    fn a_probe_without_a_detail_is_not_blind() {
        let hook = |name: &str, state| HookStatus { hook: name.to_owned(), state, ..HookStatus::default() };
        let partial = |missing: &str| ProbeStatus {
            state: ProbeState::Partial,
            hooks: vec![
                hook("tp_btf/tcp_retransmit_skb", HookState::Attached),
                hook(missing, HookState::Missing),
            ],
            ..ProbeStatus::default()
        };
        assert!(!is_blind(&partial("tp_btf/tcp_cong_state_set")));
        assert!(is_blind(&partial("tp_btf/tcp_retransmit_synack")));
        assert!(is_blind(&ProbeStatus { state: ProbeState::Down, ..ProbeStatus::default() }));
        assert!(!is_blind(&ProbeStatus { state: ProbeState::Up, ..ProbeStatus::default() }));
    }
}
