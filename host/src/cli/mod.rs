//! The command line: text for people, `-o json` for programs.
//!
//! One file per subcommand; beside them [`shared`], [`cluster`] and [`crowd`], which ask many agents, and [`terminal`] and [`table`], with which all of
//! them print. Text of a server, of the kernel or of a file never reaches the terminal unescaped, and a
//! reader that closes the pipe ends a command without a complaint.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config;
use crate::kubernetes;
use crate::text::cause;

use shared::{Usage, WRONG_USAGE};

mod cluster;
mod crowd;
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
  inspector diagnose --all-nodes               of a Kubernetes cluster, with your kubeconfig
  inspector explain NO_SOCKET                  what a drop or reset reason means
  inspector record -o fault.trace --for 30s    keep what the kernel says, and
  inspector replay fault.trace                 run the analyzers on it, anywhere
  inspector doctor                             what this kernel and these privileges allow

As kubectl-inspector on the PATH it is `kubectl inspector`, which asks the whole cluster unless -e is
given.

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

/// What kubectl calls a program of that name: `kubectl inspector`.
const PLUGIN: &str = "kubectl-inspector";

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let cli = parse(std::env::args_os().collect()).unwrap_or_else(|usage| usage.exit());
    let result = match cli.command {
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

/// Reads the command line. Called through kubectl, a command is about the cluster unless its flags say
/// otherwise.
fn parse(words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let called = words.first().and_then(|path| Path::new(path).file_name());
    if called != Some(OsStr::new(PLUGIN)) {
        return Cli::try_parse_from(words);
    }
    let plugin = Cli::command().name("kubectl inspector").bin_name("kubectl inspector");
    let mut cli = Cli::from_arg_matches(&plugin.try_get_matches_from(words)?)?;
    match &mut cli.command {
        Command::Watch(args) => args.through_kubectl(),
        Command::List(args) => args.through_kubectl(),
        Command::Diagnose(args) => args.through_kubectl(),
        _ => {}
    }
    Ok(cli)
}

/// Says why on one line, unless nobody reads any more.
fn fail(err: &anyhow::Error) -> ExitCode {
    if err.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    terminal::complain(&format!("error: {}", cause::chain(err.as_ref())));
    let is_wrong_name = |error: &kubernetes::error::Error| error.is_wrong_usage();
    let is_usage = err.is::<config::Error>()
        || err.is::<serve::ConfigFile>()
        || err.is::<Usage>()
        || err.downcast_ref().is_some_and(is_wrong_name);
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
    fn called_through_kubectl_usage_and_defaults_are_those_of_a_plugin() {
        let parse = |words: &[&str]| parse(words.iter().map(OsString::from).collect());
        let usage = |path: &str| parse(&[path, "list"]).expect_err("no noun").to_string();
        assert!(usage("/usr/bin/kubectl-inspector").contains("Usage: kubectl inspector list "));
        assert!(usage("/usr/bin/inspector").contains("Usage: inspector list "));
        let list = |words: &[&str]| format!("{:?}", parse(words).expect("valid").command);
        assert!(list(&["kubectl-inspector", "list", "probes"]).contains("all_nodes: true"));
        assert!(list(&["kubectl-inspector", "list", "probes", "-e", "n1"]).contains("all_nodes: false"));
        assert!(list(&["inspector", "list", "probes"]).contains("all_nodes: false"));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("printing");
        assert_eq!(format!("{:?}", fail(&closed)), format!("{:?}", ExitCode::SUCCESS));
    }
}
