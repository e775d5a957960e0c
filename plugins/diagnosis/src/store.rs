//! The history: what happened in the last quarter of an hour, in buckets of five seconds.
//!
//! Counts are exact; what gives way to crowds are addresses. Where a bucket holds too many different
//! facts, entities with more than their share lose the ports of their clients there, then their addresses:
//! a storm in one costs no other anything. When all buckets together are too large, the oldest ones
//! lose theirs, and are dropped at last. [`Store::since`] says how far back it reaches. When the clock is set back all
//! of it is forgotten: it would be of a time to come.

use std::collections::VecDeque;

use inspector_sdk::map::Map;
use inspector_sdk::{EntityId, Timestamp};

use crate::fact::{Amount, CLOCK_STEP_NS, Flow, Key, What, merge};

/// Length of a bucket.
const BUCKET_NS: u64 = 5_000_000_000;
/// Sixteen minutes.
const BUCKETS: usize = 192;
/// Facts of one bucket before its busiest entities lose details.
const BUCKET_FACTS: usize = 2_000;
/// Facts of all buckets, some 210 bytes each, and as much again for a moment, while a question is answered.
const ALL_FACTS: usize = 12_000;

/// The history.
#[derive(Debug)]
pub struct Store {
    buckets: VecDeque<Bucket>,
    facts: usize,
    /// From here on everything is known; a time without facts has no bucket.
    began: Timestamp,
    /// The fact counted last: a storm is one fact, over and over.
    last: Option<(Key, Amount)>,
}

#[derive(Debug)]
struct Bucket {
    start: Timestamp,
    /// At most so much is told apart.
    detail: Detail,
    /// And of these even less.
    crowded: Map<EntityId, Detail>,
    /// More facts than this cost its busiest entities details.
    limit: usize,
    facts: Map<Key, Amount>,
}

impl Bucket {
    fn new(start: Timestamp) -> Self {
        let (crowded, facts) = (Map::default(), Map::default());
        Self { start, detail: Detail::Connections, crowded, limit: BUCKET_FACTS, facts }
    }

    fn add(&mut self, mut key: Key, amount: Amount) {
        let detail = self.crowded.get(&key.entity).map_or(self.detail, |less| self.detail.max(*less));
        key.flow = detail.flow(key.flow);
        self.facts.entry(key).and_modify(|sum| sum.add(&amount)).or_insert(amount);
    }

    /// Counts all facts anew, with less detail by now.
    fn recount(&mut self) {
        for (key, amount) in std::mem::take(&mut self.facts) {
            self.add(key, amount);
        }
    }

    /// Entities with more than half of their share of the facts lose details.
    fn relieve(&mut self) {
        let mut facts: Map<EntityId, usize> = Map::default();
        self.facts.keys().for_each(|key| *facts.entry(key.entity).or_default() += 1);
        let share = BUCKET_FACTS / facts.len() / 2;
        for (entity, _) in facts.into_iter().filter(|(_, facts)| *facts > share) {
            if let Some(less) = self.crowded.get(&entity).copied().unwrap_or(self.detail).less() {
                self.crowded.insert(entity, less);
            }
        }
        self.recount();
        // Thousands of entities with a few facts each are no crowd: what did not help is not tried again
        // for each further fact.
        self.limit = BUCKET_FACTS.max(self.facts.len() * 2);
    }
}

/// What a bucket still tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Detail {
    Connections,
    Services,
    Entities,
}

impl Detail {
    fn flow(self, flow: Flow) -> Flow {
        match self {
            Self::Connections => flow,
            Self::Services => flow.of_service(),
            Self::Entities => Flow { proto: flow.proto, ..Flow::NONE },
        }
    }

    fn less(self) -> Option<Self> {
        match self {
            Self::Connections => Some(Self::Services),
            Self::Services => Some(Self::Entities),
            Self::Entities => None,
        }
    }
}

