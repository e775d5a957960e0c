//! Streams events to one client, as lines of JSON or as server-sent events (`text/event-stream`).
//!
//! Lines are events, `{"lost":n}` for events that the log had dropped before this client read
//! them, `{"restarted":true}` before those of a log that is another one than the client's cursor is of, and blank
//! lines that keep an idle connection alive. Server-sent events have the same JSON as `data`, of the events `lost` and
//! `restarted` or without a name, and the place to go on from as `id`; to programs that read lines the header
//! `inspector-log` says the first part of it, and `seq` of an event is the second.
//!
//! A client that does not read holds up its own task only: at most [`CHUNK`] events wait for it, the log does not.

use std::collections::VecDeque;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::query::{EventQuery, Position};
use crate::events::event::Event;
use crate::events::log::{Cursor, EventLog};

/// Silence after which a client gets a blank line.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// An event may be told so long after it happened: folded ones wait for their window and for the
/// next look at it.
const LATEST: Duration = Duration::from_secs(2);
/// Events per chunk.
const CHUNK: usize = 128;

/// How a client wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A line of JSON each.
    Lines,
    /// Server-sent events.
    ServerSent,
}

impl Form {
    /// What the client accepts.
    pub(super) fn accepted(accept: Option<&str>) -> Self {
        match accept.is_some_and(|accept| accept.contains("text/event-stream")) {
            true => Self::ServerSent,
            false => Self::Lines,
        }
    }

    /// What it gets.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::ServerSent => "text/event-stream",
        }
    }

    /// What is said without an event; `value` is JSON.
    fn remark(self, name: &str, value: impl Display) -> String {
        match self {
            Self::Lines => format!("{{\"{name}\":{value}}}\n"),
            Self::ServerSent => format!("event: {name}\ndata: {{\"{name}\":{value}}}\n\n"),
        }
    }

    fn event(self, chunk: &mut String, log: u64, event: &Event) {
        let line = event.json_line();
        match self {
            Self::Lines => chunk.push_str(line),
            Self::ServerSent => {
                let id = Position { log, seq: event.seq };
                // The line ends with a line feed already.
                write!(chunk, "id: {id}\ndata: {line}\n").expect("writing to a String cannot fail");
            }
        }
    }

    fn alive(self) -> Bytes {
        Bytes::from_static(match self {
            Self::Lines => b"\n",
            Self::ServerSent => b":\n\n",
        })
    }
}

/// Starts a task that writes what the query asks for; it ends with the receiver.
pub(super) fn stream(
    log: Arc<EventLog>,
    query: EventQuery,
    form: Form,
    permit: OwnedSemaphorePermit,
) -> mpsc::Receiver<Bytes> {
    let (chunks, receiver) = mpsc::channel(1);
    // The position is taken now: what happens from here on is in the answer.
    let start = start(&log, &query);
    let left = query.limit;
    let stream = Stream { log, query, form, chunks, left };
    tokio::spawn(async move {
        stream.run(start).await;
        drop(permit);
    });
    receiver
}

struct Stream {
    log: Arc<EventLog>,
    query: EventQuery,
    form: Form,
    chunks: mpsc::Sender<Bytes>,
    /// Events that the client still wants.
    left: usize,
}

/// Where a client begins: kept events first, then from the cursor on.
struct Start {
    kept: VecDeque<Arc<Event>>,
    lost: u64,
    restarted: bool,
    cursor: Cursor,
}

fn start(log: &EventLog, query: &EventQuery) -> Start {
    let mut start = Start { kept: VecDeque::new(), lost: 0, restarted: false, cursor: log.newest() };
    let backlog = match query.cursor {
        None if query.backlog == 0 => return start,
        None => {
            start.cursor = log.oldest();
            query.backlog
        }
        Some(Position { log: id, seq }) => {
            let behind = log.behind(seq).filter(|_| id == log.id());
            start.restarted = behind.is_none();
            start.cursor = behind.unwrap_or_else(|| log.oldest());
            usize::MAX
        }
    };
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
        let surplus = start.kept.len().saturating_sub(backlog);
        start.kept.drain(..surplus);
    }
}

impl Stream {
    async fn run(mut self, start: Start) {
        let Start { mut kept, lost: mut missed, restarted, mut cursor } = start;
        if restarted && self.chunks.send(self.form.remark("restarted", true).into()).await.is_err() {
            return;
        }
        while self.left > 0 && (!kept.is_empty() || missed > 0) {
            let some: Vec<_> = kept.drain(..CHUNK.min(kept.len())).collect();
            if self.send(std::mem::take(&mut missed), &some).await.is_none() {
                return;
            }
        }
        if !self.query.follow {
            return;
        }
        let mut said = Instant::now();
        while !self.is_over() {
            let mut read = self.log.read(&mut cursor, CHUNK);
            let is_all = read.events.is_empty();
            read.events.retain(|event| self.query.matches(event));
            match self.send(read.lost, &read.events).await {
                None => return,
                Some(true) => said = Instant::now(),
                // Events that the client does not want are no sign of life to it.
                Some(false) if said.elapsed() >= KEEP_ALIVE => {
                    if self.chunks.send(self.form.alive()).await.is_err() {
                        return;
                    }
                    said = Instant::now();
                }
                Some(false) => {}
            }
            if is_all && self.idle(&mut cursor, said + KEEP_ALIVE).await.is_none() {
                return;
            }
        }
    }

    /// Waits for news, for the end or until it is time to say something; `None` if the client or the log is
    /// gone.
    async fn idle(&self, cursor: &mut Cursor, until: Instant) -> Option<()> {
        tokio::select! {
            news = cursor.wait() => news.then_some(()),
            () = self.chunks.closed() => None,
            () = tokio::time::sleep(self.time_left()) => Some(()),
            () = tokio::time::sleep_until(until.into()) => Some(()),
        }
    }

    fn is_over(&self) -> bool {
        self.left == 0 || self.time_left().is_zero()
    }

    /// How long the client still wants events.
    fn time_left(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_nanos(self.query.until_ns).saturating_add(LATEST).saturating_sub(now)
    }

    /// Sends one chunk and tells whether there was anything to say; `None` if the client is gone.
    async fn send(&mut self, lost: u64, events: &[Arc<Event>]) -> Option<bool> {
        let mut chunk = String::new();
        if lost > 0 {
            chunk.push_str(&self.form.remark("lost", lost));
        }
        for event in events.iter().take(self.left) {
            self.form.event(&mut chunk, self.log.id(), event);
        }
        self.left -= events.len().min(self.left);
        if chunk.is_empty() {
            return Some(false);
        }
        self.chunks.send(chunk.into()).await.ok().map(|()| true)
    }
}
