//! Why the network failed: the cause, the place, the evidence, the next step.
//!
//! - [`fact`], [`store`]: what happened, counted, for the last quarter of an hour.
//! - [`intake`], [`counters`], [`queries`]: records of probes, kernel counters and what waits for an
//!   answer, as facts.
//! - [`view`]: the facts of a window with the kernel's names.
//! - [`rules`]: what is concluded from them; [`finding`], [`evidence`], [`codes`],
//!   [`command`]: how it is said.
//! - [`live`]: findings as metrics and events while they last.
//!
//! One analyzer for all scenarios: they ask different questions of the same facts, and a cause can
//! only outrank its symptoms where both are known. Seven analyzers would see, count and keep
//! everything seven times.

pub mod codes;
pub mod command;
pub mod counters;
pub mod evidence;
pub mod fact;
pub mod finding;
pub mod intake;
pub mod live;
pub mod queries;
pub mod rules;
pub mod store;
pub mod view;

use std::collections::VecDeque;
use std::time::Duration;

use inspector_sdk::analyzer::{Report, Request};
use inspector_sdk::probes::{
    Dns, Icmp, Neighbour, Record as _, Route, SkbDrop, SocketError, SocketLatency, Softirq, TcpReset,
    TcpRetransmit, TcpState, dns, socket_latency, softirq, tcp_retransmit,
};
use inspector_sdk::{Analyzer, Batch, Description, EntityId, Error, InitArgs, Timestamp, entities};

use crate::counters::{Counters, counter};
use crate::fact::{Flow, What};
use crate::finding::Conclusion;
use crate::live::Live;
use crate::queries::Queries;
use crate::store::Store;
use crate::view::View;

/// The questions.
const SCENARIOS: [(&str, &str); 7] = [
    ("connect", "why do connections fail or take long to open?"),
    ("reset", "why are connections reset?"),
    ("loss", "where do packets get lost?"),
    ("latency", "why is it slow or jittery?"),
    ("dns", "why do names not resolve, or late?"),
    ("gateway", "why does my gateway answer 499, 502, 503, 504?"),
    ("node", "is this node's network healthy?"),
];

/// Losses remembered.
const LOSSES: usize = 1_024;
/// Findings in one answer, the most important first. More are of no use to a person, and an answer has
/// to fit into what one call may hand over (1 MiB).
const FINDINGS: usize = 64;
/// Codes that are concluded because nothing else was seen.
const BY_ABSENCE: [&str; 3] = ["peer-unresponsive", "tcp-loss", "reset-by-peer"];

/// Codes of what every entity of the node suffers from.
const OF_ALL: [&str; 2] = ["softirq-delay", "softnet-backlog"];

/// The analyzer.
#[derive(Debug)]
pub struct Diagnosis {
    store: Store,
    queries: Queries,
    counters: Counters,
    live: Live,
    /// The entity `host`; 0 until it is known.
    host: EntityId,
    /// Events that did not reach this analyzer.
    lost: VecDeque<Loss>,
    /// Probes whose absence makes silence mean less.
    is_blind: bool,
}

/// Events that were lost, and when that was told.
#[derive(Debug)]
struct Loss {
    at: Timestamp,
    events: u64,
    is_dns: bool,
}

inspector_sdk::export!(Diagnosis with ticker, entity_watch, diagnosis);

impl Analyzer for Diagnosis {
    fn describe() -> Description {
        let description = Description::new(
            "diagnosis",
            env!("CARGO_PKG_VERSION"),
            "Why the network failed: causes, places, evidence, from a history of a quarter of an hour",
        );
        let description = description
            .probe::<SkbDrop>()
            .probe::<TcpReset>()
            .probe::<TcpRetransmit>()
            .only("kind", "ne", tcp_retransmit::KIND_CONG_STATE.into())
            .probe::<TcpState>()
            .probe::<SocketError>()
            .probe::<Neighbour>()
            .probe::<Icmp>()
            .probe::<Route>()
            .probe::<Dns>()
            .only("kind", "le", dns::KIND_ANSWER.into())
            .probe::<SocketLatency>()
            .only("kind", "le", socket_latency::KIND_SEND.into())
            .probe::<Softirq>()
            .only("kind", "eq", softirq::KIND_SLOW.into())
            .tick_every(Duration::from_secs(1));
        let scenarios = SCENARIOS.iter().fold(description, |d, (name, help)| d.scenario(name, help));
        live::describe(counters::describe(scenarios))
    }

