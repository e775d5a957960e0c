//! One probe as the reader sees it: from packed records in its ring to a stamped batch.
//!
//! What must stay true, once everything is drained and counted: delivered + folded + lost = produced.
//! A record of a sum stands for as many as its `count`: one of them is delivered, the others are
//! folded. What programs add up counts as produced when its sum can be taken, so that the equation
//! holds also on a node that never stops adding. What the limit suppresses in skb-drop is wanted
//! twice: as a record, which is lost, and then as a part of a sum.

use std::sync::Arc;

use inspector_ebpf::Probe;
use zerocopy::FromBytes;

use super::clock::{self, Clock};
use super::hooks;
use super::load::{Counters, Loaded};
use super::runs;
use super::summary::Taken;
use crate::entities::{Entities, EntityId};
use crate::kernel::batch::Batch;
use crate::loss::{Loss, Lost, Stage};
use crate::status::{HookState, HookStatus, ProbeState, ProbeStatus, Status};

/// Most records that one batch holds.
pub const MAX_BATCH: usize = 4096;
/// Word 1 of a record is `head.netns`, word 2 begins with `head.entity`.
const NETNS_WORD: usize = 1;
const ENTITY_WORD: usize = 2;

/// A probe's side of the reader; it lives as long as the reader, loaded or not, since its counts go on.
pub struct Feed {
    probe: &'static Probe,
    /// Present while the probe is loaded.
    pub loaded: Option<Loaded>,
    /// Number of the next record since start, by which a plugin sees that records are missing; so it is
    /// also how many were delivered.
    next_seq: u64,
    /// The programs' counters at the last reading. They begin at 0 with each load, and only what has
    /// come since is added to the losses.
    counted: Counters,
    /// What was added up, per epoch, when the sums of that epoch were taken last, of the present load:
    /// what is added up counts as produced only once it is delivered.
    settled: [u64; 2],
    /// Produced before the present load, since the programs' counters go with them.
    produced_before: u64,
    /// How many were delivered within the record of another one, since start: the difference between
    /// what was produced and the number of records.
    folded: u64,
    /// Lost since the last batch; the next batch carries the number to the plugins.
    unreported: u64,
    /// Lost since start, for the status.
    lost: u64,
    /// Where losses for want of room are counted for the metrics and reports.
    ring: Lost,
    /// … and losses to the limit per namespace.
    limit: Lost,
    /// How many records came last time, so that a batch is allocated once.
    expected: usize,
}

impl Feed {
    /// A probe that is not loaded yet.
    pub fn new(probe: &'static Probe, loss: &Loss) -> Feed {
        Feed {
            probe,
            loaded: None,
            next_seq: 0,
            counted: Counters::default(),
            settled: [0; 2],
            produced_before: 0,
            folded: 0,
            unreported: 0,
            lost: 0,
            ring: loss.cell(Stage::Ring, probe.name),
            limit: loss.cell(Stage::Limit, probe.name),
            expected: 0,
        }
    }

    /// Takes over a probe that was just loaded.
    pub fn attach(&mut self, loaded: Loaded, status: &Status) {
        self.counted = Counters::default();
        self.settled = [0; 2];
        let hooks = loaded.hooks.clone();
        self.loaded = Some(loaded);
        report_hooks(self.probe, hooks, status);
    }

    /// Everything that waits in the ring, at most [`MAX_BATCH`] records.
    pub fn drain(&mut self, clock: &Clock, cache: &mut EntityCache) -> Option<Batch> {
        let ring = &mut self.loaded.as_mut()?.ring;
        let stride = usize::from(self.probe.stride) / 8;
        let mut words: Vec<u64> = Vec::new();
        let mut count = 0;
        while count < MAX_BATCH {
            let Some(record) = ring.next() else { break };
            if words.capacity() == 0 {
                words.reserve((self.expected.next_power_of_two() * stride).min(MAX_BATCH * stride));
            }
            let record = <[u64]>::ref_from_bytes(&record);
            words.extend_from_slice(
                record.expect("a ring's records are 8-byte aligned, the mirrors' sizes too"),
            );
            count += 1;
        }
        self.expected = count;
        (count > 0).then(|| self.batch(words, clock, cache))
    }

    /// What the programs added up in the epoch that ended with the last call; `all` of it when
    /// none runs any more.
    pub fn sums(&mut self, all: bool, clock: &Clock, cache: &mut EntityCache) -> Option<Batch> {
        let loaded = self.loaded.as_mut()?;
        let sums = loaded.sums.as_mut()?;
        let current = (!all).then(|| loaded.control.epoch());
        let Taken { words, folded } = sums.take(current, clock::boot_ns());
        self.folded += folded;
        if let Some(counted) = loaded.counted() {
            let ended = (0..).zip(counted.added).filter(|(epoch, _)| current != Some(*epoch));
            ended.for_each(|(epoch, added)| self.settled[usize::from(epoch)] = added);
        }
        loaded.control.flip_epoch();
        (!words.is_empty()).then(|| self.batch(words, clock, cache))
    }

    /// A batch without records, if something was lost and no record has come since to carry the number:
    /// an analyzer that waits for an answer must know that it may be among what was lost.
    pub fn losses(&mut self, clock: &Clock, cache: &mut EntityCache) -> Option<Batch> {
        (self.unreported > 0).then(|| self.batch(Vec::new(), clock, cache))
    }

