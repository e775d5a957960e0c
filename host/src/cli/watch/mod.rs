//! `inspector watch`: events of any number of nodes, as they happen.
//!
//! Events go to standard output, one line each, written at once; everything else that a person
//! should know (a connection that broke, events that were lost) goes to standard error. A server
//! is not trusted: what it sends is bounded, checked and escaped before it is printed.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};

use super::moment::{TimeForm, Times};
use super::terminal::{self, Style};
use super::{Output, WRONG_USAGE, server_address};
use crate::address::Address;
use crate::event_fold::{self, Fold, Told};
use filter::Filter;
use follow::{Follower, Message};
use line::Event;

mod doubt;
mod filter;
mod follow;
mod line;

pub use line::text;

/// Lines that wait between the connections and the terminal. Beyond them the servers wait, and
/// what a server cannot keep for so long it reports as lost.
const WAITING_LINES: usize = 1024;

/// Show events of this node or of others, as they happen
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  inspector watch                                  events of this node
  inspector watch -e node-1 -e node-2:19102        events of two nodes, told apart by Node=
  inspector watch --min-severity warning --since 5m
  inspector watch --address 10.2.0.0/16 --port 443 --type '!TCPRETRANS'
  inspector watch -n 20 --no-follow                the last 20 events, and no more
  inspector watch --namespace shop --pod cart-7d9f -o json | jq .attrs

A flag that chooses events may be repeated or hold several values with commas between them, one of
which must be true of an event; all flags must be. A value behind a ! must not be true; quote it,
because shells have a meaning of their own for it.

Text leaves out what is the normal course of things and what the agent's own connections cause,
unless it is asked for by its reason, and tells one fault in one line, with what other events say of
it (also=). --all shows every event on its own; -o json always does, and marks what is left out here
by class=noise and own_traffic=true.

It goes on until it is interrupted, and reconnects when a server goes away.

Exit status: 0 if everything that was asked for was shown; 1 if a server could not be asked; 2 for
wrong usage, such as a type of events that nobody sends.")]
pub struct Args {
    /// Event server, port 19102 if none is given; may be repeated [default: 127.0.0.1:19102]
    #[arg(short = 'e', long = "events", visible_short_alias = 's', visible_alias = "server")]
    #[arg(value_name = "ADDR", value_parser = server_address)]
    servers: Vec<Address>,
    /// Tell on standard error about every connection
    #[arg(short, long)]
    debug: bool,
    /// The whole event as a JSON line; the same as -o json
    #[arg(short, long)]
    verbose: bool,
    /// How to print an event
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    /// How to print the time of an event, in text
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    time: TimeForm,
    /// End after so many lines
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time, e.g. 30s
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    filter: Filter,
}

/// Prints events until it is interrupted or all that was asked for has come.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(args))
}

async fn watch(mut args: Args) -> anyhow::Result<ExitCode> {
    let is_json = args.verbose || args.output == Output::Json;
    if args.servers.is_empty() {
        args.servers.push(server_address("127.0.0.1")?);
    }
    doubt::tell(&args.filter);
    if !is_json && !args.filter.all && io::stderr().is_terminal() {
        terminal::complain(
            "the normal course of things and the agent's own connections are left out (--all)",
        );
    }
    let (sender, mut messages) = mpsc::channel(WAITING_LINES);
    for server in &args.servers {
        tokio::spawn(Follower::new(server, args.filter.clone(), is_json, sender.clone()).run());
    }
    // The channel ends when the last follower has ended.
    drop(sender);
    let mut screen = Screen::new(&args, is_json);
    let mut status = ExitCode::SUCCESS;
    // Servers that have not answered yet.
    let mut silent: BTreeSet<_> = args.servers.iter().map(Address::to_string).collect();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut look = interval(Duration::from_secs(1));
    let end = async {
        match args.duration {
            Some(duration) => sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            () = &mut end => None,
            _ = interrupt.recv() => {
                screen.finish()?;
                return Ok(ExitCode::from(INTERRUPTED));
            }
            () = sleep(event_fold::PATIENCE), if screen.is_waiting() => {
                screen.show_due()?;
                continue;
            }
            _ = look.tick() => match terminal::is_output_closed() {
                true => return Ok(ExitCode::SUCCESS),
                false => continue,
            },
        };
        let Some((server, message)) = message else {
            screen.finish()?;
            return Ok(if silent.is_empty() { status } else { ExitCode::FAILURE });
        };
        match message {
            Message::Event(event) => screen.take(*event)?,
            Message::Connected => {
                silent.remove(server.as_ref());
                if args.debug {
                    complain(&server, "connected");
                }
            }
            Message::Refused(why, is_wrong) => {
                complain(&server, &why);
                silent.remove(server.as_ref());
                status = if is_wrong { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE };
            }
            state => complain(&server, &state.to_string()),
        }
        if screen.is_full() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// As shells report a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// What prints events, in one of the forms.
struct Screen {
    is_json: bool,
    is_folded: bool,
    fold: Fold,
    times: Times,
    style: Style,
    started: Instant,
    /// Lines that may still be printed.
    left: u64,
}

impl Screen {
    fn new(args: &Args, is_json: bool) -> Self {
        Self {
            is_json,
            is_folded: !args.filter.all,
            fold: Fold::default(),
            times: Times::new(args.time),
            style: Style::of_stdout(),
            started: Instant::now(),
            left: args.count.unwrap_or(u64::MAX),
        }
    }

    fn take(&mut self, event: Event) -> io::Result<()> {
        if self.is_json {
            return self.print(&event.json());
        }
        self.fold.push(event.fields, self.started.elapsed());
        if self.is_folded { self.show_due() } else { self.finish() }
    }

    fn show_due(&mut self) -> io::Result<()> {
        let due = self.fold.due(self.started.elapsed());
        self.show(due)
    }

    /// Shows what still waits for others of its fault.
    fn finish(&mut self) -> io::Result<()> {
        let rest = self.fold.rest();
        self.show(rest)
    }

    fn show(&mut self, lines: Vec<Told>) -> io::Result<()> {
        for told in lines {
            let line = text(&told, &mut self.times, self.style);
            self.print(&line)?;
        }
        Ok(())
    }

    fn print(&mut self, line: &str) -> io::Result<()> {
        if self.is_full() {
            return Ok(());
        }
        self.left -= 1;
        terminal::print_line(line)
    }

    fn is_waiting(&self) -> bool {
        !self.fold.is_empty()
    }

    fn is_full(&self) -> bool {
        self.left == 0
    }
}

/// Says something about a server, which most errors of a connection name themselves.
fn complain(server: &Arc<str>, text: &str) {
    if text.contains(server.as_ref()) {
        terminal::complain(text);
    } else {
        terminal::complain(&format!("{server}: {text}"));
    }
}