impl Store {
    /// Empty, from now on.
    pub fn new(now: Timestamp) -> Self {
        Self { buckets: VecDeque::new(), facts: 0, began: now, last: None }
    }

    /// Counts one fact; `at` may be a little older than what was counted before.
    pub fn add(&mut self, entity: EntityId, what: What, flow: Flow, amount: Amount) {
        let key = Key { entity, what, flow };
        match &mut self.last {
            Some((last, sum)) if *last == key && amount.last.abs_diff(sum.first) < BUCKET_NS => {
                sum.add(&amount)
            }
            _ => {
                self.settle();
                self.last = Some((key, amount));
            }
        }
    }

    /// How far back everything is known.
    pub fn since(&self) -> Timestamp {
        self.began
    }

    /// Everything since `from`, one amount for each key, in the order of keys.
    pub fn window(&mut self, from: Timestamp) -> Vec<(Key, Amount)> {
        self.settle();
        let within = || {
            let buckets = self.buckets.iter().rev().take_while(|bucket| bucket.start + BUCKET_NS > from);
            buckets.flat_map(|bucket| &bucket.facts).filter(|(_, amount)| amount.last >= from)
        };
        // A vector that grows would need up to three times the room for a moment.
        let mut found = Vec::with_capacity(within().count());
        found.extend(within().map(|(key, amount)| (*key, *amount)));
        merge(&mut found);
        found
    }

    /// Moves the last fact into its bucket.
    fn settle(&mut self) {
        let Some((key, amount)) = self.last.take() else { return };
        let bucket = self.bucket(amount.first);
        let before = bucket.facts.len();
        bucket.add(key, amount);
        if bucket.facts.len() > before && bucket.facts.len() > bucket.limit {
            bucket.relieve();
        }
        let after = bucket.facts.len();
        self.facts = self.facts + after - before;
        while self.facts > ALL_FACTS {
            self.give_way();
        }
    }

    /// The bucket of a time; one that is older than the newest bucket goes into that.
    fn bucket(&mut self, at: Timestamp) -> &mut Bucket {
        let start = at - at % BUCKET_NS;
        if self.buckets.back().is_some_and(|newest| newest.start > at + CLOCK_STEP_NS) {
            *self = Self::new(at);
        }
        if self.buckets.back().is_none_or(|newest| newest.start < start) {
            if self.buckets.len() >= BUCKETS {
                self.drop_oldest();
            }
            self.buckets.push_back(Bucket::new(start));
        }
        self.buckets.back_mut().expect("one was pushed if there was none")
    }

    /// Makes room: the oldest bucket with details loses some; if none has any, the oldest goes.
    fn give_way(&mut self) {
        let detailed = self.buckets.iter_mut().find(|bucket| bucket.detail != Detail::Entities);
        match detailed.and_then(|bucket| Some((bucket.detail.less()?, bucket))) {
            Some((less, bucket)) => {
                let before = bucket.facts.len();
                bucket.detail = less;
                bucket.recount();
                self.facts = self.facts + bucket.facts.len() - before;
            }
            None => self.drop_oldest(),
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.buckets.pop_front() {
            self.facts -= oldest.facts.len();
            self.began = self.began.max(oldest.start + BUCKET_NS);
        }
    }
}

#[cfg(test)]
mod tests {
    use inspector_sdk::testing::head;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn flow(port: u16) -> Flow {
        Flow { sport: 32_768 + port, ..Flow::of(&head("10.0.0.1:1", "10.0.0.2:80")) }
    }

    #[test]
    fn a_window_has_what_happened_in_it_and_no_more() {
        let mut store = Store::new(0);
        for second in 0..100 {
            store.add(1, What::Connected, flow(1), Amount::new(second * SECOND, 1, 7));
        }
        let window = store.window(90 * SECOND);
        let (_, amount) = window.first().expect("one fact");
        assert_eq!((window.len(), amount.count, amount.total), (1, 10, 70));
        assert_eq!((amount.first, amount.last), (90 * SECOND, 99 * SECOND));
        assert_eq!(store.since(), 0);
    }

