//! One event: as a plugin emits it, as the log keeps it, and as a line on the wire or the screen.
//!
//! Text is made safe to show where it enters. The agent writes lines and the command line reads them,
//! possibly from a server that is broken or hostile, so the text escapes what it shows, whoever wrote
//! it. `meta` and `event` keep the shape that the original exporter's users parse; structured fields
//! stand beside them.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::entities::{Entity, EntityId, Kind};
use crate::events::severity::Severity;
use crate::text::escape::{self, visible};

/// Maximum bytes of a message; a longer one is cut.
pub const MAX_MESSAGE: usize = 1024;
/// Maximum number of attributes of an event; more are dropped.
pub const MAX_ATTRS: usize = 32;
/// Maximum bytes of a type, an attribute's name or a key; a longer one is cut.
pub const MAX_NAME: usize = 64;
/// Maximum bytes of an attribute's value; a longer one is cut.
pub const MAX_ATTR_VALUE: usize = 256;
/// Attribute by which analyzers tell the normal course of things, and its value.
const NOISE: (&str, &str) = ("class", "noise");
/// Attribute of what happened to a connection with this agent: a scrape, a command of its users.
pub(super) const OWN: &str = "own_traffic";
/// Namespace and pod of the host in lines for people and in `meta`, as the original exporter has
/// them; the number of its network namespace is 0 there.
pub const HOST: &str = "hostNetwork";

/// An event as a plugin emits it.
#[derive(Debug, Clone, Default)]
pub struct NewEvent {
    /// When it happened, nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// How bad it is.
    pub severity: Severity,
    /// Type, e.g. `TCP_RCV_RST_ESTAB`.
    pub kind: String,
    /// Where it happened; 0 = unknown.
    pub entity: EntityId,
    /// What a person reads behind the entity.
    pub message: String,
    /// The same facts for programs, in the order in which they are shown.
    pub attrs: Vec<(String, String)>,
    /// Events of one key within a second are folded into one.
    pub dedup_key: Option<String>,
}

/// An event in the log.
#[derive(Debug)]
pub struct Event {
    /// Number in the log, from 1, without gaps.
    pub seq: u64,
    /// When it happened, nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// How bad it is.
    pub severity: Severity,
    /// Type, e.g. `TCP_RCV_RST_ESTAB`.
    pub kind: String,
    /// Plugin that emitted it.
    pub plugin: String,
    /// Node it happened on.
    pub node: Arc<str>,
    /// Where it happened; 0 = unknown.
    pub entity: EntityId,
    /// Who that was at that moment.
    pub who: Option<Arc<Entity>>,
    /// What a person reads behind the entity.
    pub message: String,
    /// The same facts for programs; no name is there twice.
    pub attrs: Vec<(String, String)>,
    /// How many events it stands for.
    pub count: u64,
    /// Written once, by the first reader, for all of them.
    pub(super) json: OnceLock<String>,
}

impl Event {
    /// The event as one line of JSON, with its line feed.
    pub fn json_line(&self) -> &str {
        self.json.get_or_init(|| EventLine::of(self).to_json())
    }

    /// Whether people do not want to read of it: the normal course of things, or what the agent's
    /// own connections cause. A firewall that keeps scrapers out is worth reading of.
    pub fn is_noise(&self) -> bool {
        let has = |name: &str, value: &str| self.attrs.iter().any(|(n, v)| n == name && v == value);
        has(NOISE.0, NOISE.1) || has(OWN, "true") && !has("reason", "NETFILTER_DROP")
    }

    /// Memory it takes in the log, by estimate.
    pub(super) fn bytes(&self) -> usize {
        let attrs: usize = self.attrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
        // Everything is there twice once the JSON line is written, beside some fixed fields.
        768 + 2 * (self.message.len() + attrs)
    }
}

