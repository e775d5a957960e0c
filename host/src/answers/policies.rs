//! Findings about a firewall's rule that stands for network policies, in the words of Kubernetes.

use crate::answers::report::{Action, Evidence, Finding};

/// The attribute with the kinds and names of policies, e.g. `NetworkPolicy shop/deny-all, NetworkPolicy shop/web`.
pub const POLICIES: &str = "policies";
/// No policy lets through what was dropped.
const CODE: &str = "network-policy";
/// What analyzers say of a rule that ends packets.
const SAID: [(&str, &str); 2] =
    [("firewall-drop", "a firewall rule drops"), ("firewall-reject", "a firewall rule refuses")];

/// Words findings anew whose rules were found to be those of policies; the others stay as they are. A rule that
/// refuses does not answer each packet, as the kernel limits its ICMP errors: then it is two findings of an
/// analyzer, and one here.
pub fn explain(findings: Vec<Finding>) -> Vec<Finding> {
    let mut explained: Vec<Finding> = Vec::new();
    let mut told: Vec<(usize, Title)> = Vec::new();
    for mut finding in findings {
        let policies = policies(&finding);
        let said = SAID.iter().find(|(code, _)| *code == finding.code);
        let Some((_, said)) = said.filter(|_| !policies.is_empty()) else {
            explained.push(finding);
            continue;
        };
        let title = Title::of(&finding.title, said, &policies);
        finding.code = CODE.to_owned();
        finding.actions.splice(0..0, policies.iter().map(|policy| look(policy)));
        match told.iter().find(|(_, known)| known.is_of_same_policies(&title)) {
            Some((at, known)) => {
                let count = explained[*at].count + finding.count;
                explained[*at].absorb(finding);
                explained[*at].count = count;
                explained[*at].title = known.text(count);
            }
            None => {
                finding.title = title.text(finding.count);
                told.push((explained.len(), title));
                explained.push(finding);
            }
        }
    }
    explained
}

/// Kinds and names.
fn policies(finding: &Finding) -> Vec<String> {
    let named = finding.evidence.iter().filter_map(|line: &Evidence| line.attr(POLICIES));
    let mut policies: Vec<_> = named.flat_map(|named| named.split(", ")).map(str::to_owned).collect();
    policies.sort();
    policies.dedup();
    policies
}

/// What is said of policies.
struct Title {
    /// `n1: `
    place: String,
    /// `NetworkPolicy shop/a does not allow`
    policies: String,
    /// ` TCP 10.0.0.1:4242 -> 10.0.0.9:80`
    what: String,
}

impl Title {
    /// From what is said of a rule, with `said` in it.
    fn of(title: &str, said: &str, policies: &[String]) -> Self {
        let (place, behind) = title.split_once(said).unwrap_or_default();
        let (what, _) = behind.rsplit_once(": ").unwrap_or((behind, ""));
        let does = if policies.len() == 1 { "does" } else { "do" };
        let policies = format!("{} {does} not allow", policies.join(" and "));
        Self { place: place.to_owned(), policies, what: what.to_owned() }
    }

    fn is_of_same_policies(&self, other: &Self) -> bool {
        (&self.place, &self.policies) == (&other.place, &other.policies)
    }

    fn text(&self, count: u64) -> String {
        let Self { place, policies, what } = self;
        let packets = if count == 1 { "packet" } else { "packets" };
        format!("{place}{policies}{what}: {count} {packets} kept out")
    }
}

/// The command that shows a policy.
fn look(policy: &str) -> Action {
    let (kind, name) = policy.rsplit_once(' ').unwrap_or(("", policy));
    let (resource, how) = match kind {
        "Calico NetworkPolicy" => ("networkpolicies.projectcalico.org", "get -o yaml"),
        "Calico GlobalNetworkPolicy" => ("globalnetworkpolicies.projectcalico.org", "get -o yaml"),
        _ => ("networkpolicy", "describe"),
    };
    let command = match name.split_once('/') {
        Some((namespace, name)) => format!("kubectl -n {namespace} {how} {resource} {name}"),
        None => format!("kubectl {how} {resource} {name}"),
    };
    Action::look(format!("see what {policy} allows, and which pods it selects"), command)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROPS: &str = "n1: a firewall rule drops TCP 10.0.0.1:4242 -> 10.0.0.9:80: 3 packets";
    const REFUSES: &str = "n1: a firewall rule refuses TCP 10.0.0.1:4243 -> 10.0.0.9:80: 1 packet";

    fn finding(code: &str, title: &str, count: u64, policies: &[&str]) -> Finding {
        let line = |policies: &&str| Evidence {
            attrs: vec![(POLICIES.to_owned(), (*policies).to_owned())],
            ..Evidence::default()
        };
        let evidence = policies.iter().map(line).collect();
        Finding { evidence, title: title.to_owned(), count, ..Finding::test(code) }
    }

    #[test]
    fn a_rule_of_policies_is_told_as_what_they_do_not_allow() {
        let both = ["NetworkPolicy shop/a, Calico GlobalNetworkPolicy b"];
        let found = explain(vec![finding("firewall-drop", DROPS, 3, &both)]).remove(0);
        assert_eq!(found.code, "network-policy");
        assert_eq!(
            found.title,
            "n1: Calico GlobalNetworkPolicy b and NetworkPolicy shop/a do not allow TCP 10.0.0.1:4242 -> 10.0.0.9:80: 3 packets kept out"
        );
        let commands: Vec<_> = found.actions.iter().filter_map(|action| action.command.as_deref()).collect();
        assert_eq!(
            commands[..2],
            [
                "kubectl get -o yaml globalnetworkpolicies.projectcalico.org b",
                "kubectl -n shop describe networkpolicy a"
            ]
        );
    }

    #[test]
    fn what_one_rule_refused_and_what_it_did_not_answer_is_one_finding() {
        let of_a = ["NetworkPolicy shop/a", "NetworkPolicy shop/a"];
        let found = explain(vec![
            finding("firewall-drop", DROPS, 3, &of_a),
            finding("peer-unresponsive", DROPS, 9, &[]),
            finding("firewall-reject", REFUSES, 1, &of_a),
            finding("firewall-reject", REFUSES, 1, &["NetworkPolicy shop/b"]),
        ]);
        let titles: Vec<_> = found.iter().map(|found| (found.count, found.title.as_str())).collect();
        assert_eq!(
            titles,
            [
                (
                    4,
                    "n1: NetworkPolicy shop/a does not allow TCP 10.0.0.1:4242 -> 10.0.0.9:80: 4 packets kept out"
                ),
                (9, DROPS),
                (
                    1,
                    "n1: NetworkPolicy shop/b does not allow TCP 10.0.0.1:4243 -> 10.0.0.9:80: 1 packet kept out"
                ),
            ]
        );
    }

    #[test]
    fn what_is_no_policys_stays_as_it_is() {
        let findings = vec![
            finding("firewall-reject", REFUSES, 1, &[]),
            finding("port-not-listening", REFUSES, 1, &["NetworkPolicy shop/a"]),
        ];
        assert_eq!(explain(findings.clone()), findings);
    }
}
