//! The door to the kernel's event side: loads the eBPF programs with aya and drains their rings.
//!
//! - [`hooks`], [`load`]: which programs fit this kernel, and getting them in.
//! - [`cgroup`]: where the tree of cgroups begins, for hooks on the packets of sockets.
//! - [`kprobe`]: what a function is called here, for hooks on functions.
//! - [`reader`], [`feed`]: the one loop over all rings; what a probe's records go through.
//! - [`summary`]: what programs add up in the kernel, as records.
//! - [`runs`]: what programs cost, and the runs that the kernel skipped.
//! - [`control`], [`clock`]: what programs and reader share; the kernel's time in ours.
//! - [`btf`], [`names`], [`kallsyms`]: what the kernel calls its types, numbers and addresses.
//! - [`privilege`], [`mod@doctor`]: what this process and this kernel allow, and what is lost.
//! - [`layout`]: where an object keeps the fields of its records.
//!
//! Nothing here fails the agent: a kernel or a privilege that is missing becomes the state of the
//! probes that need it.

mod btf;
mod cgroup;
mod clock;
mod control;
mod doctor;
mod feed;
mod hooks;
mod kallsyms;
mod kprobe;
mod layout;
mod load;
mod names;
mod privilege;
mod reader;
mod runs;
mod summary;

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use inspector_ebpf::{PROBES, Probe};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use self::btf::Btf;
use self::load::{Loader, Tunables};
use self::reader::{Command, Reader};
use crate::batch::Batch;
use crate::entities::Entities;
use crate::loss::Loss;
use crate::status::Status;

pub use self::doctor::{Check, doctor};
pub use self::layout::struct_layout;
pub use self::names::{kernel_names, kernel_reasons};
pub use self::privilege::missing as missing_privileges;

/// The smallest ring that holds a batch and its threshold.
const LEAST_RING: u32 = 64 << 10;
/// The largest power of two that a `u32` of the kernel's interface and its double mapping allow.
const LARGEST_RING: u32 = 1 << 30;

/// How much the kernel side may hold and deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes of each probe's ring; rounded up to a power of two, at least 64 KiB.
    pub ring_bytes: u32,
    /// Records per second of each probe and network namespace; 0 = no limit.
    pub limit_per_second: u32,
    /// Records that may come at once after a quiet time.
    pub limit_burst: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { ring_bytes: 4 << 20, limit_per_second: 2000, limit_burst: 4000 }
    }
}

/// Why something of the kernel side could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thread, its epoll or its eventfd; the only error that [`Probes::start`] returns.
    #[error("starting the reader of the rings: {0}")]
    Reader(#[source] io::Error),
    /// The kernel does not describe its types.
    #[error("reading the kernel's types (BTF) from {path}: {source}", path = btf::VMLINUX)]
    KernelTypes {
        /// What reading or understanding it said.
        source: io::Error,
    },
    /// An object that the kernel or aya refuses.
    #[error("loading {probe}: {}", with_causes(source.as_ref()))]
    Load {
        /// The probe.
        probe: &'static str,
        /// What aya says.
        source: Box<aya::EbpfError>,
    },
    /// An object that lacks a map, or has another kind of map of that name.
    #[error("the object of {probe} has no usable map {map}")]
    Object {
        /// The probe.
        probe: &'static str,
        /// The map.
        map: &'static str,
    },
    /// A map that cannot be used as what it is.
    #[error("opening map {map} of {probe}: {source}")]
    Map {
        /// The probe.
        probe: &'static str,
        /// The map.
        map: &'static str,
        /// What aya says.
        source: Box<aya::maps::MapError>,
    },
    /// The control page could not be mapped.
    #[error("mapping the control page of {probe}: {source}")]
    Control {
        /// The probe.
        probe: &'static str,
        /// What `mmap` said.
        source: io::Error,
    },
}