impl NewEvent {
    /// Makes what a guest wrote safe to show and bounds its size.
    pub(super) fn admit(self) -> Self {
        let mut attrs: Vec<(String, String)> = Vec::with_capacity(self.attrs.len().min(MAX_ATTRS));
        for (name, value) in self.attrs.into_iter().take(MAX_ATTRS) {
            let name = escape::admit(name, MAX_NAME);
            if attrs.iter().all(|(known, _)| *known != name) {
                attrs.push((name, escape::admit(value, MAX_ATTR_VALUE)));
            }
        }
        Self {
            kind: escape::admit(self.kind, MAX_NAME),
            message: escape::admit(self.message, MAX_MESSAGE),
            attrs,
            dedup_key: self.dedup_key.map(|key| escape::cut(&key, MAX_ATTR_VALUE).to_owned()),
            ..self
        }
    }
}

/// An event as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// When it happened: RFC 3339, UTC, nanoseconds.
    pub time: String,
    /// `INFO`, `WARN` or `ERROR`.
    pub level: String,
    /// Plugin that emitted it.
    pub source: String,
    /// Its type.
    pub msg: String,
    /// `namespace/pod node=n1 netns=ns4026531993 `; of the host `hostNetwork/hostNetwork … netns=ns0 `.
    pub meta: String,
    /// `protocol=TCP saddr=… state:TCP_OTHER `.
    pub event: String,
    /// Number in its server's log.
    pub seq: u64,
    /// Its type once more, under the name by which it is filtered.
    #[serde(rename = "type")]
    pub kind: String,
    /// How bad it is.
    pub severity: Severity,
    /// How many events it stands for.
    pub count: u64,
    /// What a person reads behind the entity.
    pub message: String,
    /// Where it happened.
    pub entity: EventEntity,
    /// The facts by name, in the order in which they are shown.
    #[serde(with = "ordered_map")]
    pub attrs: Vec<(String, String)>,
}

/// Where an event happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventEntity {
    /// Id on that node; 0 = unknown.
    pub id: u32,
    /// `host`, `pod`, `netns`, `container`, `anonymous`, or `unknown`.
    pub kind: String,
    /// Kubernetes namespace, or empty.
    pub namespace: String,
    /// Pod or other name; empty for the host.
    pub name: String,
    /// The node.
    pub node: String,
    /// Inode number of the network namespace; 0 = unknown.
    pub netns: u64,
    /// Cookie of the network namespace; 0 = unknown.
    pub cookie: u64,
}

impl EventLine {
    /// When it happened, in nanoseconds since the Unix epoch; 0 for what is no time, as another program may have
    /// written it.
    pub fn time_ns(&self) -> u64 {
        let at = humantime::parse_rfc3339(&self.time).ok();
        let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
    }

    /// The line of an event.
    pub fn of(event: &Event) -> Self {
        let entity = EventEntity::of(event);
        let (namespace, pod, netns) = entity.shown();
        let meta = format!("{namespace}/{pod} node={} netns=ns{netns} ", entity.node);
        let time = UNIX_EPOCH + Duration::from_nanos(event.time_ns);
        Self {
            time: humantime::format_rfc3339_nanos(time).to_string(),
            level: event.severity.level().to_owned(),
            source: event.plugin.clone(),
            msg: event.kind.clone(),
            meta,
            event: facts(&event.attrs),
            seq: event.seq,
            kind: event.kind.clone(),
            severity: event.severity,
            count: event.count,
            message: event.message.clone(),
            entity,
            attrs: event.attrs.clone(),
        }
    }

    /// One of a plugin `p` without anything in it.
    #[cfg(test)]
    pub(crate) fn test(kind: &str) -> Self {
        let severity = Severity::Info;
        Self {
            time: "2023-02-03T09:01:03Z".to_owned(),
            level: severity.level().to_owned(),
            source: "p".to_owned(),
            msg: kind.to_owned(),
            meta: String::new(),
            event: String::new(),
            seq: 1,
            kind: kind.to_owned(),
            severity,
            count: 1,
            message: String::new(),
            entity: EventEntity::default(),
            attrs: Vec::new(),
        }
    }

