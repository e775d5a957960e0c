//! Why the network failed: the cause, the place, the evidence, the next step.
//!
//! - [`fact`], [`store`]: what happened, counted, for the last quarter of an hour.
//! - [`intake`], [`queries`]: records of probes and what waits for an answer, as facts.
//! - [`counters`], [`readings`]: kernel counters, for as long.
//! - [`translation`]: who is behind the address of a service.
//! - [`window`]: the facts of a window of time with the kernel's names.
//! - [`rules`]: what is concluded from them; [`findings`]: the conclusions so far.
//! - [`finding`], [`codes`], [`confidence`], [`title`], [`evidence`], [`command`]: one conclusion and how it
//!   is worded; [`scenario`]: the questions that it answers.
//! - [`live`]: findings as metrics and events while they last.
//!
//! One analyzer for all scenarios: they ask different questions of the same facts, and a cause can
//! only outrank its symptoms where both are known. Seven analyzers would see, count and keep
//! everything seven times.

#![warn(clippy::too_many_lines)]

pub mod codes;
pub mod command;
pub mod confidence;
mod conversations;
pub mod counters;
pub mod evidence;
pub mod fact;
pub mod finding;
pub mod findings;
pub mod intake;
pub mod live;
pub mod queries;
pub mod readings;
pub mod rules;
pub mod scenario;
pub mod store;
pub mod title;
pub mod translation;
pub mod window;

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
use crate::scenario::Scenario;
use crate::store::Store;
use crate::translation::Translations;
use crate::window::Window;

/// Losses remembered.
const LOSSES: usize = 1_024;
/// Findings in one answer, the most important first. More are of no use to a person, and an answer has
/// to fit into what one call may hand over (1 MiB).
const FINDINGS: usize = 64;

/// The analyzer.
#[derive(Debug)]
pub struct Diagnosis {
    store: Store,
    queries: Queries,
    counters: Counters,
    translations: Translations,
    live: Live,
    /// The entity `host`; 0 until it is known.
    host: EntityId,
    /// Events that did not reach this analyzer.
    lost: VecDeque<Loss>,
    /// Probes whose absence makes silence mean less.
    is_blind: bool,
}

/// Events that were lost, and when that was reported.
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
        let description = Scenario::ALL
            .iter()
            .fold(description, |description, asked| description.scenario(asked.as_str(), asked.question()));
        live::describe(translation::describe(counters::describe(description)))
    }

    fn init(args: &InitArgs) -> Result<Self, Error> {
        Ok(Self {
            store: Store::new(args.now),
            queries: Queries::default(),
            counters: Counters::new(args.now),
            translations: Translations::open(),
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
        self.translations.tick(now);
        self.queries.add_overdue(now, &mut self.store);
        if self.live.is_due(now) {
            let window = self.window(now, live::WINDOW_NS);
            self.live.report(&window, rules::judge(&window).ranked(), now);
        }
    }

    fn added(&mut self, ids: &[EntityId]) {
        self.host = entities::host_among(ids).unwrap_or(self.host);
    }

    fn removed(&mut self, ids: &[EntityId]) {
        self.counters.forget(ids);
    }

    fn diagnose(&mut self, request: &Request) -> Result<Report, Error> {
        let unknown = || Error::new("not-found", format!("no scenario {:?}", request.scenario));
        let scenario = Scenario::of(&request.scenario).ok_or_else(unknown)?;
        let window_ns = u64::from(request.window_ms) * 1_000_000;
        let window = self.window(request.now, window_ns);
        let lost = self.lost_since(request.now.saturating_sub(window_ns), |_| true);
        let is_asked = |entity: EntityId| request.entities.is_empty() || request.entities.contains(&entity);
        let asks_for_time = [Scenario::Latency, Scenario::Loss].contains(&scenario);
        let is_answer = |found: &Conclusion| {
            let concerns = is_asked(found.at) || found.affected.iter().any(|entity| is_asked(*entity));
            found.answers(scenario) && (concerns || (asks_for_time && found.code.is_of_all_entities()))
        };
        let found: Vec<_> = rules::judge(&window).ranked().into_iter().filter(is_answer).collect();
        let left_out = found.len().saturating_sub(FINDINGS);
        let found = found.into_iter().take(FINDINGS);
        let findings = found.map(|found| self.less_sure(found, lost).finding(&window)).collect();
        let blind_spots = self.blind_spots(left_out, lost);
        Ok(Report {
            findings,
            blind_spots,
            since: self.store.since().max(self.counters.since()),
            seen: observed(&window, is_asked),
        })
    }
}

impl Diagnosis {
    fn window(&mut self, now: Timestamp, window_ns: u64) -> Window {
        self.queries.add_overdue(now, &mut self.store);
        let from = now.saturating_sub(window_ns);
        let mut window =
            Window::new(now, self.store.window(from), self.counters.window(from), self.translations.view());
        window.lost_dns = self.lost_since(from, |loss| loss.is_dns);
        window
    }

    fn lost_since(&self, from: Timestamp, which: impl Fn(&Loss) -> bool) -> u64 {
        let lost = self.lost.iter().filter(|loss| loss.at >= from && which(loss));
        lost.map(|loss| loss.events).sum()
    }

    /// What was not observed may be what was lost, or what no probe looks at.
    fn less_sure(&self, mut found: Conclusion, lost: u64) -> Conclusion {
        if found.code.is_by_absence() && self.is_blind {
            found = found.although("drops cannot be seen on this node");
        }
        if found.code.is_by_absence() && lost > 0 {
            found = found.although("events were lost that might explain it");
        }
        found
    }

    fn blind_spots(&self, left_out: usize, lost: u64) -> Vec<String> {
        let less_important = (left_out > 0)
            .then(|| format!("{left_out} findings of less weight are left out: ask about fewer entities"));
        let lost = (lost > 0)
            .then(|| format!("{lost} events were lost before the diagnosis saw them: counts are too low"));
        let missing = self.counters.missing.iter();
        let missing = missing.map(|source| format!("the counters of {source} cannot be read on this node"));
        less_important.into_iter().chain(lost).chain(missing).collect()
    }
}

/// Connections, packets and queries of those asked about: without any, nothing can be said.
fn observed(window: &Window, is_asked: impl Fn(EntityId) -> bool) -> u64 {
    let traffic = [counter::TCP_SENT, counter::TCP_RECEIVED, counter::UDP_SENT, counter::UDP_RECEIVED];
    let counted = traffic.iter().flat_map(|index| window.risen(*index));
    let counted: u64 = counted.filter(|(entity, _)| is_asked(*entity)).map(|(_, amount)| amount.count).sum();
    let is_event = |what: &What| !matches!(what, What::SlowSoftirq { .. });
    let events = window.of(is_event).filter(|(key, _)| is_asked(key.entity) && key.flow != Flow::NONE);
    let drops = window.drops.iter().filter(|drop| is_asked(drop.entity));
    counted
        + events.map(|(_, amount)| amount.count).sum::<u64>()
        + drops.map(|drop| drop.amount.count).sum::<u64>()
}
