//! What a report could not see, in words: without them, silence would be read as health.
//!
//! Only what the asked analyzers depend on is named, and every analyzer that does not run. A blind
//! spot that hides what the question rests on ([`needs`](crate::answers::needs)) casts doubt on the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use inspector_ebpf::{PROBES, Probe};

use crate::answers::needs::{Needs, is_blind, is_detail};
use crate::answers::report::{AnalyzerReply, BlindSpot, join};
use crate::loss::Stage;
use crate::status::{
    Gap, HookState, KubeStatus, PluginState, PluginStatus, ProbeState, ProbeStatus, Resource, Sight,
    SourceState, States,
};
use crate::text::escape::admit;

/// Time at the beginning of the window that an analyzer may know nothing of without a word.
const SLACK: Duration = Duration::from_secs(1);
/// Lost events cast doubt if there is more than one for this many that were seen.
const LOST_ONE_IN: u64 = 100;
/// Bytes of what is said of a plugin: a guest's own words are among it.
const MAX_TEXT: usize = 512;

/// In the doubt about an analyzer that did not answer.
pub const NO_ANSWER: &str = " did not answer: ";

/// A question, as far as blind spots depend on it.
pub struct Asked<'a> {
    /// What is asked.
    pub scenario: &'a str,
    /// The analyzers that answer it, as [`States::answering`] has them.
    pub analyzers: &'a [&'a PluginStatus],
    /// Whether somebody asked about has no table of a source that is not as it should be.
    pub lacks: &'a dyn Fn(&str) -> bool,
}

impl Asked<'_> {
    fn wants_probe(&self, name: &str) -> bool {
        self.analyzers.iter().any(|plugin| plugin.probes.iter().any(|probe| probe == name))
    }

    fn wants_source(&self, name: &str) -> bool {
        self.analyzers.iter().any(|plugin| plugin.sources.iter().any(|source| source == name))
    }

    fn has(&self, analyzer: &str) -> bool {
        self.analyzers.iter().any(|plugin| plugin.name == analyzer)
    }
}

/// Probes and sources that the asked analyzers want and do not get, and analyzers that do not run.
pub fn of_states(states: &States, asked: &Asked<'_>) -> Vec<BlindSpot> {
    let needs = Needs::of(asked.scenario, asked.analyzers);
    let wanted = states.probes.values().filter(|probe| asked.wants_probe(&probe.name));
    let mut spots = of_probes(wanted, &needs.probes);
    let sources = states.sources.values().filter(|source| asked.wants_source(&source.name));
    for source in sources {
        let is_needed = needs.sources.contains(source.name.as_str());
        // Hardly any node has all sources: one that is absent matters only to what rests on it.
        let is_blind = match source.state {
            SourceState::Failing | SourceState::Late => true,
            SourceState::Absent => is_needed,
            _ => false,
        };
        if is_blind && (asked.lacks)(&source.name) {
            let text = format!("counters of {} are {}: {}", source.name, source.state, source.last_error);
            spots.push(BlindSpot { text, casts_doubt: is_needed });
        }
    }
    spots.extend(states.plugins.values().filter_map(|plugin| of_plugin(plugin, asked)));
    spots.extend(of_gaps(states, asked));
    spots.extend(states.kube.iter().filter(|(_, kube)| !kube.reason.is_empty()).map(of_kube));
    spots
}

/// Nothing is seen less without it: names of this node's pods are the node's own.
fn of_kube((resource, kube): (&Resource, &KubeStatus)) -> BlindSpot {
    let since = match kube.age() {
        Some(age) => format!("are {} s old", age.as_secs()),
        None if kube.objects > 0 => "are as of the last list".to_owned(),
        None => "are not known".to_owned(),
    };
    let text = format!("{} {since}: {}", resource.gives(), admit(kube.reason.clone(), MAX_TEXT));
    BlindSpot { text, casts_doubt: false }
}

/// What the agent does not see at all. Namespaces that cannot be entered, and those that only processes
/// tell of which it does not see, are among everybody, and not among those asked about by name if these
/// have been: `snmp` is read in each that is.
fn of_gaps(states: &States, asked: &Asked<'_>) -> Vec<BlindSpot> {
    let all = states.gaps.iter().flat_map(|(sight, gaps)| gaps.iter().map(move |gap| (*sight, gap)));
    let spot = |(sight, gap): (Sight, &Gap)| BlindSpot {
        text: gap.sentence(),
        casts_doubt: sight != Sight::Symbols && (asked.lacks)("snmp"),
    };
    all.map(spot).collect()
}

