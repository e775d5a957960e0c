//! What a report could not see, in words: without them, silence would be read as health.
//!
//! Only what the asked analyzers depend on is named; what is missing for others does not matter to
//! the question.

use std::collections::BTreeMap;
use std::time::Duration;

use inspector_ebpf::PROBES;

use crate::loss::Stage;
use crate::report::Answered;
use crate::status::{Board, Gap, PluginStatus, ProbeStatus};

/// An analyzer that knows all of the window but for so much is not worth a word.
const SLACK: Duration = Duration::from_secs(1);

/// Probes and sources that the asked analyzers want and do not get.
pub fn of_board(board: &Board, asked: &[&PluginStatus]) -> Vec<String> {
    let wants_probe = |probe: &&ProbeStatus| asked.iter().any(|plugin| plugin.probes.contains(&probe.name));
    let mut spots = of_probes(board.probes.values().filter(wants_probe));
    let sources = board.sources.values().filter(|source| matches!(source.state.as_str(), "failing" | "late"));
    let wanted = sources.filter(|source| asked.iter().any(|plugin| plugin.sources.contains(&source.name)));
    spots
        .extend(wanted.map(|source| {
            format!("counters of {} are {}: {}", source.name, source.state, source.last_error)
        }));
    spots.extend(board.gaps.values().flatten().map(Gap::sentence));
    spots
}

fn of_probes<'a>(probes: impl Iterator<Item = &'a ProbeStatus>) -> Vec<String> {
    let mut down: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut spots = Vec::new();
    for probe in probes {
        match probe.state.as_str() {
            // Mostly one reason, such as a missing capability, takes them all.
            "down" => down.entry(&probe.reason).or_default().push(&probe.name),
            "partial" => {
                let missing = probe.hooks.iter().filter(|hook| hook.state != "attached");
                spots.extend(missing.map(|hook| format!("probe {}: {}", probe.name, hook.reason)));
            }
            _ => {}
        }
    }
    let of_reason = |(reason, names): (&str, Vec<&str>)| {
        let gives = PROBES.iter().filter(|probe| names.contains(&probe.name)).flat_map(|probe| probe.hooks);
        let gives: Vec<_> = gives.map(|hook| hook.gives).collect();
        format!("not seen: {} ({}: {reason})", gives.join(", "), are_down(&names))
    };
    spots.extend(down.into_iter().map(of_reason));
    spots
}

fn are_down(probes: &[&str]) -> String {
    match probes {
        [one] => format!("probe {one} is down"),
        several => format!("probes {} are down", several.join(", ")),
    }
}

/// Events of the window that did not reach the asked analyzers.
pub fn of_loss(lost: &[(Stage, String, u64)], asked: &[&PluginStatus]) -> Vec<String> {
    let wants = |probe: &String| asked.iter().any(|plugin| plugin.probes.contains(probe));
    let is_asked = |name: &String| asked.iter().any(|plugin| plugin.name == *name);
    let words = |(stage, name, count): &(Stage, String, u64)| match stage {
        Stage::Ring if wants(name) => {
            Some(format!("{count} events of probe {name} are lost: its ring in the kernel was full"))
        }
        Stage::Limit if wants(name) => Some(format!(
            "{count} events of probe {name} were counted and not looked at: more than its limit per second"
        )),
        Stage::Queue if is_asked(name) => Some(format!(
            "{count} events did not reach analyzer {name}: its queue was full, or it failed on them"
        )),
        // Quotas and slow clients take nothing from an analyzer.
        _ => None,
    };
    lost.iter().filter(|(_, _, count)| *count > 0).filter_map(words).collect()
}

