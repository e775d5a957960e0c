//! Promise: a client that does not read, or does not ask, costs nobody anything.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::http::{self, EventStream};
use inspector_tests::lab::{Family, Pair, faults};
use inspector_tests::wait;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
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

    let seen = || healthy.received().iter().filter_map(|event| event["count"].as_u64()).sum::<u64>();
    refuse_connects(&pair, seen)?;
    // A machine that stands still makes the kernel send one again: that is an event more.
    let all = wait::until("every event at the healthy client", || (seen() >= REFUSED).then_some(()));
    all.inspect_err(|_| eprintln!("{} of {REFUSED} events came", seen()))?;
    let numbers: Vec<_> = healthy.received().iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "an event came twice or out of turn");
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

/// Connects to a closed port, never faster than the limits of events per second allow, nor than the client that
/// reads has `seen` it: the machine may stand still for a second.
fn refuse_connects(pair: &Pair, seen: impl Fn() -> u64) -> Result<()> {
    for made in 1..=REFUSED {
        faults::connect_to_closed_port(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT))?;
        std::thread::sleep(Duration::from_millis(3));
        if made % 50 == 0 {
            wait::until("the healthy client to follow", || (seen() + 100 >= made).then_some(()))?;
        }
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

/// Connections whose request never comes to its end, and such that have had an answer and stay.
const HALF_SENT: usize = 1200;
const KEPT_ALIVE: usize = 700;

/// Opens a connection of one of the two kinds.
fn silent(at: SocketAddr, number: usize) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(at)?;
    if number < HALF_SENT {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: sil")?;
    } else {
        stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: silent\r\n\r\n")?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // It may have had to go at once.
        let _ = stream.read(&mut [0; 1024]);
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Holds as many as the server lets it, and opens those anew that the server closes, until it is over.
fn hold_silent(at: SocketAddr, opened: &AtomicBool, over: &AtomicBool) -> Result<()> {
    let mut held = (0..HALF_SENT + KEPT_ALIVE).map(|n| silent(at, n)).collect::<Result<Vec<_>>>()?;
    opened.store(true, Ordering::Relaxed);
    while !over.load(Ordering::Relaxed) {
        for (number, stream) in held.iter_mut().enumerate() {
            let is_open =
                stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            if !is_open {
                *stream = silent(at, number)?;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// All of them have one address, which is that of the honest ones too, as on the host's network.
#[test]
fn silent_connections_take_no_room_from_health_checks_scrapes_and_followers() -> Result<()> {
    let _turn = crate::heavy();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let pair = Pair::new()?;
    let agent = Agent::start(&Settings::default())?;
    let query = format!("type=PACKETLOSS&pod={}", pair.server.name());
    let before = EventStream::open(agent.events, &query)?;
    let (opened, over) = ([AtomicBool::new(false), AtomicBool::new(false)], AtomicBool::new(false));
    std::thread::scope(|scope| -> Result<()> {
        let hold = |(at, opened)| {
            let over = &over;
            scope.spawn(move || hold_silent(at, opened, over))
        };
        let holders = [agent.web, agent.events].into_iter().zip(&opened).map(hold).collect::<Vec<_>>();
        let asked = wait::until("all silent connections to be opened", || {
            opened.iter().all(|opened| opened.load(Ordering::Relaxed)).then_some(())
        })
        .and_then(|()| ask_everything(&agent, &pair, &query, &before));
        over.store(true, Ordering::Relaxed);
        holders.into_iter().try_for_each(|holder| holder.join().expect("holding does not panic"))?;
        asked
    })?;
    for server in ["metrics", "events"] {
        let count = |name: &str| agent.scrape().ok()?.sum(name, &[("server", server)]);
        ensure!(count("inspector_http_closed_total") > Some(1000.0), "{server}: nobody had to go");
        assert_eq!(count("inspector_http_refused_total"), Some(0.0), "{server}");
    }
    Ok(())
}

fn ask_everything(agent: &Agent, pair: &Pair, query: &str, before: &EventStream) -> Result<()> {
    for _ in 0..20 {
        for path in ["/healthz", "/readyz", "/metrics"] {
            let answer = http::get(agent.web, path, "*/*")?;
            ensure!(answer.status == 200 && !answer.body.is_empty(), "{path}: {}", answer.status);
        }
        agent.api("/api/v1/version")?;
    }
    let during = EventStream::open(agent.events, query)?;
    faults::send_udp(&pair.client, pair.server_at(Family::V4, faults::CLOSED_PORT), 1, 1)?;
    for (stream, name) in [(before, "that was there before"), (&during, "that came meanwhile")] {
        wait::until(&format!("an event at the follower {name}"), || {
            stream.received().iter().any(|event| event["type"] == "PACKETLOSS").then_some(())
        })?;
    }
    Ok(())
}
