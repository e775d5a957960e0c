//! The kernel's text symbols, from /proc/kallsyms, read on a thread of their own.
//!
//! The compiler's suffixes (`.constprop.0`, `.isra.0`, `.part.0`, `.cold`) are cut off, because
//! they differ from build to build. Without CAP_SYSLOG, or with `kernel.kptr_restrict`, all
//! addresses read as 0 and the table stays empty.
//!
//! The listing is read again when /proc/modules says that modules came or went: it is looked at
//! every [`LOOK`], and at an address that no symbol covers, at most every [`PAUSE`].

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use crate::kernel::symbols::{Builder, Symbol, SymbolTable, Symbols};
use crate::notify::{Notify, Wake};

/// A module that replaced another one at the same addresses is noticed within this time.
const LOOK: Duration = Duration::from_secs(30);
/// Two looks at the modules are at least so far apart.
const PAUSE: Duration = Duration::from_secs(1);

/// The files that list the symbols and the modules.
#[derive(Debug, Clone)]
pub struct Files {
    pub kallsyms: PathBuf,
    /// Missing on a kernel without modules.
    pub modules: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self { kallsyms: "/proc/kallsyms".into(), modules: "/proc/modules".into() }
    }
}

/// Symbols of the running kernel. Dropping it ends the thread.
#[derive(Debug)]
pub struct Kallsyms(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: RwLock<SymbolTable>,
    /// Set once the first listing is in the table.
    read: OnceLock<()>,
    /// Rung by an address that is not known.
    wake: Notify,
}

impl Kallsyms {
    /// Begins to read.
    pub fn start(files: Files) -> Self {
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        let started = thread::Builder::new().name("symbols".to_owned()).spawn(move || follow(&files, &own));
        if let Err(error) = started {
            tracing::warn!(%error, "no thread to read the kernel's symbols: places of drops have no names");
            let _ = shared.read.set(());
        }
        Self(shared)
    }
}

impl Symbols for Kallsyms {
    fn at(&self, address: u64) -> Option<Symbol> {
        let found = self.0.table.read().unwrap_or_else(PoisonError::into_inner).at(address);
        if found.is_none() && address != 0 {
            self.0.wake.notify();
        }
        found
    }

    fn wait(&self) {
        self.0.read.wait();
    }

    fn are_hidden(&self) -> bool {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Drop for Kallsyms {
    fn drop(&mut self) {
        self.0.wake.close();
    }
}

fn follow(files: &Files, shared: &Shared) {
    let mut modules = loaded(files);
    replace(shared, read(files));
    let _ = shared.read.set(());
    while shared.wake.wait(LOOK) != Wake::Closed {
        let now = loaded(files);
        if now != modules {
            modules = now;
            replace(shared, read(files));
        }
        // A ring in the meantime is kept for the next round.
        thread::park_timeout(PAUSE);
    }
}

fn replace(shared: &Shared, table: SymbolTable) {
    *shared.table.write().unwrap_or_else(PoisonError::into_inner) = table;
}

/// Name and address of each module; its use count, which changes all the time, left out.
fn loaded(files: &Files) -> Vec<String> {
    let text = fs::read_to_string(&files.modules).unwrap_or_default();
    let identity = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        format!("{} {}", words.next().unwrap_or_default(), words.nth(4).unwrap_or_default())
    };
    text.lines().map(identity).collect()
}

/// Text symbols; empty if the kernel hides them.
pub fn read(files: &Files) -> SymbolTable {
    File::open(&files.kallsyms).map(|file| parse(BufReader::new(file))).unwrap_or_default()
}

fn parse(mut lines: impl BufRead) -> SymbolTable {
    let mut table = Builder::default();
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
        if let Some((address, name, module)) = text_symbol(&line) {
            table.push(address, name, module);
        }
        line.clear();
    }
    table.finish()
}

fn text_symbol(line: &str) -> Option<(u64, &str, &str)> {
    let mut words = line.split_ascii_whitespace();
    let address = words.next()?;
    words.next().filter(|kind| matches!(*kind, "t" | "T" | "w" | "W"))?;
    let address = u64::from_str_radix(address, 16).ok().filter(|address| *address != 0)?;
    let name = words.next()?;
    // The padding before a function, where no call ever is.
    let is_padding = name.starts_with("__pfx_") || name.starts_with("__cfi_");
    let module = words.next().and_then(|word| word.strip_prefix('[')?.strip_suffix(']')).unwrap_or("");
    (!is_padding).then(|| (address, name.split_once('.').map_or(name, |(stem, _)| stem), module))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn at(symbols: &impl Symbols, address: u64) -> Option<(String, String, u32)> {
        symbols.at(address).map(|symbol| (symbol.name, symbol.module, symbol.offset))
    }

    fn place(name: &str, module: &str, offset: u32) -> Option<(String, String, u32)> {
        Some((name.to_owned(), module.to_owned(), offset))
    }

    #[test]
    fn only_text_is_listed_with_its_module_and_without_the_compilers_suffixes() {
        let listing = "ffffffff81000300 t nft_do_chain.constprop.0\t[nf_tables]\n\
                       ffffffff81000100 T tcp_v4_rcv\n\
                       ffffffff81000100 t tcp_alias\n\
                       ffffffff810000f0 t __pfx_tcp_v4_rcv\n\
                       ffffffff81000340 D jiffies\n";
        let table = parse(listing.as_bytes());
        assert_eq!(table.len(), 2);
        assert_eq!(at(&table, 0xffff_ffff_8100_0104), place("tcp_v4_rcv", "", 4));
        assert_eq!(at(&table, 0xffff_ffff_8100_0341), place("nft_do_chain", "nf_tables", 0x41));
    }

    #[test]
    fn hidden_addresses_are_no_symbols() {
        assert!(parse("0000000000000000 T tcp_v4_rcv\n".as_bytes()).is_empty());
    }

    #[test]
    fn a_module_that_is_loaded_later_is_found_at_its_first_unknown_address() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = Files { kallsyms: dir.path().join("kallsyms"), modules: dir.path().join("modules") };
        let old = "ffffffff81000100 T tcp_v4_rcv\n";
        fs::write(&files.kallsyms, old).expect("written");
        let symbols = Kallsyms::start(files.clone());
        symbols.wait();
        assert_eq!(at(&symbols, 0xffff_ffff_c000_0010), None);
        assert_eq!(at(&symbols, 0xffff_ffff_8100_0101), place("tcp_v4_rcv", "", 1));

        fs::write(&files.kallsyms, format!("{old}ffffffffc0000000 t new_hook\t[new]\n")).expect("written");
        fs::write(&files.modules, "new 16384 1 - Live 0xffffffffc0000000\n").expect("written");
        let deadline = Instant::now() + Duration::from_secs(30);
        while at(&symbols, 0xffff_ffff_c000_0010).is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(at(&symbols, 0xffff_ffff_c000_0010), place("new_hook", "new", 0x10));
    }

    #[test]
    fn a_change_of_a_modules_use_count_is_no_reason_to_read_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = Files { kallsyms: dir.path().join("kallsyms"), modules: dir.path().join("modules") };
        let told = |count: u32| {
            fs::write(&files.modules, format!("veth 49152 {count} - Live 0xffffffffc0000000\n"))
                .expect("written");
            loaded(&files)
        };
        assert_eq!(told(1), told(2));
        assert_eq!(told(1), ["veth 0xffffffffc0000000"]);
    }
}
