//! What tables of the kernel said in the last quarter of an hour: for each column and entity one amount in
//! each span of five seconds.
//!
//! Where thousands of entities say something, old spans become longer, up to an eighth of their age, and
//! then the oldest ones go. [`Readings::since`] says how far back it reaches. When the clock is set back all of it
//! is forgotten: it would be of a time to come.

use std::collections::VecDeque;

use inspector_sdk::{EntityId, Timestamp};

use crate::fact::{Amount, CLOCK_STEP_NS, merge};

/// Length of a new span.
const SPAN_NS: u64 = 5_000_000_000;
/// As long as facts are kept.
const AGE_NS: u64 = 16 * 60 * 1_000_000_000;
/// What a span may be of its age.
const COARSE: u64 = 8;

/// Index of a column, and whose.
pub type Reading = (u16, EntityId);

/// One amount for each key, in their order.
pub type Rows = Vec<(Reading, Amount)>;

/// A history of readings.
#[derive(Debug)]
pub struct Readings {
    /// The oldest one first.
    spans: VecDeque<Span>,
    /// Those of all spans.
    readings: usize,
    /// Readings that are kept, some 60 bytes each.
    limit: usize,
    began: Timestamp,
}

#[derive(Debug)]
struct Span {
    start: Timestamp,
    end: Timestamp,
    /// In order, one for each key, up to here; behind it as they came.
    merged: usize,
    readings: Rows,
}

impl Span {
    fn merge(&mut self) {
        merge(&mut self.readings);
        self.merged = self.readings.len();
    }
}

impl Readings {
    /// Empty, from now on.
    pub fn new(now: Timestamp, limit: usize) -> Self {
        Self { spans: VecDeque::new(), readings: 0, limit, began: now }
    }

    /// Takes one; they come in the order of time.
    pub fn add(&mut self, column: u16, entity: EntityId, amount: Amount) {
        let start = amount.last - amount.last % SPAN_NS;
        if self.spans.back().is_some_and(|newest| newest.start > amount.last + CLOCK_STEP_NS) {
            *self = Self::new(amount.last, self.limit);
        }
        if self.spans.back().is_none_or(|newest| newest.start < start) {
            self.begin(start);
        }
        let Some(newest) = self.spans.back_mut() else { return };
        newest.readings.push(((column, entity), amount));
        self.readings += 1;
        // Merged now and then, so that each costs a constant time.
        if newest.readings.len() > 2 * newest.merged + 1_024 {
            self.settle();
        }
    }

    /// How far back everything is known.
    pub fn since(&self) -> Timestamp {
        self.began
    }

    /// Everything since `from`.
    pub fn window(&self, from: Timestamp) -> Rows {
        let within = || {
            let spans = self.spans.iter().filter(|span| span.end > from);
            spans.flat_map(|span| &span.readings).filter(|(_, amount)| amount.last >= from)
        };
        // A vector that grows would need up to three times the room for a moment.
        let mut found = Vec::with_capacity(within().count());
        found.extend(within().copied());
        merge(&mut found);
        found
    }

    fn begin(&mut self, start: Timestamp) {
        self.settle();
        while self.spans.front().is_some_and(|oldest| oldest.end + AGE_NS <= start) {
            self.drop_oldest();
        }
        self.spans.push_back(Span { start, end: start + SPAN_NS, merged: 0, readings: Vec::new() });
    }

    /// Merges what came, and makes room.
    fn settle(&mut self) {
        let Some(newest) = self.spans.back_mut() else { return };
        let before = newest.readings.len();
        newest.merge();
        self.readings -= before - newest.readings.len();
        while self.readings > self.limit && self.spans.len() > 1 {
            self.give_way();
        }
    }

    /// Joins the oldest two that are short for their age; if there are none, the oldest goes.
    fn give_way(&mut self) {
        let newest = self.spans.back().map_or(0, |newest| newest.start);
        let is_short = |at: &usize| {
            let (older, younger) = (&self.spans[*at], &self.spans[at + 1]);
            (younger.end - older.start) * COARSE <= newest.saturating_sub(younger.end)
        };
        let Some(at) = (0..self.spans.len() - 1).find(is_short) else { return self.drop_oldest() };
        if let Some(older) = self.spans.remove(at) {
            let younger = &mut self.spans[at];
            let before = older.readings.len() + younger.readings.len();
            younger.start = older.start;
            younger.readings.extend(older.readings);
            younger.merge();
            self.readings -= before - younger.readings.len();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.spans.pop_front() {
            self.readings -= oldest.readings.len();
            self.began = self.began.max(oldest.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// So many entities whose counter rises by 1 each second.
    fn counted(entities: u32, seconds: u64, limit: usize) -> Readings {
        let mut readings = Readings::new(0, limit);
        for second in 0..seconds {
            for entity in 0..entities {
                readings.add(7, entity, Amount::new(second * SECOND, 1, 0));
                assert!(readings.readings <= limit + limit / 2 + 2_048, "{}", readings.readings);
            }
        }
        readings
    }

    fn count(readings: &Readings, from: u64) -> Vec<u64> {
        readings.window(from * SECOND).iter().map(|(_, amount)| amount.count).collect()
    }

    #[test]
    fn a_window_has_what_rose_in_it_and_no_more_than_the_rest_of_a_span() {
        let readings = counted(2, 100, 1_000);
        assert_eq!(count(&readings, 95), [5, 5]);
        assert_eq!(count(&readings, 93), [10, 10]);
        assert_eq!(count(&readings, 0), [100, 100]);
        assert_eq!(readings.since(), 0);
    }

    #[test]
    fn history_ends_after_a_quarter_of_an_hour_and_says_so() {
        let readings = counted(1, 2_000, 1_000);
        let since = readings.since() / SECOND;
        assert!((2_000 - 970..=2_000 - 900).contains(&since), "{since}");
        assert_eq!(count(&readings, 0), [2_000 - since]);
    }

    #[test]
    fn a_busy_node_keeps_all_of_it_with_old_times_told_apart_less() {
        // A quarter of what it would be in spans of five seconds.
        let readings = counted(300, 960, 14_400);
        assert_eq!((count(&readings, 0), readings.since()), (vec![960; 300], 0));
        for age in [10, 60, 300, 900] {
            let counted = count(&readings, 960 - age)[0];
            assert!((age..=age + age / COARSE + 5).contains(&counted), "{age} {counted}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_begins_it_anew() {
        let mut readings = counted(1, 1_000, 1_000);
        for second in 500..510 {
            readings.add(7, 0, Amount::new(second * SECOND, 1, 0));
        }
        assert_eq!((count(&readings, 0), readings.since()), (vec![10], 500 * SECOND));
    }

    #[test]
    fn more_than_there_is_room_for_shortens_the_history() {
        let readings = counted(1_000, 60, 5_000);
        let since = readings.since() / SECOND;
        assert!((30..60).contains(&since), "{since}");
        assert_eq!(count(&readings, 0), vec![60 - since; 1_000]);
    }
}
