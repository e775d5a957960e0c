//! Promise: what the rules of a network policy keep out is told with the policy's name, if a question asks to
//! confirm it: over the rules that kube-router and Calico write, whose counters say which rule it was.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::http::post;
use inspector_tests::lab::network_plugin::NetworkPlugin;
use inspector_tests::lab::{Family, Scene, Topology};
use inspector_tests::wait;
use serde_json::{Value, json};

/// Who gives up after this time has sent its SYN once.
const PATIENCE: Duration = Duration::from_millis(300);

/// The only finding about policies while a client goes on to try.
fn confirmed(scene: &Scene) -> Result<Value> {
    let config = "sources.interval = '200ms'".to_owned();
    let agent = Agent::start(&Settings { config, ..Settings::default() })?;
    let to = SocketAddr::new(scene.server_ip(), 5432);
    let done = AtomicBool::new(false);
    let hosts: Vec<_> = scene.hosts().map(|host| host.name().to_owned()).collect();
    let question = json!({ "scenario": "node", "entities": hosts, "window_ms": 60_000, "confirm": true });
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            scene.client().run(|| {
                while !done.load(Ordering::Relaxed) {
                    ensure!(TcpStream::connect_timeout(&to, PATIENCE).is_err(), "{to} took a connection");
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(())
            })
        });
        let mut last = Value::Null;
        let found = wait::until("a policy to be named", || {
            let answer = post(agent.events, "/api/v1/diagnose", &question).ok()?;
            last = serde_json::from_str(&answer.body).ok()?;
            let of_policies = |finding: &&Value| finding["code"] == "network-policy";
            let found: Vec<_> = last["findings"].as_array()?.iter().filter(of_policies).collect();
            let [found] = found[..] else { return None };
            Some(found.clone())
        });
        done.store(true, Ordering::Relaxed);
        client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        found.with_context(|| format!("{last:#}"))
    })
}

fn is_of_deny_all(finding: &Value) -> Result<()> {
    let title = finding["title"].as_str().unwrap_or_default();
    ensure!(
        title.contains(": NetworkPolicy shop/deny-all does not allow TCP 10.9.0.1:")
            && title.contains(" -> 10.9.1.2:5432: ")
            && title.ends_with(" kept out"),
        "{finding:#}"
    );
    let first = &finding["actions"][0]["command"];
    ensure!(*first == "kubectl -n shop describe networkpolicy deny-all", "{finding:#}");
    let text = finding.to_string();
    ensure!(text.contains(" in the last ") && !text.contains("of-another"), "{finding:#}");
    Ok(())
}

#[test]
fn the_policy_that_keeps_a_client_out_is_named() -> Result<()> {
    for plugin in [NetworkPlugin::KubeRouter, NetworkPlugin::KubeRouterNftables, NetworkPlugin::Calico] {
        let scene = Scene::new(Topology::Routed, Family::V4)?;
        plugin.write(&scene)?;
        is_of_deny_all(&confirmed(&scene)?).with_context(|| format!("{plugin:?}"))?;
    }
    Ok(())
}
