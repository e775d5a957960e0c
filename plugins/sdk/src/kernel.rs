//! Names that only the running kernel knows, asked for once and kept in the guest.

use std::cell::RefCell;
use std::rc::Rc;

pub use crate::bindings::inspector::analyzer::kernel::Symbol;
use crate::host::kernel;
use crate::map::Map;

/// More names than this are not kept: no kernel has as many reasons, and an analyzer sees few of
/// its addresses. A full cache is emptied, not refused.
const CACHED: usize = 4_096;

/// What `symbol_at` says of an address that no symbol covers.
const NO_SYMBOL: &str = "unknown";

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

#[derive(Debug, Default)]
struct Cache {
    drop_reasons: Map<u32, Rc<str>>,
    reset_reasons: Map<u32, Rc<str>>,
    symbols: Map<u64, Rc<Symbol>>,
}

/// Name of a drop reason, e.g. `NETFILTER_DROP`; the numbers differ on every kernel.
pub fn drop_reason(code: u32) -> Rc<str> {
    CACHE.with_borrow_mut(|c| cached(&mut c.drop_reasons, code, || kernel::drop_reason(code).into()))
}

/// Name of a reset reason, e.g. `TCP_ABORT_ON_CLOSE`.
pub fn reset_reason(code: u32) -> Rc<str> {
    CACHE.with_borrow_mut(|c| cached(&mut c.reset_reasons, code, || kernel::reset_reason(code).into()))
}

/// The symbol that covers an address, `unknown` where none does.
pub fn symbol_at(address: u64) -> Rc<Symbol> {
    let ask = || {
        let nothing = || Symbol { name: NO_SYMBOL.to_owned(), offset: 0 };
        Rc::new(kernel::symbol_at(address).unwrap_or_else(nothing))
    };
    CACHE.with_borrow_mut(|c| cached(&mut c.symbols, address, ask))
}

/// Empties the cache, for an analyzer that starts.
pub(crate) fn forget() {
    CACHE.take();
}

fn cached<K, V>(names: &mut Map<K, Rc<V>>, key: K, ask: impl FnOnce() -> Rc<V>) -> Rc<V>
where
    K: Eq + std::hash::Hash,
    V: ?Sized,
{
    if names.len() >= CACHED {
        names.clear();
    }
    Rc::clone(names.entry(key).or_insert_with(ask))
}
