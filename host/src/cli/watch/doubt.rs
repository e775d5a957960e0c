//! Tells of flags that may be mistaken, before somebody waits for what can never come.

use super::filter::Filter;
use crate::cli::terminal;
use crate::kernel::advice::{self, Advice};
use crate::probe;
use crate::text::similar;

/// Says which of the wanted reasons nobody has heard of. It is no error: another node's kernel, or
/// an analyzer of somebody else's, may have them.
pub fn tell(filter: &Filter) {
    let wanted: Vec<_> = filter.reasons().map(advice::plain).collect();
    if wanted.iter().all(|reason| is_error(reason)) {
        return;
    }
    let (advice, kernel) = (Advice::built_in(), probe::kernel_reasons());
    let mut known: Vec<_> = advice.all().map(|found| found.name.to_owned()).collect();
    known.extend(kernel.drop.into_values().chain(kernel.reset.into_values()));
    for reason in wanted.iter().filter(|reason| !is_error(reason) && !known.contains(reason)) {
        let hint = similar::hint(reason, &known);
        terminal::complain(&format!(
            "no drop or reset reason {reason} is known here{hint}; waiting, since it may come"
        ));
    }
}

/// Whether it has the form of an errno's name.
fn is_error(reason: &str) -> bool {
    reason.starts_with('E') && !reason.contains('_')
}