    /// The event as one line of JSON, with its line feed.
    pub fn to_json(&self) -> String {
        let mut line = serde_json::to_string(self).expect("only strings and integers are in it");
        line.push('\n');
        line
    }

    /// The event as one line of text, without a line feed.
    pub fn text(&self) -> String {
        let at = &self.entity;
        let (namespace, pod, netns) = at.shown();
        let mut line = format!(
            "{} {} Namespace={} Pod={} Node={} Netns={} {}",
            visible(&self.level),
            visible(&self.msg),
            visible(namespace),
            visible(pod),
            visible(&at.node),
            netns,
            visible(&self.message),
        );
        if self.count > 1 {
            write!(line, " count={}", self.count).expect("writing to a String cannot fail");
        }
        line
    }
}

impl EventEntity {
    fn of(event: &Event) -> Self {
        let node = event.node.to_string();
        let Some(who) = &event.who else {
            return Self { id: event.entity, kind: "unknown".to_owned(), node, ..Self::default() };
        };
        Self {
            id: event.entity,
            kind: who.kind.as_str().to_owned(),
            namespace: who.namespace.clone(),
            name: who.name.clone(),
            node,
            netns: who.inode,
            cookie: who.cookie,
        }
    }
}

impl EventEntity {
    /// Namespace, pod and network namespace as people read them.
    fn shown(&self) -> (&str, &str, u64) {
        if self.kind == Kind::Host.as_str() {
            (HOST, HOST, 0)
        } else {
            (&self.namespace, &self.name, self.netns)
        }
    }
}

fn facts(attrs: &[(String, String)]) -> String {
    let fact = |(name, value): &(String, String)| match name.as_str() {
        "state" => format!("state:{value} "),
        _ => format!("{name}={value} "),
    };
    attrs.iter().map(fact).collect()
}

/// A JSON object that keeps its order, which serde_json's own map does not.
pub(crate) mod ordered_map {
    use std::fmt;

    use serde::de::{MapAccess, Visitor};
    use serde::{Deserializer, Serializer};

    type Pairs = Vec<(String, String)>;

