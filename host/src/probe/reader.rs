//! The one loop that drains all rings.
//!
//! While records come it looks every two milliseconds and asks for no wake-up; a ring that fills past
//! its threshold wakes it early. After [`IDLE_ROUNDS`] looks in vain it asks to be woken, looks
//! once more (a record that was being written then did not know), and sleeps until a record or
//! the next second. So there are at most some five hundred wake-ups a second, and one when idle.
//!
//! Everything runs on this thread: no lock is held while the sink runs, and nothing is allocated
//! per record.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use super::clock::Clock;
use super::feed::{EntityCache, Feed, MAX_BATCH};
use super::load::Loaded;
use crate::entities::Entities;
use crate::kernel::batch::Batch;
use crate::loss::Loss;
use crate::status::Status;

/// Looks in vain before the reader goes to sleep.
const IDLE_ROUNDS: u32 = 3;
/// Milliseconds between two looks while awake.
const ROUND_MS: u8 = 2;
/// Between two looks at the counters while awake.
const COUNT_EVERY: Duration = Duration::from_millis(100);
/// Between two rounds of everything that is done by the clock; also bounds a missed wake-up.
const TICK: Duration = Duration::from_secs(1);
/// What an epoll event is about; which ring does not matter, as all are looked at.
const NOTIFY: u64 = 0;
const RING: u64 = 1;

/// What the loading thread asks of the reader.
pub enum Command {
    /// Read this probe too.
    Load(Box<Loaded>),
    /// Detach the probe with this id, and deliver its last records.
    Unload(u16),
    /// Detach all, deliver their last records, and end.
    Stop,
}

/// See the module.
pub struct Reader<S> {
    /// One for each probe, by its id, so that a command finds its probe without a search.
    feeds: Vec<Feed>,
    /// What the loading thread asks for: only this thread touches a loaded probe.
    commands: Receiver<Command>,
    /// Written to with every command, because a thread in `epoll_wait` does not see the channel.
    notify: Arc<EventFd>,
    /// Waits for all rings and for `notify` at once.
    epoll: Epoll,
    /// Turns the kernel's timestamps into wall time.
    clock: Clock,
    /// Entities of the namespaces seen last; emptied once a second.
    cache: EntityCache,
    /// Where counts of events and losses are reported.
    status: Arc<Status>,
    /// Called with every batch, on this thread; no lock is held meanwhile.
    sink: S,
    /// Looks in a row that found nothing; decides when to sleep.
    idle: u32,
    /// When the programs' counters were read last, which is due every [`COUNT_EVERY`].
    counted: Instant,
    /// When the work of each second was done last ([`TICK`]).
    ticked: Instant,
}

/// What one look at all rings found.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    Records,
    /// A ring had more than fits a batch.
    More,
}

