//! Retransmissions, and how the stack noticed the loss.
//!
//! The probe counts calls, not segments: `RetransSegs` of `pod-counters` may be larger.

use inspector_sdk::budget::EventLimit;
use inspector_sdk::metrics::Counter;
use inspector_sdk::probes::TcpRetransmit;
use inspector_sdk::probes::tcp_retransmit::{
    KIND_CONG_STATE, KIND_SYNACK, WHY_FAST, WHY_LOSS, WHY_RTO, WHY_SYN, WHY_TLP,
};
use inspector_sdk::{Description, Error, Event, MetricDecl, Timestamp, tcp};

const RETRANSMITS: &str = "inspector_tcp_retransmits_total";
const CONGESTION: &str = "inspector_tcp_congestion_changes_total";
const TCPRETRANS: &str = "TCPRETRANS";

/// The metrics of retransmissions.
#[derive(Debug)]
pub struct Retransmits {
    by_kind: Counter<&'static str>,
    congestion: Counter<&'static str>,
}

/// Declares the metrics and events of retransmissions.
pub fn describe(description: Description) -> Description {
    let retransmits = MetricDecl::counter(
        RETRANSMITS,
        "TCP retransmissions, from tracepoints tcp:tcp_retransmit_skb and tcp_retransmit_synack, by kind: \
         syn, synack, rto (timeout), fast (duplicate acknowledgements), tlp (tail-loss probe), loss (after \
         a timeout), other.",
    );
    let congestion = MetricDecl::counter(
        CONGESTION,
        "Changes of the TCP congestion state, from tracepoint tcp:tcp_cong_state_set, by the new state.",
    );
    description
        .probe::<TcpRetransmit>()
        .metric(retransmits.labels(&["kind"]))
        .metric(congestion.labels(&["state"]))
        .event(TCPRETRANS, "A TCP segment was sent again.")
}

impl Retransmits {
    /// Their state; the metrics must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { by_kind: Counter::declared(RETRANSMITS)?, congestion: Counter::declared(CONGESTION)? })
    }

    /// Counts one, and emits an event if it is a segment.
    pub fn take(&mut self, retransmit: &TcpRetransmit, now: Timestamp, events: &mut EventLimit) {
        let entity = retransmit.head.entity;
        if retransmit.head.kind == KIND_CONG_STATE {
            return self.congestion.add(entity, congestion_state(retransmit.ca_state), 1);
        }
        self.by_kind.add(entity, kind(retransmit), 1);
        events.emit(entity, TCPRETRANS, now, || event(retransmit));
    }
}

fn kind(retransmit: &TcpRetransmit) -> &'static str {
    match (retransmit.head.kind, retransmit.why) {
        (KIND_SYNACK, _) => "synack",
        (_, WHY_SYN) => "syn",
        (_, WHY_RTO) => "rto",
        (_, WHY_FAST) => "fast",
        (_, WHY_TLP) => "tlp",
        (_, WHY_LOSS) => "loss",
        _ => "other",
    }
}

/// The kernel's name, without `TCP_CA_`.
fn congestion_state(state: u8) -> &'static str {
    match state {
        0 => "Open",
        1 => "Disorder",
        2 => "CWR",
        3 => "Recovery",
        4 => "Loss",
        _ => "other",
    }
}

fn event(retransmit: &TcpRetransmit) -> Event {
    let head = &retransmit.head;
    let event = Event::new(TCPRETRANS, head.ts_ns).flow(head);
    let key = format!("{TCPRETRANS} {} {}", head.entity, event.message);
    event
        .fact("kind", kind(retransmit))
        .say("state", tcp::state(head.tcp_state))
        .fact("timeouts", retransmit.timeouts)
        .fact("total", retransmit.total)
        .attr("seq", retransmit.seq)
        .attr("length", retransmit.length)
        .attr("congestion", congestion_state(retransmit.ca_state))
        .dedup_key(key)
}
