//! The goals of `make bench`: what Inspector may cost, each as a ratio to a floor of the same run, because
//! a figure alone says more of the machine than of the program.
//!
//! - [`EVENT_PATH`]: CPU per event, user space and kernel, at most 1.5 times that of a C program with
//!   libbpf that looks at its ring by the clock and counts in a hash table.
//! - [`PROBE`]: a run of the program at most 1.3 times that of a C probe which wakes its reader for each
//!   record, and no more added to the traced call than a one-line program of bpftrace adds; at most 2
//!   wake-ups of the reader per second when idle, and 1000 under load.
//! - [`SANDBOX`]: an analyzer as a component at most 1.35 times the same one compiled in, with batches of
//!   256 events.
//! - [`COUNTERS`]: reading the counters of all namespaces and serving them, per series, at most a quarter
//!   of what node_exporter takes for its scrape of one namespace.

use crate::contender::Contender::{Bpftrace, ByClock, Inspector, Nobody, Woken};
use crate::sandbox::Sandbox;
use crate::scraping::Sample as Scraped;
use crate::session::{RATES, Sample, Session};
use crate::spread::{Spread, drift};

const EVENT_PATH: &str = "event path";
const PROBE: &str = "probe";
const SANDBOX: &str = "sandbox";
const COUNTERS: &str = "counters";

/// A baseline that moves further makes its comparison void.
const STEADY: f64 = 0.05;

/// One figure of a sample.
type Value = fn(&Sample) -> f64;
/// One figure of a round of [`scraping_rows`].
type Scrapes = fn(&Scraped) -> f64;

/// What a row may be at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// So many times the floor.
    Ratio(f64),
    /// So much, whatever the floor is.
    Absolute(f64),
    /// Shown for comparison only.
    None,
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    /// The goal it belongs to.
    pub goal: &'static str,
    /// What is compared.
    pub what: String,
    /// Against whom.
    pub floor_name: &'static str,
    /// Unit of both.
    pub unit: &'static str,
    /// Inspector.
    pub ours: Spread,
    /// The floor.
    pub floor: Spread,
    /// Ours by the floor, round by round.
    pub ratio: Spread,
    /// What it may be.
    pub limit: Limit,
    /// By which part the baseline moved.
    pub drift: f64,
    /// What a reader must know beside the figures.
    pub note: String,
}

/// How a row stands to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Within.
    Met,
    /// Beyond.
    Missed,
    /// The machine was not steady enough to tell.
    Void,
    /// There is no limit, or nothing to compare with.
    Shown,
}