impl<S: FnMut(Arc<Batch>)> Reader<S> {
    /// A reader without probes.
    ///
    /// # Errors
    ///
    /// If the system has no descriptors left.
    pub fn new(
        commands: Receiver<Command>,
        notify: Arc<EventFd>,
        entities: Arc<Entities>,
        loss: &Loss,
        status: Arc<Status>,
        sink: S,
    ) -> io::Result<Reader<S>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*notify, EpollEvent::new(EpollFlags::EPOLLIN, NOTIFY))?;
        let now = Instant::now();
        Ok(Reader {
            feeds: inspector_ebpf::PROBES.iter().map(|probe| Feed::new(probe, loss)).collect(),
            commands,
            notify,
            epoll,
            clock: Clock::new(),
            cache: EntityCache::new(entities),
            status,
            sink,
            idle: 0,
            counted: now,
            ticked: now,
        })
    }

    /// Runs until [`Command::Stop`].
    pub fn run(mut self) {
        while !self.apply_commands() {
            let found = self.drain_all();
            let now = Instant::now();
            self.by_the_clock(now);
            match found {
                Found::More => {}
                Found::Records => {
                    self.wake_up();
                    self.wait(ROUND_MS.into());
                }
                Found::Nothing => self.go_idle(),
            }
        }
    }

    /// Carries out what the loading thread has sent; true if it was [`Command::Stop`].
    fn apply_commands(&mut self) -> bool {
        let commands: Vec<Command> = self.commands.try_iter().collect();
        for command in commands {
            match command {
                Command::Load(loaded) => self.load(*loaded),
                Command::Unload(id) => self.unload(usize::from(id)),
                Command::Stop => {
                    (0..self.feeds.len()).for_each(|id| self.unload(id));
                    return true;
                }
            }
        }
        false
    }

    fn load(&mut self, loaded: Loaded) {
        // Edge-triggered: a ring with records in it is "ready" all the time, which is no news.
        let edge = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, RING);
        if let Err(error) = self.epoll.add(loaded.ring.as_fd(), edge) {
            tracing::warn!(probe = loaded.probe.name, %error, "its records come up to a second late");
        }
        let id = usize::from(loaded.probe.id);
        self.feeds[id].attach(loaded, &self.status);
        self.wake_up();
    }

    /// Detaches first, then waits until no program runs any more: what is drained then is all.
    fn unload(&mut self, id: usize) {
        // Their counts are gone with the programs.
        self.feeds[id].report_runs(&self.status);
        let Some(loaded) = self.feeds[id].loaded.as_mut() else { return };
        loaded.detach();
        wait_for_running_programs();
        while let Some(batch) = self.feeds[id].drain(&self.clock, &mut self.cache) {
            (self.sink)(Arc::new(batch));
        }
        self.feeds[id].count(&self.status);
        if let Some(batch) = self.feeds[id].sums(true, &self.clock, &mut self.cache) {
            (self.sink)(Arc::new(batch));
        }
        self.feeds[id].count(&self.status);
        self.feeds[id].detach(&self.status);
    }

    fn drain_all(&mut self) -> Found {
        let mut found = Found::Nothing;
        for feed in &mut self.feeds {
            let Some(batch) = feed.drain(&self.clock, &mut self.cache) else { continue };
            let full = batch.count as usize == MAX_BATCH;
            found = found.max(if full { Found::More } else { Found::Records });
            (self.sink)(Arc::new(batch));
        }
        found
    }

    fn by_the_clock(&mut self, now: Instant) {
        if now.duration_since(self.counted) >= COUNT_EVERY {
            self.count_all(now);
        }
        if now.duration_since(self.ticked) < TICK {
            return;
        }
        self.ticked = now;
        self.clock.refresh(now);
        self.cache.clear();
        for feed in &mut self.feeds {
            if let Some(batch) = feed.sums(false, &self.clock, &mut self.cache) {
                (self.sink)(Arc::new(batch));
            }
            feed.report_runs(&self.status);
        }
        self.count_all(now);
        for feed in &mut self.feeds {
            if let Some(batch) = feed.losses(&self.clock, &mut self.cache) {
                (self.sink)(Arc::new(batch));
            }
        }
    }

    fn count_all(&mut self, now: Instant) {
        self.counted = now;
        for feed in &mut self.feeds {
            feed.count(&self.status);
        }
    }

    /// After a look that found nothing: looks again soon, and in the end sleeps until a record comes.
    fn go_idle(&mut self) {
        self.idle = self.idle.saturating_add(1);
        if self.idle < IDLE_ROUNDS {
            return self.wait(ROUND_MS.into());
        }
        if self.idle == IDLE_ROUNDS {
            self.count_all(Instant::now());
            self.loaded().for_each(|loaded| loaded.control.set_asleep(true));
            return self.wait(ROUND_MS.into());
        }
        if self.loaded().next().is_none() {
            return self.wait(EpollTimeout::NONE);
        }
        let left = TICK.saturating_sub(self.ticked.elapsed());
        self.wait(EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::ZERO));
    }

    fn wake_up(&mut self) {
        if self.idle >= IDLE_ROUNDS {
            self.loaded().for_each(|loaded| loaded.control.set_asleep(false));
        }
        self.idle = 0;
    }

    fn loaded(&self) -> impl Iterator<Item = &Loaded> {
        self.feeds.iter().filter_map(|feed| feed.loaded.as_ref())
    }

    fn wait(&self, timeout: EpollTimeout) {
        let mut ready = [EpollEvent::empty(); 8];
        // An interrupted wait is a short one.
        let ready = self.epoll.wait(&mut ready, timeout).map_or(&[][..], |n| &ready[..n]);
        if ready.iter().any(|event| event.data() == NOTIFY) {
            // Only resets it: the commands are in the channel.
            let _ = self.notify.read();
        }
    }
}

/// Returns once every program that was running has finished: they run inside RCU read sections,
/// and this call of `membarrier` waits for those.
fn wait_for_running_programs() {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: the call takes three integers and touches no memory of ours.
    unsafe { nix::libc::syscall(nix::libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
}
