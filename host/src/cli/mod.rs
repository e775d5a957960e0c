//! The command line: text for people, `-o json` for programs.
//!
//! One file per subcommand; beside them [`shared`], and [`terminal`] and [`table`], with which all of
//! them print. Text of a server, of the kernel or of a file never reaches the terminal unescaped, and a
//! reader that closes the pipe ends a command without a complaint.

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config;
use crate::text::cause;

use shared::{Usage, WRONG_USAGE};

mod diagnose;
mod doctor;
mod explain;
mod list;
mod log;
mod moment;
mod progress;
mod record;
mod replay;
mod serve;
mod shared;
mod table;
mod terminal;
mod version;
mod watch;

const EXAMPLES: &str = "\
Examples:
  inspector serve --config /etc/inspector/inspector.toml
  inspector watch                              events of this node, as they happen
  inspector watch -e node-1 -e node-2 --min-severity warning --since 5m
  inspector diagnose connect                   why do connections fail, and what to do
  inspector list probes                        which kernel hooks are attached, and why not
  inspector list entities -e node-1 -e node-2 -o json
  inspector explain NO_SOCKET                  what a drop or reset reason means
  inspector record -o fault.trace --for 30s    keep what the kernel says, and
  inspector replay fault.trace                 run the analyzers on it, anywhere
  inspector doctor                             what this kernel and these privileges allow

Exit status:
  0  done; or the reader of the output closed the pipe
  1  it failed: the message says why
  2  wrong usage, a name that does not exist, or a refused configuration: nothing was started
  3  diagnose --fail-on: there is a finding of that severity
  4  diagnose --fail-on: there is none, but too little was seen for that to mean anything";

/// Tells why the network failed: kernel events, analyzed on the node.
#[derive(Debug, Parser)]
#[command(name = "inspector", version = version::SHORT, propagate_version = true, after_help = EXAMPLES)]
#[command(max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Args>),
    Watch(Box<watch::Args>),
    List(list::Args),
    Diagnose(Box<diagnose::Args>),
    Explain(explain::Args),
    Record(record::Args),
    Replay(replay::Args),
    Doctor(doctor::Args),
    Version(version::Args),
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve::run(*args),
        Command::Watch(args) => watch::run(*args),
        Command::List(args) => list::run(&args),
        Command::Diagnose(args) => diagnose::run(*args),
        Command::Explain(args) => explain::run(&args),
        Command::Record(args) => record::run(args),
        Command::Replay(args) => replay::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Version(args) => version::run(&args),
    };
    result.unwrap_or_else(|err| fail(&err))
}

/// Says why on one line, unless nobody reads any more.
fn fail(err: &anyhow::Error) -> ExitCode {
    if err.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    terminal::complain(&format!("error: {}", cause::chain(err.as_ref())));
    let is_usage = err.is::<config::Error>() || err.is::<serve::ConfigFile>() || err.is::<Usage>();
    ExitCode::from(if is_usage { WRONG_USAGE } else { 1 })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declared_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_refused_configuration_is_told_apart_from_a_failure() {
        let refused = config::Config::parse("x", "a = 1").expect_err("unknown key");
        assert_eq!(format!("{:?}", fail(&refused.into())), format!("{:?}", ExitCode::from(2)));
        assert_eq!(format!("{:?}", fail(&Usage("x".into()).into())), format!("{:?}", ExitCode::from(2)));
        assert_eq!(format!("{:?}", fail(&anyhow::anyhow!("x"))), format!("{:?}", ExitCode::from(1)));
    }

    #[test]
    fn every_command_has_help_by_its_name() {
        for words in [&["inspector", "help"][..], &["inspector", "help", "watch"]] {
            let shown = Cli::try_parse_from(words).expect_err("help");
            assert_eq!(shown.kind(), clap::error::ErrorKind::DisplayHelp, "{words:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("printing");
        assert_eq!(format!("{:?}", fail(&closed)), format!("{:?}", ExitCode::SUCCESS));
    }
}
