//! The probes without an agent around them: every record that the kernel delivers, kept.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use inspector::entities::Entities;
use inspector::kernel::batch::Batch;
use inspector::kernel::names::KernelNames;
use inspector::loss::{Loss, Stage};
use inspector::probe::{self, Options, Probes};
use inspector::status::{ProbeState, ProbeStatus, Status};
use inspector_ebpf::{Record, view};
use inspector_tests::wait;

/// Loaded probes and what they delivered; unloaded when dropped.
pub struct Observer {
    /// Stamps the records.
    pub entities: Arc<Entities>,
    /// Names of this kernel.
    pub names: KernelNames,
    batches: Arc<Mutex<Vec<Arc<Batch>>>>,
    loss: Arc<Loss>,
    status: Arc<Status>,
    probes: Option<Probes>,
    started_ns: u64,
}

impl Observer {
    /// Loads some probes; each of their hooks must attach.
    pub fn of(wanted: &[&str], options: Options) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "kernel tests need root: they load eBPF programs");
        let (entities, loss, status) = (Arc::default(), Arc::default(), Arc::default());
        let batches = Arc::<Mutex<Vec<_>>>::default();
        let sink = {
            let batches = Arc::clone(&batches);
            move |batch| batches.lock().unwrap_or_else(PoisonError::into_inner).push(batch)
        };
        let (e, l, s) = (Arc::clone(&entities), Arc::clone(&loss), Arc::clone(&status));
        let probes = Probes::start(options, e, l, s, sink)?;
        let started_ns = now_ns();
        probes.set_wanted(&wanted.iter().map(|name| (*name).to_owned()).collect());
        let names = probe::kernel_names();
        names.symbols.wait();
        let observer = Self { entities, names, batches, loss, status, probes: Some(probes), started_ns };
        for name in wanted {
            let status = observer.status(name);
            ensure!(
                status.state == ProbeState::Up,
                "{name} is {}: {} {:#?}",
                status.state,
                status.reason,
                status.hooks
            );
        }
        Ok(observer)
    }

    /// All records of one type so far, in order.
    pub fn records<R: Record + Copy>(&self) -> Vec<R> {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let own = batches.iter().filter(|batch| batch.probe.name == R::PROBE);
        own.flat_map(|batch| view::<R>(&batch.words, batch.probe.stride).copied().collect::<Vec<_>>())
            .collect()
    }

    /// Waits for a record, and checks what holds for every one: its time and its entity.
    pub fn wait_for<R: Record + Copy + Debug>(&self, what: &str, is_it: impl Fn(&R) -> bool) -> Result<R> {
        let record = wait::until(what, || self.records().into_iter().find(|record| is_it(record)));
        let record = record.inspect_err(|_| {
            let records = self.records::<R>();
            eprintln!("{} {} records came, the last ones:", records.len(), R::PROBE);
            records.iter().skip(records.len().saturating_sub(8)).for_each(|record| eprintln!("  {record:?}"));
        })?;
        let head = record.head();
        ensure!((self.started_ns..=now_ns()).contains(&head.ts_ns), "{what}: at {}", head.ts_ns);
        ensure!(head.entity == self.entities.stamp(head.netns, 0), "{what}: entity {}", head.entity);
        Ok(record)
    }

    /// Holds the reader up at its next delivery until the guard is dropped.
    pub fn stall(&self) -> MutexGuard<'_, impl Sized> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records lost in the kernel at one stage.
    pub fn lost(&self, stage: Stage, probe: &str) -> u64 {
        self.loss.cell(stage, probe).get()
    }

    /// State of one probe.
    pub fn status(&self, probe: &str) -> ProbeStatus {
        self.status.snapshot().probes.remove(probe).expect("every probe of the catalog has a state")
    }

    /// Unloads everything; what was still in the kernel has been delivered when this returns.
    pub fn unload(&mut self) {
        self.probes = None;
    }
}

/// Wall clock in nanoseconds since the Unix epoch.
pub fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    u64::try_from(now.as_nanos()).expect("before the year 2554")
}
