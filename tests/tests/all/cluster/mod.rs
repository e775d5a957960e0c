//! Promise: a whole cluster is asked through its API server, and no agent that is dead, slow, old or
//! hostile costs the answers of the others.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use inspector_tests::agent::binary;
use inspector_tests::wait;
use serde_json::Value;
use tempfile::TempDir;

use agent::Agent;
use api_server::{ApiServer, Objects};

mod agent;
mod api_server;

/// So many nodes have an agent that is none of these; every kind of trouble is there as well.
const TROUBLE: [Agent; 9] = [
    Agent::Dead,
    Agent::Silent,
    Agent::Slow,
    Agent::Lying,
    Agent::Endless,
    Agent::Foreign,
    Agent::Old,
    Agent::Pending,
    Agent::Dead,
];

/// So many nodes, of which so many are in trouble, and one has a fault.
fn nodes(all: usize, troubled: usize) -> BTreeMap<String, Agent> {
    let agent = |number: usize| match number {
        0 => Agent::Faulty,
        // Among the others, and one after the other.
        _ if number.is_multiple_of(2) && number / 2 <= troubled => TROUBLE[(number / 2 - 1) % TROUBLE.len()],
        _ => Agent::Sound,
    };
    (0..all).map(|number| (format!("node-{number}"), agent(number))).collect()
}

/// Runs the command line with a kubeconfig, and without any other.
fn inspector(kubeconfig: &Path, args: &[&str]) -> Result<Output> {
    Ok(command(kubeconfig, args)?.output()?)
}

