//! Names that only the running kernel knows, asked for once and kept in the guest.

use std::cell::RefCell;
use std::rc::Rc;

pub use crate::bindings::inspector::analyzer::kernel::{Location, Symbol};
use crate::host::kernel;
use crate::map::Map;

/// More names than this are not kept: no kernel has as many reasons, and an analyzer sees few of
/// its addresses. A full cache is emptied, not refused.
const CACHED: usize = 4_096;

/// What `symbol_at` says of an address that no symbol covers.
pub const NO_SYMBOL: &str = "unknown";

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

#[derive(Debug, Default)]
struct Cache {
    drop_reasons: Map<u32, Rc<str>>,
    reset_reasons: Map<u32, Rc<str>>,
    tcp_states: Map<u32, Rc<str>>,
    congestion_states: Map<u32, Rc<str>>,
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

/// Name of a TCP state, e.g. `ESTABLISHED`.
pub fn tcp_state(code: u32) -> Rc<str> {
    CACHE.with_borrow_mut(|c| cached(&mut c.tcp_states, code, || kernel::tcp_state(code).into()))
}

/// Name of a state of congestion control, e.g. `Recovery`.
pub fn congestion_state(code: u32) -> Rc<str> {
    CACHE
        .with_borrow_mut(|c| cached(&mut c.congestion_states, code, || kernel::congestion_state(code).into()))
}

/// The symbol that covers an address, `unknown` where none does. That is not kept: the host may
/// know the address a moment later, when it has noticed a module that was loaded.
pub fn symbol_at(address: u64) -> Rc<Symbol> {
    if let Some(known) = CACHE.with_borrow(|c| c.symbols.get(&address).cloned()) {
        return known;
    }
    match kernel::symbol_at(address) {
        Some(symbol) => CACHE.with_borrow_mut(|c| cached(&mut c.symbols, address, || Rc::new(symbol))),
        None => Rc::new(Symbol { name: NO_SYMBOL.to_owned(), offset: 0 }),
    }
}

/// Symbol, module and offset of an address; asked of the host each time.
pub fn locate(address: u64) -> Option<Location> {
    kernel::locate(address)
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