fn of_probes<'a>(probes: impl Iterator<Item = &'a ProbeStatus>, needed: &BTreeSet<&str>) -> Vec<BlindSpot> {
    let mut down: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut spots = Vec::new();
    for probe in probes {
        match probe.state {
            // Mostly one reason, such as a missing capability, takes them all.
            ProbeState::Down => down.entry(probe.cause()).or_default().push(&probe.name),
            ProbeState::Partial => {
                let casts_doubt = needed.contains(probe.name.as_str()) && is_blind(probe);
                let missing = probe.hooks.iter().filter(|hook| hook.state != HookState::Attached);
                spots.extend(missing.map(|hook| BlindSpot {
                    text: format!("probe {}: {}", probe.name, hook.reason),
                    casts_doubt,
                }));
            }
            _ => {}
        }
    }
    spots.extend(down.iter().map(|(cause, names)| of_cause(cause, names, needed)));
    spots
}

/// What all probes that are down for one cause would show; if the question rests on some of them,
/// what those would.
fn of_cause(cause: &str, names: &[&str], needed: &BTreeSet<&str>) -> BlindSpot {
    let is_down = |probe: &&Probe| names.contains(&probe.name);
    let casts_doubt = names.iter().any(|name| needed.contains(name));
    let shown = PROBES.iter().filter(is_down).filter(|probe| !casts_doubt || needed.contains(probe.name));
    let hooks = shown.flat_map(|probe| probe.hooks).filter(|hook| !casts_doubt || !is_detail(&hook.name()));
    let mut gives: Vec<&str> = Vec::new();
    join(&mut gives, hooks.map(|hook| hook.gives).collect());
    let text = format!("{} are not seen ({}: {cause})", gives.join(", "), are_down(names));
    BlindSpot { text, casts_doubt }
}

fn are_down(probes: &[&str]) -> String {
    match probes {
        [one] => format!("probe {one} is down"),
        several => format!("probes {} are down", several.join(", ")),
    }
}

/// An analyzer that does not run. If it is asked, its missing answer tells of it already.
fn of_plugin(plugin: &PluginStatus, asked: &Asked<'_>) -> Option<BlindSpot> {
    let (file, rejected) = (&plugin.file, &plugin.rejected);
    match why_idle(plugin) {
        Some(why) if !asked.has(&plugin.name) => Some(BlindSpot::detail(why)),
        None if !rejected.is_empty() => {
            Some(BlindSpot::detail(admit(format!("a new {file} is refused: {rejected}"), MAX_TEXT)))
        }
        _ => None,
    }
}

/// Why a plugin does not run, if it is meant to and does not.
pub fn why_idle(plugin: &PluginStatus) -> Option<String> {
    let PluginStatus { name, file, reason, .. } = plugin;
    let why = match plugin.state {
        PluginState::Quarantined => format!("analyzer {name} is in quarantine: {reason}"),
        PluginState::Backoff => format!("analyzer {name} failed and is restarted soon: {reason}"),
        PluginState::Refused if reason.contains(file.as_str()) => reason.clone(),
        PluginState::Refused => format!("{file} is refused: {reason}"),
        _ => return None,
    };
    Some(admit(why, MAX_TEXT))
}

/// Events of the window that did not reach the asked analyzers; `seen` = how much did.
pub fn of_loss(lost: &[(Stage, String, u64)], asked: &Asked<'_>, seen: u64) -> Vec<BlindSpot> {
    let words = |(stage, name, count): &(Stage, String, u64)| match stage {
        Stage::Ring if asked.wants_probe(name) => {
            Some(format!("{count} events of probe {name} are lost: its ring in the kernel was full"))
        }
        Stage::Limit if asked.wants_probe(name) => Some(format!(
            "{count} events of probe {name} were counted and not looked at: more than its limit per second"
        )),
        Stage::Queue if asked.has(name) => Some(format!(
            "{count} events did not reach analyzer {name}: its queue was full, or it failed on them"
        )),
        // Quotas and slow clients take nothing from an analyzer.
        _ => None,
    };
    let casts_doubt = |(stage, name, count): &(Stage, String, u64)| {
        // The drops that a limit holds back are added up in the kernel, and their sums are delivered.
        let is_told = *stage == Stage::Limit && name == "skb-drop";
        !is_told && *count > seen / LOST_ONE_IN
    };
    let lost = lost.iter().filter(|(_, _, count)| *count > 0);
    lost.filter_map(|one| Some(BlindSpot { text: words(one)?, casts_doubt: casts_doubt(one) })).collect()
}

