//! What this process may do and see, so that whoever is refused can say why and how to mend it.
//!
//! Every other adapter may ask this one. Nothing here is tried: an adapter tries its own work, and comes
//! here with the refusal.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// A capability that the agent has a use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Reading files of other users.
    DacReadSearch,
    /// Asking connection tracking; programs on cgroups.
    NetAdmin,
    /// Looking at processes of other users, or with more capabilities.
    SysPtrace,
    /// Entering network namespaces.
    SysAdmin,
    /// Addresses of kernel symbols.
    Syslog,
    /// Programs that see kernel data.
    Perfmon,
    /// Loading programs at all.
    Bpf,
}

impl Capability {
    /// As capabilities(7) calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Syslog => "CAP_SYSLOG",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }

    /// Bits of `CapEff` in /proc/self/status, any of which will do.
    fn bits(self) -> u64 {
        const DAC_OVERRIDE: u64 = 1 << 1;
        const SYS_ADMIN: u64 = 1 << 21;
        match self {
            Self::DacReadSearch => 1 << 2 | DAC_OVERRIDE,
            Self::NetAdmin => 1 << 12,
            Self::SysPtrace => 1 << 19,
            Self::SysAdmin => SYS_ADMIN,
            Self::Syslog => 1 << 34,
            Self::Perfmon => 1 << 38 | SYS_ADMIN,
            Self::Bpf => 1 << 39 | SYS_ADMIN,
        }
    }
}

/// What stands in the way of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Capabilities that this process does not have.
    Lacks(Vec<Capability>),
    /// It has the capability, but as root of a user namespace only.
    UserNamespace(Capability),
    /// It has the capability, and a seccomp filter, which may refuse the system call.
    Seccomp(Capability),
    /// It has the capability; what else refuses is not told.
    Other(Capability),
    /// The proc file system is mounted so that it hides processes.
    HidePid(PathBuf),
    /// The proc file system shows the processes of a container only.
    PidNamespace(PathBuf),
    /// The kernel hides the addresses of its symbols from everybody.
    HiddenSymbols,
}

/// Why this process is refused what a capability allows, and perhaps others beside it.
pub fn obstacle(needed: Capability, beside: &[Capability]) -> Obstacle {
    match Own::read() {
        Some(own) => own.obstacle(needed, beside),
        None => Obstacle::Other(needed),
    }
}

/// An error for people: if it is a refusal, with what stands in the way.
pub fn explained(error: &io::Error, needed: Capability) -> String {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        errno @ (Errno::EPERM | Errno::EACCES) => {
            format!("{}: {}", errno.desc(), obstacle(needed, &[]).why())
        }
        _ => error.to_string(),
    }
}

impl Obstacle {
    /// What stands in the way, as part of a sentence.
    pub fn why(&self) -> String {
        match self {
            Self::Lacks(needed) => {
                format!("it takes {}, which this process does not have", names(needed, " and "))
            }
            Self::UserNamespace(needed) => {
                format!("this process has {} inside of its user namespace only", needed.name())
            }
            Self::Seccomp(needed) => {
                format!("this process has {}, but a seccomp filter that may refuse it", needed.name())
            }
            Self::Other(needed) => {
                format!("this process has {}, so a security module may refuse it", needed.name())
            }
            Self::HidePid(proc) => format!(
                "{} is mounted with hidepid and shows other users' processes only to who has CAP_SYS_PTRACE",
                proc.display()
            ),
            Self::PidNamespace(proc) => {
                format!("{} shows the processes of one container only", proc.display())
            }
            Self::HiddenSymbols => "kernel.kptr_restrict is 2, which hides them from everybody".to_owned(),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Lacks(needed) => grant(needed),
            Self::UserNamespace(_) => "run the agent outside of a user namespace: no rootless container, \
                                       Kubernetes `hostUsers: true`"
                .to_owned(),
            Self::Seccomp(_) => "allow it in the seccomp profile, or run without one (Kubernetes \
                                 `seccompProfile: {type: Unconfined}`)"
                .to_owned(),
            Self::Other(_) => {
                "look for the refusal in the log of SELinux or AppArmor (`ausearch -m avc`, `dmesg`)"
                    .to_owned()
            }
            Self::HidePid(proc) => format!(
                "{}; or `mount -o remount,hidepid=0 {}`",
                grant(&[Capability::SysPtrace]),
                proc.display()
            ),
            Self::PidNamespace(_) => "share the host's PID namespace (Kubernetes `hostPID: true`, docker \
                                      `--pid=host`), or mount the host's /proc and name it with --path.procfs"
                .to_owned(),
            Self::HiddenSymbols => "`sysctl kernel.kptr_restrict=1`".to_owned(),
        }
    }
}

