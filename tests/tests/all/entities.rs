//! Promise: everything is said of the right namespace, also of one that comes and goes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::http::{EventStream, post};
use inspector_tests::lab::{Family, Pair, faults};
use inspector_tests::wait;
use serde_json::Value;

/// A vanished namespace has lost its series by then.
const MINUTE: Duration = Duration::from_secs(60);

fn entity(agent: &Agent, name: &str) -> Option<Value> {
    let entities = agent.api("/api/v1/entities").ok()?;
    entities.as_array()?.iter().find(|entity| entity["name"] == name).cloned()
}

#[test]
fn a_namespace_that_comes_and_goes_is_followed() -> Result<()> {
    let agent =
        Agent::start(&Settings { config: "sources.interval = '1s'".to_owned(), ..Settings::default() })?;
    let pair = Pair::new()?;
    let (name, cookie) = (pair.server.name().to_owned(), pair.server.cookie()?);

    let found = wait::until("the new namespace", || entity(&agent, &name))?;
    assert_eq!(found["kind"], "netns");
    assert_eq!(
        (found["cookie"].as_u64(), found["inode"].as_u64()),
        (Some(cookie), Some(pair.server.inode()?))
    );
    let ips = wait::until("its addresses", || {
        let ips = entity(&agent, &name)?["ips"].as_array()?.clone();
        (ips.len() == 2).then_some(ips)
    })?;
    for family in Family::BOTH {
        assert!(ips.contains(&Value::from(pair.server_ip(family).to_string())), "{ips:?}");
    }
    let series = || {
        agent.scrape().ok().map(|page| page.find("inspector_pod_tcpactiveopens", &[("pod", &name)]).count())
    };
    wait::until("its series", || (series()? == 1).then_some(()))?;

    drop(pair);
    let gone = Instant::now();
    wait::within(MINUTE, "its series to vanish", || {
        let page = agent.scrape().ok()?;
        let own = page.samples.iter().filter(|sample| sample.labels.get("pod") == Some(&name));
        (own.count() == 0).then_some(())
    })?;
    println!("the series went {:?} after their namespace", gone.elapsed());
    assert!(entity(&agent, &name).is_none());
    Ok(())
}

#[test]
fn an_event_of_a_namespace_as_young_as_itself_has_its_name_and_cookie() -> Result<()> {
    let agent = Agent::start(&Settings::default())?;
    let stream = EventStream::open(agent.events, "type=PACKETLOSS")?;
    for _ in 0..5 {
        let pair = Pair::new()?;
        let from = faults::send_udp(&pair.client, pair.server_at(Family::V6, faults::CLOSED_PORT), 1, 1)?;
        let cookie = pair.server.cookie()?;
        let sport = from.port().to_string();
        let event = wait::until("the event", || {
            let own = |event: &&Value| {
                event["attrs"]["sport"] == sport.as_str() && event["entity"]["cookie"] == cookie
            };
            stream.received().iter().find(own).cloned()
        })?;
        // Its name may come after it, but never another one's.
        let name = event["entity"]["name"].as_str().context("a name")?;
        assert!(name == pair.server.name() || name == format!("netns-{cookie}"), "{event:#}");
        wait::until("its name in the table", || entity(&agent, pair.server.name()))?;
        let series = [("pod", pair.server.name())];
        wait::until("its series under its name", || {
            agent.scrape().ok()?.sum("inspector_drops_total", &series)
        })?;
    }
    Ok(())
}

#[test]
fn addresses_that_come_after_the_name_are_known_soon_and_at_once_to_who_asks() -> Result<()> {
    let agent = Agent::start(&Settings::default())?;
    let pair = Pair::new()?;
    let name = pair.server.name();
    let has = |address: &str| {
        let ips = entity(&agent, name)?["ips"].as_array()?.clone();
        ips.contains(&Value::from(address)).then_some(())
    };
    wait::until("the new namespace", || entity(&agent, name))?;
    // A container's network is set up by another program, some time after its namespace was made.
    std::thread::sleep(Duration::from_millis(300));
    pair.server.ip("addr add 10.78.0.1/32 dev eth0")?;
    wait::within(Duration::from_secs(2), "its address", || has("10.78.0.1"))?;

    // Long after, nobody looks for another one, but before a question is answered.
    std::thread::sleep(Duration::from_secs(7));
    pair.server.ip("addr add 10.78.0.2/32 dev eth0")?;
    let question = serde_json::json!({ "entities": [name] });
    let response = post(agent.events, "/api/v1/diagnose", &question)?;
    assert_eq!(response.status, 200, "{}", response.body);
    has("10.78.0.2").context("the address that it got before the question")?;
    Ok(())
}
