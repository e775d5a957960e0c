//! One line for one fault: what several analyzers tell of one packet or one connection.
//!
//! A reset that nobody's port sent is told by the analyzer of resets, and the packet that it
//! answered by that of drops; a person reads one fault. Which event leads and what the other adds
//! stands in [`RULES`]. Only people's text is folded: programs get every event. Events wait for each
//! other no longer than [`PATIENCE`], and leave in the order in which they came.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use crate::events::event::EventLine;
use crate::text::escape::visible;

/// How long an event waits for the others of its fault: analyzers get their records within this.
pub const PATIENCE: Duration = Duration::from_millis(300);
/// Addresses of an end that is not known.
const UNKNOWN: [&str; 2] = ["0.0.0.0", "::"];
/// Maximum number of events that wait; beyond them the oldest leaves.
const MAX_WAITING: usize = 1024;

/// An event that explains another one of the same flow at the same place.
struct Rule {
    /// The type of the event whose line it becomes.
    lead: &'static str,
    /// The type that is folded into it.
    other: &'static str,
    /// An attribute of the other, and the values with which it tells of the same fault.
    when: (&'static str, &'static [&'static str]),
    /// Attributes of the other that the line gains.
    facts: &'static [&'static str],
}

const RULES: &[Rule] = &[
    // The reset answers the packet that was dropped. Old kernels give no reasons.
    Rule {
        lead: "TCPRESET_NOSOCK",
        other: "PACKETLOSS",
        when: ("reason", &["NO_SOCKET", "NOT_SPECIFIED"]),
        facts: &["reason", "location"],
    },
    // The reset answers a segment that its closed socket dropped.
    Rule {
        lead: "TCPRESET_PROCESS",
        other: "PACKETLOSS",
        when: ("reason", &["TCP_ABORT_ON_DATA", "TCP_CLOSE", "TCP_INVALID_ACK_SEQUENCE", "TCP_FLAGS"]),
        facts: &["location"],
    },
    // Who resets a connection has its own socket told of it.
    Rule { lead: "TCPRESET_ACTIVE", other: "SOCKET_ERROR", when: ("error", &["ECONNRESET"]), facts: &[] },
    // The reset is what the connect failed by.
    Rule {
        lead: "TCPCONNECT_FAILED",
        other: "TCPRESET_RECEIVE",
        when: ("state", &["TCP_SYN_SENT"]),
        facts: &[],
    },
    Rule {
        lead: "TCPCONNECT_FAILED",
        other: "SOCKET_ERROR",
        when: ("error", &["ECONNREFUSED", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH"]),
        facts: &[],
    },
    // The packet was dropped because nobody answered for its next hop, which failed the connect.
    Rule {
        lead: "TCPCONNECT_FAILED",
        other: "PACKETLOSS",
        when: ("reason", &["NEIGH_FAILED"]),
        facts: &["reason", "location"],
    },
    // The socket was told of the reset that ended its connection.
    Rule {
        lead: "TCP_RCV_RST_ESTAB",
        other: "SOCKET_ERROR",
        when: ("error", &["ECONNRESET", "EPIPE"]),
        facts: &["error"],
    },
    Rule {
        lead: "TCPRESET_RECEIVE",
        other: "SOCKET_ERROR",
        when: ("error", &["ECONNRESET", "EPIPE"]),
        facts: &["error"],
    },
    // The late answer found the socket closed.
    Rule {
        lead: "DNS_LATE",
        other: "PACKETLOSS",
        when: ("reason", &["NO_SOCKET"]),
        facts: &["reason", "location"],
    },
    Rule { lead: "DNS_LATE", other: "ICMP_SENT", when: ("error", &["port-unreachable"]), facts: &[] },
    // The ICMP error answers the packet that was dropped.
    Rule {
        lead: "PACKETLOSS",
        other: "ICMP_SENT",
        when: (
            "error",
            &["port-unreachable", "host-unreachable", "net-unreachable", "prohibited", "ttl-exceeded"],
        ),
        facts: &["error"],
    },
    // One datagram, seen by its socket and by the stack.
    Rule {
        lead: "SOCKET_RCVBUF_FULL",
        other: "PACKETLOSS",
        when: ("reason", &["SOCKET_RCVBUFF", "PROTO_MEM"]),
        facts: &["reason", "location"],
    },
];

/// Events on their way to a person.
#[derive(Debug, Default)]
pub struct Fold {
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Duration,
    told: Told,
}

/// What a person reads as one line.
#[derive(Debug)]
pub struct Told {
    /// The leading event, with the severity of the worst.
    pub event: EventLine,
    /// What the others add.
    facts: Vec<(String, String)>,
    /// Types of the others, with their count if it is another one.
    also: Vec<String>,
}

impl Fold {
    /// Takes an event; `now` is by any clock that goes forward.
    pub fn push(&mut self, event: EventLine, now: Duration) {
        let mut told = Told { event, facts: Vec::new(), also: Vec::new() };
        // Where the first of those stood that it is one with, and since when.
        let mut place: Option<(usize, Duration)> = None;
        while let Some((at, leads)) = self.partner(&told) {
            let Some(earlier) = self.waiting.remove(at) else { break };
            let since = earlier.since;
            told = if leads { earlier.told.with(told) } else { told.with(earlier.told) };
            place = Some(place.map_or((at, since), |(first, begun)| (first.min(at), begun.min(since))));
        }
        match place {
            Some((at, since)) => self.waiting.insert(at, Waiting { since, told }),
            None => self.waiting.push_back(Waiting { since: now, told }),
        }
    }

    /// What needs to wait no longer, in order.
    pub fn due(&mut self, now: Duration) -> Vec<Told> {
        let mut due = Vec::new();
        while let Some(first) = self.waiting.front() {
            let is_awaited = may_be_folded(&first.told.event) && now.saturating_sub(first.since) < PATIENCE;
            if is_awaited && self.waiting.len() <= MAX_WAITING {
                break;
            }
            due.extend(self.waiting.pop_front().map(|waiting| waiting.told));
        }
        due
    }

    /// Everything that still waits, in order.
    pub fn rest(&mut self) -> Vec<Told> {
        self.waiting.drain(..).map(|waiting| waiting.told).collect()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Who waits for this event, and whether that one leads.
    fn partner(&self, new: &Told) -> Option<(usize, bool)> {
        let find = |is: &dyn Fn(&Told) -> bool| self.waiting.iter().position(|waiting| is(&waiting.told));
        let leading = find(&|told| told.event.leads(&new.event)).map(|at| (at, true));
        leading.or_else(|| find(&|told| new.event.leads(&told.event)).map(|at| (at, false)))
    }
}

impl Told {
    /// As one line of text, without a line feed.
    pub fn text(&self) -> String {
        let mut text = self.event.text();
        for (name, value) in &self.facts {
            write!(text, " {}={}", visible(name), visible(value)).expect("writing to a String cannot fail");
        }
        if !self.also.is_empty() {
            text += &format!(" also={}", visible(&self.also.join(",")));
        }
        text
    }

    /// This one with what the other adds.
    fn with(mut self, other: Self) -> Self {
        let rule = RULES.iter().find(|rule| rule.holds(&self.event, &other.event));
        for name in rule.map_or(&[][..], |rule| rule.facts) {
            let is_new = self.event.attr(name).is_none() && self.facts.iter().all(|(known, _)| known != name);
            if let Some(value) = other.event.attr(name).filter(|_| is_new) {
                self.facts.push(((*name).to_owned(), value.to_owned()));
            }
        }
        self.facts.extend(other.facts);
        self.also.push(match other.event.count {
            count if count == self.event.count => other.event.kind,
            count => format!("{}:{count}", other.event.kind),
        });
        self.also.extend(other.also);
        if other.event.severity > self.event.severity {
            self.event.severity = other.event.severity;
            other.event.severity.level().clone_into(&mut self.event.level);
        }
        self
    }
}

impl Rule {
    fn holds(&self, lead: &EventLine, other: &EventLine) -> bool {
        lead.kind == self.lead && self.is_other(other)
    }

    fn is_other(&self, event: &EventLine) -> bool {
        let (name, values) = self.when;
        event.kind == self.other && event.attr(name).is_some_and(|value| values.contains(&value))
    }
}

fn may_be_folded(event: &EventLine) -> bool {
    RULES.iter().any(|rule| rule.lead == event.kind || rule.is_other(event))
}

impl EventLine {
    /// Whether another event tells of the same fault and less of it.
    fn leads(&self, other: &Self) -> bool {
        (self.entity.id, &self.entity.node) == (other.entity.id, &other.entity.node)
            && RULES.iter().any(|rule| rule.holds(self, other))
            && self.is_same_flow(other)
    }

    /// Whether the ends are the same, in either direction. A socket that was reset has forgotten
    /// some of its own, so an end that is not known is like any; both are not.
    fn is_same_flow(&self, other: &Self) -> bool {
        let Some(([a, b], [c, d])) = self.ends().zip(other.ends()) else { return false };
        let is_known = |(address, port): (&str, &str)| !UNKNOWN.contains(&address) && port != "0";
        let is_alike = |one: (&str, &str), two: (&str, &str)| {
            (one.0 == two.0 || UNKNOWN.contains(&one.0) || UNKNOWN.contains(&two.0))
                && (one.1 == two.1 || one.1 == "0" || two.1 == "0")
        };
        let is_certain = |[one, two]: [(&str, &str); 2]| is_known(one) && is_known(two);
        (is_certain([a, b]) || is_certain([c, d]))
            && (is_alike(a, c) && is_alike(b, d) || is_alike(a, d) && is_alike(b, c))
    }

    /// Address and port of both ends.
    fn ends(&self) -> Option<[(&str, &str); 2]> {
        let port = |name| self.attr(name).unwrap_or_default();
        Some([(self.attr("saddr")?, port("sport")), (self.attr("daddr")?, port("dport"))])
    }

    fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::event::EventEntity;
    use crate::events::severity::Severity::{self, Info, Warning};

    const MS: Duration = Duration::from_millis(1);

    /// An event of `web` (entity 1) with a flow `saddr:sport > daddr:dport` and further attributes.
    fn event(kind: &str, severity: Severity, flow: [&str; 4], attrs: &[(&str, &str)]) -> EventLine {
        let names = ["saddr", "sport", "daddr", "dport"];
        let attrs = names.into_iter().zip(flow).chain(attrs.iter().copied());
        EventLine {
            time: "2023-02-03T09:01:03.402118044Z".to_owned(),
            level: severity.level().to_owned(),
            source: "p".to_owned(),
            msg: kind.to_owned(),
            meta: String::new(),
            event: String::new(),
            seq: 1,
            kind: kind.to_owned(),
            severity,
            count: 1,
            message: format!("{}:{} -> {}:{}", flow[0], flow[1], flow[2], flow[3]),
            entity: EventEntity {
                id: 1,
                name: "web".to_owned(),
                node: "n1".to_owned(),
                ..Default::default()
            },
            attrs: attrs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        }
    }

    const TO_SERVER: [&str; 4] = ["10.0.0.2", "43186", "10.0.0.1", "80"];
    const TO_CLIENT: [&str; 4] = ["10.0.0.1", "80", "10.0.0.2", "43186"];

    fn reset() -> EventLine {
        event("TCPRESET_NOSOCK", Info, TO_CLIENT, &[("reason", "NO_SOCKET")])
    }

    fn drop() -> EventLine {
        event("PACKETLOSS", Warning, TO_SERVER, &[("reason", "NO_SOCKET"), ("location", "tcp_v4_rcv+0x91")])
    }

    fn told(events: Vec<EventLine>) -> Vec<String> {
        let mut fold = Fold::default();
        events.into_iter().for_each(|event| fold.push(event, MS));
        fold.rest().iter().map(Told::text).collect()
    }

    #[test]
    fn a_closed_port_is_one_line_whichever_event_comes_first() {
        let line = "WARN TCPRESET_NOSOCK Namespace= Pod=web Node=n1 Netns=0 10.0.0.1:80 -> 10.0.0.2:43186 \
                    location=tcp_v4_rcv+0x91 also=PACKETLOSS";
        assert_eq!(told(vec![reset(), drop()]), [line]);
        assert_eq!(told(vec![drop(), reset()]), [line]);
    }

    #[test]
    fn what_is_folded_already_can_be_folded_again() {
        let icmp = event("ICMP_SENT", Info, TO_SERVER, &[("error", "port-unreachable")]);
        let late = event("DNS_LATE", Info, TO_CLIENT, &[]);
        let line = "WARN DNS_LATE Namespace= Pod=web Node=n1 Netns=0 10.0.0.1:80 -> 10.0.0.2:43186 \
                    reason=NO_SOCKET location=tcp_v4_rcv+0x91 error=port-unreachable also=PACKETLOSS,ICMP_SENT";
        assert_eq!(told(vec![drop(), icmp.clone(), late.clone()]), [line]);
        assert_eq!(told(vec![late, icmp, drop()]).len(), 1);
    }

    #[test]
    fn a_count_that_differs_is_told() {
        let lines = told(vec![reset(), EventLine { count: 7, ..drop() }]);
        assert!(lines.len() == 1 && lines[0].ends_with(" also=PACKETLOSS:7"), "{lines:?}");
    }

    #[test]
    fn a_socket_that_forgot_its_ends_when_it_was_reset_is_known_by_the_others() {
        let active = || event("TCPRESET_ACTIVE", Info, TO_CLIENT, &[]);
        let told_of = |ends| event("SOCKET_ERROR", Info, ends, &[("error", "ECONNRESET")]);
        assert_eq!(told(vec![active(), told_of(["0.0.0.0", "80", "10.0.0.2", "0"])]).len(), 1);
        assert_eq!(told(vec![active(), told_of(["0.0.0.0", "81", "10.0.0.2", "0"])]).len(), 2);
        assert_eq!(told(vec![active(), told_of(["0.0.0.0", "80", "10.0.0.3", "0"])]).len(), 2);
    }

    #[test]
    fn another_fault_keeps_its_own_line() {
        let filtered = event("PACKETLOSS", Warning, TO_SERVER, &[("reason", "NETFILTER_DROP")]);
        let elsewhere = EventLine { entity: EventEntity { id: 2, ..reset().entity }, ..drop() };
        let other_port =
            event("PACKETLOSS", Warning, ["10.0.0.2", "1", "10.0.0.1", "80"], &[("reason", "NO_SOCKET")]);
        for other in [filtered, elsewhere, other_port, reset()] {
            assert_eq!(told(vec![reset(), other]).len(), 2);
        }
    }

    #[test]
    fn an_event_waits_for_its_partner_only_so_long_and_none_overtakes_it() {
        let mut fold = Fold::default();
        let alone = || event("TCPRETRANS", Info, TO_SERVER, &[]);
        fold.push(alone(), MS);
        assert_eq!(fold.due(MS).len(), 1, "it has no partner to wait for");
        fold.push(reset(), MS);
        fold.push(alone(), 2 * MS);
        assert_eq!(fold.due(PATIENCE).len(), 0);
        let kinds: Vec<_> = fold.due(PATIENCE + MS).into_iter().map(|told| told.event.kind).collect();
        assert_eq!(kinds, ["TCPRESET_NOSOCK", "TCPRETRANS"]);
    }

    #[test]
    fn a_storm_does_not_wait() {
        let mut fold = Fold::default();
        for port in 0..MAX_WAITING + 10 {
            fold.push(
                event(
                    "PACKETLOSS",
                    Warning,
                    ["10.0.0.2", &port.to_string(), "10.0.0.1", "80"],
                    &[("reason", "NO_SOCKET")],
                ),
                MS,
            );
        }
        assert_eq!(fold.due(MS).len(), 10);
    }
}