fn grant(needed: &[Capability]) -> String {
    let short = names(needed, ", ").replace("CAP_", "");
    format!(
        "grant {} (Kubernetes `capabilities: {{add: [{short}]}}`, systemd `AmbientCapabilities={}`)",
        names(needed, " and "),
        names(needed, " ")
    )
}

fn names(capabilities: &[Capability], between: &str) -> String {
    capabilities.iter().map(|capability| capability.name()).collect::<Vec<_>>().join(between)
}

/// Whether a process that may not be looked at is left out of sums instead of making them impossible:
/// init alone, which some systems protect from everybody, and only where nothing is lacking.
pub fn is_left_out(pid: i32) -> bool {
    pid == 1 && Own::read().is_some_and(|own| own.has(Capability::SysPtrace) && !own.in_user_namespace)
}

/// What loading a probe lacks; `None` if it lacks nothing.
pub fn missing_for_probes() -> Option<String> {
    Own::read()?.missing_for_probes()
}

/// Why `proc` does not show all processes of the machine; `None` if it does.
///
/// Kernel threads are in the initial PID namespace only, and only who sees everybody sees them.
pub fn hides_processes(proc: &Path) -> Option<Obstacle> {
    if fs::read_to_string(proc.join("2/comm")).is_ok_and(|comm| comm.trim_end() == "kthreadd") {
        return None;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Some(match has_hidepid(&mounts, proc) {
        true => Obstacle::HidePid(proc.to_owned()),
        false => Obstacle::PidNamespace(proc.to_owned()),
    })
}

/// Why the kernel's symbols have no addresses.
pub fn hides_symbols() -> Obstacle {
    let restricted = fs::read_to_string("/proc/sys/kernel/kptr_restrict").unwrap_or_default();
    match restricted.trim() {
        "2" => Obstacle::HiddenSymbols,
        _ => obstacle(Capability::Syslog, &[]),
    }
}

/// The last mount on a place is the one that is seen.
fn has_hidepid(mounts: &str, proc: &Path) -> bool {
    let is_there = |line: &&str| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == proc);
    let options = mounts.lines().rfind(is_there).and_then(|line| line.rsplit(' ').next());
    options.is_some_and(|options| {
        options
            .split(',')
            .any(|option| option.strip_prefix("hidepid=").is_some_and(|value| !matches!(value, "0" | "off")))
    })
}

/// Lockdown's mode, `none` where there is no lockdown.
pub fn lockdown() -> String {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    active_mode(&modes).unwrap_or("none").to_owned()
}

/// Whether programs may use `bpf_probe_read_kernel`, without which packets have no addresses.
pub fn may_read_kernel() -> bool {
    lockdown() != "confidentiality"
}

fn active_mode(modes: &str) -> Option<&str> {
    modes.split_once('[')?.1.split_once(']').map(|(mode, _)| mode)
}

/// What /proc says of this process.
#[derive(Debug, Clone, Copy)]
struct Own {
    effective: u64,
    has_seccomp_filter: bool,
    in_user_namespace: bool,
}

