//! The thread of a sink: reads events as they come, makes batches of them, and delivers these one by one.

use std::cell::{Cell, RefCell};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::account::Account;
use super::deliver::{Deliver, Outcome};
use super::queue::Queue;
use super::spool::Place;
use crate::events::event::EventLine;
use crate::events::log::{Cursor, EventLog};
use crate::status::panic_words;

/// Events of a batch, and bytes of its lines.
const MAX_EVENTS: usize = 1000;
const MAX_BYTES: usize = 1 << 20;
/// Age of a batch: an event waits so long for others, unless there are many.
const AGE: Duration = Duration::from_secs(1);
/// While deliveries fail there is no hurry, and each batch is a file.
const AGE_FAILING: Duration = Duration::from_secs(5);
/// Events for which the age is not waited for, or a quarter of the log, if that is less.
const MANY: usize = 4 * MAX_EVENTS;
/// Failures of one batch after which less is sent at once, where the other side answers.
const TRIES: u32 = 3;
/// Events refused one after the other with none taken between them: then it is not the events.
const REFUSALS: u32 = 100;
/// Pause after a first failure, and after many.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);
/// Whatever the other side asks for, it is tried again after this time.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often the other side is asked how it is.
const ASK: Duration = Duration::from_secs(60);
/// Time for what waits when the agent stops; what is not delivered then goes to disk.
const LAST: Duration = Duration::from_secs(3);

/// A sink that is to be started.
#[derive(Debug)]
pub struct Sink<D> {
    /// How it delivers.
    pub to: D,
    /// Where batches wait that cannot be delivered.
    pub place: Option<Place>,
    /// What becomes of its events.
    pub account: Account,
}

/// A sink that runs.
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<bool>,
    /// Nothing comes; it ends with the thread.
    ended: mpsc::Receiver<()>,
}

impl<D: Deliver + Send + 'static> Sink<D> {
    /// Starts with the oldest event that is kept.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn start(self, log: Arc<EventLog>) -> io::Result<Running> {
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let account = self.account.clone();
        let (alive, ended) = mpsc::channel();
        let run = move || {
            runtime.block_on(self.run(&log, stopped));
            // A name server that does not answer is not waited for.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("sink".to_owned()).spawn(move || {
            let _alive = alive;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                account.failing(format!("the sink has ended: {}", panic_words(&*panic)));
            }
        })?;
        Ok(Running { stop, ended })
    }

    async fn run(self, log: &EventLog, stopped: watch::Receiver<bool>) {
        let Self { mut to, place, account } = self;
        let cursor = log.oldest().counting(account.missed());
        let queue = RefCell::new(Queue::new(place, account.clone()));
        let waiting =
            Waiting { queue, news: Notify::new(), room: Notify::new(), refused: Cell::new(0), account };
        let mut stop = stopped.clone();
        let stop = async move { drop(stop.wait_for(|stop| *stop).await) };
        let delivering = waiting.deliver(&mut to);
        tokio::pin!(delivering, stop);
        let mut cursor = cursor;
        {
            let reading = waiting.read(log, &mut cursor);
            tokio::pin!(reading);
            tokio::select! {
                () = &mut delivering => {}
                () = &mut reading => {}
                () = &mut stop => {}
            }
        }
        waiting.take(log, &mut cursor, true);
        // Whatever happens to this process now, it is on disk.
        waiting.queue.borrow_mut().spill();
        let all_gone = async {
            while !waiting.queue.borrow().is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = &mut delivering => {}
            _ = timeout(LAST, all_gone) => {}
        }
    }
}

impl Running {
    /// Lets all of them deliver what they can in a moment, and end. One that hangs in the system, as in a file on a
    /// server that is gone, is left behind.
    pub fn stop_all(sinks: &[Self]) {
        for sink in sinks {
            // It may have ended.
            let _ = sink.stop.send(true);
        }
        let end = Instant::now() + 2 * LAST;
        for sink in sinks {
            let left = end.saturating_duration_since(Instant::now());
            if sink.ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("a sink does not end, and is left behind");
            }
        }
    }
}

/// What reading and delivering share.
struct Waiting {
    queue: RefCell<Queue>,
    news: Notify,
    /// Something was delivered.
    room: Notify,
    /// Events refused one after the other.
    refused: Cell<u32>,
    account: Account,
}

