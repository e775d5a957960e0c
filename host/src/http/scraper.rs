//! Renders scrapes off the async threads, a few at a time.
//!
//! Two scrapes at most render at once. Further ones wait and take the result of a render that
//! finishes meanwhile, which is as new as one of their own would have been when they came; a
//! storm of scrapes therefore costs two threads and not more memory than two answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use super::process;
use crate::view::View;
use crate::view::exposition::Format;

/// Renders at once.
const RENDERS: usize = 2;
/// Longest wait for a turn or for a shared result.
const WAIT: Duration = Duration::from_secs(1);

/// Turns the view into text.
#[derive(Debug)]
pub(super) struct Scraper {
    view: Arc<View>,
    turns: Arc<Semaphore>,
    /// Results for those that wait, by format.
    text: broadcast::Sender<Bytes>,
    open_metrics: broadcast::Sender<Bytes>,
    /// Bytes of the last answer, so that the next one is written without growing its buffer.
    size: AtomicUsize,
}

enum Turn {
    Own(OwnedSemaphorePermit),
    Shared(Bytes),
}

impl Scraper {
    pub(super) fn new(view: Arc<View>) -> Self {
        let shared = || broadcast::Sender::new(1);
        let turns = Arc::new(Semaphore::new(RENDERS));
        Self { view, turns, text: shared(), open_metrics: shared(), size: AtomicUsize::new(16 << 10) }
    }

    /// A scrape; `None` if there was no turn in time.
    pub(super) async fn scrape(self: Arc<Self>, format: Format) -> Option<Bytes> {
        let permit = match Arc::clone(&self.turns).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match tokio::time::timeout(WAIT, self.turn(format)).await.ok()? {
                Turn::Own(permit) => permit,
                Turn::Shared(bytes) => return Some(bytes),
            },
        };
        tokio::task::spawn_blocking(move || self.render(format, permit)).await.ok()
    }

    async fn turn(&self, format: Format) -> Turn {
        let mut shared = self.shared(format).subscribe();
        tokio::select! {
            biased;
            Ok(bytes) = shared.recv() => Turn::Shared(bytes),
            Ok(permit) = Arc::clone(&self.turns).acquire_owned() => Turn::Own(permit),
        }
    }

    fn render(&self, format: Format, permit: OwnedSemaphorePermit) -> Bytes {
        let capacity = self.size.load(Ordering::Relaxed);
        let bytes = Bytes::from(self.view.scrape(&process::read(), format, capacity + capacity / 16));
        self.size.store(bytes.len(), Ordering::Relaxed);
        // Nobody waits: then there is nobody to send it to.
        let _ = self.shared(format).send(bytes.clone());
        // Only now, so that those that wait see the result before they see the turn.
        drop(permit);
        bytes
    }

    fn shared(&self, format: Format) -> &broadcast::Sender<Bytes> {
        match format {
            Format::Text => &self.text,
            Format::OpenMetrics => &self.open_metrics,
        }
    }
}