    #[test]
    fn a_time_in_which_nothing_happened_is_known() {
        let mut store = Store::new(SECOND);
        store.add(1, What::Connected, flow(1), Amount::new(100 * SECOND, 1, 0));
        store.settle();
        assert_eq!(store.since(), SECOND);
    }

    #[test]
    fn history_ends_after_a_quarter_of_an_hour_and_says_so() {
        let mut store = Store::new(0);
        for second in 0..2_000 {
            store.add(1, What::Connected, flow(1), Amount::new(second * SECOND, 1, 0));
        }
        let count: u64 = store.window(0).iter().map(|(_, amount)| amount.count).sum();
        assert!((900..=960).contains(&count), "{count}");
        assert_eq!(store.since(), (2_000 - count) * SECOND);
    }

    #[test]
    fn a_clock_that_is_set_back_begins_it_anew() {
        let mut store = Store::new(0);
        for second in (0..1_000).chain(500..510) {
            store.add(1, What::Connected, flow(1), Amount::new(second * SECOND, 1, 0));
        }
        let window = store.window(0);
        assert_eq!((window.len(), window[0].1.count, store.since()), (1, 10, 500 * SECOND));
        assert_eq!(store.facts, store.buckets.iter().map(|bucket| bucket.facts.len()).sum());
    }

    #[test]
    fn a_crowd_costs_addresses_and_no_counts() {
        let mut store = Store::new(0);
        for second in 0..20 {
            for port in 0..10_000 {
                store.add(1, What::Connected, flow(port), Amount::new(second * SECOND, 1, 0));
            }
        }
        let window = store.window(0);
        assert_eq!(window.iter().map(|(_, amount)| amount.count).sum::<u64>(), 200_000);
        assert!(store.facts <= ALL_FACTS, "{}", store.facts);
        assert!(window.iter().all(|(key, _)| key.flow.dport == 80), "the service is still known");
    }

    #[test]
    fn many_entities_and_services_stay_within_bounds() {
        let mut store = Store::new(0);
        for i in 0..400_000u32 {
            let to = Ipv6(i).bytes();
            let flow = Flow { to, ..flow(1) };
            store.add(i % 110, What::Connected, flow, Amount::new(u64::from(i) * SECOND / 500, 1, 0));
        }
        store.settle();
        assert!(store.facts <= ALL_FACTS, "{}", store.facts);
        assert_eq!(store.facts, store.buckets.iter().map(|bucket| bucket.facts.len()).sum());
    }

    #[test]
    fn a_storm_in_one_entity_costs_no_other_its_addresses() {
        let mut store = Store::new(0);
        store.add(
            1,
            What::ConnectFailed { error: 111, portless: false, waited: false },
            flow(7),
            Amount::new(1, 1, 0),
        );
        (0..10_000).for_each(|port| store.add(2, What::Connected, flow(port), Amount::new(2, 1, 0)));
        let window = store.window(0);
        assert!(window.iter().any(|(key, _)| (key.entity, key.flow) == (1, flow(7))), "{window:?}");
    }

    #[test]
    fn thousands_of_entities_with_few_facts_each_cost_no_more_than_their_number() {
        let mut store = Store::new(0);
        let began = std::time::Instant::now();
        for entity in 0..50_000 {
            store.add(entity, What::Connected, flow(7), Amount::new(1, 1, 0));
        }
        store.settle();
        // Counting all anew for each further fact took minutes.
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
        assert!(store.facts <= ALL_FACTS, "{}", store.facts);
    }

    struct Ipv6(u32);

    impl Ipv6 {
        fn bytes(&self) -> [u8; 16] {
            std::net::Ipv6Addr::from(u128::from(self.0) | 0xfd00 << 112).octets()
        }
    }
}
