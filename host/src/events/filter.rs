//! Which events somebody wants to see: one [`Filter`] for the query of the event server and for the
//! flags of the command line, so that both understand the same values and refuse the same ones.
//!
//! Properties are combined with "and", values of one property with "or"; a value behind a `!` is
//! what must not be. Only what was chosen decides: an empty filter admits everything.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::entities::{Entity, Kind};
use crate::events::event::{Event, HOST};
use crate::events::severity::Severity;
use crate::kernel::advice;

/// Properties by which events are chosen, under the names of the query's parameters.
pub const PROPERTIES: [&str; 10] =
    ["type", "reason", "address", "port", "protocol", "namespace", "pod", "entity", "node", "severity"];

/// What a severity can be.
const A_SEVERITY: &str = "one of info, warning, error (or 0, 1, 2)";
/// What a protocol can be.
const A_PROTOCOL: &str = "one of TCP, UDP, ICMP, ICMPv6, ARP, SCTP, DCCP, GRE, ESP, IGMP, or a number";

/// Attributes that say why something happened.
const REASONS: [&str; 2] = ["reason", "error"];
/// Attributes that hold an address.
const ADDRESSES: [&str; 3] = ["saddr", "daddr", "address"];
/// Attributes that hold a port.
const PORTS: [&str; 2] = ["sport", "dport"];

/// What must be true of an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    types: Choice<String>,
    reasons: Choice<String>,
    addresses: Choice<Network>,
    ports: Choice<u16>,
    protocols: Choice<Protocol>,
    namespaces: Choice<String>,
    pods: Choice<String>,
    entities: Choice<String>,
    nodes: Choice<String>,
    severity: Severity,
}

/// Values of one property: any of the wanted ones, if there are any, and none of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Choice<T> {
    wanted: Vec<T>,
    unwanted: Vec<T>,
}

/// An address, or all that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network(IpNet);

/// What events call a protocol: by its name if it has one, and otherwise by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Protocol(String);

/// IP protocols that have a name in events; `flow::protocol` of the plugin SDK gives it to them.
const PROTOCOLS: [(u8, &str); 9] = [
    (1, "ICMP"),
    (2, "IGMP"),
    (6, "TCP"),
    (17, "UDP"),
    (33, "DCCP"),
    (47, "GRE"),
    (50, "ESP"),
    (58, "ICMPv6"),
    (132, "SCTP"),
];
/// The only protocol with a name that is none of IP's.
const ARP: &str = "ARP";

/// A value that its property cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// What it can have, as it follows "is not".
    pub allowed: &'static str,
}

impl Filter {
    /// Adds a value of a property, or several with commas between them; only a severity is always
    /// one. False if there is no such property.
    ///
    /// # Errors
    /// The property cannot have that value.
    pub fn add(&mut self, property: &str, value: &str) -> Result<bool, Wrong> {
        match property {
            "type" => self.types.add_list(value, "the name of an event type"),
            "reason" => self.reasons.add_list(&plain_list(value), "the name of a reason or an error"),
            "address" => self.addresses.add_list(value, "an address or a network like 10.0.0.0/8"),
            "port" => self.ports.add_list(value, "a port number up to 65535"),
            "protocol" => self.protocols.add_list(value, A_PROTOCOL),
            "namespace" => self.namespaces.add_list(value, "the name of a namespace"),
            "pod" => self.pods.add_list(value, "the name of a pod"),
            "entity" => self.entities.add_list(value, "the name or the id of an entity"),
            "node" => self.nodes.add_list(value, "the name of a node"),
            "severity" => severity(value).map(|severity| self.severity = severity),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    /// Whether an event is what is wanted.
    pub fn admits(&self, event: &Event) -> bool {
        let who = event.who.as_deref();
        let named = |names: &[&str], is: &dyn Fn(&str) -> bool| {
            event.attrs.iter().any(|(name, value)| names.contains(&name.as_str()) && is(value))
        };
        event.severity >= self.severity
            && self.types.admits(|wanted| event.kind.eq_ignore_ascii_case(wanted))
            && self.reasons.admits(|wanted| named(&REASONS, &|has| advice::plain(has) == *wanted))
            && self.addresses.admits(|wanted| named(&ADDRESSES, &|has| wanted.contains(has)))
            && self.ports.admits(|wanted| named(&PORTS, &|has| has.parse() == Ok(*wanted)))
            && self
                .protocols
                .admits(|wanted| named(&["protocol"], &|has| has.eq_ignore_ascii_case(&wanted.0)))
            && self.namespaces.admits(|wanted| who.is_some_and(|who| is_namespace(who, wanted)))
            && self.pods.admits(|wanted| who.is_some_and(|who| is_pod(who, wanted)))
            && self.entities.admits(|wanted| {
                wanted.parse() == Ok(event.entity) || who.is_some_and(|who| is_called(who, wanted))
            })
            && self.nodes.admits(|wanted| *event.node == **wanted)
    }

    /// The event types that were named, wanted or not.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.types.all()
    }
}

/// Whether a name that a person gives means this entity: its own, the one that lists show, or the
/// one that event lines show.
pub fn is_called(who: &Entity, name: &str) -> bool {
    is_pod(who, name) || who.kind == Kind::Host && name.split_once('/') == Some((HOST, HOST))
}

fn is_namespace(who: &Entity, name: &str) -> bool {
    who.namespace == name || who.kind == Kind::Host && name == HOST
}

/// By its name, or with its namespace as `diagnose --pod` wants it.
fn is_pod(who: &Entity, name: &str) -> bool {
    who.name == name || who.display() == name || who.kind == Kind::Host && name == HOST
}

/// Reasons as they are listed, each behind its `!`.
fn plain_list(values: &str) -> String {
    let plain = |value: &str| match value.trim().strip_prefix('!') {
        Some(unwanted) => format!("!{}", advice::plain(unwanted)),
        None => advice::plain(value),
    };
    values.split(',').map(plain).collect::<Vec<_>>().join(",")
}

fn severity(value: &str) -> Result<Severity, Wrong> {
    match value.to_ascii_lowercase().as_str() {
        "info" | "0" => Ok(Severity::Info),
        "warn" | "warning" | "1" => Ok(Severity::Warning),
        "error" | "critical" | "2" => Ok(Severity::Critical),
        _ => Err(Wrong { allowed: A_SEVERITY }),
    }
}

impl<T: FromStr> Choice<T> {
    fn add_list(&mut self, values: &str, allowed: &'static str) -> Result<(), Wrong> {
        values.split(',').try_for_each(|value| self.add(value.trim(), allowed))
    }

