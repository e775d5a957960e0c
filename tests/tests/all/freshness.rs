//! Promise: an event is on the screen within milliseconds. Printed here for people; no test fails
//! on a time, but for one that nobody would call a stream.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use inspector_tests::agent::{Agent, Settings, binary};
use inspector_tests::lab::{Family, Pair, faults};
use inspector_tests::wait;
use serde_json::Value;

use crate::heavy;

const EVENTS: usize = 1000;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_thousand_events_are_printed_as_they_happen() -> Result<()> {
    let _turn = heavy();
    let (pair, agent) = (Pair::new()?, Agent::start(&Settings::default())?);
    let name = pair.server.name();
    wait::until("the namespace to have its name", || {
        let entities = agent.api("/api/v1/entities").ok()?;
        entities.as_array()?.iter().any(|entity| entity["name"] == name).then_some(())
    })?;
    let watch = Command::new(binary()?)
        .args(["watch", "-o", "json", "--type", "PACKETLOSS", "--pod", name, "-e"])
        .arg(agent.events.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut watch = Killed(watch);
    let lines = BufReader::new(watch.0.stdout.take().context("stdout is piped")?).lines();

    let mut ages = std::thread::scope(|scope| {
        let reader = scope.spawn(|| lines.take(EVENTS).map(|line| age(&line?)).collect::<Result<Vec<_>>>());
        // As many sockets as events: equal flows would be folded into one line. More than that are
        // sent, because those before `watch` was connected are not for it.
        let to = pair.server_at(Family::V4, faults::CLOSED_PORT);
        let sent = faults::send_udp_evenly(&pair.client, to, 250, 1500, |sent| {
            !reader.is_finished() && sent < 5 * EVENTS as u64
        });
        sent?;
        anyhow::ensure!(reader.is_finished(), "`watch` did not print {EVENTS} lines");
        reader.join().expect("reading does not panic")
    })?;
    ages.sort();
    let (median, p99) = (ages[EVENTS / 2], ages[EVENTS * 99 / 100]);
    println!(
        "kernel to `watch` over {EVENTS} events: median {median:?}, p99 {p99:?}, max {:?}",
        ages[EVENTS - 1]
    );
    assert!(median < Duration::from_secs(1), "median {median:?}");
    Ok(())
}

/// From the kernel's time in a line to now.
fn age(line: &str) -> Result<Duration> {
    let printed = SystemTime::now();
    let line: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
    let time = humantime::parse_rfc3339(line["time"].as_str().context("no time")?)?;
    Ok(printed.duration_since(time).unwrap_or_default())
}
