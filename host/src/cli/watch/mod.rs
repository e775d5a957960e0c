//! `inspector watch`: events of any number of nodes, as they happen.
//!
//! Events go to standard output, one line each, written at once; everything else that a person
//! should know (a connection that broke, events that were lost) goes to standard error. A server
//! is not trusted: what it sends is bounded, checked and escaped before it is printed.

use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::mpsc;

use super::terminal::{self, Style};
use super::{Output, server_address};
use crate::address::Address;
use follow::{Follower, Message};
pub use line::event_text;

mod filter;
mod follow;
mod line;

/// Lines that wait between the connections and the terminal. Beyond them the servers wait, and
/// what a server cannot keep for so long it reports as lost.
const WAITING_LINES: usize = 1024;

/// Show events of this node or of others, as they happen
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  inspector watch                                  events of this node
  inspector watch -e node-1 -e node-2:19102        events of two nodes, told apart by Node=
  inspector watch --type TCPRESET_NOSOCK --since 5m
  inspector watch --namespace shop --pod cart-7d9f -o json | jq .attrs

It goes on until it is interrupted, and reconnects when a server goes away.")]
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
    #[command(flatten)]
    filter: filter::Filter,
}

/// Prints events until it is interrupted.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(args))
}

async fn watch(mut args: Args) -> anyhow::Result<ExitCode> {
    let output = if args.verbose { Output::Json } else { args.output };
    let style = Style::of_stdout();
    if args.servers.is_empty() {
        args.servers.push(server_address("")?);
    }
    let (sender, mut messages) = mpsc::channel(WAITING_LINES);
    for server in &args.servers {
        tokio::spawn(Follower::new(server, args.filter.clone(), sender.clone()).run());
    }
    // The channel ends when the last follower has given up.
    drop(sender);
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        let (server, message) = tokio::select! {
            message = messages.recv() => match message {
                Some(message) => message,
                None => return Ok(ExitCode::FAILURE),
            },
            _ = look.tick() => match terminal::is_output_closed() {
                true => return Ok(ExitCode::SUCCESS),
                false => continue,
            },
        };
        match message {
            Message::Event(event) => match output {
                Output::Text => terminal::print_line(&event.text(style))?,
                Output::Json => terminal::print_line(&event.json())?,
            },
            Message::Connected if !args.debug => {}
            state => complain(&server, &state.to_string()),
        }
    }
}

/// Says something about a server, which most errors of a connection name themselves.
fn complain(server: &str, text: &str) {
    if text.contains(server) {
        terminal::complain(text);
    } else {
        terminal::complain(&format!("{server}: {text}"));
    }
}