    fn add(&mut self, value: &str, allowed: &'static str) -> Result<(), Wrong> {
        let (list, value) = match value.strip_prefix('!') {
            Some(unwanted) => (&mut self.unwanted, unwanted),
            None => (&mut self.wanted, value),
        };
        if value.is_empty() {
            return Err(Wrong { allowed });
        }
        list.push(value.parse().map_err(|_| Wrong { allowed })?);
        Ok(())
    }
}

impl<T> Choice<T> {
    fn admits(&self, is: impl Fn(&T) -> bool) -> bool {
        (self.wanted.is_empty() || self.wanted.iter().any(&is)) && !self.unwanted.iter().any(is)
    }
}

impl Choice<String> {
    fn all(&self) -> impl Iterator<Item = &str> {
        self.wanted.iter().chain(&self.unwanted).map(String::as_str)
    }
}

impl<T> Default for Choice<T> {
    fn default() -> Self {
        Self { wanted: Vec::new(), unwanted: Vec::new() }
    }
}

impl Network {
    fn contains(self, address: &str) -> bool {
        address.parse().is_ok_and(|address: IpAddr| self.0.contains(&address.to_canonical()))
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let single = || text.parse().map(|address: IpAddr| IpNet::from(address.to_canonical()));
        text.parse().or_else(|_| single()).map(Self).map_err(|_| ())
    }
}

impl FromStr for Protocol {
    type Err = ();

    /// Reads a name in any case, the number of an IP protocol, or an Ethernet type like 0x88cc.
    fn from_str(text: &str) -> Result<Self, ()> {
        let is_meant = |name: &&str| name.eq_ignore_ascii_case(text);
        if let Some(name) = PROTOCOLS.map(|(_, name)| name).into_iter().chain([ARP]).find(is_meant) {
            return Ok(Self(name.to_owned()));
        }
        if let Some(digits) = text.strip_prefix("0x") {
            let number = u16::from_str_radix(digits, 16).map_err(|_| ())?;
            return Ok(Self(format!("0x{number:04x}")));
        }
        let number: u8 = text.parse().map_err(|_| ())?;
        let named = PROTOCOLS.iter().find(|(known, _)| *known == number);
        Ok(Self(named.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())))
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this is not {}", self.allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::event::NewEvent;
    use crate::view::View;

    /// Whether a drop in `web` on node `n1` passes all these properties.
    fn passes(properties: &[(&str, &str)]) -> bool {
        let view = View::test();
        let attrs = [
            ("protocol", "TCP"),
            ("saddr", "10.0.0.1"),
            ("sport", "4242"),
            ("daddr", "fd00::2"),
            ("dport", "80"),
            ("reason", "NO_SOCKET"),
        ];
        let attrs = attrs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let (kind, entity) = ("PACKETLOSS".to_owned(), view.test_entity(9, "web"));
        let event =
            NewEvent { kind, attrs, entity, severity: Severity::Warning, time_ns: 1, ..NewEvent::default() };
        view.events.emit("p", vec![event]);
        let event = view.events.read(&mut view.events.oldest(), 1).events.remove(0);
        let mut filter = Filter::default();
        for (property, value) in properties {
            assert_eq!(filter.add(property, value), Ok(true), "{property}={value}");
        }
        filter.admits(&event)
    }