impl Own {
    /// `None` where /proc does not tell.
    fn read() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let users = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self::parse(&status, &users)
    }

    fn parse(status: &str, users: &str) -> Option<Self> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // Outside of user namespaces every id is itself.
        let whole = ["0", "0", "4294967295"];
        Some(Self {
            effective: u64::from_str_radix(field("CapEff:")?, 16).ok()?,
            has_seccomp_filter: field("Seccomp:") == Some("2"),
            in_user_namespace: !users.is_empty() && !users.split_whitespace().eq(whole),
        })
    }

    fn has(self, capability: Capability) -> bool {
        self.effective & capability.bits() != 0
    }

    fn obstacle(self, needed: Capability, beside: &[Capability]) -> Obstacle {
        let all = beside.iter().copied().chain([needed]);
        let lacking: Vec<_> = all.filter(|needed| !self.has(*needed)).collect();
        if !lacking.is_empty() {
            Obstacle::Lacks(lacking)
        } else if self.in_user_namespace {
            Obstacle::UserNamespace(needed)
        } else if self.has_seccomp_filter {
            Obstacle::Seccomp(needed)
        } else {
            Obstacle::Other(needed)
        }
    }

    fn missing_for_probes(self) -> Option<String> {
        let needed = [Capability::Bpf, Capability::Perfmon];
        let lacking = needed.iter().filter(|needed| !self.has(**needed));
        let lacking: Vec<_> = lacking.map(|needed| format!("no {}", needed.name())).collect();
        if lacking.is_empty() {
            return self.in_user_namespace.then(|| Obstacle::UserNamespace(Capability::Bpf).why());
        }
        Some(lacking.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYBODY: &str = "         0          0 4294967295\n";
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;

    fn with(effective: u64) -> Own {
        Own { effective, has_seccomp_filter: false, in_user_namespace: false }
    }

    #[test]
    fn root_lacks_nothing_and_others_are_told_what() {
        assert_eq!(with(SYS_ADMIN).missing_for_probes(), None);
        assert_eq!(with(BPF | PERFMON).missing_for_probes(), None);
        assert_eq!(with(BPF).missing_for_probes().as_deref(), Some("no CAP_PERFMON"));
        assert_eq!(with(0).missing_for_probes().as_deref(), Some("no CAP_BPF, no CAP_PERFMON"));
    }

    #[test]
    fn a_refusal_names_the_capability_the_user_namespace_or_the_filter() {
        let needed = Capability::SysAdmin;
        assert_eq!(with(0).obstacle(needed, &[]), Obstacle::Lacks(vec![needed]));
        let both = with(PERFMON).obstacle(needed, &[Capability::Syslog, Capability::Perfmon]);
        assert_eq!(both.why(), "it takes CAP_SYSLOG and CAP_SYS_ADMIN, which this process does not have");
        let status = |seccomp| format!("Seccomp:\t{seccomp}\nCapEff:\t000001ffffffffff\n");
        let of = |status: &str, users| Own::parse(status, users).expect("a status").obstacle(needed, &[]);
        assert_eq!(of(&status(0), EVERYBODY), Obstacle::Other(needed));
        assert_eq!(of(&status(2), EVERYBODY), Obstacle::Seccomp(needed));
        assert_eq!(of(&status(0), "0 100000 65536\n"), Obstacle::UserNamespace(needed));
        assert!(Own::parse(&status(0), "0 100000 65536\n").expect("a status").missing_for_probes().is_some());
    }

    #[test]
    fn one_capability_may_stand_for_another() {
        let override_only = with(1 << 1);
        let of = |needed| override_only.obstacle(needed, &[]);
        assert_eq!(of(Capability::DacReadSearch), Obstacle::Other(Capability::DacReadSearch));
        assert_eq!(of(Capability::NetAdmin), Obstacle::Lacks(vec![Capability::NetAdmin]));
    }

    #[test]
    fn a_proc_that_hides_processes_is_known_by_the_last_mount_on_it() {
        let plain = "22 1 0:20 / /proc rw,nosuid - proc proc rw\n";
        let hiding = "99 22 0:60 / /proc rw - proc proc rw,gid=4,hidepid=invisible\n";
        let proc = Path::new("/proc");
        assert!(!has_hidepid(plain, proc));
        assert!(has_hidepid(&format!("{plain}{hiding}"), proc));
        assert!(!has_hidepid(&format!("{hiding}{plain}"), proc));
        assert!(!has_hidepid(hiding, Path::new("/host/proc")));
    }

    #[test]
    fn the_mode_in_brackets_is_the_active_one() {
        assert_eq!(active_mode("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(active_mode(""), None);
    }
}
