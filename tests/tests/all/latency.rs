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
    let reason = command["reason"].as_str().context("there is a reason")?;
    assert!(reason.contains("no kprobes; without it: no time of commands"), "{reason}");
    assert_eq!(command["hooks"][1]["hook"], "kretprobe/virtnet_send_command_reply");
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
    delays::slow_firewall(&slow.server, "input", &format!("udp dport {HELD_UP}"))?;
    for family in Family::BOTH {
        let mut connection = Connection::open(&slow, family)?;
        delays::slow_firewall(&slow.client, "output", &format!("tcp dport {}", connection.server_at.port()))?;
        connection.exchange(100, 100)?;
        slow.client.nft("delete table inet slow")?;
        let mut connection = Connection::open(&slow, family)?;
        slow.server
            .nft(&format!("add rule inet slow base tcp dport {} jump first", connection.server_at.port()))?;
        connection.exchange(100, 100)?;
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
        let of_kind = || events.received().into_iter().find(|event| event["type"] == kind);
        // A busy machine may make every run of this firewall take more than 100 ms.
        let other = kind.replace("_SLOW", "_100MS");
        let event = wait::until(kind, || {
            of_kind().or_else(|| events.received().into_iter().find(|e| e["type"] == other.as_str()))
        })?;
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
