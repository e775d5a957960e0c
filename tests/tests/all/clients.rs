//! Promise: a client that does not read costs nobody anything.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::http::EventStream;
use inspector_tests::lab::{Family, Pair, faults};
use inspector_tests::wait;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

/// Each makes a drop, two resets and a failure: together more than the kernel and the backlog hold
/// for a client that does not read.
const REFUSED: u64 = 3000;

/// A client that asks for everything and then reads nothing.
fn stalled(agent: &Agent) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(agent.events)?;
    // Little room, so that the server notices soon.
    setsockopt(&stream, sockopt::RcvBuf, &(16 << 10))?;
    write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: stalled\r\n\r\n")?;
    // Its answer has begun, so what happens from now on is for it.
    stream.peek(&mut [0])?;
    Ok(stream)
}

#[test]
fn clients_that_do_not_read_are_not_noticed_by_one_that_does() -> Result<()> {
    let pair = Pair::new()?;
    // A short backlog, so that the stalled ones fall behind it; not so short that a busy machine
    // makes the healthy one fall behind.
    let settings = Settings { config: "events.backlog = 1024".to_owned(), ..Settings::default() };
    let agent = Agent::start(&settings)?;
    let mut clients = (0..40).map(|_| stalled(&agent)).collect::<Result<Vec<_>>>()?;
    let healthy = EventStream::open(agent.events, &format!("type=PACKETLOSS&pod={}", pair.server.name()))?;

    refuse_connects(&pair)?;
    let seen = || healthy.received().iter().filter_map(|event| event["count"].as_u64()).sum::<u64>();
    let all = wait::until("every event at the healthy client", || (seen() == REFUSED).then_some(()));
    all.inspect_err(|_| eprintln!("{} of {REFUSED} events came", seen()))?;
    assert!(
        healthy.received().iter().all(|event| event.get("lost").is_none()),
        "a healthy client lost events"
    );
    assert!(agent.scrape().is_ok(), "metrics are served meanwhile");

    // One of the stalled ones wakes up: what it missed is said in its stream, event for event.
    let client = clients.pop().context("there are forty")?;
    let newest = healthy.received().last().and_then(|event| event["seq"].as_u64()).context("a number")?;
    let lost = announced_losses(client, newest)?;
    assert!(lost > 0, "it did not fall behind: this test proves nothing");
    assert!(agent.scrape()?.sum("inspector_lost_total", &[("stage", "stream")]) >= Some(lost as f64));
    Ok(())
}

/// Connects to a closed port, never faster than the limits of events per second allow.
fn refuse_connects(pair: &Pair) -> Result<()> {
    for _ in 0..REFUSED {
        faults::connect_to_closed_port(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT))?;
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}

/// Reads up to event `newest`; numbers that are missing must be announced as lost. Returns how
/// many were.
fn announced_losses(client: TcpStream, newest: u64) -> Result<u64> {
    client.set_read_timeout(Some(Duration::from_secs(20)))?;
    // It reads quickly from now on.
    setsockopt(&client, sockopt::RcvBuf, &(4 << 20))?;
    let (mut expected, mut announced, mut all) = (None, 0, 0);
    for line in BufReader::new(client).lines() {
        let line = line?;
        // Everything but the lines of JSON is HTTP's.
        let Some(event) = line.starts_with('{').then(|| serde_json::from_str::<Value>(&line)) else {
            continue;
        };
        let event = event?;
        if let Some(lost) = event["lost"].as_u64() {
            announced += lost;
            all += lost;
            continue;
        }
        let seq = event["seq"].as_u64().context("a number")?;
        assert_eq!(seq, expected.unwrap_or(seq) + announced, "a gap that nobody announced");
        (expected, announced) = (Some(seq + 1), 0);
        if seq >= newest {
            return Ok(all);
        }
    }
    anyhow::bail!("the stream ended before event {newest}")
}
