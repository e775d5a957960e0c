//! Says on standard error that something is going on, for whatever takes longer than a second.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::cli::terminal;
use crate::text::escape::visible;

/// Until then nobody wonders.
const SHORT: Duration = Duration::from_secs(1);

/// Shows what `text` says of the time that has passed, until `work` is done: in one line of a
/// terminal, or once where there is none.
pub async fn shown<T>(text: impl Fn(Duration) -> String, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut second = tokio::time::interval_at((begun + SHORT).into(), SHORT);
    let mut said = false;
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = second.tick() => match terminal {
                true => write(&visible(&text(begun.elapsed()))),
                false if said => {}
                false => terminal::complain(&text(begun.elapsed())),
            },
        }
        said = true;
    };
    if said && terminal {
        write("");
    }
    done
}

/// In place of what stood there.
fn write(line: &str) {
    // Nothing is left to be told where standard error is closed.
    let _ = write!(std::io::stderr().lock(), "\r\x1b[K{line}");
}
