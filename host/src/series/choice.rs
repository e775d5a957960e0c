//! Which metrics there are in a scrape. What is left out costs no series, no memory and no line.
//!
//! The agent's own metrics, which tell of loss, are always there.

/// Metrics of every namespace that `essential` has: those by which people notice that something is wrong,
/// and see how much goes on. What analyzers conclude (drops, resets, DNS, …) is there in any case.
const ESSENTIAL: &[&str] = &[
    "inspector_pod_conntrackdrop",
    "inspector_pod_conntrackentries",
    "inspector_pod_conntrackinsertfailed",
    "inspector_pod_conntrackmaxentries",
    "inspector_pod_fdopenfd",
    "inspector_pod_ipoutnoroutes",
    "inspector_pod_netdevrxbytes",
    "inspector_pod_netdevrxdropped",
    "inspector_pod_netdevtxbytes",
    "inspector_pod_netdevtxdropped",
    "inspector_pod_qdiscdrops",
    "inspector_pod_softnetdropped",
    "inspector_pod_tcpactiveopens",
    "inspector_pod_tcpattemptfails",
    "inspector_pod_tcpcurrestab",
    "inspector_pod_tcpestabresets",
    "inspector_pod_tcpextlistendrops",
    "inspector_pod_tcpextlistenoverflows",
    "inspector_pod_tcpexttcpsynretrans",
    "inspector_pod_tcpexttcptimeouts",
    "inspector_pod_tcpinsegs",
    "inspector_pod_tcpoutrsts",
    "inspector_pod_tcpoutsegs",
    "inspector_pod_tcppassiveopens",
    "inspector_pod_tcpretranssegs",
    "inspector_pod_tcpsummarytcptimewaitconn",
    "inspector_pod_udpindatagrams",
    "inspector_pod_udpnoports",
    "inspector_pod_udpoutdatagrams",
    "inspector_pod_udprcvbuferrors",
];

/// What the metrics of [`ESSENTIAL`] are a part of.
const PER_NAMESPACE: &str = "inspector_pod_";

/// How much is taken before `allow` and `deny`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Everything.
    #[default]
    Full,
    /// Of the counters of every namespace those that people watch.
    Essential,
}

/// Which metrics there are.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// How much is taken first.
    pub profile: Profile,
    /// Patterns of names that are taken beside it.
    pub allow: Vec<String>,
    /// Patterns of names that are not taken in any case.
    pub deny: Vec<String>,
}

impl Choice {
    /// Whether there is a metric of this name.
    pub fn takes(&self, name: &str) -> bool {
        let is_in_profile = match self.profile {
            Profile::Full => true,
            Profile::Essential => !name.starts_with(PER_NAMESPACE) || ESSENTIAL.contains(&name),
        };
        let is_among = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        !is_among(&self.deny) && (is_in_profile || is_among(&self.allow))
    }

    /// Patterns that match none of these names: typing errors.
    pub fn strangers<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = &'a String> {
        let is_strange = |pattern: &&String| !names.iter().any(|name| matches(pattern, name));
        self.allow.iter().chain(&self.deny).filter(is_strange)
    }
}

/// Whether a name has the form of a pattern, in which `*` is any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names() {
        for (pattern, name, does) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("*", "", true),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(matches(pattern, name), does, "{pattern} {name}");
        }
    }

    #[test]
    fn a_profile_is_widened_and_narrowed() {
        let of = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let choice = Choice {
            profile: Profile::Essential,
            allow: of(&["inspector_pod_ip*"]),
            deny: of(&["*rsts", "inspector_dns_*"]),
        };
        for (name, is_taken) in [
            ("inspector_pod_tcppassiveopens", true),
            ("inspector_pod_tcpinerrs", false),
            ("inspector_pod_ipforwarding", true),
            ("inspector_pod_tcpoutrsts", false),
            ("inspector_drops_total", true),
            ("inspector_dns_queries_total", false),
        ] {
            assert_eq!(choice.takes(name), is_taken, "{name}");
        }
        let known = ["inspector_pod_ipforwarding".to_owned(), "inspector_pod_tcpoutrsts".to_owned()];
        assert_eq!(choice.strangers(&known).collect::<Vec<_>>(), ["inspector_dns_*"]);
    }
}
