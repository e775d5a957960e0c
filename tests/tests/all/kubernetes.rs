//! Promise: pods have their names from the node itself, and owners and labels from the API server for as
//! long as it answers; whatever it does, metrics and events go on, and what is old is said to be.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::apiserver::{ApiServer, NODE, Trouble, pod};
use inspector_tests::lab::pods::{self, Containerd};
use inspector_tests::wait;
use serde_json::Value;

const UID: &str = "6c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e60";

fn settings(server: &ApiServer, more: &str) -> Result<Settings> {
    let config = format!(
        "kubernetes.kubeconfig = '{}'\nkubernetes.labels = ['app']\nkubernetes.peers = 'never'\n{more}\n",
        server.kubeconfig()?.display()
    );
    let args = ["--node.name", NODE].map(str::to_owned).into();
    Ok(Settings { config, args, ..Settings::default() })
}

/// Waits until the agent's metric of this name has a value that will do.
fn metric(agent: &Agent, name: &str, will_do: impl Fn(f64) -> bool) -> Result<f64> {
    let value = || agent.scrape().ok()?.sum(name, &[]);
    wait::until(name, || value().filter(|value| will_do(*value)))
        .with_context(|| format!("{name} is {:?}:\n{}", value(), agent.log().join("\n")))
}

fn blind_spots(agent: &Agent, more: &[&str]) -> Result<Vec<String>> {
    let binary = inspector_tests::agent::binary()?;
    let output = std::process::Command::new(binary)
        .args(["diagnose", "-o", "json", "-e", &agent.events.to_string()])
        .args(more)
        .output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let spots = report["blind_spots"].as_array().context("blind spots")?;
    Ok(spots.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

#[test]
fn the_pods_of_this_node_are_followed_through_every_failure_of_the_api_server() -> Result<()> {
    let server = ApiServer::start(0)?;
    server.set(pod("shop", "cart-7d9f-a", UID, "cart"));
    let agent = Agent::start(&settings(&server, "")?)?;
    let pods = |number: usize| metric(&agent, "inspector_kube_objects", |pods| pods == number as f64);
    pods(1)?;
    metric(&agent, "inspector_kube_up", |up| up == 1.0)?;

    let mut proxy = pod("kube-system", "proxy-1", "p", "proxy");
    proxy["spec"]["hostNetwork"] = true.into();
    server.set(proxy);
    pods(2)?;
    let spots = blind_spots(&agent, &["--pod", "kube-system/proxy-1"])?;
    ensure!(spots.iter().any(|spot| spot.contains("proxy-1 uses the network of its node")), "{spots:?}");
    server.delete("proxy-1");
    pods(1)?;

    server.set(pod("shop", "cart-7d9f-b", "b", "cart"));
    pods(2)?;
    server.delete("cart-7d9f-a");
    pods(1)?;

    // It forgot what happened, so the agent lists anew.
    server.compact(|pods| {
        for (name, uid) in [("c", "c"), ("d", "d")] {
            pods.insert(name.to_owned(), pod("shop", name, uid, "cart"));
        }
    });
    server.cut();
    pods(3)?;

    for (trouble, said) in [
        (Trouble::Status(429), "429"),
        (Trouble::Status(500), "500"),
        (Trouble::Status(403), "as the test says (403): see the ClusterRole"),
        (Trouble::Status(401), "(401)"),
    ] {
        server.trouble(Some(trouble.clone()));
        metric(&agent, "inspector_kube_up", |up| up == 0.0).with_context(|| format!("{trouble:?}"))?;
        metric(&agent, "inspector_kube_sync_age_seconds", |age| age > 0.0)?;
        agent.wait_for_log(&["the API server does not tell", said])?;
        let spots = blind_spots(&agent, &[])?;
        ensure!(spots.iter().any(|spot| spot.contains("owners and labels of pods are")), "{spots:?}");
        assert_eq!(agent.scrape()?.sum("inspector_kube_objects", &[]), Some(3.0), "what is known stays");
        server.trouble(None);
        metric(&agent, "inspector_kube_up", |up| up == 1.0).with_context(|| format!("after {trouble:?}"))?;
    }

    // A watch that always ends in the middle is not an error to the client, so it is to ask calmly.
    server.trouble(Some(Trouble::Truncate));
    let asked = || server.requests().len();
    let before = asked();
    std::thread::sleep(Duration::from_secs(4));
    ensure!((1..=6).contains(&(asked() - before)), "{} requests in 4 s", asked() - before);
    server.trouble(None);
    server.set(pod("shop", "e", "e", "cart"));
    pods(4)?;

    // The token of a service account is replaced while the agent runs; the client reads it once a minute.
    let before = server.requests().len();
    server.set_token("second")?;
    server.cut();
    server.set(pod("shop", "late", "late", "cart"));
    wait::within(Duration::from_secs(150), "the new token", || {
        agent.scrape().ok()?.sum("inspector_kube_objects", &[]).filter(|pods| *pods == 5.0)
    })
    .with_context(|| agent.log().join("\n"))?;
    ensure!(server.requests().len() > before);

    // Nothing else is ever asked for.
    for request in server.requests() {
        ensure!(request.starts_with("GET /api/v1/pods?"), "{request}");
    }
    Ok(())
}

#[test]
fn an_api_server_that_is_not_there_or_never_answers_stops_nothing() -> Result<()> {
    let server = ApiServer::start(0)?;
    server.set(pod("shop", "cart-7d9f-a", UID, "cart"));
    let (kubeconfig, settings) = (server.kubeconfig()?, settings(&server, "")?);
    let text = std::fs::read_to_string(&kubeconfig)?;
    // A port that nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    std::fs::write(&kubeconfig, text.replace(&format!(":{}", server.port()), &format!(":{port}")))?;
    let absent = Agent::start(&settings)?;
    std::fs::write(&kubeconfig, text)?;
    server.trouble(Some(Trouble::Hang));
    let hanging = Agent::start(&settings)?;
    wait::until("a request that hangs", || (!server.requests().is_empty()).then_some(()))?;
    server.trouble(Some(Trouble::Truncate));
    let cut_short = Agent::start(&settings)?;
    for agent in [&absent, &hanging, &cut_short] {
        metric(agent, "inspector_kube_up", |up| up == 0.0)?;
        assert_eq!(agent.scrape()?.sum("inspector_ready", &[]), Some(1.0));
    }
    for agent in [&absent, &cut_short] {
        agent.wait_for_log(&["the API server does not tell"])?;
    }
    for agent in [absent, hanging, cut_short] {
        ensure!(agent.stop()?.success());
    }
    Ok(())
}

#[test]
fn a_real_pod_has_its_name_from_the_node_and_its_owner_from_the_api_server() -> Result<()> {
    if let Some(missing) = pods::missing() {
        eprintln!("\n*** SKIPPED: there is no {missing} here: run `make setup` ***\n");
        return Ok(());
    }
    let server = ApiServer::start(0)?;
    server.set(pod("shop", "cart-7d9f-a", UID, "cart"));
    let containerd = Containerd::start()?;
    let agent =
        Agent::start(&settings(&server, &format!("paths.runtimes = ['{}']", containerd.tasks().display()))?)?;
    let pod = containerd.run_pod("shop", "cart-7d9f-a", UID)?;
    let listed = || -> Option<Value> {
        let entities = agent.api("/api/v1/entities").ok()?;
        entities.as_array()?.iter().find(|entity| entity["pod_uid"] == UID).cloned()
    };
    let entity = wait::until("the pod with its owner", || {
        listed().filter(|entity| entity["owner"] == "Deployment/cart")
    })
    .with_context(|| format!("{:#}\n{}", listed().unwrap_or_default(), agent.log().join("\n")))?;
    assert_eq!(
        (&entity["namespace"], &entity["name"]),
        (&"shop".into(), &"cart-7d9f-a".into()),
        "{entity:#}"
    );
    assert_eq!((&entity["named_by"], &entity["phase"]), (&"runtime".into(), &"Running".into()), "{entity:#}");
    assert_eq!(entity["labels"], serde_json::json!({ "app": "cart" }), "only what is allowed");

    // The API server forgets the pod before its network is gone: it keeps its name.
    server.delete("cart-7d9f-a");
    metric(&agent, "inspector_kube_objects", |pods| pods == 0.0)?;
    assert_eq!(listed().context("still there")?["owner"], "Deployment/cart");
    drop(pod);
    wait::until("the pod to be gone", || listed().is_none().then_some(()))?;
    Ok(())
}
