//! Which events are wanted, as flags and as the query of the event server.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::cli::moment::Moment;
use crate::entities::Entity;
use crate::events::filter::{self, is_called};
use crate::text::similar;

/// Flags that choose events.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Which events")]
pub struct Filter {
    /// Only events of this type, as `inspector list event` names it
    #[arg(long = "type", value_name = "TYPE", value_parser = of("type"))]
    kinds: Vec<String>,
    /// Only events this bad or worse: one of info, warning, error (or 0, 1, 2)
    #[arg(long = "min-severity", visible_alias = "severity", value_name = "LEVEL")]
    #[arg(value_parser = of("severity"))]
    severity: Option<String>,
    /// Only events with this reason of a drop or reset, or with this error
    #[arg(long = "reason", value_name = "NAME", value_parser = of("reason"))]
    reasons: Vec<String>,
    /// Only events with this address, or one of this network, at either end
    #[arg(long = "address", visible_alias = "ip", value_name = "ADDRESS", value_parser = of("address"))]
    addresses: Vec<String>,
    /// Only events with this port at either end
    #[arg(long = "port", value_name = "PORT", value_parser = of("port"))]
    ports: Vec<String>,
    /// Only events of this protocol: TCP, UDP, ICMP, ICMPv6, ARP, SCTP, …, or a number
    #[arg(long = "protocol", value_name = "NAME", value_parser = of("protocol"))]
    protocols: Vec<String>,
    /// Only events of this Kubernetes namespace
    #[arg(long = "namespace", value_name = "NAME", value_parser = of("namespace"))]
    namespaces: Vec<String>,
    /// Only events of this pod, NAME or NS/NAME, or of what has this name
    #[arg(long = "pod", value_name = "NAME", value_parser = of("pod"))]
    pods: Vec<String>,
    /// Only events of this entity, by id or by name as `inspector list entity` shows it
    #[arg(long = "entity", value_name = "NAME", value_parser = of("entity"))]
    entities: Vec<String>,
    /// Only events of this node; of a cluster, only its agent is asked
    #[arg(long = "node", value_name = "NAME", value_parser = of("node"))]
    nodes: Vec<String>,
    /// Every event on a line of its own: also the normal course of things, the agent's own
    /// connections, and each of several events that tell of one fault
    #[arg(short, long)]
    pub all: bool,
    /// Also what the server still has since then: 5m, 14:30, or 2026-11-30T14:30:00Z
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    since: Option<Moment>,
    /// End with what happened then
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    until: Option<Moment>,
    /// Begin with the last N events that the server still has
    #[arg(short = 'n', long = "lines", value_name = "N")]
    lines: Option<usize>,
    /// End with what the server has already
    #[arg(long)]
    pub no_follow: bool,
}

/// A parser of the values of a property.
fn of(property: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |value| {
        filter::Filter::default().add(property, value).map_err(|wrong| wrong.to_string())?;
        Ok(value.to_owned())
    }
}

impl Filter {
    /// Path and query of the stream; `since` is how long ago a reconnect begins.
    pub fn path(&self, since: Option<Duration>, noise: bool) -> String {
        let mut query = vec![("follow", (!self.no_follow).to_string())];
        query.extend(self.properties().map(|(name, value)| (name, value.to_owned())));
        if !noise && !self.is_noise_wanted() {
            query.push(("noise", "false".to_owned()));
        }
        match since {
            Some(since) => query.push(("since", format!("{}ms", since.as_millis()))),
            None => {
                query.extend(self.since.as_ref().map(|since| ("since", since.query())));
                query.extend(self.lines.map(|lines| ("backlog", lines.to_string())));
            }
        }
        query.extend(self.until.as_ref().map(|until| ("until", until.query())));
        let mut path = String::from("/api/v1/events");
        for (at, (name, value)) in query.iter().enumerate() {
            let before = if at == 0 { '?' } else { '&' };
            write!(path, "{before}{name}={}", percent_encoded(value))
                .expect("writing to a String cannot fail");
        }
        path
    }

    /// Whether the window that was asked for is over.
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.until.as_ref().is_some_and(|until| until.at(now) <= now)
    }

    /// Whether one of the wanted names may need a look at who there is.
    pub fn names_somebody(&self) -> bool {
        wanted(&self.namespaces).chain(wanted(&self.pods)).chain(wanted(&self.entities)).next().is_some()
    }

    /// A sentence about each wanted name that none of these entities has.
    pub fn nobody(&self, entities: &[Entity]) -> Vec<String> {
        let is_entity = |who: &Entity, name: &str| name.parse() == Ok(who.id) || is_called(who, name);
        let is_pod = |who: &Entity, name: &str| is_called(who, name);
        let is_namespace =
            |who: &Entity, name: &str| who.namespace == name || name == crate::events::event::HOST;
        let names: Vec<_> = entities.iter().map(Entity::display).collect();
        let mut namespaces: Vec<_> = entities.iter().map(|who| who.namespace.clone()).collect();
        namespaces.sort();
        namespaces.dedup();
        let missing = |what, given: &[String], is: &dyn Fn(&Entity, &str) -> bool, known: &[String]| {
            let nobody = |name: &&str| !entities.iter().any(|who| is(who, name));
            let told = |name: &str| format!("there is no {what} {name:?} now{}", similar::hint(name, known));
            wanted(given).filter(nobody).map(told).collect::<Vec<_>>()
        };
        [
            missing("namespace", &self.namespaces, &is_namespace, &namespaces),
            missing("pod", &self.pods, &is_pod, &names),
            missing("entity", &self.entities, &is_entity, &names),
        ]
        .concat()
    }

    /// Whether one of the wanted names is that of a node.
    pub fn names_nodes(&self) -> bool {
        wanted(&self.nodes).next().is_some()
    }

    /// Whether events of this node may be wanted.
    pub fn wants_node(&self, node: &str) -> bool {
        let values = || self.nodes.iter().flat_map(|list| list.split(',')).map(str::trim);
        let is_excluded = values().any(|value| value.strip_prefix('!') == Some(node));
        !is_excluded && (!self.names_nodes() || wanted(&self.nodes).any(|name| name == node))
    }

    /// A sentence about each wanted node that is none of these.
    pub fn no_node(&self, nodes: &[String]) -> Vec<String> {
        let told = |name: &str| {
            let hint = similar::hint(name, nodes);
            format!("no asked agent is that of node {name:?}{hint}; there are {}", nodes.join(", "))
        };
        wanted(&self.nodes).filter(|name| !nodes.iter().any(|node| node == name)).map(told).collect()
    }

    /// Wanted reasons.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        wanted(&self.reasons)
    }

    /// Who asks for a reason by its name wants to see it, normal or not.
    fn is_noise_wanted(&self) -> bool {
        self.all || self.reasons().next().is_some()
    }

    fn properties(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let lists = [
            ("type", &self.kinds),
            ("reason", &self.reasons),
            ("address", &self.addresses),
            ("port", &self.ports),
            ("protocol", &self.protocols),
            ("namespace", &self.namespaces),
            ("pod", &self.pods),
            ("entity", &self.entities),
            ("node", &self.nodes),
        ];
        let lists = lists
            .into_iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name, value.as_str())));
        lists.chain(self.severity.iter().map(|severity| ("severity", severity.as_str())))
    }
}