    pub(crate) fn serialize<S: Serializer>(pairs: &Pairs, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(pairs.iter().map(|(name, value)| (name, value)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Pairs, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Pairs::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }

        from.deserialize_map(PairsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entities::{DiscoveredNetns, Kind};
    use crate::view::View;

    fn reset() -> NewEvent {
        let attrs =
            [("protocol", "TCP"), ("saddr", "10.1.16.255"), ("sport", "43186"), ("state", "TCP_ESTABLISHED")];
        NewEvent {
            time_ns: 1_675_414_863_402_118_044,
            severity: Severity::Info,
            kind: "TCP_RCV_RST_ESTAB".into(),
            message: "10.1.16.255:43186 -> 100.100.27.15:3128".into(),
            attrs: attrs.map(|(name, value)| (name.into(), value.into())).into(),
            ..NewEvent::default()
        }
    }

    fn line(event: NewEvent) -> EventLine {
        let view = View::test();
        let pod = DiscoveredNetns {
            cookie: 42,
            inode: 4_026_531_993,
            kind: Kind::Pod,
            namespace: "kube-system".into(),
            name: "kube-proxy-worker-tbv5s".into(),
            ..DiscoveredNetns::default()
        };
        view.entities.apply_scan(vec![pod], 1, std::time::Instant::now());
        let mut cursor = view.events.oldest();
        view.events.emit("tcp", vec![NewEvent { entity: view.entities.stamp(42, 1), ..event }]);
        EventLine::of(&view.events.read(&mut cursor, 1).events[0])
    }

    #[test]
    fn what_a_guest_writes_is_bounded() {
        let long = "x".repeat(1 << 20);
        let attrs = (0..1000).map(|i| (format!("{}{long}", i % 40), long.clone())).collect();
        let event = NewEvent {
            kind: long.clone(),
            message: long.clone(),
            attrs,
            dedup_key: Some(long),
            ..NewEvent::default()
        };
        let event = event.admit();
        assert_eq!((event.kind.len(), event.message.len()), (MAX_NAME, MAX_MESSAGE));
        assert_eq!(event.attrs.len(), MAX_ATTRS);
        assert!(event.attrs.iter().all(|(n, v)| n.len() <= MAX_NAME && v.len() <= MAX_ATTR_VALUE));
        let twice = vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        assert_eq!(NewEvent { attrs: twice, ..NewEvent::default() }.admit().attrs.len(), 1);
    }

    #[test]
    fn the_text_is_that_of_the_original_command_line() {
        assert_eq!(
            line(reset()).text(),
            "INFO TCP_RCV_RST_ESTAB Namespace=kube-system Pod=kube-proxy-worker-tbv5s Node=n1 \
             Netns=4026531993 10.1.16.255:43186 -> 100.100.27.15:3128"
        );
        let severity = Severity::Warning;
        let folded = EventLine { count: 7, severity, level: severity.level().into(), ..line(reset()) };
        assert!(folded.text().starts_with("WARN ") && folded.text().ends_with(":3128 count=7"));
    }

    #[test]
    fn the_host_is_called_as_the_original_exporter_calls_it() {
        let view = View::test();
        let mut cursor = view.events.oldest();
        view.events.emit("tcp", vec![NewEvent { entity: view.test_host("192.0.2.1"), ..reset() }]);
        let line = EventLine::of(&view.events.read(&mut cursor, 1).events[0]);
        assert!(
            line.text().starts_with(
                "INFO TCP_RCV_RST_ESTAB Namespace=hostNetwork Pod=hostNetwork Node=n1 Netns=0 10.1.16.255:43186"
            ),
            "{}",
            line.text()
        );
        assert_eq!(line.meta, "hostNetwork/hostNetwork node=n1 netns=ns0 ");
        assert_eq!((line.entity.name.as_str(), line.entity.netns), ("", 7), "programs read what is so");
    }

    #[test]
    fn the_json_keeps_the_original_shape_beside_structured_fields() {
        let json = line(reset()).to_json();
        assert!(json.starts_with(
            r#"{"time":"2023-02-03T09:01:03.402118044Z","level":"INFO","source":"tcp","msg":"TCP_RCV_RST_ESTAB","meta":"kube-system/kube-proxy-worker-tbv5s node=n1 netns=ns4026531993 ","event":"protocol=TCP saddr=10.1.16.255 sport=43186 state:TCP_ESTABLISHED ","seq":1,"type":"TCP_RCV_RST_ESTAB","#
        ), "{json}");
        assert!(json.contains(
            r#""attrs":{"protocol":"TCP","saddr":"10.1.16.255","sport":"43186","state":"TCP_ESTABLISHED"}"#
        ));
        let read: EventLine = serde_json::from_str(&json).expect("what is written can be read");
        assert_eq!(read, line(reset()));
    }

    #[test]
    fn no_control_character_of_a_guest_or_a_server_is_shown() {
        let evil = "x\u{1b}[2J\r\n\u{202e}";
        let event = NewEvent {
            kind: evil.into(),
            message: evil.into(),
            attrs: vec![(evil.into(), evil.into())],
            ..reset()
        };
        let written = line(event);
        assert_eq!(written.message, r"x\u{1b}[2J\r\n\u{202e}");
        assert_eq!(written.to_json().chars().filter(|c| c.is_control()).collect::<Vec<_>>(), ['\n']);
        let hostile = EventLine { level: evil.into(), message: evil.into(), ..line(reset()) };
        assert!(!hostile.text().contains(char::is_control));
    }
}
