//! Loads one probe: its object, its maps, and each of its programs on its own, so that a hook
//! which fails costs its own signal and nothing else.

use std::fs::File;
use std::io;

use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, KProbe, Program, ProgramError,
};
use aya::{Ebpf, EbpfLoader};
use inspector_ebpf::{Attach, Direction, Hook, Probe};

use super::btf::{self, Btf};
use super::control::Control;
use super::error::Error;
use super::summary::Sums;
use super::{cgroup, hooks, kprobe, layout};
use crate::status::{HookState, HookStatus};
use crate::text::cause::chain as with_causes;

/// Per-CPU counters of one object: `struct counters` of record.h.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// What its programs wanted to deliver, but for what they added up.
    pub produced: u64,
    /// … of which there was no room for.
    pub lost_ring: u64,
    /// … of which the limit suppressed.
    pub lost_limit: u64,
    /// Added to the sums of each epoch.
    pub added: [u64; 2],
}

impl std::ops::Add for Counters {
    type Output = Counters;

    fn add(self, other: Counters) -> Counters {
        Counters {
            produced: self.produced + other.produced,
            lost_ring: self.lost_ring + other.lost_ring,
            lost_limit: self.lost_limit + other.lost_limit,
            added: [0, 1].map(|epoch| self.added[epoch] + other.added[epoch]),
        }
    }
}

// SAFETY: five integers without padding, so any bytes are a value of it.
unsafe impl aya::Pod for Counters {}

/// A loaded probe.
pub struct Loaded {
    /// Which probe it is.
    pub probe: &'static Probe,
    /// Its programs and their links, for what they cost.
    pub programs: Ebpf,
    /// Its records.
    pub ring: RingBuf<MapData>,
    /// What it shares with the reader.
    pub control: Control,
    /// What became of its records.
    pub counters: PerCpuArray<MapData, Counters>,
    /// What its programs add up, if they do.
    pub sums: Option<Sums>,
    /// What became of each hook.
    pub hooks: Vec<HookStatus>,
}

/// The `const volatile` globals of record.h, and the size of the ring.
#[derive(Debug, Clone, Copy)]
pub struct Tunables {
    /// Bytes of a ring.
    pub ring_bytes: u32,
    /// Records per second and namespace, 0 = no limit.
    pub limit_per_second: u32,
    /// Records at once after a quiet time.
    pub limit_burst: u32,
    /// Fill of the ring that wakes the reader early.
    pub wake_bytes: u32,
    /// 0: lockdown forbids `bpf_probe_read_kernel`.
    pub may_read_kernel: u32,
}

impl Loaded {
    /// What its programs have counted so far, on all CPUs; `None` if the kernel does not say.
    pub fn counted(&self) -> Option<Counters> {
        let cpus = self.counters.get(&0, 0).ok()?;
        Some(cpus.iter().fold(Counters::default(), |sum, cpu| sum + *cpu))
    }

    /// Takes its programs off their hooks; its ring and counters stay readable.
    pub fn detach(&mut self) {
        for (_, program) in self.programs.programs_mut() {
            // Fails for a variant that was never loaded.
            let _ = match program {
                Program::BtfTracePoint(program) => program.unload(),
                Program::CgroupSkb(program) => program.unload(),
                Program::KProbe(program) => program.unload(),
                _ => Ok(()),
            };
        }
    }
}

/// Gets probes into this kernel; made once for several, since it parses the kernel's types.
pub struct Loader<'a> {
    /// Holds the options that every object gets.
    aya: EbpfLoader<'a>,
    /// For relocation and for the ids of hooks.
    types: &'a aya::Btf,
    /// For the choice of programs.
    kernel: &'a Btf<'a>,
}

impl<'a> Loader<'a> {
    /// Programs of this loader get these options.
    pub fn new(kernel: &'a Btf<'a>, types: &'a aya::Btf, tunables: &'a Tunables) -> Loader<'a> {
        let mut aya = EbpfLoader::new();
        aya.btf(Some(types))
            .map_max_entries("events", tunables.ring_bytes)
            .override_global("limit_per_second", &tunables.limit_per_second, true)
            .override_global("limit_burst", &tunables.limit_burst, true)
            .override_global("wake_bytes", &tunables.wake_bytes, true)
            .override_global("may_read_kernel", &tunables.may_read_kernel, false);
        Loader { aya, types, kernel }
    }

    /// Loads a probe and attaches every hook that this kernel has.
    ///
    /// # Errors
    ///
    /// If its object or maps are refused. A refused program is no error but a hook's state.
    pub fn load(&mut self, probe: &'static Probe) -> Result<Loaded, Error> {
        let loaded = self.aya.load(probe.object);
        let mut programs =
            loaded.map_err(|source| Error::Load { probe: probe.name, source: Box::new(source) })?;
        // Before any map is taken out: until a program is loaded it knows its maps by descriptor only.
        let hooks =
            probe.hooks.iter().map(|hook| attach(&mut programs, hook, self.kernel, self.types)).collect();
        let ring =
            RingBuf::try_from(take(&mut programs, probe, "events")?).map_err(map_error(probe, "events"))?;
        let control = match take(&mut programs, probe, "control")? {
            Map::Array(data) => {
                Control::map(data.fd()).map_err(|source| Error::Control { probe: probe.name, source })
            }
            _ => Err(Error::Object { probe: probe.name, map: "control" }),
        }?;
        let counters = PerCpuArray::try_from(take(&mut programs, probe, "counters")?)
            .map_err(map_error(probe, "counters"))?;
        let sums = match probe.append_sum {
            Some(append) => {
                let map = HashMap::try_from(take(&mut programs, probe, "sums")?);
                Some(Sums::new(map.map_err(map_error(probe, "sums"))?, append))
            }
            None => None,
        };
        Ok(Loaded { probe, programs, ring, control, counters, sums, hooks })
    }
}

