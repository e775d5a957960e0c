//! Hosts on the link, as ARP and neighbour discovery see them.

use std::net::IpAddr;

use inspector_sdk::budget::EventLimit;
use inspector_sdk::metrics::Counter;
use inspector_sdk::probes::Neighbour;
use inspector_sdk::probes::neighbour::{
    KIND_CHANGED, KIND_CLAIMED, KIND_DEAD, KIND_FAILED, KIND_TABLE_FULL, NUD_INCOMPLETE,
};
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp};

const FAILURES: &str = "inspector_neighbour_failures_total";
const CHANGES: &str = "inspector_neighbour_changes_total";
const TABLE_FULL: &str = "inspector_neighbour_table_full_total";
const DEAD: &str = "inspector_neighbour_dead_total";

const NEIGH_FAILED: &str = "NEIGH_FAILED";
const NEIGH_CHANGED: &str = "NEIGH_CHANGED";
const NEIGH_CONFLICT: &str = "NEIGH_CONFLICT";
const NEIGH_TABLE_FULL: &str = "NEIGH_TABLE_FULL";

/// The metrics of neighbours.
#[derive(Debug)]
pub struct Neighbours {
    failures: Counter<&'static str>,
    changes: Counter<&'static str>,
    table_full: Counter,
    dead: Counter,
}

/// Declares the metrics and events of neighbours.
pub fn describe(description: Description) -> Description {
    let failures = MetricDecl::counter(
        FAILURES,
        "Hosts on the link that did not answer ARP or neighbour discovery, from tracepoint \
         neigh:neigh_timer_handler, by whether their link-layer address was known before: yes or no.",
    );
    let changes = MetricDecl::counter(
        CHANGES,
        "Other link-layer addresses for known hosts, from tracepoint neigh:neigh_update, by outcome: taken \
         or refused.",
    );
    description
        .probe::<Neighbour>()
        .metric(failures.labels(&["known"]))
        .metric(changes.labels(&["outcome"]))
        .metric(MetricDecl::counter(
            TABLE_FULL,
            "Hosts that found no room in the neighbour table (neigh:neigh_create).",
        ))
        .metric(MetricDecl::counter(
            DEAD,
            "Packets dropped because the entry of their next hop was being removed (neigh:neigh_event_send_dead).",
        ))
        .event(NEIGH_FAILED, "A host on the link does not answer ARP or neighbour discovery.")
        .event(NEIGH_CHANGED, "A known host has another link-layer address.")
        .event(NEIGH_CONFLICT, "Two hosts claim one address.")
        .event(NEIGH_TABLE_FULL, "The neighbour table has no room (gc_thresh3).")
}

impl Neighbours {
    /// Their state; the metrics must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            failures: Counter::declared(FAILURES)?,
            changes: Counter::declared(CHANGES)?,
            table_full: Counter::declared(TABLE_FULL)?,
            dead: Counter::declared(DEAD)?,
        })
    }

    /// Counts one and emits its event.
    pub fn take(&mut self, n: &Neighbour, now: Timestamp, events: &mut EventLimit) {
        let entity = n.head.entity;
        match n.head.kind {
            KIND_FAILED => {
                self.failures.add(entity, was_known(n), 1);
                events.emit(entity, NEIGH_FAILED, now, || failed(n));
            }
            KIND_CHANGED => {
                self.changes.add(entity, "taken", 1);
                events.emit(entity, NEIGH_CHANGED, now, || changed(NEIGH_CHANGED, n));
            }
            KIND_CLAIMED => {
                self.changes.add(entity, "refused", 1);
                let conflict = || changed(NEIGH_CONFLICT, n).severity(Severity::Warning);
                events.emit(entity, NEIGH_CONFLICT, now, conflict);
            }
            KIND_TABLE_FULL => {
                self.table_full.add(entity, (), 1);
                events.emit(entity, NEIGH_TABLE_FULL, now, || table_full(n));
            }
            // Its packet is in the drops of packet-loss.
            KIND_DEAD => self.dead.add(entity, (), 1),
            // A kind that a newer probe has and this analyzer does not know.
            _ => {}
        }
    }
}

fn was_known(n: &Neighbour) -> &'static str {
    if n.old_state == NUD_INCOMPLETE { "no" } else { "yes" }
}

fn failed(n: &Neighbour) -> Event {
    let event = event(NEIGH_FAILED, n, "does not answer").fact("known", was_known(n));
    let event = if was_known(n) == "yes" { event.fact("lladdr", lladdr(n, &n.old_lladdr)) } else { event };
    event.fact("ifindex", n.ifindex).attr("probes", n.probes).severity(Severity::Warning)
}

fn changed(kind: &str, n: &Neighbour) -> Event {
    let what =
        if kind == NEIGH_CHANGED { "has another link-layer address" } else { "is claimed by another host" };
    event(kind, n, what)
        .fact("before", lladdr(n, &n.old_lladdr))
        .fact("now", lladdr(n, &n.new_lladdr))
        .fact("ifindex", n.ifindex)
}

fn table_full(n: &Neighbour) -> Event {
    // One key for all: it is one table.
    event(NEIGH_TABLE_FULL, n, "finds no room in the neighbour table (net.ipv4.neigh.default.gc_thresh3)")
        .fact("ifindex", n.ifindex)
        .severity(Severity::Critical)
        .dedup_key(format!("{NEIGH_TABLE_FULL} {}", n.head.entity))
}

/// `address what`, with the address among the attributes.
fn event(kind: &str, n: &Neighbour, what: &str) -> Event {
    let address = n.head.destination();
    let mut event = Event::new(kind, n.head.ts_ns).entity(n.head.entity).attr("address", address);
    event.message = match is_known(address) {
        true => format!("{address} {what}"),
        false => format!("a host (address unreadable under lockdown) {what}"),
    };
    event.dedup_key(format!("{kind} {} {address} {}", n.head.entity, n.ifindex))
}

fn is_known(address: IpAddr) -> bool {
    !address.is_unspecified()
}

/// As `ip` shows it; at most the eight bytes that the record has.
fn lladdr(n: &Neighbour, bytes: &[u8; 8]) -> String {
    let length = usize::from(n.lladdr_length).min(bytes.len());
    let bytes: Vec<_> = bytes[..length].iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}
