//! Which rules of nf_tables end packets of a conversation: those whose counters rise from one reading to the next,
//! and that are for it by what they compare.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::policies;
use super::rules::{Field, Rule};
use crate::check::fact::{Fact, MAX_FACTS};
use crate::text::escape;

/// Bytes of the comments of one rule.
const COMMENTS: usize = 200;

/// The rules of nf_tables at two moments.
pub(super) struct Counted {
    pub(super) before: Vec<Rule>,
    pub(super) after: Vec<Rule>,
    /// The time between the moments.
    pub(super) over: Duration,
    /// What is known of the conversation that rules may compare.
    pub(super) of_flow: Vec<(Field, Vec<u8>)>,
}

impl Counted {
    /// The rules that end packets of the conversation now; if none is known to, those that end any; if none
    /// does, those that have; and all others that could, if nothing else names them.
    pub(super) fn facts(&self, with_others: bool) -> Vec<Fact> {
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
        let comments = escape::admit(rule.comments.join("; "), COMMENTS);
        text.push_str(&format!(", commented {comments:?}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