/// The running kernel side. Dropping it detaches everything and delivers the last records.
#[derive(Debug)]
pub struct Probes {
    options: Options,
    status: Arc<Status>,
    /// Ids of what is loaded; held while loading, so that two calls do not load a probe twice.
    loaded: Mutex<BTreeSet<u16>>,
    commands: Sender<Command>,
    /// Wakes the reader for a command.
    bell: Arc<EventFd>,
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
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let bell = Arc::new(bell.map_err(|errno| Error::Reader(errno.into()))?);
        let (commands, inbox) = channel();
        let reader = Reader::new(inbox, Arc::clone(&bell), entities, &loss, Arc::clone(&status), sink)
            .map_err(Error::Reader)?;
        show_unloaded(&status);
        // Before 5.11 maps count against it. May fail: it needs a capability of its own.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let thread = thread::Builder::new().name("probe-reader".to_owned());
        let reader = Some(thread.spawn(move || reader.run()).map_err(Error::Reader)?);
        let ring_bytes = options.ring_bytes.clamp(LEAST_RING, LARGEST_RING).next_power_of_two();
        let options = Options { ring_bytes, ..options };
        Ok(Probes { options, status, loaded: Mutex::default(), commands, bell, reader })
    }

    /// Loads and attaches what is newly wanted, unloads what no plugin wants any more, and puts
    /// the outcome on the board. A probe that could not be loaded is tried again at each call.
    ///
    /// Blocks for some 100 ms per probe to load: not for async threads.
    pub fn set_wanted(&self, names: &BTreeSet<String>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let (wanted, unwanted): (Vec<_>, Vec<_>) =
            PROBES.iter().partition(|probe| names.contains(probe.name));
        for probe in unwanted {
            if loaded.remove(&probe.id) {
                self.tell(Command::Unload(probe.id));
            }
        }
        let missing: Vec<_> = wanted.into_iter().filter(|probe| !loaded.contains(&probe.id)).collect();
        if missing.is_empty() {
            return;
        }
        if let Err(error) = self.load(&missing, &mut loaded) {
            missing.iter().for_each(|probe| self.show_down(probe, &error, None));
        }
        return_memory();
    }

    /// Fails only if nothing at all can be loaded; the kernel's types are parsed once for all.
    fn load(&self, probes: &[&'static Probe], loaded: &mut BTreeSet<u16>) -> Result<(), Error> {
        let bytes = btf::read_vmlinux().map_err(|source| Error::KernelTypes { source })?;
        let malformed = || Error::KernelTypes { source: io::ErrorKind::InvalidData.into() };
        let kernel = Btf::parse(&bytes).ok_or_else(malformed)?;
        let structs = probes.iter().flat_map(|probe| layout::struct_names(probe.object)).collect();
        let types = kernel.thinned(&structs);
        let types = aya::Btf::parse(&types, aya::Endianness::default()).map_err(|_| malformed())?;
        let tunables = self.tunables();
        let mut loader = Loader::new(&kernel, &types, &tunables);
        for probe in probes {
            match loader.load(probe) {
                Ok(new) if new.hooks.iter().any(|hook| hook.state == "attached") => {
                    tracing::info!(probe = probe.name, "loaded");
                    loaded.insert(probe.id);
                    // Before the reader does: who asked for the probe looks at the board at once.
                    feed::show_hooks(probe, new.hooks.clone(), &self.status);
                    self.tell(Command::Load(Box::new(new)));
                }
                Ok(new) => feed::show_hooks(probe, new.hooks, &self.status),
                Err(error) => self.show_down(probe, &error, Some(&kernel)),
            }
        }
        Ok(())
    }

    fn tunables(&self) -> Tunables {
        Tunables {
            ring_bytes: self.options.ring_bytes,
            limit_per_second: self.options.limit_per_second,
            limit_burst: self.options.limit_burst,
            wake_bytes: self.options.ring_bytes / 4,
            may_read_kernel: u32::from(privilege::may_read_kernel()),
        }
    }

    fn show_down(&self, probe: &'static Probe, error: &Error, kernel: Option<&Btf<'_>>) {
        let reason = match privilege::missing() {
            Some(missing) => format!("{missing} ({error})"),
            None => error.to_string(),
        };
        tracing::warn!(probe = probe.name, reason, "not loaded");
        let hooks = hooks::unloaded(probe, kernel, Some(&reason));
        feed::show(probe, "down", reason, hooks, &self.status);
    }

    /// The reader ends only after the stop command, so it always listens.
    fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
        let _ = self.bell.write(1);
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            tracing::error!("the reader of the rings panicked");
        }
    }
}

/// The board before anything is loaded: what could not be loaded if it were wanted is down.
fn show_unloaded(status: &Status) {
    let bytes = btf::read_vmlinux();
    let kernel = bytes.as_ref().ok().and_then(|bytes| Btf::parse(bytes));
    let obstacle = match (&bytes, privilege::missing()) {
        (Err(error), _) => Some(format!("no kernel types (BTF) at {}: {error}", btf::VMLINUX)),
        (_, missing) => missing,
    };
    for probe in PROBES {
        let hooks = hooks::unloaded(probe, kernel.as_ref(), obstacle.as_deref());
        match &obstacle {
            Some(obstacle) => feed::show(probe, "down", obstacle.clone(), hooks, status),
            None => feed::show(probe, "idle", "no plugin subscribes to it".to_owned(), hooks, status),
        }
    }
}

/// Returns once every program that was running has finished: they run inside RCU read sections,
/// and this call of `membarrier` waits for those.
fn wait_for_running_programs() {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: the call takes three integers and touches no memory of ours.
    unsafe { nix::libc::syscall(nix::libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
}

/// Gives back what is free, which glibc would keep: 15 MB that the kernel's types took while loading, and
/// what compiling took.
pub fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: trims free memory only, under the allocator's own locks.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors repeat their cause.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
