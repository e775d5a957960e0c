//! Promise: a signal ends the agent only where that is what it means, and each is told.

use anyhow::{Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::plugins::PluginDir;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn signals_that_ask_other_programs_for_something_are_ignored_with_a_line() -> Result<()> {
    let dir = PluginDir::new()?;
    let agent = Agent::start(&Settings { plugin_dirs: vec![dir.path().to_owned()], ..Settings::default() })?;
    let process = Pid::from_raw(agent.pid().cast_signed());
    // What a closed pipe sends is none of the operator's words: no line.
    kill(process, Signal::SIGPIPE)?;
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGHUP] {
        kill(process, signal)?;
        agent.wait_for_log(&["signal ignored", signal.as_str()])?;
    }
    ensure!(agent.is_running() && agent.scrape().is_ok(), "{:#?}", agent.log());
    assert!(agent.stop()?.success());
    Ok(())
}
