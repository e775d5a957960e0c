//! The policies of Kubernetes that a rule stands for, where the network plugin writes their names into comments.
//!
//! A policy drops nothing: it lets through what it allows, and one rule ends the rest. Which policies it
//! speaks for stands in the rules before it.
//!
//! | plugin | the rule that ends the rest | the policies before it |
//! |---|---|---|
//! | kube-router 1.x, 2.x (k3s too) | in `KUBE-POD-FW-…`: `REJECT traffic destined for POD name:P namespace: N` | `run through nw policy NAME` |
//! | Calico with iptables or nftables | in `cali-tw-…`, `cali-fw-…`: `Drop if no policies passed packet` | jumps to `cali-pi-…`, `cali-po-…`, also by way of a group (`cali-gi-…`, `cali-go-…`), whose first rule says `Policy N/knp.default.NAME ingress`, in newer versions `KubernetesNetworkPolicy N/NAME ingress` |
//!
//! Those that decide in eBPF programs (Cilium, Calico's other mode) or Open vSwitch have no rules.

use super::rules::Rule;

/// What Calico puts before the name of a policy of Kubernetes itself.
const OF_KUBERNETES: &str = "knp.default.";

/// Policies of one rule that are named.
const MAX_POLICIES: usize = 8;

/// Their kinds and names, e.g. `NetworkPolicy shop/deny-all`; none if the rule stands for none.
pub(super) fn of(ending: &Rule, rules: &[Rule]) -> Vec<String> {
    let mut found = kube_router(ending, rules);
    found.extend(calico(ending, rules));
    found.sort();
    found.dedup();
    found.truncate(MAX_POLICIES);
    found
}

/// Whether it may be the name of an object, with its namespace: comments may hold anything, and names become
/// part of commands that people copy.
fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_part = |part: &str| {
        part.starts_with(is_plain) && part.chars().all(|c| is_plain(c) || matches!(c, '-' | '.'))
    };
    text.split('/').all(is_part)
}

fn kube_router(ending: &Rule, rules: &[Rule]) -> Vec<String> {
    let is_for_pod = |comment: &String| comment.contains("traffic destined for POD name:");
    if !ending.comments.iter().any(is_for_pod) {
        return Vec::new();
    }
    // Its own comment has it, or that of a rule which leads here, from version to version.
    let leading = rules.iter().filter(|rule| rule.target() == Some(ending.chain_id()));
    let namespace = |comment: &String| {
        let (_, behind) = comment.split_once(" namespace: ").or_else(|| comment.split_once(" ns: "))?;
        behind.split(' ').next().map(str::to_owned)
    };
    let namespace =
        std::iter::once(ending).chain(leading).flat_map(|rule| &rule.comments).find_map(namespace);
    let name = |policy: &str| match &namespace {
        Some(namespace) => format!("{namespace}/{policy}"),
        None => policy.to_owned(),
    };
    let beside =
        rules.iter().filter(|rule| rule.chain_id() == ending.chain_id()).flat_map(|rule| &rule.comments);
    let names = beside.filter_map(|comment| comment.strip_prefix("run through nw policy ")).map(name);
    names.filter(|name| is_name(name)).map(|name| format!("NetworkPolicy {name}")).collect()
}

fn calico(ending: &Rule, rules: &[Rule]) -> Vec<String> {
    let is_end = |rule: &&Rule| {
        rule.comments.iter().any(|comment| comment.contains("Drop if no policies passed packet"))
    };
    let mut chains: Vec<&str> = Vec::new();
    if is_of_policies(&ending.chain) {
        // A rule of a policy of Calico's own that denies.
        chains.push(&ending.chain);
    } else if is_end(&ending) {
        // One tier of policies after the other, each with its end.
        let beside = rules.iter().filter(|rule| rule.chain_id() == ending.chain_id());
        let before: Vec<_> = beside.take_while(|rule| rule.id() != ending.id()).collect();
        let tier = before.iter().rev().take_while(|rule| !is_end(rule));
        chains.extend(tier.filter_map(|rule| rule.leads_to.as_deref()).filter(|chain| is_of_policies(chain)));
    }
    let of_chain = |chain: &str| -> Vec<&Rule> {
        rules.iter().filter(|rule| rule.table == ending.table && rule.chain == chain).collect()
    };
    let groups = chains.iter().flat_map(|chain| of_chain(chain));
    let members = groups.filter_map(|rule| rule.leads_to.as_deref()).filter(|chain| is_of_policies(chain));
    let members: Vec<_> = members.collect();
    let named = chains.into_iter().chain(members).flat_map(of_chain).flat_map(|rule| &rule.comments);
    named.filter_map(|comment| calico_policy(comment)).collect()
}

fn is_of_policies(chain: &str) -> bool {
    ["cali-pi-", "cali-po-", "cali-gi-", "cali-go-"].iter().any(|prefix| chain.starts_with(prefix))
}