impl Waiting {
    /// Never ends, unless the log does.
    async fn read(&self, log: &EventLog, cursor: &mut Cursor) {
        let many = MANY.min(log.backlog() / 4) as u64;
        while cursor.wait_for(1).await {
            let age = if self.queue.borrow().is_failing() { AGE_FAILING } else { AGE };
            // Time over is as good as many events.
            let _ = timeout(age, cursor.wait_for(many)).await;
            while !self.queue.borrow().has_room() {
                self.room.notified().await;
            }
            self.take(log, cursor, false);
        }
    }

    /// Takes all that is there, or what there is room for.
    fn take(&self, log: &EventLog, cursor: &mut Cursor, all: bool) {
        while all || self.queue.borrow().has_room() {
            let read = log.read(cursor, MAX_EVENTS);
            if read.events.is_empty() && read.lost == 0 {
                return;
            }
            self.account.took(read.events.len(), read.lost);
            let (mut batch, mut bytes) = (Vec::new(), 0);
            for event in &read.events {
                bytes += event.json_line().len();
                if bytes > MAX_BYTES && !batch.is_empty() {
                    self.queue.borrow_mut().push(std::mem::take(&mut batch));
                    bytes = event.json_line().len();
                }
                batch.push(EventLine::of(event));
            }
            if !batch.is_empty() {
                self.queue.borrow_mut().push(batch);
            }
            self.news.notify_one();
        }
    }

    /// Never ends.
    async fn deliver(&self, to: &mut impl Deliver) {
        let mut pause = SHORTEST;
        loop {
            let first = self.queue.borrow_mut().first();
            let Some(batch) = first else {
                if timeout(ASK, self.news.notified()).await.is_err() {
                    self.account.said(to.ask().await);
                }
                continue;
            };
            self.all_of(&batch, to, &mut pause).await;
            self.queue.borrow_mut().pop();
            self.room.notify_one();
        }
    }

    /// Delivers a batch, or all of it that will be taken: where something in it is refused, halves are tried.
    async fn all_of(&self, batch: &[EventLine], to: &mut impl Deliver, pause: &mut Duration) {
        let (mut parts, mut tries) = (vec![batch], 0);
        while let Some(part) = parts.pop() {
            let halves = || {
                let (older, newer) = part.split_at(part.len() / 2);
                [newer, older]
            };
            tries += 1;
            match to.deliver(part).await {
                Outcome::Taken => self.taken(part.len(), to, pause).await,
                Outcome::TakenBut { events, what, why } => {
                    tracing::warn!(why, events, "events are not taken");
                    let refused = events.min(part.len() as u64);
                    self.account.lost(refused, what);
                    self.taken(part.len() - refused as usize, to, pause).await;
                }
                Outcome::Refused { .. } if part.len() > 1 => parts.extend(halves()),
                Outcome::Refused { what, why } if self.refused.get() < REFUSALS => {
                    if self.refused.replace(self.refused.get() + 1) == 0 {
                        tracing::warn!(why, event = part[0].kind, at = part[0].time, "an event is not taken");
                    }
                    self.account.lost(1, what);
                }
                Outcome::Refused { why, .. } => {
                    self.failed(why, to, *pause).await;
                    *pause = (*pause * 2).min(LONGEST);
                    parts.push(part);
                }
                Outcome::Later { why, after, answered } => {
                    self.failed(why, to, spread(*pause).max(after.unwrap_or_default()).min(PATIENCE)).await;
                    *pause = (*pause * 2).min(LONGEST);
                    if answered && part.len() > 1 && tries >= TRIES {
                        parts.extend(halves());
                    } else {
                        parts.push(part);
                    }
                }
            }
        }
    }

    async fn failed(&self, why: String, to: &mut impl Deliver, pause: Duration) {
        self.account.failing(why);
        self.queue.borrow_mut().set_failing(true);
        self.room.notify_one();
        self.account.said(to.ask().await);
        sleep(pause).await;
    }

    async fn taken(&self, events: usize, to: &mut impl Deliver, pause: &mut Duration) {
        self.refused.set(0);
        self.account.delivered(events);
        if self.account.works() {
            self.account.said(to.ask().await);
        }
        self.queue.borrow_mut().set_failing(false);
        *pause = SHORTEST;
    }
}

/// Half of a pause up to all of it, so that the agents of a cluster do not all come back at once.
fn spread(pause: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    pause / 2 + pause / 2 * (now.subsec_nanos() % 1000) / 1000
}
