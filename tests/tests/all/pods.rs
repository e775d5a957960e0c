//! Promise: a pod is known by what its container runtime makes of it, with or without a cluster.

use anyhow::{Context, Result};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::lab::pods::{self, Containerd};
use inspector_tests::wait;
use serde_json::Value;

const UID: &str = "6c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e5f";

#[test]
fn a_real_pod_is_listed_with_its_name_addresses_processes_and_cgroup() -> Result<()> {
    if let Some(missing) = pods::missing() {
        eprintln!(
            "\n*** SKIPPED: there is no {missing} here, so no real pod was tested: run `make setup` ***\n"
        );
        return Ok(());
    }
    // The folder that a kubelet makes for the pod's logs.
    let logs = tempfile::tempdir()?;
    std::fs::create_dir(logs.path().join(format!("default_web-1_{UID}")))?;
    let config = format!("sources.interval = '200ms'\npaths.pod_logs = '{}'", logs.path().display());
    let agent = Agent::start(&Settings { config, ..Settings::default() })?;
    let containerd = Containerd::start()?;
    let pod = containerd.run_pod("default", "web-1", UID)?;
    let (pid, ip) = (pod.pid()?, pod.ip()?);
    let listed = || -> Option<Value> {
        let entities = agent.api("/api/v1/entities").ok()?;
        entities.as_array()?.iter().find(|entity| entity["pod_uid"] == UID).cloned()
    };
    // The runtime sets the pod up before it becomes the pod's own program.
    let runs =
        |pod: &Value| pod["pids"].as_array().is_some_and(|all| all.iter().any(|p| p["name"] == "busybox"));
    let has_address =
        |pod: &Value| pod["ips"].as_array().is_some_and(|ips| ips.contains(&Value::from(ip.to_string())));
    let entity = wait::until("the pod with its address and program", || {
        listed().filter(|pod| has_address(pod) && runs(pod))
    })
    .with_context(|| format!("{:#}", listed().unwrap_or_default()))?;
    assert_eq!((&entity["namespace"], &entity["name"]), (&"default".into(), &"web-1".into()), "{entity:#}");
    assert_eq!((&entity["named_by"], &entity["pod_uid"]), (&"pod-logs".into(), &UID.into()), "{entity:#}");
    let process = entity["pids"].as_array().context("pids")?.iter().find(|process| process["pid"] == pid);
    assert_eq!(process.context("its process is listed")?["name"], "busybox", "{entity:#}");
    let cgroup = entity["cgroup"].as_str().context("cgroup")?;
    assert!(cgroup.starts_with(&format!("/kubepods/burstable/pod{UID}/")), "{cgroup}");

    wait::until("the pod's series", || {
        let page = agent.scrape().ok()?;
        let pod = [("namespace", "default"), ("pod", "web-1")];
        page.sum("inspector_pod_netdevtxpackets", &pod)?;
        page.sum("inspector_pod_ioioreadsyscall", &pod).filter(|calls| *calls > 0.0)
    })?;
    println!("{UID} at {ip}, process {pid}, in {cgroup}");

    drop(pod);
    wait::until("the pod to be gone", || listed().is_none().then_some(()))?;
    Ok(())
}