    fn init(args: &InitArgs) -> Result<Self, Error> {
        Ok(Self {
            store: Store::new(args.now),
            queries: Queries::default(),
            counters: Counters::new(args.now),
            live: Live::new()?,
            host: 0,
            lost: VecDeque::new(),
            is_blind: args.probes.first().is_none_or(Option::is_none),
        })
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        if batch.lost > 0 {
            if self.lost.len() >= LOSSES {
                self.lost.pop_front();
            }
            let is_dns = batch.probe == Dns::PROBE;
            self.lost.push_back(Loss { at: batch.now, events: batch.lost, is_dns });
            if is_dns {
                self.queries.forget_all();
            }
        }
        let store = &mut self.store;
        batch.events::<SkbDrop>().for_each(|record| store.drop(record));
        batch.events::<TcpReset>().for_each(|record| store.reset(record));
        batch.events::<TcpRetransmit>().for_each(|record| store.retransmit(record));
        batch.events::<TcpState>().for_each(|record| store.state(record));
        batch.events::<SocketError>().for_each(|record| store.socket_error(record));
        batch.events::<Neighbour>().for_each(|record| store.neighbour(record));
        batch.events::<Icmp>().for_each(|record| store.icmp(record));
        batch.events::<Route>().for_each(|record| store.route(record));
        batch.events::<Dns>().for_each(|record| store.dns(record, &mut self.queries));
        batch.events::<SocketLatency>().for_each(|record| store.socket_latency(record));
        batch.events::<Softirq>().for_each(|record| store.softirq(record, self.host));
        Ok(())
    }

    fn tick(&mut self, now: Timestamp) {
        self.counters.tick(now, &mut self.store);
        self.queries.tell_overdue(now, &mut self.store);
        if self.live.is_due(now) {
            let view = self.view(now, live::WINDOW_NS);
            self.live.tell(&view, rules::judge(&view).ranked(), now);
        }
    }

    fn added(&mut self, ids: &[EntityId]) {
        let is_host = |id: &EntityId| entities::get(*id).is_some_and(|entity| entity.kind == "host");
        self.host = ids.iter().copied().find(is_host).unwrap_or(self.host);
    }

    fn removed(&mut self, ids: &[EntityId]) {
        self.counters.forget(ids);
    }

    fn diagnose(&mut self, request: &Request) -> Result<Report, Error> {
        if !SCENARIOS.iter().any(|(name, _)| *name == request.scenario) {
            return Err(Error::new("not-found", format!("no scenario {:?}", request.scenario)));
        }
        let view = self.view(request.now, u64::from(request.window_ms) * 1_000_000);
        let from = request.now.saturating_sub(u64::from(request.window_ms) * 1_000_000);
        let lost = self.lost_since(from, |_| true);
        let is_asked = |entity: EntityId| request.entities.is_empty() || request.entities.contains(&entity);
        let asks_for_time = ["latency", "loss"].contains(&request.scenario.as_str());
        let found = rules::judge(&view).ranked().into_iter().filter(|found| {
            found.answers(&request.scenario)
                && (is_asked(found.at)
                    || found.felt.iter().any(|felt| is_asked(*felt))
                    || (asks_for_time && OF_ALL.contains(&found.code)))
        });
        let found: Vec<_> = found.collect();
        let left_out = found.len().saturating_sub(FINDINGS);
        let shown = found.into_iter().take(FINDINGS);
        let findings = shown.map(|found| self.less_sure(found, lost).finding(&view)).collect();
        let mut blind_spots: Vec<String> = Vec::new();
        if left_out > 0 {
            blind_spots
                .push(format!("{left_out} findings of less weight are left out: ask about fewer entities"));
        }
        if lost > 0 {
            blind_spots
                .push(format!("{lost} events were lost before the diagnosis saw them: counts are too low"));
        }
        for source in &self.counters.missing {
            blind_spots.push(format!("the counters of {source} cannot be read on this node"));
        }
        Ok(Report { findings, blind_spots, since: self.store.since(), seen: seen(&view, is_asked) })
    }
}

impl Diagnosis {
    fn view(&mut self, now: Timestamp, window_ns: u64) -> View {
        self.queries.tell_overdue(now, &mut self.store);
        let from = now.saturating_sub(window_ns);
        let mut view = View::new(now, self.store.window(from));
        view.lost_dns = self.lost_since(from, |loss| loss.is_dns);
        view
    }

    fn lost_since(&self, from: Timestamp, which: impl Fn(&Loss) -> bool) -> u64 {
        let lost = self.lost.iter().filter(|loss| loss.at >= from && which(loss));
        lost.map(|loss| loss.events).sum()
    }

    /// What was not seen may be what was lost, or what no probe looks at.
    fn less_sure(&self, found: Conclusion, lost: u64) -> Conclusion {
        if !BY_ABSENCE.contains(&found.code) {
            return found;
        }
        let found = match self.is_blind {
            true => found.although("drops cannot be seen on this node", 30),
            false => found,
        };
        if lost > 0 { found.although("events were lost that might explain it", 20) } else { found }
    }
}

/// Connections, packets and queries of those asked about: without any, nothing can be said.
fn seen(view: &View, is_asked: impl Fn(EntityId) -> bool) -> u64 {
    let traffic = [counter::TCP_SENT, counter::TCP_RECEIVED, counter::UDP_SENT, counter::UDP_RECEIVED];
    let counted = traffic.iter().flat_map(|index| view.risen(*index));
    let counted: u64 = counted.filter(|(entity, _)| is_asked(*entity)).map(|(_, amount)| amount.count).sum();
    let is_event = |what: &What| !matches!(what, What::SlowSoftirq { .. });
    let told = view.of(is_event).filter(|(key, _)| is_asked(key.entity) && key.flow != Flow::NONE);
    counted
        + told.map(|(_, amount)| amount.count).sum::<u64>()
        + view.drops.iter().filter(|d| is_asked(d.entity)).map(|d| d.amount.count).sum::<u64>()
}
