//! What waits for one plugin: a bounded queue of batches, and what else it must hear of.
//!
//! Batches beyond the bound push the oldest out, counted; everything else is bounded by its shape
//! (only the latest snapshot waits, only one replacement), questions by [`MAX_QUESTIONS`]. The worker
//! is woken only while it waits, never once per event.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::guest::Prepared;
use super::question::PendingQuestion;
use crate::entities::{Changes, EntityId};
use crate::kernel::batch::Batch;
use crate::kernel::table::Snapshot;
use crate::loss::Lost;

/// Events that may wait for one plugin.
const CAPACITY: usize = 1 << 17;

/// Questions that may wait for one plugin.
const MAX_QUESTIONS: usize = 16;

/// When a batch is worth a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Deliver when so many events wait …
    pub(super) events: usize,
    /// … or when the oldest has waited so long.
    pub(super) wait: Duration,
}

/// Who waits to hear whether a newer version runs.
pub(super) type ReplacedReply = SyncSender<Result<(), String>>;

/// What the worker does next.
pub(super) enum Work {
    /// A newer version of the plugin, and who waits to hear whether it runs.
    Replace(Box<Prepared>, ReplacedReply),
    /// Entities came and went.
    Entities(Vec<EntityId>, Vec<EntityId>),
    /// A new snapshot of the sources.
    Tick(Arc<Snapshot>),
    /// A question of a user, behind the events that were there before it.
    Question(PendingQuestion),
    /// Events, and how many of this probe the plugin missed since its previous batch.
    Batch(Arc<Batch>, u64),
    /// Nothing until the deadline that was asked for.
    Idle,
    /// The end.
    Stop,
}

#[derive(Default)]
struct Waiting {
    batches: VecDeque<Arc<Batch>>,
    events: usize,
    oldest: Option<Instant>,
    /// Missed since the last delivered batch, by probe id.
    missed: HashMap<u16, u64>,
    replace: Option<(Box<Prepared>, ReplacedReply)>,
    added: Vec<EntityId>,
    removed: Vec<EntityId>,
    tick: Option<Arc<Snapshot>>,
    /// Each with the number of the batch that it waits for.
    questions: VecDeque<(u64, PendingQuestion)>,
    /// Batches that came in and that went out, delivered or dropped.
    came: u64,
    went: u64,
    stop: bool,
    sleeping: bool,
}

/// One plugin's inbox.
pub(super) struct Inbox {
    plugin: String,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Bit n: the probe with id n is subscribed.
    probes: AtomicU64,
    lost: Lost,
}

impl Inbox {
    pub(super) fn new(plugin: &str, lost: Lost) -> Self {
        let (waiting, wake, probes) = (Mutex::default(), Condvar::new(), AtomicU64::new(0));
        Self { plugin: plugin.to_owned(), waiting, wake, probes, lost }
    }

    /// Whose it is.
    pub(super) fn plugin(&self) -> &str {
        &self.plugin
    }

    /// From now on only batches of these probes are taken in.
    pub(super) fn subscribe(&self, probe_ids: impl Iterator<Item = u16>) {
        let mask = probe_ids.fold(0, |mask, id| mask | 1 << u32::from(id));
        self.probes.store(mask, Ordering::Release);
    }

    pub(super) fn push(&self, batch: &Arc<Batch>) {
        if self.probes.load(Ordering::Acquire) & 1 << u32::from(batch.probe.id) == 0 {
            return;
        }
        let mut waiting = self.lock();
        waiting.events += batch.count as usize;
        waiting.batches.push_back(Arc::clone(batch));
        waiting.came += 1;
        waiting.oldest.get_or_insert_with(Instant::now);
        while waiting.events > CAPACITY && waiting.batches.len() > 1 {
            self.drop_oldest(&mut waiting);
        }
        self.notify(waiting);
    }

    /// Counts events that were taken out and not handled: the guest failed on them.
    pub(super) fn count_lost(&self, events: u64) {
        self.lost.add(events);
    }

