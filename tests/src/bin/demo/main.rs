//! `make demo`: three real faults between two network namespaces, what Inspector says of them while
//! they happen, and its diagnosis of the third, as a person would ask for it.
//!
//! Everything shown comes from the running product: event lines from `inspector watch`, metrics
//! from a scrape before and after, the answer of `inspector diagnose`. A fault that Inspector does
//! not see fails the demo, after the other faults have been shown. Whatever ends it, also Ctrl-C,
//! the agent is stopped and the namespaces are deleted.
//! Where the probes that it shows cannot be loaded it replays recorded traces instead, and says so
//! ([`recorded`]); any other probe that is missing is one line of information.

mod faults;
mod live;
mod recorded;
mod show;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use inspector_tests::lab::end_in_order;
use nix::sys::signal::Signal;

use show::Style;

/// Processes to end if the demo is interrupted.
type Started = Mutex<Vec<u32>>;

fn main() -> ExitCode {
    let started = Arc::<Started>::default();
    let to_end = Arc::clone(&started);
    let ready = end_in_order(move || {
        for pid in to_end.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    });
    match ready.and_then(|()| demo(&started)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\ndemo failed: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(started: &Started) -> anyhow::Result<()> {
    let style = Style::of_stdout();
    println!("{}\n", style.bold("Inspector demo: three real faults between two network namespaces"));
    if let Some(obstacle) = recorded::obstacle() {
        return recorded::demo(style, &obstacle);
    }
    match live::demo(style, started)? {
        live::Shown::Faults => Ok(()),
        live::Shown::Nothing(obstacle) => recorded::demo(style, &obstacle),
    }
}
