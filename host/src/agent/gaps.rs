//! Says what the agent does not see at all: in its log once for each cause, and on the board, from
//! where blind spots and metrics have it.

use crate::discover::Scan;
use crate::kernel::symbols::Symbols;
use crate::privilege;
use crate::status::{Gap, Sight, Status};

/// Replaces the gaps of one kind.
fn tell(status: &Status, of: Sight, gaps: Vec<Gap>) {
    for Gap { lost, cause } in status.set_gaps(of, gaps) {
        tracing::warn!(lost, cause, "not seen");
    }
}

/// Tells what a scan could not see.
pub(super) fn tell_of_scan(status: &Status, scan: &Scan) {
    tell(status, Sight::Namespaces, scan.closed_namespaces());
    tell(status, Sight::Processes, scan.hidden_processes());
    let left_out = u64::from(scan.is_init_left_out);
    let before = std::mem::replace(&mut status.update().left_out_processes, left_out);
    if before < left_out {
        tracing::info!("process 1 is protected from everybody: fd and io leave it out");
    }
}

/// Waits for the kernel's symbols, and tells if it hides them.
pub(super) fn tell_of_symbols(status: &Status, symbols: &dyn Symbols) {
    symbols.wait();
    let hidden = || Gap {
        lost: "places of drops have no names".to_owned(),
        cause: format!("addresses in /proc/kallsyms are 0: {}", privilege::hides_symbols().why()),
    };
    tell(status, Sight::Symbols, symbols.are_hidden().then(hidden).into_iter().collect());
}