fn command(kubeconfig: &Path, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(args).arg("--kubeconfig").arg(kubeconfig).env("NO_COLOR", "1").env("KUBECONFIG", "/nowhere");
    command.stdin(Stdio::null());
    Ok(command)
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn is_safe(text: &str) -> bool {
    !text.replace('\n', "").contains(char::is_control)
}

/// Whether it is said that nobody listens. The node says so, unless it has closed the connection before the
/// request came, which breaks it.
fn is_dead(told: &str) -> bool {
    told.contains("connection refused") || told.contains("the node closed it at once")
}

/// The nodes that a report has answers of.
fn answered(report: &Value) -> Vec<&str> {
    report["node"].as_str().unwrap_or_default().split(", ").collect()
}

#[test]
fn two_hundred_nodes_give_one_answer_whatever_twenty_of_them_do() -> Result<()> {
    let agents = nodes(200, 20);
    let troubled: Vec<_> =
        agents.iter().filter(|(_, agent)| TROUBLE.contains(agent)).map(|(node, _)| node.as_str()).collect();
    ensure!(troubled.len() == 20, "{troubled:?}");
    let server = ApiServer::start(Objects { agents: agents.clone(), ..Objects::default() })?;
    let kubeconfig = server.kubeconfig()?;

    let begun = Instant::now();
    let output = inspector(kubeconfig.path(), &["diagnose", "--all-nodes", "-o", "json"])?;
    let took = begun.elapsed();
    eprintln!("200 agents, 20 of them in trouble: {took:?}");
    let (text, told) = said(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    // A silent agent has 10 seconds, and there are places for all of them at once.
    assert!(took < Duration::from_secs(30), "{took:?}");
    let report: Value = serde_json::from_str(&text)?;
    assert_eq!(report["verdict"], "broken");
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(1));
    let answers = answered(&report);
    for (node, agent) in &agents {
        let is_lost = TROUBLE.contains(agent);
        assert_ne!(answers.contains(&node.as_str()), is_lost, "{node}: {agent:?}");
        let spots: Vec<_> =
            report["blind_spots"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let spot = spots.iter().find(|spot| {
            spot.starts_with(&format!("{node}: ")) && !spot.ends_with("cable was not looked at")
        });
        assert_eq!(spot.is_some(), is_lost, "{node}: {agent:?}: {spot:?}");
        let why = match agent {
            Agent::Dead => {
                assert!(spot.is_some_and(|spot| is_dead(spot)), "{node}: {spot:?}");
                continue;
            }
            Agent::Silent | Agent::Slow => "no answer within 10s",
            Agent::Lying => "the server sends no valid JSON",
            Agent::Endless => "the server sends more than is sensible",
            Agent::Foreign => "connection broken",
            Agent::Old => "its agent is inspector 0.0.9 (abc), which cannot answer questions yet: upgrade it",
            Agent::Pending => "the agent's pod is Pending",
            Agent::Sound | Agent::Faulty => continue,
        };
        assert!(spot.is_some_and(|spot| spot.contains(why)), "{node}: {agent:?}: {spot:?}");
    }
    // One line where there is no terminal, once somebody may wonder.
    let progress: Vec<_> = told.lines().collect();
    let asked = agents.values().filter(|agent| **agent != Agent::Pending).count();
    let end = format!(" of {asked} nodes answered");
    assert!(matches!(progress[..], [line] if line.ends_with(&end)), "{told}");
    // 32 for the client; the server notices a little later that one has ended.
    assert!(server.most_forwards() <= 64, "{} at once", server.most_forwards());
    server.check()
}

#[test]
fn what_people_read_of_many_nodes_names_those_in_trouble_and_counts_the_others() -> Result<()> {
    let server = ApiServer::start(Objects { agents: nodes(40, 3), ..Objects::default() })?;
    let kubeconfig = server.kubeconfig()?;
    // The third is slow; the first two are dead and silent.
    let output = inspector(kubeconfig.path(), &["diagnose", "--all-nodes"])?;
    let (text, told) = said(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(is_safe(&text) && is_safe(&told), "{text}{told}");
    assert!(text.starts_with("BROKEN: 1 critical on nodes "), "{text}");
    for node in ["node-2: ", "node-4: ", "node-6: "] {
        assert!(text.contains(node), "{node} in {text}");
    }
    assert!(text.contains("and 34 more: the cable was not looked at"), "{text}");
    assert!(text.lines().count() < 40, "{text}");
    server.check()
}

#[test]
fn a_list_of_many_nodes_has_the_rows_of_all_that_answer_and_errors_of_the_others() -> Result<()> {
    let mut agents = nodes(20, 0);
    agents.insert("node-3".to_owned(), Agent::Dead);
    agents.insert("node-5".to_owned(), Agent::Lying);
    agents.insert("node-7".to_owned(), Agent::Pending);
    let server = ApiServer::start(Objects { agents, ..Objects::default() })?;
    let kubeconfig = server.kubeconfig()?;
    let output = inspector(kubeconfig.path(), &["list", "probes", "--all-nodes", "-o", "json"])?;
    let (text, told) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let rows: Value = serde_json::from_str(&text)?;
    assert_eq!(rows.as_array().map(Vec::len), Some(17));
    for node in ["node-3", "node-5", "node-7"] {
        assert!(!text.contains(&format!("\"{node}\"")), "{text}");
        assert!(told.contains(&format!("error: cannot list probes of {node}: ")), "{told}");
    }
    assert!(is_safe(&told), "{told}");
    let one = inspector(kubeconfig.path(), &["list", "probes", "--node", "node-1"])?;
    let (text, told) = said(&one);
    assert_eq!(one.status.code(), Some(0), "{told}");
    assert!(text.contains("node-1") && text.contains("skb-drop") && !text.contains("node-2"), "{text}");
    server.check()
}

#[test]
fn the_events_of_many_nodes_are_one_stream_which_new_nodes_join() -> Result<()> {
    let mut agents = nodes(6, 0);
    agents.insert("node-3".to_owned(), Agent::Dead);
    let server = ApiServer::start(Objects { agents, ..Objects::default() })?;
    let kubeconfig = server.kubeconfig()?;
    let mut command = command(kubeconfig.path(), &["watch", "--all-nodes", "-o", "json", "-c", "6"])?;
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let lines = BufReader::new(watch.stdout.take().context("piped")?).lines();
    let (sender, received) = std::sync::mpsc::channel();
    let reader =
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut seen = Vec::new();
    let mut see = |count: usize| {
        wait::until("events of all nodes", || {
            seen.extend(received.try_iter());
            (seen.len() >= count).then_some(())
        })
    };
    see(5)?;
    // It is seen when the list of agents is looked at again.
    server.change(|objects| objects.agents.extend([("node-new".to_owned(), Agent::Sound)]));
    see(6)?;
    assert!(reader.join().is_ok());
    let output = watch.wait_with_output()?;
    let (_, told) = said(&output);
    assert!(told.contains("node-3: ") && is_dead(&told) && is_safe(&told), "{told}");
    assert!(seen.last().is_some_and(|line| line.contains("node-new")), "{seen:?}");
    server.check()
}

#[test]
fn of_a_pod_only_its_node_is_asked_and_of_both_ends_both() -> Result<()> {
    let agents = [("a", Agent::Sound), ("b", Agent::Sound), ("c", Agent::Sound), ("d", Agent::Sound)];
    let pods = [("shop/web", "a"), ("shop/db", "b"), ("shop/cache-0", "b"), ("shop/cache-1", "c")];
    let owned = |(name, of): &(&str, &str)| ((*name).to_owned(), (*of).to_owned());
    let server = ApiServer::start(Objects {
        agents: agents.map(|(node, agent)| (node.to_owned(), agent)).into(),
        pods: pods.iter().map(owned).collect(),
        services: [("shop/cache".to_owned(), vec!["shop/cache-0".to_owned(), "shop/cache-1".to_owned()])]
            .into(),
        forbidden: None,
    })?;
    let kubeconfig = server.kubeconfig()?;
    let ask = |flags: &[&str]| {
        let output = inspector(kubeconfig.path(), &[&["diagnose", "connect", "-o", "json"], flags].concat())?;
        ensure!(output.status.code() == Some(0), "{flags:?}: {}", said(&output).1);
        let report: Value = serde_json::from_slice(&output.stdout)?;
        Ok((answered(&report).join(" "), report["entities"].to_string(), report["doubts"].to_string()))
    };
    let expect = |nodes: &str, entities: &str| (nodes.to_owned(), entities.to_owned(), "[]".to_owned());
    assert_eq!(ask(&["--pod", "shop/web"])?, expect("a", "[\"shop/web\"]"));
    let both = ask(&["--pod", "shop/web", "--to", "shop/db:5432"])?;
    assert_eq!(both, expect("a b", "[\"shop/web\",\"shop/db\"]"));
    let service = ask(&["--pod", "shop/web", "--service", "shop/cache"])?;
    assert_eq!(service, expect("a b c", "[\"shop/web\",\"shop/cache-0\",\"shop/cache-1\"]"));
    // A node that knows only one of those that it is asked about answers about that one, and says so.
    let typo =
        inspector(kubeconfig.path(), &["diagnose", "--pod", "shop/web", "--entity", "typo", "-o", "json"])?;
    let report: Value = serde_json::from_slice(&typo.stdout).with_context(|| said(&typo).1)?;
    assert_eq!(answered(&report), ["a"]);
    let spots = report["blind_spots"].as_array().context("a list")?;
    assert!(spots.iter().any(|spot| spot == "there is no entity \"typo\""), "{report}");
    // Who is not called so anywhere is a wrong name, and nobody is asked in vain about it.
    let nobody = inspector(kubeconfig.path(), &["diagnose", "--pod", "shop/gone"])?;
    let (_, told) = said(&nobody);
    assert_eq!(nobody.status.code(), Some(2), "{told}");
    assert!(told.contains("pod shop/gone is not in the cluster now: all nodes are asked"), "{told}");
    server.check()
}

#[test]
fn a_service_to_which_nobody_can_connect_is_a_finding_by_itself() -> Result<()> {
    let server = ApiServer::start(Objects {
        agents: [("a".to_owned(), Agent::Sound)].into(),
        pods: [("shop/db-unready".to_owned(), "a".to_owned())].into(),
        services: [("shop/db".to_owned(), vec!["shop/db-unready".to_owned()])].into(),
        forbidden: None,
    })?;
    let kubeconfig = server.kubeconfig()?;
    for (service, nodes, why) in [
        ("shop/db", &["a", "the API server"][..], "none of the pods behind it is ready"),
        ("shop/none", &["the API server"], "there is no endpoint behind it, or no such Service"),
    ] {
        let asked = ["diagnose", "--service", service, "--fail-on", "critical", "-o", "json"];
        let output = inspector(kubeconfig.path(), &asked)?;
        assert_eq!(output.status.code(), Some(3), "{}", said(&output).1);
        let report: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!((&report["verdict"], answered(&report)), (&"broken".into(), nodes.to_vec()), "{report:#}");
        let finding = &report["findings"][0];
        assert_eq!(
            (&finding["code"], &finding["role"]),
            (&"service-without-endpoints".into(), &"cause".into())
        );
        assert!(finding["title"].as_str().is_some_and(|title| title.contains(why)), "{finding:#}");
    }
    server.check()
}

#[test]
fn what_is_in_the_way_is_said_with_what_to_do() -> Result<()> {
    let server = ApiServer::start(Objects { agents: nodes(60, 0), ..Objects::default() })?;
    let kubeconfig = server.kubeconfig()?;
    let fails = |flags: &[&str], code: i32, why: &str| {
        let output = inspector(kubeconfig.path(), flags)?;
        let (_, told) = said(&output);
        ensure!(output.status.code() == Some(code), "{flags:?}: {told}");
        ensure!(told.contains(why) && told.lines().count() <= 2, "{flags:?}: {why}: {told}");
        anyhow::Ok(())
    };
    for (verb, resource) in [("get", "pods/portforward"), ("create", "pods/portforward"), ("list", "pods")] {
        server.change(|objects| objects.forbidden = Some((verb, resource)));
        let why = format!(
            "you may not {verb} {resource} in namespace kube-system: ask for the roles inspector-user"
        );
        for command in
            [&["diagnose", "--all-nodes"][..], &["list", "probes", "--all-nodes"], &["watch", "--all-nodes"]]
        {
            fails(command, 1, &why)?;
        }
    }
    server.change(|objects| objects.forbidden = None);
    let nobody = "no agent was found in namespace elsewhere with the labels app.kubernetes.io/name=inspector";
    fails(&["diagnose", "--agent-namespace", "elsewhere"], 1, nobody)?;
    fails(&["diagnose", "--agent-selector", "a=b"], 1, "in namespace kube-system with the labels a=b")?;
    fails(&["diagnose", "--context", "nope"], 2, "there is no context \"nope\" in ")?;
    fails(&["diagnose", "--context", "nope"], 2, "there are good, stranger")?;
    fails(&["diagnose", "--context", "stranger"], 1, "does not know you: 401")?;
    fails(&["diagnose", "--node", "node-x"], 1, "node-x: no pod of the agent is there")?;
    server.check()?;
    drop(server);
    fails(&["diagnose", "--all-nodes"], 1, "cannot reach the API server http://127.0.0.1:")?;

    let mut nowhere = Command::new(binary()?);
    let home = TempDir::new()?;
    nowhere.args(["diagnose", "--all-nodes"]).env("HOME", home.path()).env_remove("KUBECONFIG");
    let output = nowhere.env_remove("KUBERNETES_SERVICE_HOST").output()?;
    let (_, told) = said(&output);
    let file = home.path().join(".kube/config");
    let expected = format!(
        "error: no cluster is known: KUBECONFIG is not set, there is no {}, and this is no pod; name a file with \
         --kubeconfig\n",
        file.display()
    );
    assert_eq!((output.status.code(), told), (Some(1), expected));
    Ok(())
}

#[test]
fn as_a_plugin_of_kubectl_it_asks_the_cluster() -> Result<()> {
    let server = ApiServer::start(Objects { agents: nodes(3, 0), ..Objects::default() })?;
    let (kubeconfig, folder) = (server.kubeconfig()?, TempDir::new()?);
    let plugin = folder.path().join("kubectl-inspector");
    std::os::unix::fs::symlink(binary()?, &plugin)?;
    let output = Command::new(&plugin)
        .args(["diagnose", "-o", "json"])
        .env("KUBECONFIG", kubeconfig.path())
        .stdin(Stdio::null())
        .output()?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| said(&output).1)?;
    assert_eq!(answered(&report), ["node-0", "node-1", "node-2"]);
    let usage = Command::new(&plugin).args(["list", "--help"]).output()?;
    assert!(said(&usage).0.contains("Usage: kubectl inspector list "), "{}", said(&usage).0);
    server.check()
}