    #[test]
    fn every_property_admits_what_it_names_and_not_what_it_excludes() {
        for (property, value) in [
            ("type", "packetloss"),
            ("type", "X,PACKETLOSS"),
            ("reason", "NO_SOCKET"),
            ("reason", "X,skb_drop_reason_no_socket"),
            ("address", "10.0.0.1"),
            ("address", "10.0.0.0/8"),
            ("address", "::ffff:10.0.0.1"),
            ("address", "fd00::/64"),
            ("port", "80"),
            ("port", "1,4242"),
            ("protocol", "tcp"),
            ("protocol", "6"),
            ("protocol", "ARP,TCP"),
            ("pod", "web"),
            ("pod", "db, web"),
            ("entity", "web"),
            ("entity", "1"),
            ("entity", "db,web"),
            ("node", "n1"),
            ("node", "n0,n1"),
        ] {
            assert!(passes(&[(property, value)]), "{property}={value}");
            let excluded = value.split(',').map(|value| format!("!{}", value.trim()));
            let excluded = excluded.collect::<Vec<_>>().join(",");
            assert!(!passes(&[(property, &excluded)]), "{property}={excluded}");
        }
        for (property, value) in [
            ("type", "X"),
            ("reason", "NETFILTER_DROP"),
            ("address", "10.0.0.2"),
            ("address", "192.168.0.0/16"),
            ("port", "81"),
            ("protocol", "UDP"),
            ("namespace", "shop"),
            ("pod", "we"),
            ("entity", "2"),
            ("node", "n2"),
            ("severity", "error"),
        ] {
            assert!(!passes(&[(property, value)]), "{property}={value}");
        }
        assert!(passes(&[("severity", "warning")]));
    }

    #[test]
    fn properties_must_all_hold_and_values_are_alternatives() {
        assert!(passes(&[("port", "81"), ("port", "80"), ("protocol", "TCP")]));
        assert!(!passes(&[("port", "80"), ("protocol", "UDP")]));
        assert!(!passes(&[("port", "80"), ("port", "!4242")]));
        assert!(passes(&[("type", "!TCPRETRANS"), ("namespace", "!shop")]));
    }

    #[test]
    fn what_a_property_cannot_be_is_refused() {
        for (property, value) in [
            ("address", "10.0.0.300"),
            ("address", "10.0.0.0/33"),
            ("port", "65536"),
            ("port", "http"),
            ("severity", "loud"),
            ("type", ""),
            ("type", "A,"),
            ("pod", "!"),
            ("pod", "a,"),
            ("protocol", "FOO"),
            ("protocol", "256"),
            ("protocol", "0xfffff"),
        ] {
            assert!(Filter::default().add(property, value).is_err(), "{property}={value}");
        }
        assert_eq!(Filter::default().add("colour", "red"), Ok(false));
    }

    #[test]
    fn every_protocol_that_the_sdk_names_can_be_asked_for() {
        let sdk = include_str!("../../../plugins/sdk/src/protocol.rs");
        let (_, body) = sdk.split_once("pub fn name(").expect("the function that names protocols");
        let (body, _) = body.split_once("name.to_owned()").expect("its end");
        let names: Vec<_> =
            body.lines().filter_map(|line| line.split_once("=> \"")?.1.split('"').next()).collect();
        assert_eq!(names, PROTOCOLS.map(|(_, name)| name));
        for name in names.into_iter().chain([ARP]) {
            assert_eq!(name.to_ascii_lowercase().parse(), Ok(Protocol(name.to_owned())));
            assert!(A_PROTOCOL.contains(name), "{name}");
        }
        for (given, meant) in [("17", "UDP"), ("89", "89"), ("0x88CC", "0x88cc")] {
            assert_eq!(given.parse(), Ok(Protocol(meant.to_owned())));
        }
    }

    #[test]
    fn the_host_is_meant_by_the_name_that_its_lines_show() {
        let host = Entity { id: 1, kind: Kind::Host, cookie: 1, inode: 7, ..Entity::default() };
        for name in ["host", "hostNetwork", "hostNetwork/hostNetwork"] {
            assert!(is_called(&host, name), "{name}");
        }
        assert!(!is_called(&host, "web") && is_namespace(&host, HOST) && is_pod(&host, HOST));
        let pod = Entity { namespace: "shop".to_owned(), name: "web-0".to_owned(), ..Entity::default() };
        assert!(is_pod(&pod, "web-0") && is_pod(&pod, "shop/web-0") && !is_pod(&pod, "db/web-0"));
    }
}