fn calico_policy(comment: &str) -> Option<String> {
    let words: Vec<_> = comment.split(' ').collect();
    let [kind, name, "ingress" | "egress"] = words[..] else { return None };
    is_name(name).then_some(())?;
    let of_kubernetes = name.split_once('/').and_then(|(namespace, name)| {
        let name = if kind == "KubernetesNetworkPolicy" { name } else { name.strip_prefix(OF_KUBERNETES)? };
        Some(format!("NetworkPolicy {namespace}/{name}"))
    });
    match kind {
        "Policy" | "KubernetesNetworkPolicy" | "NetworkPolicy" | "GlobalNetworkPolicy" => {
            let own = if name.contains('/') { "NetworkPolicy" } else { "GlobalNetworkPolicy" };
            Some(of_kubernetes.unwrap_or_else(|| format!("Calico {own} {name}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(chain: &str, handle: u64, comments: &[&str], leads_to: &str) -> Rule {
        Rule {
            table: "ip filter".to_owned(),
            chain: chain.to_owned(),
            handle,
            leads_to: Some(leads_to.to_owned()).filter(|to| !to.is_empty()),
            comments: comments.iter().map(|comment| (*comment).to_owned()).collect(),
            ..Rule::default()
        }
    }

    #[test]
    fn kube_router_names_the_policies_of_a_pod() {
        let end = "rule to REJECT traffic destined for POD name:db-0 namespace: shop";
        let rules = [
            rule("KUBE-POD-FW-A", 1, &["rule to drop invalid state for pod"], ""),
            rule("KUBE-POD-FW-A", 2, &["run through nw policy deny-all"], "KUBE-NWPLCY-1"),
            rule("KUBE-POD-FW-A", 3, &["run through nw policy only-web"], "KUBE-NWPLCY-2"),
            rule("KUBE-POD-FW-A", 4, &[end], ""),
            rule("KUBE-POD-FW-B", 5, &["run through nw policy of-another"], "KUBE-NWPLCY-3"),
        ];
        assert_eq!(of(&rules[3], &rules), ["NetworkPolicy shop/deny-all", "NetworkPolicy shop/only-web"]);
        assert_eq!(of(&rules[0], &rules), [""; 0], "an invalid state is no policy's");
    }

    #[test]
    fn what_is_no_name_is_no_policy() {
        let end = "rule to REJECT traffic destined for POD name:db-0 namespace: shop";
        for name in ["x;reboot", "$(reboot)", "-a", "a, b", ""] {
            let rules = [
                rule("KUBE-POD-FW-A", 1, &[&format!("run through nw policy {name}")], "KUBE-NWPLCY-1"),
                rule("KUBE-POD-FW-A", 2, &[end], ""),
            ];
            assert_eq!(of(&rules[1], &rules), [""; 0], "{name}");
        }
    }

    #[test]
    fn its_nftables_have_the_namespace_in_the_rule_that_leads_there() {
        let leading = "jump traffic to POD name:db-0 ns: shop to chain KUBE-POD-FW-A";
        let rules = [
            rule("KUBE-ROUTER-FORWARD", 1, &[leading], "KUBE-POD-FW-A"),
            rule("KUBE-POD-FW-A", 2, &["run through nw policy deny-all"], "KUBE-NWPLCY-1"),
            rule("KUBE-POD-FW-A", 3, &["REJECT traffic destined for POD name:db-0"], ""),
        ];
        assert_eq!(of(&rules[2], &rules), ["NetworkPolicy shop/deny-all"]);
        assert_eq!(of(&rules[2], &rules[1..]), ["NetworkPolicy deny-all"]);
    }

    #[test]
    fn calico_names_the_policies_of_a_tier() {
        let rules = [
            rule("cali-tw-cali1", 1, &["cali:a", "Start of tier security"], ""),
            rule("cali-tw-cali1", 2, &["cali:b"], "cali-pi-_s"),
            rule("cali-tw-cali1", 3, &["End of tier security. Drop if no policies passed packet"], ""),
            rule("cali-tw-cali1", 4, &["cali:c"], "cali-gi-_g"),
            rule("cali-tw-cali1", 5, &["cali:d", "Drop if no policies passed packet"], ""),
            rule("cali-tw-cali1", 6, &["cali:e", "Drop if no profiles matched"], ""),
            rule("cali-pi-_s", 7, &["cali:f", "Policy security.lockdown ingress"], ""),
            rule("cali-gi-_g", 8, &["cali:g"], "cali-pi-_k"),
            rule("cali-gi-_g", 9, &["cali:h"], "cali-pi-_n"),
            rule("cali-pi-_k", 10, &["cali:i", "Policy shop/knp.default.deny-all ingress"], ""),
            rule("cali-pi-_n", 11, &["KubernetesNetworkPolicy shop/only-web ingress"], ""),
            rule("cali-pi-_n", 12, &["Policy shop/default.own ingress"], ""),
        ];
        assert_eq!(of(&rules[2], &rules), ["Calico GlobalNetworkPolicy security.lockdown"]);
        let of_kubernetes = [
            "Calico NetworkPolicy shop/default.own",
            "NetworkPolicy shop/deny-all",
            "NetworkPolicy shop/only-web",
        ];
        assert_eq!(of(&rules[4], &rules), of_kubernetes);
        assert_eq!(of(&rules[5], &rules), [""; 0], "a profile is no policy");
        assert_eq!(of(&rules[6], &rules), ["Calico GlobalNetworkPolicy security.lockdown"]);
    }
}