/// What the analyzers themselves say, those that do not answer, and windows that reach back
/// further than what they know.
pub fn of_analyzers(answers: &[Answered], window: Duration, now_ns: u64) -> Vec<String> {
    let begin_ns = now_ns.saturating_sub(u64::try_from(window.as_nanos()).unwrap_or(u64::MAX));
    let mut spots = Vec::new();
    for Answered { analyzer, answer } in answers {
        match answer {
            Ok(answer) => {
                let missing = Duration::from_nanos(answer.since_ns.saturating_sub(begin_ns));
                if missing > SLACK {
                    let known = Duration::from_nanos(now_ns.saturating_sub(answer.since_ns));
                    let (known, asked) = (in_words(known), in_words(window));
                    spots.push(format!(
                        "asked about the last {asked}: analyzer {analyzer} knows the last {known} of it"
                    ));
                }
                spots.extend(answer.blind_spots.iter().cloned());
            }
            Err(why) => spots.push(format!("analyzer {analyzer} did not answer: {why}")),
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
    use crate::report::Answer;
    use crate::status::{HookStatus, SourceStatus};

    fn probe(name: &str, state: &str, reason: &str) -> ProbeStatus {
        let missing = HookStatus {
            hook: "tp_btf/x".into(),
            program: String::new(),
            state: "missing".into(),
            reason: "this kernel has no tracepoint x; without it: no resets sent".into(),
            run_count: 0,
            run_time_ns: 0,
            missed: 0,
        };
        ProbeStatus {
            name: name.into(),
            state: state.into(),
            reason: reason.into(),
            schema: 1,
            produced: 0,
            events: 0,
            lost: 0,
            hooks: vec![missing],
        }
    }

    fn plugin() -> PluginStatus {
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        PluginStatus {
            name: "diagnosis".into(),
            probes: text(&["skb-drop", "tcp-reset", "tcp-state"]),
            sources: text(&["snmp", "netdev"]),
            ..PluginStatus::default()
        }
    }

    #[test]
    fn what_is_missing_is_said_in_words_of_what_is_not_seen_and_once_per_reason() {
        let mut board = Board::default();
        for (name, state) in
            [("skb-drop", "down"), ("tcp-state", "down"), ("tcp-reset", "partial"), ("softirq", "down")]
        {
            board.probes.insert(name.into(), probe(name, state, "no CAP_BPF"));
        }
        let source = |name: &str, state: &str| SourceStatus {
            name: name.into(),
            state: state.into(),
            last_error: "why".into(),
            ..SourceStatus::default()
        };
        for (name, state) in [("snmp", "late"), ("netdev", "absent"), ("fd", "failing")] {
            board.sources.insert(name.into(), source(name, state));
        }
        let plugin = plugin();
        let spots = of_board(&board, &[&plugin]);
        assert_eq!(spots.len(), 3, "{spots:?}");
        assert_eq!(spots[0], "probe tcp-reset: this kernel has no tracepoint x; without it: no resets sent");
        assert!(spots[1].starts_with("not seen: "), "{}", spots[1]);
        assert!(spots[1].ends_with("(probes skb-drop, tcp-state are down: no CAP_BPF)"), "{}", spots[1]);
        assert_eq!(spots[2], "counters of snmp are late: why");
    }

    #[test]
    fn only_losses_of_what_was_asked_count() {
        let lost = [
            (Stage::Limit, "skb-drop".to_owned(), 5),
            (Stage::Ring, "softirq".to_owned(), 5),
            (Stage::Ring, "tcp-state".to_owned(), 0),
            (Stage::Queue, "diagnosis".to_owned(), 7),
            (Stage::Queue, "tcp".to_owned(), 7),
            (Stage::Quota, "diagnosis".to_owned(), 7),
        ];
        let plugin = plugin();
        let spots = of_loss(&lost, &[&plugin]);
        assert_eq!(spots.len(), 2, "{spots:?}");
        assert!(spots[0].starts_with("5 events of probe skb-drop"), "{}", spots[0]);
        assert!(spots[1].starts_with("7 events did not reach analyzer diagnosis"), "{}", spots[1]);
    }

    #[test]
    fn a_window_that_is_longer_than_what_is_known_is_said_so() {
        let second = 1_000_000_000;
        let answered = |since_ns| Answered {
            analyzer: "a".into(),
            answer: Ok(Answer { since_ns, blind_spots: vec!["own".into()], ..Answer::default() }),
        };
        let said = |since_ns| of_analyzers(&[answered(since_ns)], Duration::from_secs(60), 100 * second);
        assert_eq!(said(40 * second), ["own"]);
        assert_eq!(
            said(70 * second),
            ["asked about the last 1m: analyzer a knows the last 30s of it", "own"]
        );
        let late = Answered { analyzer: "b".into(), answer: Err("late".into()) };
        let spots = of_analyzers(&[late], Duration::from_secs(60), 100 * second);
        assert_eq!(spots, ["analyzer b did not answer: late"]);
    }
}