/// What the analyzers themselves say, those that do not answer, and windows that reach back
/// further than what they know.
pub fn of_analyzers(answers: &[AnalyzerReply], window: Duration, now_ns: u64) -> Vec<BlindSpot> {
    let begin_ns = now_ns.saturating_sub(u64::try_from(window.as_nanos()).unwrap_or(u64::MAX));
    let mut spots = Vec::new();
    for AnalyzerReply { analyzer, answer } in answers {
        match answer {
            Ok(answer) => {
                let missing = Duration::from_nanos(answer.since_ns.saturating_sub(begin_ns));
                if missing > SLACK {
                    // Rounded up, since nobody asks about the last 0s.
                    let known = Duration::from_nanos(now_ns.saturating_sub(answer.since_ns));
                    let known = in_words(known + Duration::from_millis(999));
                    // As a flag it is one word: `1m30s`.
                    let flag = known.replace(' ', "");
                    spots.push(BlindSpot::doubt(format!(
                        "analyzer {analyzer} knows the last {known} only: ask about those (--last {flag}), \
                         or again later"
                    )));
                }
                spots.extend(answer.blind_spots.iter().cloned().map(BlindSpot::detail));
            }
            Err(why) => spots.push(BlindSpot::doubt(format!("analyzer {analyzer}{NO_ANSWER}{why}"))),
        }
    }
    spots
}