impl Row {
    fn new(
        goal: &'static str,
        what: String,
        ours: &[f64],
        floor: (&'static str, &[f64]),
        limit: Limit,
    ) -> Self {
        let ratios: Vec<f64> = ours.iter().zip(floor.1).map(|(ours, floor)| ours / floor).collect();
        Self {
            goal,
            what,
            floor_name: floor.0,
            unit: "ns",
            ours: Spread::of(ours),
            floor: Spread::of(floor.1),
            ratio: Spread::of(&ratios),
            limit,
            drift: drift(floor.1),
            note: String::new(),
        }
    }

    /// How it stands. An absolute limit does not depend on a baseline.
    pub fn verdict(&self) -> Verdict {
        let (value, limit) = match self.limit {
            Limit::Ratio(_) if self.drift > STEADY => return Verdict::Void,
            Limit::Ratio(limit) => (self.ratio.median, limit),
            Limit::Absolute(limit) => (self.ours.median, limit),
            Limit::None => return Verdict::Shown,
        };
        match value.partial_cmp(&limit) {
            None => Verdict::Shown,
            Some(order) if order.is_le() => Verdict::Met,
            Some(_) => Verdict::Missed,
        }
    }
}

/// [`EVENT_PATH`] and [`PROBE`].
pub fn event_rows(session: &Session, rows: &mut Vec<Row>) {
    for rate in [RATES[2], RATES[3], RATES[4]] {
        event_path(session, rate, rows);
    }
    for rate in [RATES[1], RATES[3]] {
        probe(session, rate, rows);
    }
    // When idle none but the reader's backstop, which comes once or twice in a window.
    for (rate, limit) in [(RATES[0], 2.0), (RATES[1], 1000.0), (RATES[3], 1000.0)] {
        wakeups(session, rate, limit, rows);
    }
}

/// [`SANDBOX`].
pub fn sandbox_rows(sandbox: &Sandbox, rows: &mut Vec<Row>) {
    for (size, measured) in sandbox {
        let limit = if *size == 256 { Limit::Ratio(1.35) } else { Limit::None };
        let what = format!("packet-loss, per event, batches of {size}");
        rows.push(Row::new(SANDBOX, what, &measured.component, ("compiled in", &measured.native), limit));
    }
}

/// [`COUNTERS`]: what node_exporter does in a scrape, Inspector does in an interval and a scrape.
pub fn scraping_rows(samples: &[Scraped], rows: &mut Vec<Row>) {
    let of = |value: Scrapes| samples.iter().map(value).collect::<Vec<f64>>();
    let floor = of(|s| s.exporter / s.exporter_series);
    let counts = format!(
        "{:.0} series of 111 namespaces, against {:.0} of one",
        Spread::of(&of(|s| s.series)).median,
        Spread::of(&of(|s| s.exporter_series)).median
    );
    let parts: [(&str, Scrapes, Limit); 3] = [
        ("a scrape, per series", |s| s.scrape / s.series, Limit::None),
        ("an interval, per series", |s| s.interval / s.series, Limit::None),
        ("both, per series", |s| (s.scrape + s.interval) / s.series, Limit::Ratio(0.25)),
    ];
    for (what, value, limit) in parts {
        let row = Row::new(COUNTERS, what.to_owned(), &of(value), ("node_exporter", &floor), limit);
        rows.push(Row { note: counts.clone(), ..row });
    }
    let whole: [(&str, Scrapes); 2] = [("a scrape", |s| s.scrape), ("an interval", |s| s.interval)];
    for (what, value) in whole {
        let ms: Vec<f64> = of(value).iter().map(|ns| ns / 1e6).collect();
        let exporter: Vec<f64> = of(|s| s.exporter).iter().map(|ns| ns / 1e6).collect();
        let row = Row::new(COUNTERS, what.to_owned(), &ms, ("node_exporter", &exporter), Limit::None);
        rows.push(Row { unit: "ms", ..row });
    }
}

fn event_path(session: &Session, rate: u32, rows: &mut Vec<Row>) {
    let parts: [(&str, Value); 3] = [
        ("user space", |s| s.user_ns),
        ("in kernel", |s| s.kernel_ns),
        ("together", |s| s.user_ns + s.kernel_ns),
    ];
    let made = |contender| Spread::of(&session.values(contender, rate, |s| s.per_second)).median;
    let lost = |contender| Spread::of(&session.values(contender, rate, |s| s.lost)).max;
    for (part, value) in parts {
        let (ours, floor) = (session.values(Inspector, rate, value), session.values(ByClock, rate, value));
        let what = format!("CPU per event at {}, {part}", human(rate));
        let mut row = Row::new(EVENT_PATH, what, &ours, ("C, by the clock", &floor), Limit::Ratio(1.5));
        if part == "together" {
            let reached =
                format!("made {}/s and {}/s", human(made(Inspector) as u32), human(made(ByClock) as u32));
            row.note = match (lost(Inspector), lost(ByClock)) {
                (ours, floor) if ours > 0.001 || floor > 0.001 => {
                    format!("{reached}; lost at most {:.1} % and {:.1} %", ours * 100.0, floor * 100.0)
                }
                _ => reached,
            };
        }
        rows.push(row);
        let woken = session.values(Woken, rate, value);
        if part == "together" && !woken.is_empty() {
            let what = format!("CPU per event at {}, {part}", human(rate));
            rows.push(Row::new(EVENT_PATH, what, &ours, ("C, woken per record", &woken), Limit::None));
        }
    }
}

fn probe(session: &Session, rate: u32, rows: &mut Vec<Row>) {
    // What a classic tracepoint does before the program is not in the program's time, so that of
    // bpftrace is shown, but only what it adds to a send is compared.
    let rivals = [
        (Woken, "C, woken per record", Limit::Ratio(1.3), Limit::Ratio(1.3)),
        (Bpftrace, "bpftrace", Limit::None, Limit::Ratio(1.0)),
    ];
    let run = |contender| session.values(contender, rate, |s| s.kernel_ns);
    let send = |contender| session.values(contender, rate, |s| s.send_ns);
    let without = send(Nobody);
    let added = |contender| -> Vec<f64> {
        send(contender).iter().zip(&without).map(|(with, none)| with - none).collect()
    };
    for (rival, name, per_run, per_send) in rivals {
        let absent =
            session.absent.get(&rival).map_or_else(String::new, |why| format!("does not work here: {why}"));
        let what = format!("program, per run at {}", human(rate));
        let row = Row::new(PROBE, what, &run(Inspector), (name, &run(rival)), per_run);
        rows.push(Row { note: absent.clone(), ..row });
        let what = format!("added to a send at {}", human(rate));
        let row = Row::new(PROBE, what, &added(Inspector), (name, &added(rival)), per_send);
        let alone = format!("a send takes {:.0} ns without", Spread::of(&without).median);
        // The difference of two sends is as steady as the send that both have in common.
        rows.push(Row {
            drift: drift(&without),
            note: if absent.is_empty() { alone } else { absent },
            ..row
        });
    }
}

fn wakeups(session: &Session, rate: u32, limit: f64, rows: &mut Vec<Row>) {
    let of_reader = |contender| session.values(contender, rate, |s| s.wakeups);
    let what = format!("wake-ups of the reader at {}", human(rate));
    let floor = ("C, woken per record", &of_reader(Woken)[..]);
    let mut row = Row::new(PROBE, what, &of_reader(Inspector), floor, Limit::Absolute(limit));
    let all = Spread::of(&session.values(Inspector, rate, |s| s.wakeups_of_all)).median;
    row.note = format!("{all:.0} of all threads of the agent");
    rows.push(Row { unit: "/s", ..row });
}

fn human(per_second: u32) -> String {
    match per_second {
        0..1000 => per_second.to_string(),
        _ => format!("{} k", (per_second + 500) / 1000),
    }
}
