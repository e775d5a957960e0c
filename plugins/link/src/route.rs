//! Connects and sends of this node's programs that the routing table refuses.

use inspector_sdk::budget::EventLimit;
use inspector_sdk::metrics::Counter;
use inspector_sdk::probes::Route;
use inspector_sdk::probes::route::{RTN_BLACKHOLE, RTN_PROHIBIT, RTN_UNREACHABLE, RTN_UNSPEC};
use inspector_sdk::{Description, Error, Event, MetricDecl, Severity, Timestamp, errno};

const REFUSALS: &str = "inspector_route_refusals_total";
const ROUTE_REFUSED: &str = "ROUTE_REFUSED";

/// The metrics of refusing routes.
#[derive(Debug)]
pub struct Refusals {
    refused: Counter<&'static str>,
}

/// Declares the metrics and events of refusing routes.
pub fn describe(description: Description) -> Description {
    let refused = MetricDecl::counter(
        REFUSALS,
        "Connects and sends of programs that the routing table refused, from tracepoints \
         fib:fib_table_lookup (IPv4) and fib6:fib6_table_lookup (IPv6), by type of the route: blackhole, \
         unreachable, prohibit, or missing.",
    );
    description.probe::<Route>().metric(refused.labels(&["route"])).event(
        ROUTE_REFUSED,
        "A route refused what a program wanted to connect or send to, or there was none.",
    )
}

impl Refusals {
    /// Their state; the metric must be declared.
    ///
    /// # Errors
    /// A metric that is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { refused: Counter::declared(REFUSALS)? })
    }

    /// Counts one and emits its event.
    pub fn take(&mut self, refusal: &Route, now: Timestamp, events: &mut EventLimit) {
        let entity = refusal.head.entity;
        self.refused.add(entity, route(refusal), 1);
        events.emit(entity, ROUTE_REFUSED, now, || event(refusal));
    }
}

fn event(refusal: &Route) -> Event {
    let head = &refusal.head;
    // Every attempt has another source port.
    let key = format!(
        "{ROUTE_REFUSED} {} {} {} {} {}",
        head.entity,
        head.proto,
        head.destination(),
        head.dport,
        route(refusal)
    );
    let event = Event::new(ROUTE_REFUSED, head.ts_ns)
        .flow(head)
        .fact("route", route(refusal))
        .fact("error", errno::name(refusal.error))
        .fact("table", table(refusal.table));
    let event = match refusal.pid {
        0 => event,
        pid => event.fact("process", refusal.thread_name()).fact("pid", pid),
    };
    event.attr("ifindex", refusal.ifindex).severity(Severity::warning_if(!refusal.is_usual())).dedup_key(key)
}

fn route(refusal: &Route) -> &'static str {
    match refusal.route_type {
        RTN_UNSPEC => "missing",
        RTN_BLACKHOLE => "blackhole",
        RTN_UNREACHABLE => "unreachable",
        RTN_PROHIBIT => "prohibit",
        _ => "other",
    }
}

/// As `ip route` names it (`rt_tables`).
fn table(number: u32) -> String {
    match number {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        other => other.to_string(),
    }
}