/// The values that are not excluded, each of a list with commas by itself.
fn wanted(values: &[String]) -> impl Iterator<Item = &str> {
    values.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|value| !value.starts_with('!'))
}

/// Everything but the unreserved characters of RFC 3986 as `%` and two digits.
fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::view::View;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        filter: Filter,
    }

    fn filter(flags: &[&str]) -> Result<Filter, clap::Error> {
        Ok(Flags::try_parse_from(["watch"].iter().chain(flags))?.filter)
    }

    fn path(flags: &[&str]) -> String {
        filter(flags).expect("valid").path(None, false)
    }

    #[test]
    fn a_flag_cannot_smuggle_in_another_parameter() {
        assert_eq!(
            path(&["--type", "A", "--type", "!B", "--pod", "a&type=x y"]),
            "/api/v1/events?follow=true&type=A&type=%21B&pod=a%26type%3Dx%20y&noise=false"
        );
    }

    #[test]
    fn a_reconnect_asks_for_what_happened_meanwhile() {
        let filter = filter(&["--since", "5m", "-n", "3"]).expect("valid");
        assert_eq!(filter.path(None, true), "/api/v1/events?follow=true&since=300000ms&backlog=3");
        let meanwhile = filter.path(Some(Duration::from_millis(1500)), true);
        assert_eq!(meanwhile, "/api/v1/events?follow=true&since=1500ms");
    }

    #[test]
    fn what_is_normal_is_shown_to_who_asks_for_it() {
        assert!(path(&["--type", "PACKETLOSS", "--reason", "!X"]).ends_with("&noise=false"));
        for flags in [&["--all"][..], &["--reason", "QUEUE_PURGE"]] {
            assert!(!path(flags).contains("noise"), "{flags:?}");
        }
    }

    #[test]
    fn a_value_that_can_never_match_is_refused() {
        for flags in [
            &["--address", "10.0.0.256"][..],
            &["--port", "http"],
            &["--min-severity", "loud"],
            &["--type", ""],
            &["--entity", ""],
            &["--protocol", "FOO"],
            &["--since", "yesterday"],
            &["-n", "-1"],
        ] {
            assert!(filter(flags).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn a_name_that_nobody_has_is_told_with_the_one_that_may_be_meant() {
        let view = View::test();
        view.test_entity(9, "web-1");
        let entities: Vec<_> = view.entities.live().iter().map(|who| Entity::clone(who)).collect();
        let told = |flags| filter(flags).expect("valid").nobody(&entities);
        assert_eq!(told(&["--entity", "web1"]), ["there is no entity \"web1\" now (did you mean web-1?)"]);
        assert_eq!(told(&["--pod", "db", "--namespace", "shop"]).len(), 2);
        assert!(told(&["--entity", "web-1", "--entity", "1", "--entity", "!db"]).is_empty());
        assert!(told(&["--entity", "web-1, !db"]).is_empty());
        assert_eq!(told(&["--pod", "web-1,db"]), ["there is no pod \"db\" now"]);
    }

    #[test]
    fn a_node_that_is_not_asked_is_told_with_those_that_are() {
        let asked = ["n1".to_owned(), "n2".to_owned()];
        let told = |flags: &[&str]| filter(flags).expect("valid").no_node(&asked);
        assert!(told(&["--node", "n1,n2", "--node", "!n3"]).is_empty());
        assert_eq!(
            told(&["--node", "nope,n1"]),
            ["no asked agent is that of node \"nope\"; there are n1, n2"]
        );
        assert!(!filter(&["--node", "!n1"]).expect("valid").names_nodes());
    }

    #[test]
    fn of_a_cluster_only_the_nodes_that_are_wanted_are_asked() {
        let of = |values: &[&str]| Filter {
            nodes: values.iter().map(|value| (*value).to_owned()).collect(),
            ..Filter::default()
        };
        let wanted = |values: &[&str]| ["n1", "n2", "n3"].map(|node| of(values).wants_node(node));
        assert_eq!(wanted(&[]), [true, true, true]);
        assert_eq!(wanted(&["n1, n2", "!n2"]), [true, false, false]);
        assert_eq!(wanted(&["!n2"]), [true, false, true]);
    }
}