    pub(super) fn replace(&self, prepared: Prepared, reply: ReplacedReply) {
        let mut waiting = self.lock();
        waiting.replace = Some((Box::new(prepared), reply));
        self.notify(waiting);
    }

    pub(super) fn entities(&self, changes: &Changes) {
        let mut waiting = self.lock();
        waiting.added.extend_from_slice(&changes.added);
        waiting.removed.extend_from_slice(&changes.removed);
        self.notify(waiting);
    }

    pub(super) fn tick(&self, snapshot: &Arc<Snapshot>) {
        let mut waiting = self.lock();
        waiting.tick = Some(Arc::clone(snapshot));
        self.notify(waiting);
    }

    /// Puts a question behind the batches that wait; false if too many questions wait already.
    pub(super) fn ask(&self, question: PendingQuestion) -> bool {
        let mut waiting = self.lock();
        if waiting.questions.len() >= MAX_QUESTIONS {
            return false;
        }
        let behind = waiting.came;
        waiting.questions.push_back((behind, question));
        self.notify(waiting);
        true
    }

    pub(super) fn stop(&self) {
        let mut waiting = self.lock();
        waiting.stop = true;
        self.notify(waiting);
    }

    /// The next thing to do; waits for it, at most until `deadline`. Stopping comes last, so that
    /// what was delivered before is still handled.
    pub(super) fn next(&self, patience: Patience, deadline: Option<Instant>) -> Work {
        let mut waiting = self.lock();
        loop {
            if let Some(work) = waiting.urgent().or_else(|| waiting.question()) {
                return work;
            }
            let now = Instant::now();
            let due = waiting.oldest.map(|oldest| oldest + patience.wait);
            let hurry = waiting.stop || !waiting.questions.is_empty();
            if waiting.events >= patience.events.max(1) || due.is_some_and(|due| due <= now) || hurry {
                if let Some(work) = waiting.batch() {
                    return work;
                }
                if waiting.stop {
                    return Work::Stop;
                }
            }
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Work::Idle;
            }
            let until = due.into_iter().chain(deadline).min();
            waiting = self.sleep(waiting, until.map(|until| until - now));
        }
    }

    /// As [`Inbox::next`], but leaves batches where they are: used while the plugin has no instance.
    /// The oldest of them still make room for new ones.
    pub(super) fn next_control(&self, deadline: Option<Instant>) -> Work {
        let mut waiting = self.lock();
        loop {
            if let Some(work) = waiting.urgent() {
                return work;
            }
            if let Some((_, question)) = waiting.questions.pop_front() {
                return Work::Question(question);
            }
            if waiting.stop {
                while !waiting.batches.is_empty() {
                    self.drop_oldest(&mut waiting);
                }
                return Work::Stop;
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Work::Idle;
            }
            waiting = self.sleep(waiting, deadline.map(|deadline| deadline - now));
        }
    }

    fn drop_oldest(&self, waiting: &mut Waiting) {
        if let Some(batch) = waiting.take_oldest() {
            let count = u64::from(batch.count);
            *waiting.missed.entry(batch.probe.id).or_default() += count + batch.lost;
            self.lost.add(count);
        }
    }

    fn sleep<'a>(
        &'a self,
        mut waiting: MutexGuard<'a, Waiting>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, Waiting> {
        waiting.sleeping = true;
        let mut waiting = match limit {
            Some(limit) => self.wake.wait_timeout(waiting, limit).unwrap_or_else(PoisonError::into_inner).0,
            None => self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
        };
        waiting.sleeping = false;
        waiting
    }

    fn notify(&self, waiting: MutexGuard<'_, Waiting>) {
        let sleeping = waiting.sleeping;
        drop(waiting);
        if sleeping {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn urgent(&mut self) -> Option<Work> {
        if let Some((prepared, reply)) = self.replace.take() {
            return Some(Work::Replace(prepared, reply));
        }
        if !self.added.is_empty() || !self.removed.is_empty() {
            return Some(Work::Entities(std::mem::take(&mut self.added), std::mem::take(&mut self.removed)));
        }
        self.tick.take().map(Work::Tick)
    }

    /// The oldest question, once the batches before it are gone.
    fn question(&mut self) -> Option<Work> {
        let (_, question) = self.questions.pop_front_if(|(behind, _)| *behind <= self.went)?;
        Some(Work::Question(question))
    }

    fn batch(&mut self) -> Option<Work> {
        let batch = self.take_oldest()?;
        let missed = self.missed.remove(&batch.probe.id).unwrap_or(0);
        Some(Work::Batch(Arc::clone(&batch), batch.lost + missed))
    }

    fn take_oldest(&mut self) -> Option<Arc<Batch>> {
        let batch = self.batches.pop_front()?;
        self.events -= batch.count as usize;
        self.went += 1;
        if self.batches.is_empty() {
            self.oldest = None;
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::super::question::ResolvedQuestion;
    use super::*;
    use inspector_ebpf::PROBES;

    const NOW: Patience = Patience { events: 1, wait: Duration::ZERO };

    fn batch(count: u32, lost: u64) -> Arc<Batch> {
        Arc::new(Batch { probe: &PROBES[0], count, first_seq: 0, lost, now_ns: 0, words: Vec::new() })
    }

    fn question() -> Arc<ResolvedQuestion> {
        Arc::new(ResolvedQuestion {
            scenario: "node".to_owned(),
            entities: Vec::new(),
            window: Duration::ZERO,
            now_ns: 0,
            snapshot: None,
            deadline: Instant::now(),
        })
    }

    fn inbox(lost: &Lost) -> Inbox {
        let inbox = Inbox::new("p", lost.clone());
        inbox.subscribe([PROBES[0].id].into_iter());
        inbox
    }

    #[test]
    fn the_oldest_batches_make_room_and_the_plugin_learns_what_it_missed() {
        let lost = Lost::default();
        let inbox = inbox(&lost);
        inbox.push(&batch(CAPACITY as u32, 3));
        inbox.push(&batch(10, 1));
        assert_eq!(lost.get(), CAPACITY as u64);
        let Work::Batch(got, missed) = inbox.next(NOW, None) else { panic!("a batch waits") };
        assert_eq!((got.count, missed), (10, CAPACITY as u64 + 3 + 1));
    }

    #[test]
    fn a_plugin_that_does_not_subscribe_gets_nothing() {
        let inbox = Inbox::new("p", Lost::default());
        inbox.push(&batch(1, 0));
        assert!(matches!(inbox.next(NOW, Some(Instant::now())), Work::Idle));
    }

    #[test]
    fn what_waited_is_delivered_before_the_end() {
        let inbox = inbox(&Lost::default());
        inbox.push(&batch(1, 0));
        inbox.stop();
        assert!(matches!(inbox.next(NOW, None), Work::Batch(..)));
        assert!(matches!(inbox.next(NOW, None), Work::Stop));
    }

    #[test]
    fn an_impatient_plugin_waits_for_enough_events_or_long_enough() {
        let inbox = inbox(&Lost::default());
        inbox.push(&batch(1, 0));
        let patience = Patience { events: 2, wait: Duration::from_secs(3600) };
        assert!(matches!(inbox.next(patience, Some(Instant::now())), Work::Idle));
        inbox.push(&batch(1, 0));
        assert!(matches!(inbox.next(patience, Some(Instant::now())), Work::Batch(..)));
    }

    #[test]
    fn a_question_is_answered_after_what_came_before_it_and_before_what_came_later() {
        let inbox = inbox(&Lost::default());
        let (reply, _answer) = std::sync::mpsc::sync_channel(1);
        inbox.push(&batch(1, 0));
        assert!(inbox.ask(PendingQuestion { question: question(), reply }));
        inbox.push(&batch(2, 0));
        let patience = Patience { events: 1000, wait: Duration::from_secs(3600) };
        let next = || inbox.next(patience, Some(Instant::now()));
        assert!(matches!(next(), Work::Batch(batch, _) if batch.count == 1));
        assert!(matches!(next(), Work::Question(_)));
        assert!(matches!(next(), Work::Idle), "patience is back");
    }
}