fn attach(programs: &mut Ebpf, hook: &'static Hook, kernel: &Btf<'_>, types: &aya::Btf) -> HookStatus {
    let program = match hooks::choose(hook, kernel) {
        Ok(program) => program,
        Err(reason) => return hooks::status(hook, "", HookState::Missing, &reason),
    };
    match attach_program(programs, program, hook, types) {
        Ok(()) => hooks::status(hook, program, HookState::Attached, ""),
        Err(why) => hooks::refused(hook, program, &why),
    }
}

/// Loads and attaches one program; an error is one line of text.
fn attach_program(
    programs: &mut Ebpf,
    name: &str,
    hook: &'static Hook,
    types: &aya::Btf,
) -> Result<(), String> {
    let refused = |error: ProgramError| in_one_line(&error);
    let program = programs.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))?;
    match &hook.attach {
        Attach::TpBtf { tracepoint, .. } => {
            let program: &mut BtfTracePoint = program.try_into().map_err(refused)?;
            program.load(tracepoint, types).map_err(refused)?;
            program.attach().map_err(refused)?;
        }
        Attach::CgroupSkb { direction, .. } => {
            let root = cgroup::root()?;
            let root = File::open(&root).map_err(|error| format!("opening {}: {error}", root.display()))?;
            let direction = match direction {
                Direction::Ingress => CgroupSkbAttachType::Ingress,
                Direction::Egress => CgroupSkbAttachType::Egress,
            };
            let program: &mut CgroupSkb = program.try_into().map_err(refused)?;
            program.load().map_err(refused)?;
            // A link (5.7 and later) lets others' programs be, and takes no mode.
            program.attach(root, direction, CgroupAttachMode::Single).map_err(refused)?;
        }
        // Whether at its entry or its return the section of the program says, and aya reads.
        Attach::KProbe { symbols, .. } => {
            let program: &mut KProbe = program.try_into().map_err(refused)?;
            program.load().map_err(refused)?;
            program.attach(kprobe::symbol(symbols)?, 0).map_err(refused)?;
        }
    }
    Ok(())
}

/// The verifier's log is pages long; its last words say what it refused.
fn in_one_line(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return with_causes(error);
    };
    let log = verifier_log.to_string();
    let is_statistics =
        |line: &str| ["processed ", "stack depth ", "verification time "].iter().any(|s| line.starts_with(s));
    let complaint = log.lines().rev().find(|line| !line.is_empty() && !is_statistics(line));
    match complaint {
        Some(line) => format!("the kernel refuses it: {io_error}: {line}"),
        None => format!("the kernel refuses it: {io_error}"),
    }
}

fn take(programs: &mut Ebpf, probe: &'static Probe, map: &'static str) -> Result<Map, Error> {
    programs.take_map(map).ok_or(Error::Object { probe: probe.name, map })
}

fn map_error(probe: &'static Probe, map: &'static str) -> impl FnOnce(aya::maps::MapError) -> Error {
    move |source| Error::Map { probe: probe.name, map, source: Box::new(source) }
}

/// Gets probes into this kernel, one after the other; the kernel's types are parsed once for all.
///
/// # Errors
///
/// The kernel does not describe its types: nothing can be loaded.
pub fn load_each(
    probes: &[&'static Probe],
    tunables: &Tunables,
    mut done: impl FnMut(&'static Probe, &Btf<'_>, Result<Loaded, Error>),
) -> Result<(), Error> {
    let bytes = btf::read_vmlinux().map_err(|source| Error::KernelTypes { source })?;
    let malformed = || Error::KernelTypes { source: io::ErrorKind::InvalidData.into() };
    let kernel = Btf::parse(&bytes).ok_or_else(malformed)?;
    let structs = probes.iter().flat_map(|probe| layout::struct_names(probe.object)).collect();
    let types = kernel.thinned(&structs);
    let types = aya::Btf::parse(&types, aya::Endianness::default()).map_err(|_| malformed())?;
    let mut loader = Loader::new(&kernel, &types, tunables);
    for probe in probes {
        done(probe, &kernel, loader.load(probe));
    }
    Ok(())
}
