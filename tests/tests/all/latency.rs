//! Promise: what took its time inside of the node is told, and costs nothing until it is asked for.

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::http::EventStream;
use inspector_tests::lab::{Connection, Family, Pair, delays, faults};
use inspector_tests::plugins::PluginDir;
use inspector_tests::wait;
use serde_json::Value;

use crate::heavy;

const HELD_UP: u16 = 5555;
/// Of the node, so in the host's own namespace, whose series have no pod.
const NODE: &str = "";

/// An agent with the two analyzers of latencies and a configuration.
fn agent(config: &str) -> Result<(PluginDir, Agent)> {
    let dir = PluginDir::new()?;
    dir.put_built_in("softirq")?;
    dir.put_built_in("latency")?;
    let (config, plugin_dirs) = (config.to_owned(), vec![dir.path().to_owned()]);
    let agent = Agent::start(&Settings { config, plugin_dirs, ..Settings::default() })?;
    Ok((dir, agent))
}

/// The state of a probe or plugin, once it has one of its own.
fn state(agent: &Agent, what: &str, name: &str, wanted: &str) -> Result<Value> {
    wait::until(&format!("{what} {name} to be {wanted}"), || {
        let all = agent.api(&format!("/api/v1/{what}")).ok()?;
        all.as_array()?.iter().find(|one| one["name"] == name && one["state"] == wanted).cloned()
    })
    .inspect_err(|_| eprintln!("{:#?}", agent.api(&format!("/api/v1/{what}"))))
}

#[test]
fn an_analyzer_that_is_disabled_is_shown_and_loads_no_probe() -> Result<()> {
    let (_dir, agent) = agent("")?;
    state(&agent, "plugins", "softirq", "running")?;
    let latency = state(&agent, "plugins", "latency", "disabled")?;
    assert_eq!(latency["reason"], "plugins.disabled names it");
    state(&agent, "probes", "softirq", "up")?;
    for probe in ["tx-latency", "rx-latency", "qdisc"] {
        state(&agent, "probes", probe, "idle")?;
    }
    assert!(agent.stop()?.success());
    Ok(())
}

#[test]
fn a_kernel_without_kprobes_says_so_and_the_rest_works() -> Result<()> {
    let (_dir, agent) = agent("")?;
    state(&agent, "probes", "softirq", "up")?;
    if std::path::Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        return Ok(());
    }
    let command = state(&agent, "probes", "virtio-command", "down")?;
    assert_eq!(command["reason"], "this kernel has no kprobes");
    let hook = &command["hooks"][1];
    assert_eq!(hook["hook"], "kretprobe/virtnet_send_command_reply");
    let reason = hook["reason"].as_str().context("there is a reason")?;
    assert!(reason.contains("no kprobes; without it: no time of commands"), "{reason}");
    state(&agent, "plugins", "softirq", "running")?;
    Ok(())
}

#[test]
fn every_contract_counter_of_latencies_rises_for_a_real_delay() -> Result<()> {
    let _turn = heavy();
    let (slow, throttled) = (Pair::new()?, Pair::new()?);
    let (_dir, agent) = agent("plugins.disabled = []")?;
    let events = EventStream::open(agent.events, "")?;
    for probe in ["softirq", "tx-latency", "rx-latency", "qdisc"] {
        state(&agent, "probes", probe, "up")?;
    }
    let (client, server) = (slow.client.name(), slow.server.name());
    let value = |pod: &str, name: &str| {
        let page = agent.scrape().ok()?;
        page.sum(&format!("inspector_pod_{name}"), &[("pod", pod)])
    };
    for (pod, name) in [
        (client, "kernellatency_txslow"),
        (server, "kernellatency_rxslow100ms"),
        (NODE, "net_softirq_schedslow"),
    ] {
        wait::until(&format!("{name} of {pod:?} to begin at 0"), || value(pod, name).map(drop))?;
    }
    delays::throttle(&throttled.client)?;
    for family in Family::BOTH {
        let mut connection = Connection::open(&slow, family)?;
        delays::slow_firewall(&slow.client, "output", &format!("tcp dport {}", connection.server_at.port()))?;
        connection.exchange(100, 100)?;
        slow.client.nft("delete table inet slow")?;
        let mut connection = Connection::open(&slow, family)?;
        delays::slow_firewall(&slow.server, "input", &format!("tcp dport {}", connection.server_at.port()))?;
        connection.exchange(100, 100)?;
        slow.server.nft("delete table inet slow")?;
        delays::slow_firewall(&slow.server, "input", &format!("udp dport {HELD_UP}"))?;
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                delays::stay_on_this_cpu()?;
                for _ in 0..10 {
                    faults::send_udp(&throttled.client, throttled.server_at(family, 9), 3, 900)?;
                    faults::send_udp(&slow.client, slow.server_at(family, HELD_UP), 1, 10)?;
                }
                anyhow::Ok(())
            });
            sender.join().expect("sending does not panic")
        })?;
        slow.server.nft("delete table inet slow")?;
    }
    for (pod, name) in [
        (client, "kernellatency_txslow"),
        (server, "kernellatency_rxslow"),
        (throttled.client.name(), "kernellatency_txslow100ms"),
        (throttled.client.name(), "netiftxlat_qdiscslow100ms"),
        (NODE, "net_softirq_schedslow"),
        (NODE, "net_softirq_excuteslow"),
    ] {
        let risen =
            wait::until(&format!("{name} of {pod:?} to rise"), || value(pod, name).filter(|v| *v > 0.0))?;
        println!("inspector_pod_{name}{{pod={pod:?}}} {risen}");
    }
    for kind in [
        "TXKERNEL_SLOW",
        "RXKERNEL_SLOW",
        "NETIFTXLAT_QDISC",
        "NETSOFTIRQ_SCHED_SLOW",
        "NETSOFTIRQ_EXCUTE_SLOW",
    ] {
        // A slow machine may take more than 100 ms for the same, which is an event of its own.
        let very_slow = kind.replace("_SLOW", "_100MS");
        let ours = [client, server, throttled.client.name(), NODE];
        let is_it = |event: &Value| {
            [kind, &very_slow].iter().any(|kind| event["type"] == *kind)
                && ours.iter().any(|pod| event["entity"]["name"] == *pod)
        };
        let event = wait::until(kind, || events.received().into_iter().find(&is_it))?;
        println!("{} {} {}", event["type"], event["entity"]["name"], event["message"]);
    }
    let page = agent.scrape()?;
    for (name, labels) in [
        ("inspector_softirq_latency_seconds_count", [("vector", "NET_RX"), ("phase", "run")].as_slice()),
        ("inspector_transmit_latency_seconds_count", &[("stage", "qdisc")]),
        ("inspector_receive_latency_seconds_count", &[]),
        ("inspector_qdisc_sojourn_seconds_count", &[]),
    ] {
        let counted = page.sum(name, labels);
        ensure!(counted.is_some_and(|n| n > 0.0), "{name} is {counted:?}");
    }
    assert!(agent.stop()?.success());
    Ok(())
}
