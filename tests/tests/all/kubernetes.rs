//! Promise: pods have their names from the node itself, and owners and labels from the API server for as
//! long as it answers; whatever it does, metrics and events go on, and what is old is said to be.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::apiserver::{ApiServer, NODE, Streams, Trouble, pod};
use inspector_tests::http::EventStream;
use inspector_tests::lab::pods::{self, Containerd};
use inspector_tests::lab::{Cgroup, Family, Scene, Topology};
use inspector_tests::wait;
use serde_json::{Value, json};

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

fn diagnose(agent: &Agent, more: &[&str]) -> Result<Value> {
    let binary = inspector_tests::agent::binary()?;
    let output = Command::new(binary)
        .args(["diagnose", "-o", "json", "-e", &agent.events.to_string()])
        .args(more)
        .output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn blind_spots(agent: &Agent, more: &[&str]) -> Result<Vec<String>> {
    let report = diagnose(agent, more)?;
    let spots = report["blind_spots"].as_array().context("blind spots")?;
    Ok(spots.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

#[test]
fn the_pods_of_this_node_are_followed_through_every_failure_of_the_api_server() -> Result<()> {
    let server = ApiServer::start(0)?;
    is_followed(&server, 6)?;
    let requests = server.requests();
    let mut lists = requests.iter().filter(|line| line.contains("/pods?") && !line.contains("watch=true"));
    // Of any state that the API server has in memory: the newest one is etcd's.
    ensure!(
        lists.clone().count() > 0 && lists.all(|line| line.contains("resourceVersion=0")),
        "{requests:?}"
    );
    Ok(())
}

#[test]
fn an_api_server_that_streams_lists_is_asked_for_no_other() -> Result<()> {
    let server = ApiServer::start(0)?;
    server.become_version(36, Streams::Given);
    server.set(pod("shop", "cart-7d9f-a", UID, "cart"));
    let agent = Agent::start(&settings(&server, "")?)?;
    metric(&agent, "inspector_kube_objects", |pods| pods == 1.0)?;
    server.compact(|pods| drop(pods.insert("b".to_owned(), pod("shop", "b", "b", "cart"))));
    server.cut();
    metric(&agent, "inspector_kube_objects", |pods| pods == 2.0)?;
    for request in server.requests().iter().filter(|request| request.contains("/pods?")) {
        ensure!(request.contains("watch=true"), "{request}");
    }
    let server = ApiServer::start(0)?;
    server.become_version(36, Streams::Given);
    // Five in ten seconds, of which two periods may meet: a stream that ends is asked for again at once.
    is_followed(&server, 10)
}

#[test]
fn where_streaming_lists_are_refused_the_others_do() -> Result<()> {
    for status in [422, 500] {
        let server = ApiServer::start(0)?;
        server.become_version(36, Streams::Refused(status));
        server.set(pod("shop", "cart-7d9f-a", UID, "cart"));
        let agent = Agent::start(&settings(&server, "")?)?;
        metric(&agent, "inspector_kube_up", |up| up == 1.0)?;
        assert_eq!(agent.scrape()?.sum("inspector_kube_objects", &[]), Some(1.0));
        ensure!(server.requests().iter().any(|request| request.contains("sendInitialEvents=true")));
        ensure!(!agent.log().iter().any(|line| line.contains("WARN") && line.contains("API server")));
    }
    Ok(())
}

#[test]
fn an_api_server_that_starts_after_the_agent_is_asked_for_its_streaming_lists_too() -> Result<()> {
    let server = ApiServer::start(0)?;
    server.become_version(36, Streams::Given);
    server.set(pod("shop", "cart-7d9f-a", UID, "cart"));
    server.trouble(Some(Trouble::Status(503)));
    let agent = Agent::start(&settings(&server, "")?)?;
    agent.wait_for_log(&["the API server does not tell", "503"])?;
    server.trouble(None);
    let before = server.requests().len();
    metric(&agent, "inspector_kube_up", |up| up == 1.0)?;
    let after = &server.requests()[before..];
    ensure!(after.iter().any(|request| request.contains("sendInitialEvents=true")), "{after:?}");
    Ok(())
}

#[test]
fn a_watch_that_is_refused_is_never_taken_for_one() -> Result<()> {
    let server = ApiServer::start(0)?;
    server.set(pod("shop", "cart-7d9f-a", UID, "cart"));
    server.trouble(Some(Trouble::NoWatch(403)));
    let agent = Agent::start(&settings(&server, "")?)?;
    agent.wait_for_log(&["the API server does not tell", "(403)"])?;
    // Behind a list that is answered, more than once.
    let lists = || {
        let requests = server.requests();
        requests.iter().filter(|line| line.contains("/pods?") && !line.contains("watch=true")).count()
    };
    let mut ups = Vec::new();
    wait::until("three lists", || {
        ups.extend(agent.scrape().ok()?.sum("inspector_kube_up", &[]));
        (lists() >= 3).then_some(())
    })?;
    ensure!(!ups.is_empty() && ups.iter().all(|up| *up == 0.0), "{ups:?}");
    assert_eq!(agent.scrape()?.sum("inspector_kube_objects", &[]), Some(1.0), "the list is known");
    server.trouble(None);
    metric(&agent, "inspector_kube_up", |up| up == 1.0).map(drop)
}

#[test]
fn a_node_whose_pods_change_all_the_time_is_followed_too() -> Result<()> {
    let server = ApiServer::start(0)?;
    let changed = |restarts: u32| {
        let mut changed = pod("shop", "cart-7d9f-a", UID, "cart");
        changed["status"]["containerStatuses"] = json!([{ "name": "app", "restartCount": restarts }]);
        server.set(changed);
    };
    changed(0);
    let agent = Agent::start(&settings(&server, "")?)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for restarts in 1.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                changed(restarts);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let up = metric(&agent, "inspector_kube_up", |up| up == 1.0);
        done.store(true, Ordering::Relaxed);
        up.map(drop)
    })
}

/// Pods come and go, and everything fails in turn; where watches end at once, it is asked at most so often in
/// four seconds.
fn is_followed(server: &ApiServer, most: usize) -> Result<()> {
    server.set(pod("shop", "cart-7d9f-a", UID, "cart"));
    let agent = Agent::start(&settings(server, "")?)?;
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
    let asked = || server.requests().iter().filter(|request| request.contains("/pods?")).count();
    let before = asked();
    std::thread::sleep(Duration::from_secs(4));
    ensure!((1..=most).contains(&(asked() - before)), "{} requests in 4 s", asked() - before);
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
        ensure!(
            request.starts_with("GET /api/v1/pods?") || request.starts_with("GET /version "),
            "{request}"
        );
    }
    Ok(())
}

