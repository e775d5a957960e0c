//! The probes of this node: loaded as they are wanted, and read on a thread of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use inspector_ebpf::{PROBES, Probe};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::btf::{self, Btf};
use super::error::{Error, reason};
use super::load::load_each;
use super::options::Options;
use super::reader::{Command, Reader};
use super::{feed, hooks};
use crate::answers::needs;
use crate::entities::Entities;
use crate::kernel::batch::Batch;
use crate::loss::Loss;
use crate::privilege;
use crate::status::{HookState, ProbeState, Status};

/// What was loaded so far, and what was logged of the rest.
#[derive(Debug, Default)]
struct Loaded {
    /// Ids of what is loaded.
    ids: BTreeSet<u16>,
    /// By a probe's name, why it or some of its hooks are missing, as last logged: a cause is logged once.
    logged: BTreeMap<&'static str, String>,
}

/// The running kernel side. Dropping it detaches everything and delivers the last records.
#[derive(Debug)]
pub struct Probes {
    /// Sizes and limits that each load sets in the object.
    options: Options,
    /// Where the state of every probe is reported.
    status: Arc<Status>,
    /// Held while loading, so that two calls do not load a probe twice.
    loaded: Mutex<Loaded>,
    /// To the reader, which alone touches what is loaded.
    commands: Sender<Command>,
    /// Wakes the reader for a command.
    notify: Arc<EventFd>,
    /// Waited for on drop, so that the last records are delivered; `None` only while dropping.
    reader: Option<JoinHandle<()>>,
}

impl Probes {
    /// Starts the reader thread, without any probe; `sink` is called on it with every batch.
    ///
    /// Missing privileges or BTF are no error: they are every probe's state.
    ///
    /// # Errors
    ///
    /// [`Error::Reader`], if the system has no room for a thread or three descriptors.
    pub fn start(
        options: Options,
        entities: Arc<Entities>,
        loss: Arc<Loss>,
        status: Arc<Status>,
        sink: impl FnMut(Arc<Batch>) + Send + 'static,
    ) -> Result<Probes, Error> {
        let notify = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let notify = Arc::new(notify.map_err(|errno| Error::Reader(errno.into()))?);
        let (commands, inbox) = channel();
        let reader = Reader::new(inbox, Arc::clone(&notify), entities, &loss, Arc::clone(&status), sink)
            .map_err(Error::Reader)?;
        let loaded = Mutex::new(report_unloaded(&status));
        // Before 5.11 maps count against it. May fail: it needs a capability of its own.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let thread = thread::Builder::new().name("probe-reader".to_owned());
        let reader = Some(thread.spawn(move || reader.run()).map_err(Error::Reader)?);
        let options = options.with_possible_ring();
        Ok(Probes { options, status, loaded, commands, notify, reader })
    }

    /// Loads and attaches what is newly wanted, unloads what no plugin wants any more, and puts
    /// the outcome into the status. A probe that could not be loaded is tried again at each call.
    ///
    /// Blocks for some 100 ms per probe to load: not for async threads.
    pub fn set_wanted(&self, names: &BTreeSet<String>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let (wanted, unwanted): (Vec<_>, Vec<_>) =
            PROBES.iter().partition(|probe| names.contains(probe.name));
        for probe in unwanted {
            if loaded.ids.remove(&probe.id) {
                self.send(Command::Unload(probe.id));
            }
        }
        let missing: Vec<_> = wanted.into_iter().filter(|probe| !loaded.ids.contains(&probe.id)).collect();
        if missing.is_empty() {
            return;
        }
        if let Err(error) = self.load(&missing, &mut loaded.ids) {
            missing.iter().for_each(|probe| self.report_down(probe, &error, None));
        }
        self.log_missing(&missing, &mut loaded.logged);
    }

    /// Fails only if nothing at all can be loaded.
    fn load(&self, probes: &[&'static Probe], loaded: &mut BTreeSet<u16>) -> Result<(), Error> {
        load_each(probes, &self.options.tunables(), |probe, kernel, new| match new {
            Ok(new) if new.hooks.iter().any(|hook| hook.state == HookState::Attached) => {
                tracing::info!(probe = probe.name, "loaded");
                loaded.insert(probe.id);
                // Before the reader does: who asked for the probe looks at the status at once.
                feed::report_hooks(probe, new.hooks.clone(), &self.status);
                self.send(Command::Load(Box::new(new)));
            }
            Ok(new) => feed::report_hooks(probe, new.hooks, &self.status),
            Err(error) => self.report_down(probe, &error, Some(kernel)),
        })
    }

    fn report_down(&self, probe: &'static Probe, error: &Error, kernel: Option<&Btf<'_>>) {
        tracing::debug!(probe = probe.name, error = %error, "not loaded");
        let reason = reason(error);
        let hooks = hooks::unloaded(probe, kernel, Some(&reason));
        feed::report(probe, ProbeState::Down, reason, hooks, &self.status);
    }

    /// Logs which probes or hooks are missing: a line for each cause, and only causes that are new.
    fn log_missing(&self, probes: &[&'static Probe], logged: &mut BTreeMap<&'static str, String>) {
        let status = self.status.snapshot();
        let mut causes: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
        for probe in probes {
            let Some(status) = status.probes.get(probe.name).filter(|status| !status.reason.is_empty())
            else {
                logged.remove(probe.name);
                continue;
            };
            let cause = status.cause();
            if logged.insert(probe.name, cause.clone()).as_ref() != Some(&cause) {
                causes.entry((status.state.as_str(), cause)).or_default().push(probe.name);
            }
        }
        for ((state, reason), probes) in causes {
            // Hardly any kernel has everything: only what a question rests on is worth a warning.
            let matters = status.probes.values().any(|probe| {
                probes.contains(&probe.name.as_str()) && needs::matters(&probe.name) && needs::is_blind(probe)
            });
            let probes = probes.join(", ");
            match matters {
                true => tracing::warn!(probes, state, reason, "events that diagnoses rest on are not seen"),
                false => tracing::info!(probes, state, reason, "this kernel does not show everything"),
            }
        }
    }

    /// The reader ends only after the stop command, so it always listens.
    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        let _ = self.notify.write(1);
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            tracing::error!("the reader of the rings panicked");
        }
    }
}

/// The status before anything is loaded: what could not be loaded if it were wanted is down, which is
/// logged once for all.
fn report_unloaded(status: &Status) -> Loaded {
    let bytes = btf::read_vmlinux();
    let kernel = bytes.as_ref().ok().and_then(|bytes| Btf::parse(bytes));
    let missing = privilege::missing_for_probes();
    let obstacle = match bytes.as_ref() {
        Err(error) => {
            Some(Error::KernelTypes { source: io::Error::new(error.kind(), error.to_string()) }.to_string())
        }
        Ok(_) => missing.clone(),
    };
    for probe in PROBES {
        let hooks = hooks::unloaded(probe, kernel.as_ref(), obstacle.as_deref());
        match &obstacle {
            Some(obstacle) => feed::report(probe, ProbeState::Down, obstacle.clone(), hooks, status),
            None => {
                feed::report(probe, ProbeState::Idle, "no plugin subscribes to it".to_owned(), hooks, status)
            }
        }
    }
    let Some(reason) = obstacle else { return Loaded::default() };
    match missing {
        Some(_) => {
            tracing::warn!(reason, "the kernel's events are not seen, only its counters: run it as root")
        }
        None => tracing::warn!(reason, "the kernel's events are not seen, only its counters"),
    }
    let logged = PROBES.iter().map(|probe| (probe.name, reason.clone())).collect();
    Loaded { ids: BTreeSet::new(), logged }
}