    fn batch(&mut self, mut words: Vec<u64>, clock: &Clock, cache: &mut EntityCache) -> Batch {
        let now_ns = clock.wall_ns();
        let stride = usize::from(self.probe.stride) / 8;
        for record in words.chunks_exact_mut(stride) {
            record[0] = record[0].wrapping_add(clock.offset_ns());
            let entity = cache.entity(record[NETNS_WORD], now_ns);
            record[ENTITY_WORD] = record[ENTITY_WORD] & !0xffff_ffff | u64::from(entity);
        }
        let count = (words.len() / stride) as u32;
        let first_seq = self.next_seq;
        self.next_seq += u64::from(count);
        Batch {
            probe: self.probe,
            count,
            first_seq,
            lost: std::mem::take(&mut self.unreported),
            now_ns,
            words,
        }
    }

    /// Reads the programs' counters, and adds what is new to the losses and to the status.
    pub fn count(&mut self, status: &Status) {
        let Some(loaded) = &self.loaded else { return };
        let Some(now) = loaded.counted() else { return };
        let ring = now.lost_ring - self.counted.lost_ring;
        let limit = now.lost_limit - self.counted.lost_limit;
        self.ring.add(ring);
        self.limit.add(limit);
        self.lost += ring + limit;
        // Where sums are kept, the limit costs details only: the sums have the number.
        self.unreported += if loaded.sums.is_some() { ring } else { ring + limit };
        self.counted = now;
        if let Some(shown) = status.update().probes.get_mut(self.probe.name) {
            shown.events = self.next_seq;
            shown.lost = self.lost;
            shown.folded = self.folded;
            shown.produced = self.produced();
        }
    }

    /// What programs wanted to deliver since start, by the last look.
    fn produced(&self) -> u64 {
        self.produced_before + self.counted.produced + self.settled.iter().sum::<u64>()
    }

    /// Reports what the programs cost, where the kernel measures it, and the runs that it skipped.
    pub fn report_runs(&self, status: &Status) {
        let Some(loaded) = &self.loaded else { return };
        let of = |hook: &HookStatus| loaded.programs.program(&hook.program).and_then(runs::of);
        let runs: Vec<_> = loaded.hooks.iter().map(of).collect();
        let mut status = status.update();
        let Some(shown) = status.probes.get_mut(self.probe.name) else { return };
        for (hook, runs) in shown.hooks.iter_mut().zip(runs) {
            if let Some(runs) = runs {
                hook.run_count = runs.count;
                hook.run_time_ns = runs.time_ns;
                hook.missed = runs.missed;
            }
        }
    }

    /// Ends a probe whose last records are drained.
    pub fn detach(&mut self, status: &Status) {
        self.produced_before = self.produced();
        (self.counted, self.settled) = (Counters::default(), [0; 2]);
        self.loaded = None;
        let mut status = status.update();
        let Some(shown) = status.probes.get_mut(self.probe.name) else { return };
        shown.state = ProbeState::Idle;
        "no plugin subscribes to it".clone_into(&mut shown.reason);
        for hook in shown.hooks.iter_mut().filter(|hook| hook.state == HookState::Attached) {
            hook.state = HookState::Idle;
        }
    }
}

/// Sets the state of a probe's hooks, and its own from theirs.
pub fn report_hooks(probe: &'static Probe, hooks: Vec<HookStatus>, status: &Status) {
    let attached = hooks.iter().filter(|hook| hook.state == HookState::Attached).count();
    let state = match attached {
        0 => ProbeState::Down,
        n if n < hooks.len() => ProbeState::Partial,
        _ => ProbeState::Up,
    };
    let mut reasons: Vec<&str> = Vec::new();
    for hook in hooks.iter().filter(|hook| hook.state != HookState::Attached) {
        // One cause may take several hooks, and if it takes all, all that the probe gives is lost.
        let reason = if attached == 0 { hooks::cause(hook) } else { &hook.reason };
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    let reason = reasons.join("; ");
    report(probe, state, reason, hooks, status);
}

/// Sets the state of a probe; what it has delivered and lost so far stays.
pub fn report(
    probe: &'static Probe,
    state: ProbeState,
    reason: String,
    hooks: Vec<HookStatus>,
    status: &Status,
) {
    let mut status = status.update();
    let shown = status.probes.entry(probe.name.to_owned()).or_insert_with(|| ProbeStatus {
        name: probe.name.to_owned(),
        state: ProbeState::default(),
        reason: String::new(),
        schema: probe.schema,
        produced: 0,
        folded: 0,
        events: 0,
        lost: 0,
        hooks: Vec::new(),
    });
    shown.state = state;
    shown.reason = reason;
    shown.hooks = hooks;
}

/// Entity ids of the namespaces seen last, so that a record seldom costs a lookup under a lock.
pub struct EntityCache {
    /// Asked for a namespace that is not here.
    entities: Arc<Entities>,
    /// Cookie and id, at the cookie modulo the number of slots.
    slots: [(u64, EntityId); 64],
}

impl EntityCache {
    /// Nothing seen yet.
    pub fn new(entities: Arc<Entities>) -> EntityCache {
        EntityCache { entities, slots: [(0, 0); 64] }
    }

    /// Forgets all, since the table may have forgotten some.
    pub fn clear(&mut self) {
        self.slots = [(0, 0); 64];
    }

    fn entity(&mut self, cookie: u64, now_ns: u64) -> EntityId {
        let slot = &mut self.slots[(cookie % 64) as usize];
        if slot.0 != cookie {
            *slot = (cookie, self.entities.stamp(cookie, now_ns));
        }
        slot.1
    }
}
