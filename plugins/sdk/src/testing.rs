//! Runs an analyzer natively: the same code that a component runs, over a host of plain memory.
//!
//! For `cargo test`, where a case is a few records in and values and events out, and for benches
//! that compare the sandbox with the bare analyzer. It has no quotas and refuses only series that it
//! has not given out.

pub(crate) mod host;

use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};

use inspector_ebpf::record::{FLAG_PACKET, FLAG_PORTS, IntoBytes};
use inspector_ebpf::{Head, Record};

pub use self::host::{Cells, World};
use crate::bindings::exports::inspector::analyzer::guest;
use crate::instance::Instance;
use crate::{Analyzer, EntityId, Error, Event, InitArgs, ProbeInfo, Timestamp};

/// A running analyzer.
#[derive(Debug)]
pub struct Harness<A> {
    instance: Instance<A>,
    analyzer: PhantomData<A>,
}

impl<A: Analyzer> Harness<A> {
    /// Starts it in a world, with every probe it subscribes to.
    ///
    /// # Errors
    /// What `init` refuses.
    pub fn start(world: World) -> Result<Self, Error> {
        let description = A::describe();
        let grant = |(number, subscription): (usize, &_)| Some(granted(number, subscription));
        let probes = description.subscriptions.iter().enumerate().map(grant).collect();
        host::enter(world, &description);
        let args = InitArgs { now: 1, node: "test".to_owned(), probes, ..InitArgs::default() };
        Ok(Self { instance: Instance::init(&args)?, analyzer: PhantomData })
    }

    /// Delivers events as one batch at a time.
    ///
    /// # Panics
    /// If the analyzer does not subscribe to the probe of `R`, or refuses the batch.
    pub fn batch<R: Record>(&mut self, now: Timestamp, events: &[R]) {
        let words = words(events);
        self.packed::<R>(now, &words).expect("the analyzer takes the batch");
    }

    /// Delivers events that are packed already, as a bench does.
    ///
    /// # Errors
    /// A probe without a subscription, and what the analyzer refuses.
    pub fn packed<R: Record>(&mut self, now: Timestamp, words: &[u64]) -> Result<(), Error> {
        let probe = self.instance.number_of::<R>();
        let probe = probe.ok_or_else(|| Error::new("invalid", format!("not subscribed to {}", R::PROBE)))?;
        let (stride, count) = (size_of::<R>(), words.len() * 8 / size_of::<R>());
        let info = guest::Batch {
            probe,
            stride: u16::try_from(stride).expect("a record is at most some hundred bytes"),
            count: u32::try_from(count).expect("a batch is at most some thousand records"),
            now,
            ..guest::Batch::default()
        };
        self.instance.on_batch(&info, words)
    }

    /// Runs any other hook, e.g. `|analyzer| analyzer.tick(now)`.
    pub fn hook<R>(&mut self, call: impl FnOnce(&mut A) -> R) -> R {
        self.instance.hook(call)
    }

    /// Replaces what an entity's table of a source holds, as the next interval does.
    pub fn set_table(&mut self, source: &'static str, entity: EntityId, cells: Cells) {
        host::set_table(source, entity, cells);
    }

    /// The table of one entity cannot be read from now on.
    pub fn remove_table(&mut self, source: &'static str, entity: EntityId) {
        host::remove_table(source, entity);
    }

    /// Reports entities as vanished.
    pub fn removed(&mut self, ids: &[EntityId]) {
        self.instance.removed(ids);
    }

    /// Value of a series: the sum of a counter, the last value of a gauge, the number of
    /// observations of a histogram.
    pub fn value(&self, metric: &str, entity: EntityId, labels: &[&str]) -> Option<f64> {
        host::value(metric, entity, labels)
    }

    /// Sum of the observations of a histogram.
    pub fn sum(&self, metric: &str, entity: EntityId, labels: &[&str]) -> Option<f64> {
        host::sum(metric, entity, labels)
    }

    /// Takes the events emitted so far.
    pub fn events(&mut self) -> Vec<Event> {
        host::take_events()
    }

    /// Calls of `metrics.apply` and of `metrics.series` so far.
    pub fn metric_calls(&self) -> (u32, u32) {
        host::metric_calls()
    }
}

/// A head as of one TCP packet whose headers were readable, between two socket addresses, at
/// time 1, of entity 1.
///
/// # Panics
/// If an address does not parse.
pub fn head(from: &str, to: &str) -> Head {
    let parse = |text: &str| text.parse::<SocketAddr>().expect("a socket address");
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let (from, to) = (parse(from), parse(to));
    Head {
        ts_ns: 1,
        netns: 1,
        entity: 1,
        kind: 1,
        cpu: 0,
        saddr: octets(from),
        daddr: octets(to),
        sport: from.port(),
        dport: to.port(),
        proto: crate::protocol::TCP,
        tcp_state: 0,
        flags: FLAG_PACKET | FLAG_PORTS,
    }
}

/// A record with this head and a tail of zeros.
///
/// # Panics
/// Never: the buffer has the record's size.
pub fn record<R: Record>(head: Head) -> R {
    let mut bytes = vec![0; size_of::<R>()];
    bytes[..size_of::<Head>()].copy_from_slice(head.as_bytes());
    R::read_from_bytes(&bytes).expect("a buffer of the record's size")
}

/// Events as the host packs them.
pub fn words<R: Record>(events: &[R]) -> Vec<u64> {
    let (words, _) = events.as_bytes().as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

fn granted(
    number: usize,
    subscription: &crate::bindings::inspector::analyzer::manifest::Subscription,
) -> ProbeInfo {
    ProbeInfo {
        probe: u16::try_from(number).expect("an analyzer has a handful of subscriptions"),
        name: subscription.probe.clone(),
        schema: subscription.min_schema,
        stride: 0,
    }
}
