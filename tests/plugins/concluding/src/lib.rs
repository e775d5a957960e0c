//! Concludes a closed port from dropped datagrams: a diagnosis as small as it can be, to see it pass
//! from the kernel to the user. Half of it rests on events, half on a counter.
//!
//! Only datagrams to the lab's closed port: a young namespace drops a few multicast packets as well.

use std::collections::BTreeMap;
use std::time::Duration;

use inspector_sdk::analyzer::{Action, Check, Evidence, Finding, Report, Request};
use inspector_sdk::bindings::inspector::analyzer::types::Attr;
use inspector_sdk::probes::SkbDrop;
use inspector_sdk::protocol::UDP;
use inspector_sdk::source::Source;
use inspector_sdk::{Analyzer, Batch, Description, EntityId, Error, InitArgs, Timestamp};

/// UDP, and the port that `lab::faults::CLOSED_PORT` names.
const WANTED: (u8, u16) = (UDP, 9);

/// Between the hosts of the lab.
const FLOW: [(&str, &str); 4] =
    [("saddr", "10.9.0.1"), ("daddr", "10.9.0.2"), ("dport", "9"), ("proto", "udp")];

/// Drops of one entity.
#[derive(Debug, Clone, Copy)]
struct Seen {
    first: Timestamp,
    last: Timestamp,
    count: u64,
}

/// The analyzer.
#[derive(Debug)]
pub struct Concluding {
    since: Timestamp,
    drops: BTreeMap<EntityId, Seen>,
    snmp: Source,
    /// `Udp.NoPorts` as of the last tick.
    no_ports: BTreeMap<EntityId, u64>,
}

impl Analyzer for Concluding {
    fn describe() -> Description {
        Description::new("concluding", "1.0.0", "concludes a closed port")
            .probe::<SkbDrop>()
            .source("snmp")
            // Never by itself within a test: what it knows of counters came with a question.
            .tick_every(Duration::from_secs(3600))
            .scenario("node", "is everything fine?")
            .scenario("loss", "where do datagrams get lost?")
    }

    fn init(args: &InitArgs) -> Result<Self, Error> {
        let (drops, no_ports) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { since: args.now, drops, snmp: Source::open("snmp")?, no_ports })
    }

    fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        let wanted = |drop: &&SkbDrop| (drop.head.proto, drop.head.dport) == WANTED;
        for drop in batch.events::<SkbDrop>().filter(wanted) {
            let at = drop.head.ts_ns;
            let seen = self.drops.entry(drop.head.entity).or_insert(Seen { first: at, last: at, count: 0 });
            (seen.last, seen.count) = (seen.last.max(at), seen.count + drop.count);
        }
        Ok(())
    }

    fn tick(&mut self, _: Timestamp) {
        let Some(column) = self.snmp.column("Udp.NoPorts") else { return };
        for id in inspector_sdk::entities::all() {
            let row = self.snmp.read(id).ok().and_then(|table| table.rows().next().map(<[u64]>::to_vec));
            self.no_ports.extend(row.map(|row| (id, row[column])));
        }
    }

    fn diagnose(&mut self, request: &Request) -> Result<Report, Error> {
        let begin = request.now.saturating_sub(u64::from(request.window_ms) * 1_000_000);
        let asked = |id: &EntityId| request.entities.is_empty() || request.entities.contains(id);
        let seen = self.drops.iter().filter(|(id, seen)| asked(id) && seen.last >= begin);
        let findings: Vec<_> = seen.map(|(id, seen)| self.finding(*id, seen)).collect();
        let seen = findings.iter().map(|finding| finding.count).sum();
        Ok(Report { findings, blind_spots: vec!["it looks at UDP only".to_owned()], since: self.since, seen })
    }
}

impl Concluding {
    fn finding(&self, id: EntityId, seen: &Seen) -> Finding {
        let evidence = |kind: &str, summary: String, at| Evidence {
            kind: kind.to_owned(),
            summary,
            at,
            attrs: Vec::new(),
        };
        let no_ports = self.no_ports.get(&id).copied().unwrap_or(0);
        Finding {
            code: "port-not-listening".to_owned(),
            role: "cause".to_owned(),
            title: "datagrams reach a port where nothing listens".to_owned(),
            severity: 1,
            confidence: 99,
            entities: vec![id],
            first_seen: seen.first,
            last_seen: seen.last,
            count: seen.count,
            evidence: vec![
                evidence("event", format!("{} drops at port {}", seen.count, WANTED.1), Some(seen.last)),
                evidence("metric", format!("Udp.NoPorts is {no_ports}"), None),
            ],
            actions: vec![Action {
                title: "See who listens".to_owned(),
                command: Some("ss -lun".to_owned()),
                risk: "safe".to_owned(),
                url: None,
            }],
            checks: vec![
                check(id, "listeners", &[("port", "9"), ("proto", "udp")]),
                check(id, "table", &[("source", "snmp"), ("column", "Udp.NoPorts")]),
                check(id, "netfilter", &[("hook", "input")]),
                check(id, "capture", &FLOW),
                check(id, "moon", &[]),
            ],
        }
    }
}

fn check(entity: EntityId, kind: &str, params: &[(&str, &str)]) -> Check {
    let attr = |(name, value): &(&str, &str)| Attr { name: (*name).to_owned(), value: (*value).to_owned() };
    Check { kind: kind.to_owned(), entity, params: params.iter().map(attr).collect() }
}

inspector_sdk::export!(Concluding with ticker, diagnosis);
