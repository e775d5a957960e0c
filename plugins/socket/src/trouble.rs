//! Errors that the kernel reports to sockets, and packets that they have no room for.

use inspector_sdk::budget::EventLimit;
use inspector_sdk::errno::{self, ECONNABORTED, ECONNREFUSED, ECONNRESET, ENOBUFS, EPIPE};
use inspector_sdk::labels::Labels;
use inspector_sdk::metrics::Counter;
use inspector_sdk::probes::SocketError;
use inspector_sdk::probes::socket_error::{KIND_MEMORY, KIND_QUEUE_FULL, KIND_REPORTED, KIND_UDP_REFUSED};
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp, protocol};

const ERRORS: &str = "inspector_socket_errors_total";
const DROPS: &str = "inspector_socket_receive_drops_total";
const MEMORY: &str = "inspector_socket_memory_limit_total";

const SOCKET_ERROR: &str = "SOCKET_ERROR";
const SOCKET_RCVBUF_FULL: &str = "SOCKET_RCVBUF_FULL";
const SOCKET_MEMORY_LIMIT: &str = "SOCKET_MEMORY_LIMIT";

/// Errors by which a peer says no, which is often what a client asks for.
const REFUSALS: [u32; 4] = [EPIPE, ECONNABORTED, ECONNRESET, ECONNREFUSED];

/// The metrics of trouble.
#[derive(Debug)]
pub struct Troubles {
    errors: Counter<Protocol<u32>>,
    drops: Counter<Protocol<&'static str>>,
    memory: Counter<Protocol<&'static str>>,
}

/// IP protocol, and what happened in it: an error number, or a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Protocol<T>(u8, T);

impl Labels for Protocol<u32> {
    fn values(&self) -> Vec<String> {
        vec![protocol::name(self.0), errno::name(self.1)]
    }
}

impl Labels for Protocol<&'static str> {
    fn values(&self) -> Vec<String> {
        vec![protocol::name(self.0), self.1.to_owned()]
    }
}

/// Declares the metrics and events of trouble.
pub fn describe(description: Description) -> Description {
    let errors = MetricDecl::counter(
        ERRORS,
        "Errors that sockets were told, from tracepoint sock:inet_sk_error_report, by protocol and errno.",
    );
    let drops = MetricDecl::counter(
        DROPS,
        "Packets for which a socket had no room, from tracepoints udp:udp_fail_queue_rcv_skb and \
         sock:sock_rcvqueue_full, by protocol and limit: socket (SO_RCVBUF, rmem) or protocol (udp_mem).",
    );
    let memory = MetricDecl::counter(
        MEMORY,
        "Times that the protocol's memory limit (tcp_mem, udp_mem, or the cgroup's) stopped a socket, from \
         tracepoint sock:sock_exceed_buf_limit, by protocol and direction.",
    );
    description
        .probe::<SocketError>()
        .metric(errors.labels(&["protocol", "error"]))
        .metric(drops.labels(&["protocol", "limit"]))
        .metric(memory.labels(&["protocol", "direction"]))
        .event(SOCKET_ERROR, "A socket was told of an error.")
        .event(SOCKET_RCVBUF_FULL, "A socket had no room for a packet, which was dropped.")
        .event(SOCKET_MEMORY_LIMIT, "The protocol's memory limit stopped a socket.")
}

impl Troubles {
    /// Their state; the metrics must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            errors: Counter::declared(ERRORS)?,
            drops: Counter::declared(DROPS)?,
            memory: Counter::declared(MEMORY)?,
        })
    }

    /// Counts one and emits its event.
    pub fn take(&mut self, error: &SocketError, now: Timestamp, events: &mut EventLimit) {
        let (entity, proto) = (error.head.entity, error.head.proto);
        match error.head.kind {
            KIND_REPORTED => {
                self.errors.add(entity, Protocol(proto, error.error), 1);
                events.emit(entity, SOCKET_ERROR, now, || reported(error));
            }
            KIND_QUEUE_FULL | KIND_UDP_REFUSED => {
                self.drops.add(entity, Protocol(proto, limit(error)), 1);
                events.emit(entity, SOCKET_RCVBUF_FULL, now, || full(error));
            }
            KIND_MEMORY => {
                self.memory.add(entity, Protocol(proto, direction(error)), 1);
                events.emit(entity, SOCKET_MEMORY_LIMIT, now, || stopped(error));
            }
            // A kind that a newer probe has and this analyzer does not know.
            _ => {}
        }
    }
}

/// `ENOBUFS` is the protocol's limit (`udp_mem`), anything else the socket's (`rmem`).
fn limit(error: &SocketError) -> &'static str {
    if error.error == ENOBUFS { "protocol" } else { "socket" }
}

fn direction(error: &SocketError) -> &'static str {
    if error.sending != 0 { "send" } else { "receive" }
}

fn reported(error: &SocketError) -> Event {
    let is_refusal = REFUSALS.contains(&error.error);
    event(SOCKET_ERROR, error, errno::name(error.error)).severity(Severity::warning_if(!is_refusal))
}

fn full(error: &SocketError) -> Event {
    // One socket, one key, whoever sends to it.
    let key = format!("{SOCKET_RCVBUF_FULL} {} {}", error.head.entity, error.head.dport);
    event(SOCKET_RCVBUF_FULL, error, errno::name(error.error))
        .fact("queued", error.receive_queued)
        .fact("limit", error.receive_limit)
        .attr("limited_by", limit(error))
        .attr("length", error.length)
        .severity(Severity::Warning)
        .dedup_key(key)
}

fn stopped(error: &SocketError) -> Event {
    event(SOCKET_MEMORY_LIMIT, error, errno::name(error.error))
        .fact("direction", direction(error))
        .fact("pages", error.memory_pages)
        .severity(Severity::Critical)
        .dedup_key(format!("{SOCKET_MEMORY_LIMIT} {} {}", error.head.entity, error.head.proto))
}

fn event(kind: &str, error: &SocketError, name: String) -> Event {
    let event = Event::new(kind, error.head.ts_ns).flow(&error.head);
    let key = format!("{kind} {} {} {name}", error.head.entity, event.message);
    event.say("protocol", protocol::name(error.head.proto)).fact("error", name).dedup_key(key)
}
