//! Resets: who refused or ended a connection, and why.
//!
//! A firewall's reset is none of this host's: it is received, and never sent by a socket.

use inspector_sdk::budget::EventLimit;
use inspector_sdk::labels::Labels;
use inspector_sdk::metrics::Counter;
use inspector_sdk::probes::TcpReset;
use inspector_sdk::probes::tcp_reset::KIND_SENT;
use inspector_sdk::tcp::{self, ESTABLISHED};
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp, kernel};

const SENT: &str = "inspector_tcp_resets_sent_total";
const RECEIVED: &str = "inspector_tcp_resets_received_total";

/// Sent, and there was no socket: a closed port, or a connection that this side has forgotten.
const NOSOCK: &str = "TCPRESET_NOSOCK";
/// Sent by the application or the stack, without a segment that provoked it.
const ACTIVE: &str = "TCPRESET_ACTIVE";
/// Sent in reply to a segment on an existing socket.
const PROCESS: &str = "TCPRESET_PROCESS";
/// Received, on a connection that was not established.
const RECEIVE: &str = "TCPRESET_RECEIVE";
/// Received on an established connection.
const RECEIVE_ESTABLISHED: &str = "TCP_RCV_RST_ESTAB";

/// Reasons for which a connection ends though its user did not ask for that: data was lost, or
/// the peer is gone. The others are a socket option, a shutdown, a stray segment.
const LOSSES: &[&str] =
    &["TCP_ABORT_ON_CLOSE", "TCP_ABORT_ON_DATA", "TCP_ABORT_ON_MEMORY", "TCP_KEEPALIVE_TIMEOUT"];

/// The metrics of resets.
#[derive(Debug)]
pub struct Resets {
    sent: Counter<Reason>,
    received: Counter<&'static str>,
}

/// The kernel's reason for a reset that was sent; kernels before 6.10 give none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Reason(Option<u32>);

impl Labels for Reason {
    fn values(&self) -> Vec<String> {
        vec![self.0.map_or_else(|| "unknown".to_owned(), |code| kernel::reset_reason(code).to_string())]
    }
}

/// Declares the metrics and events of resets.
pub fn describe(description: Description) -> Description {
    let sent = MetricDecl::counter(
        SENT,
        "TCP resets sent, from tracepoint tcp:tcp_send_reset, by the kernel's reason (6.10 and later).",
    );
    let received = MetricDecl::counter(
        RECEIVED,
        "TCP resets received, from tracepoint tcp:tcp_receive_reset, by the socket's state.",
    );
    description
        .probe::<TcpReset>()
        .metric(sent.labels(&["reason"]))
        .metric(received.labels(&["state"]))
        .event(NOSOCK, "A reset was sent because no socket was found: a closed port or a late segment.")
        .event(ACTIVE, "The application or the stack ended a connection with a reset.")
        .event(PROCESS, "A reset was sent in reply to a segment on an existing socket.")
        .event(RECEIVE, "A reset was received on a connection that was not established.")
        .event(RECEIVE_ESTABLISHED, "A reset was received on an established connection.")
}

impl Resets {
    /// Their state; the metrics must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { sent: Counter::declared(SENT)?, received: Counter::declared(RECEIVED)? })
    }

    /// Counts one and emits its event.
    pub fn take(&mut self, reset: &TcpReset, now: Timestamp, events: &mut EventLimit) {
        let entity = reset.head.entity;
        let reason = Reason((reset.has_reason != 0).then_some(reset.reason));
        if reset.head.kind == KIND_SENT {
            self.sent.add(entity, reason, 1);
        } else {
            self.received.add(entity, tcp::state(reset.head.tcp_state), 1);
        }
        let kind = kind(reset);
        events.emit(entity, kind, now, || event(kind, reset, reason));
    }
}

fn kind(reset: &TcpReset) -> &'static str {
    match (reset.head.kind == KIND_SENT, reset.head.tcp_state) {
        (false, ESTABLISHED) => RECEIVE_ESTABLISHED,
        (false, _) => RECEIVE,
        (true, _) if reset.has_socket == 0 => NOSOCK,
        (true, _) if reset.has_segment == 0 => ACTIVE,
        (true, _) => PROCESS,
    }
}

fn event(kind: &str, reset: &TcpReset, reason: Reason) -> Event {
    let head = &reset.head;
    let name = reason.0.map(kernel::reset_reason);
    let lost = name.as_deref().is_some_and(|name| LOSSES.contains(&name));
    let mut event = Event::new(kind, head.ts_ns).flow(head);
    let key = format!("{kind} {} {}", head.entity, event.message);
    if let Some(name) = name {
        event = event.fact("reason", name);
    }
    // An established connection that received a reset says so in its name already.
    if kind != RECEIVE_ESTABLISHED {
        event = event.say("state", tcp::state(head.tcp_state));
    }
    event.severity(Severity::warning_if(lost || head.tcp_state == ESTABLISHED)).dedup_key(key)
}
