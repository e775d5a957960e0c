//! Streams events to one client as lines of JSON.
//!
//! Lines are events, `{"lost":n}` for events that the log had dropped before this client read
//! them, and blank lines that keep an idle connection alive. A client that does not read holds
//! up its own task only: at most [`CHUNK`] events wait for it, the log does not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::query::EventQuery;
use crate::events::event::Event;
use crate::events::log::{Cursor, EventLog};

/// Silence after which a client gets a blank line.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// An event may be told so long after it happened: folded ones wait for their window and for the
/// next look at it.
const LATEST: Duration = Duration::from_secs(2);
/// Events per chunk.
const CHUNK: usize = 128;

/// Starts a task that writes what the query asks for; it ends with the receiver.
pub(super) fn stream(
    log: Arc<EventLog>,
    query: EventQuery,
    permit: OwnedSemaphorePermit,
) -> mpsc::Receiver<Bytes> {
    let (lines, receiver) = mpsc::channel(1);
    // The position is taken now: what happens from here on is in the answer.
    let start = start(&log, &query);
    let stream = Stream { log, query, lines };
    tokio::spawn(async move {
        stream.run(start).await;
        drop(permit);
    });
    receiver
}

struct Stream {
    log: Arc<EventLog>,
    query: EventQuery,
    lines: mpsc::Sender<Bytes>,
}

/// Where a client begins: kept events first, then from the cursor on.
struct Start {
    kept: VecDeque<Arc<Event>>,
    lost: u64,
    cursor: Cursor,
}

fn start(log: &EventLog, query: &EventQuery) -> Start {
    let mut start = Start { kept: VecDeque::new(), lost: 0, cursor: log.newest() };
    if query.backlog == 0 {
        return start;
    }
    start.cursor = log.oldest();
    loop {
        let read = log.read(&mut start.cursor, CHUNK);
        start.lost += read.lost;
        if read.events.is_empty() {
            return start;
        }
        for event in read.events {
            if query.matches(&event) {
                start.kept.push_back(event);
            }
        }
        let surplus = start.kept.len().saturating_sub(query.backlog);
        start.kept.drain(..surplus);
    }
}

impl Stream {
    async fn run(self, start: Start) {
        let Start { mut kept, lost: mut missed, mut cursor } = start;
        while !kept.is_empty() || missed > 0 {
            let some: Vec<_> = kept.drain(..CHUNK.min(kept.len())).collect();
            if send(&self.lines, std::mem::take(&mut missed), some.iter()).await.is_none() {
                return;
            }
        }
        if !self.query.follow {
            return;
        }
        let mut said = Instant::now();
        while !self.is_over() {
            let read = self.log.read(&mut cursor, CHUNK);
            let matching = read.events.iter().filter(|event| self.query.matches(event));
            match send(&self.lines, read.lost, matching).await {
                None => return,
                Some(true) => said = Instant::now(),
                // Events that the client does not want are no sign of life to it.
                Some(false) if said.elapsed() >= KEEP_ALIVE => {
                    if self.lines.send(Bytes::from_static(b"\n")).await.is_err() {
                        return;
                    }
                    said = Instant::now();
                }
                Some(false) => {}
            }
            if read.events.is_empty() && self.idle(&mut cursor, said + KEEP_ALIVE).await.is_none() {
                return;
            }
        }
    }

    /// Waits for news, for the end or until it is time to say something; `None` if the client or the log is
    /// gone.
    async fn idle(&self, cursor: &mut Cursor, until: Instant) -> Option<()> {
        tokio::select! {
            news = cursor.wait() => news.then_some(()),
            () = self.lines.closed() => None,
            () = tokio::time::sleep(self.left()) => Some(()),
            () = tokio::time::sleep_until(until.into()) => Some(()),
        }
    }

    fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// How long the client still wants events.
    fn left(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_nanos(self.query.until_ns).saturating_add(LATEST).saturating_sub(now)
    }
}

/// Sends one chunk and tells whether there was anything to say; `None` if the client is gone.
async fn send(
    lines: &mpsc::Sender<Bytes>,
    lost: u64,
    events: impl Iterator<Item = &Arc<Event>>,
) -> Option<bool> {
    let mut chunk = String::new();
    if lost > 0 {
        chunk.push_str(&format!("{{\"lost\":{lost}}}\n"));
    }
    for event in events {
        chunk.push_str(event.json_line());
    }
    if chunk.is_empty() {
        return Some(false);
    }
    lines.send(chunk.into()).await.ok().map(|()| true)
}