/// A duration for people, to the second.
pub fn in_words(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::report::Answer;
    use crate::status::{HookStatus, SourceStatus};

    fn probe(name: &str, state: ProbeState, reason: &str) -> ProbeStatus {
        let missing = HookStatus {
            hook: "tp_btf/x".into(),
            state: HookState::Missing,
            reason: "this kernel has no tracepoint x; without it: no resets sent".into(),
            ..HookStatus::default()
        };
        let hooks = if state == ProbeState::Partial { vec![missing] } else { Vec::new() };
        let (name, reason) = (name.into(), reason.into());
        ProbeStatus { name, state, reason, hooks, ..ProbeStatus::default() }
    }

    fn plugin() -> PluginStatus {
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        PluginStatus {
            name: "diagnosis".into(),
            probes: text(&["skb-drop", "socket-latency", "tcp-reset", "tcp-state"]),
            sources: text(&["snmp", "netdev", "conntrack"]),
            ..PluginStatus::default()
        }
    }

    /// Blind spots of a question of everybody, the doubts marked with `!`.
    fn spots(states: &States, scenario: &str) -> Vec<String> {
        spots_where(states, scenario, &|_| true)
    }

    fn spots_where(states: &States, scenario: &str, lacks: &dyn Fn(&str) -> bool) -> Vec<String> {
        let plugin = plugin();
        marked(of_states(states, &Asked { scenario, analyzers: &[&plugin], lacks }))
    }

    fn marked(spots: Vec<BlindSpot>) -> Vec<String> {
        let mark = |spot: BlindSpot| if spot.casts_doubt { format!("! {}", spot.text) } else { spot.text };
        spots.into_iter().map(mark).collect()
    }

    #[test]
    fn what_is_missing_is_said_in_words_of_what_is_not_seen_and_once_per_reason() {
        use ProbeState::{Down, Partial};
        let mut states = States::default();
        for (name, state) in
            [("skb-drop", Down), ("tcp-state", Down), ("tcp-reset", Partial), ("softirq", Down)]
        {
            states.probes.insert(name.into(), probe(name, state, "no CAP_BPF"));
        }
        let opened = "connections opened, accepted, failed and closed";
        assert_eq!(
            spots(&states, "node"),
            [
                "! probe tcp-reset: this kernel has no tracepoint x; without it: no resets sent".to_owned(),
                format!(
                    "! dropped packets, {opened} are not seen (probes skb-drop, tcp-state are down: no CAP_BPF)"
                ),
            ]
        );
    }

    #[test]
    fn only_what_the_question_rests_on_casts_doubt() {
        let mut states = States::default();
        for name in ["tcp-state", "socket-latency"] {
            states.probes.insert(name.into(), probe(name, ProbeState::Down, name));
        }
        let doubts = |scenario| spots(&states, scenario).iter().filter(|spot| spot.starts_with('!')).count();
        assert_eq!((doubts("connect"), doubts("reset")), (1, 0));
        // Of a question that nobody knows, all that its analyzer wants.
        assert_eq!(doubts("moon"), 2);
    }

    #[test]
    fn a_source_that_fails_for_others_casts_no_doubt_on_those_asked_about() {
        use SourceState::{Absent, Failing, Late};
        let mut states = States::default();
        for (name, state) in [("snmp", Late), ("netdev", Absent), ("conntrack", Failing), ("fd", Failing)] {
            let last_error = "why".to_owned();
            let source = SourceStatus { name: name.to_owned(), state, last_error, ..SourceStatus::default() };
            states.sources.insert(name.into(), source);
        }
        let (snmp, conntrack) =
            ("! counters of snmp are late: why", "counters of conntrack are failing: why");
        assert_eq!(spots(&states, "dns"), [conntrack, snmp], "a kernel without something is no fault");
        assert_eq!(spots(&states, "loss"), [conntrack, "! counters of netdev are absent: why", snmp]);
        assert_eq!(spots_where(&states, "dns", &|source| source == "conntrack"), [conntrack]);
    }

    #[test]
    fn namespaces_that_cannot_be_entered_cast_doubt_on_what_is_said_of_everybody() {
        let mut states = States::default();
        let gap = |lost: &str| vec![Gap { lost: lost.to_owned(), cause: "why".to_owned() }];
        states.gaps.insert(Sight::Namespaces, gap("5 of 6 are closed"));
        states.gaps.insert(Sight::Symbols, gap("no names"));
        assert_eq!(spots(&states, "node"), ["! 5 of 6 are closed: why", "no names: why"]);
        assert_eq!(spots_where(&states, "node", &|_| false), ["5 of 6 are closed: why", "no names: why"]);
    }

    #[test]
    fn an_analyzer_that_does_not_run_is_named_whoever_is_asked() {
        let status = |name: &str, state| PluginStatus {
            name: name.into(),
            file: format!("/p/{name}.wasm"),
            state,
            reason: "trap\u{1b}".into(),
            ..PluginStatus::default()
        };
        use PluginState::{Backoff, Quarantined, Refused, Running};
        let mut states = States::default();
        for (name, state) in [("a", Quarantined), ("b", Backoff), ("c", Refused), ("d", Running)] {
            states.plugins.insert(name.into(), status(name, state));
        }
        let newer = PluginStatus { rejected: "bad".into(), ..status("e", Running) };
        states.plugins.insert("e".into(), newer);
        // Its missing answer says so.
        states.plugins.insert("diagnosis".into(), status("diagnosis", Quarantined));
        assert_eq!(
            spots(&states, "node"),
            [
                r"analyzer a is in quarantine: trap\u{1b}",
                r"analyzer b failed and is restarted soon: trap\u{1b}",
                r"/p/c.wasm is refused: trap\u{1b}",
                "a new /p/e.wasm is refused: bad",
            ]
        );
    }

    #[test]
    fn only_losses_of_what_was_asked_count_and_few_among_many_cast_no_doubt() {
        let lost = [
            (Stage::Limit, "skb-drop".to_owned(), 500),
            (Stage::Ring, "softirq".to_owned(), 5),
            (Stage::Ring, "tcp-state".to_owned(), 0),
            (Stage::Ring, "tcp-reset".to_owned(), 5),
            (Stage::Queue, "diagnosis".to_owned(), 7),
            (Stage::Queue, "tcp".to_owned(), 7),
            (Stage::Quota, "diagnosis".to_owned(), 7),
        ];
        let plugin = plugin();
        let asked = Asked { scenario: "node", analyzers: &[&plugin], lacks: &|_| true };
        let spots = marked(of_loss(&lost, &asked, 600));
        assert_eq!(spots.len(), 3, "{spots:?}");
        assert!(spots[0].starts_with("500 events of probe skb-drop"), "{}", spots[0]);
        assert!(spots[1].starts_with("5 events of probe tcp-reset"), "{}", spots[1]);
        assert!(spots[2].starts_with("! 7 events did not reach analyzer diagnosis"), "{}", spots[2]);
    }

    #[test]
    fn who_knows_less_than_the_window_or_does_not_answer_vouches_for_nothing() {
        let second = 1_000_000_000;
        let answered = |since_ns| AnalyzerReply {
            analyzer: "a".into(),
            answer: Ok(Answer { since_ns, blind_spots: vec!["own".into()], ..Answer::default() }),
        };
        let said = |answer| marked(of_analyzers(&[answer], Duration::from_secs(60), 100 * second));
        assert_eq!(said(answered(40 * second)), ["own"]);
        assert_eq!(
            said(answered(70 * second)),
            ["! analyzer a knows the last 30s only: ask about those (--last 30s), or again later", "own"]
        );
        let words = marked(of_analyzers(&[answered(10 * second)], Duration::from_secs(600), 100 * second));
        assert!(
            words[0].contains("the last 1m 30s only") && words[0].contains("(--last 1m30s)"),
            "{words:?}"
        );
        let late = AnalyzerReply { analyzer: "b".into(), answer: Err("late".into()) };
        assert_eq!(said(late), ["! analyzer b did not answer: late"]);
    }
}