#[test]
fn an_api_server_that_is_not_there_or_never_answers_stops_nothing() -> Result<()> {
    let server = ApiServer::start(0)?;
    server.set(pod("shop", "cart-7d9f-a", UID, "cart"));
    let (kubeconfig, settings) = (server.kubeconfig()?, settings(&server, "")?);
    let text = fs::read_to_string(&kubeconfig)?;
    // A port that nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    fs::write(&kubeconfig, text.replace(&format!(":{}", server.port()), &format!(":{port}")))?;
    let absent = Agent::start(&settings)?;
    fs::write(&kubeconfig, text)?;
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

/// A process of a pod, told by its cgroup; it ends with this.
struct Process {
    child: Child,
    group: PathBuf,
}

impl Process {
    /// Of the pod with this uid.
    fn of_pod(uid: &str, cgroup: &Cgroup, child: Child) -> Result<Self> {
        let process = Self { child, group: cgroup.path().join(format!("kubepods/burstable/pod{uid}/1")) };
        fs::create_dir_all(&process.group)?;
        fs::write(process.group.join("cgroup.procs"), process.child.id().to_string())?;
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // `kubepods/burstable/podUID/1`, each once it is empty.
        for group in self.group.ancestors().take(4) {
            let _ = wait::until("a cgroup to be empty", || fs::remove_dir(group).ok());
        }
    }
}

#[test]
fn findings_and_events_about_a_port_of_the_host_name_the_pod_that_holds_it() -> Result<()> {
    let server = ApiServer::start(0)?;
    let uid = "6c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e62";
    let mut exporter = pod("monitoring", "exporter-x", uid, "exporter");
    exporter["spec"]["hostNetwork"] = true.into();
    server.set(exporter);
    let cgroup = Cgroup::unified()?;
    // It listens, and never accepts.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    let child = Command::new("sleep").arg("900").stdin(OwnedFd::from(listener)).spawn()?;
    let _process = Process::of_pod(uid, &cgroup, child)?;
    let agent = Agent::start(&settings(&server, "")?)?;
    metric(&agent, "inspector_kube_objects", |pods| pods == 1.0)?;

    let mut queue = Vec::new();
    let said = format!("TCP port {} of the host is held by pod monitoring/exporter-x", at.port());
    wait::until("the pod to be named", || {
        // The queue holds one more than the backlog, which is 128 by std.
        while let Ok(waiting) = TcpStream::connect_timeout(&at, Duration::from_millis(300)) {
            queue.push(waiting);
        }
        let report = diagnose(&agent, &["--entity", "host"]).ok()?;
        let findings = report["findings"].as_array()?;
        let evidence = findings.iter().filter_map(|finding| finding["evidence"].as_array()).flatten();
        evidence.into_iter().find(|line| line["summary"] == said.as_str()).cloned()
    })
    .map(|line| assert_eq!(line["attrs"]["pod"], "monitoring/exporter-x"))
    .with_context(|| format!("{said}: {:#}", diagnose(&agent, &[]).unwrap_or_default()))?;
    let events = EventStream::open(agent.events, "since=10m")?;
    wait::until("an event that names the pod", || {
        let is_named = |event: &Value| event["attrs"]["dst_pod"] == "monitoring/exporter-x";
        if let Ok(waiting) = TcpStream::connect_timeout(&at, Duration::from_millis(300)) {
            queue.push(waiting);
        }
        events.received().into_iter().find(is_named)
    })
    .map(|event| assert_eq!(event["attrs"]["dport"], at.port().to_string()))
    .with_context(|| format!("{:#?}", events.received()))
}

#[test]
fn what_is_wrong_with_a_pod_is_told_kubernetes_each_minute_in_one_event() -> Result<()> {
    let server = ApiServer::start(0)?;
    // No other test has a pod with this uid at the same time.
    let uid = "6c5e8a3b-1f0d-4f6e-9c55-0a1b2c3d4e61";
    server.set(pod("shop", "cart-7d9f-a", uid, "cart"));
    let scene = Scene::new(Topology::Direct, Family::V4)?;
    let cgroup = Cgroup::unified()?;
    let sleep = || Ok(Command::new("sleep").arg("900").spawn()?);
    let _process = Process::of_pod(uid, &cgroup, scene.server().run(sleep)?)?;
    let agent = Agent::start(&settings(&server, "kubernetes.events = true")?)?;

    // A closed port, which is asked for all the time.
    let to = scene.server_at(81);
    let told = |what: &str, is_told: &dyn Fn() -> bool| {
        wait::until(what, || {
            let refused = scene.client().run(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(1))));
            assert!(refused.is_ok_and(|tried| tried.is_err()), "{to} took a connection");
            std::thread::sleep(Duration::from_millis(500));
            is_told().then_some(())
        })
        .with_context(|| agent.log().join("\n"))
    };
    let count = |result| agent.scrape().ok()?.sum("inspector_kube_pod_events_total", &[("result", result)]);
    told("a refused Event", &|| count("failed") >= Some(1.0))?;
    let refused = ["Events about pods are not written", "see rbac.podEvents"];
    agent.wait_for_log(&refused)?;
    server.allow_events();
    told("an Event", &|| count("written") >= Some(1.0))?;
    let [event] = &server.events()[..] else { bail!("{:#?}", server.events()) };
    let pod =
        json!({ "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "cart-7d9f-a", "uid": uid });
    assert_eq!(event["regarding"], pod);
    assert_eq!((&event["reason"], &event["reportingInstance"]), (&"PortNotListening".into(), &NODE.into()));
    let note = event["note"].as_str().unwrap_or_default();
    ensure!(note.contains("nobody listens on TCP port 81") && note.contains(". Try: "), "{note}");

    told("the same again", &|| count("written") >= Some(2.0))?;
    let [again] = &server.events()[..] else { bail!("{:#?}", server.events()) };
    assert_eq!(
        (&again["metadata"]["name"], &again["series"]["count"]),
        (&event["metadata"]["name"], &2.into())
    );
    Ok(())
}
