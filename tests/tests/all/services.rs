//! Promise: a connection to a Kubernetes Service that fails is told in the words of Kubernetes: which Service,
//! which pod is behind it, and what is wrong, over the rules that kube-proxy writes and real connection
//! tracking.

use std::net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use inspector_tests::agent::{Agent, Settings};
use inspector_tests::apiserver::{ApiServer, NODE, node, pod, service};
use inspector_tests::http::{EventStream, post};
use inspector_tests::lab::kube_proxy::{Mode, Routed};
use inspector_tests::lab::{Family, Scene, Topology, faults};
use inspector_tests::wait;
use serde_json::{Value, json};

const MODES: [Mode; 2] = [Mode::Iptables, Mode::Nftables];
const CLUSTER_IP: &str = "10.96.0.20";
/// The router of the scene is the node.
const NODE_IP: &str = "10.9.0.254";
const POD_IP: &str = "10.9.1.2";
const PATIENCE: Duration = Duration::from_millis(700);

/// An agent beside a node of the lab that routes to one Service, whose pod is the server.
struct Cluster {
    api: ApiServer,
    agent: Agent,
    scene: Scene,
}

impl Cluster {
    fn start(mode: Mode, routed: &Routed, service: Value) -> Result<Self> {
        let api = ApiServer::start(0)?;
        let mut backend = pod("shop", "db-0", "u1", "db");
        backend["status"]["podIPs"] = json!([{ "ip": POD_IP }]);
        [backend, service, node(NODE, NODE_IP)].into_iter().for_each(|object| api.set(object));
        let scene = Scene::new(Topology::Routed, Family::V4)?;
        // A node has a way to everywhere, so what is sent to a Service gets as far as the rules.
        scene.router()?.ip(&format!("route add default via {POD_IP}"))?;
        routed.write(scene.router()?, mode)?;
        let config =
            format!("sources.interval = '200ms'\nkubernetes.kubeconfig = '{}'", api.kubeconfig()?.display());
        let args = ["--node.name", NODE].map(str::to_owned).into();
        let agent = Agent::start(&Settings { config, args, ..Settings::default() })?;
        for resource in ["pods", "services", "nodes"] {
            wait::until(resource, || {
                agent
                    .scrape()
                    .ok()?
                    .sum("inspector_kube_up", &[("resource", resource)])
                    .filter(|up| *up == 1.0)
            })
            .with_context(|| agent.log().join("\n"))?;
        }
        Ok(Self { api, agent, scene })
    }

    /// Asks until one thing is wrong, which has this code: connection tracking is read a moment after the
    /// connections that it explains.
    fn finding(&self, code: &str) -> Result<Value> {
        let hosts: Vec<_> = self.scene.hosts().map(|host| host.name().to_owned()).collect();
        let question =
            json!({ "scenario": "node", "entities": hosts, "window_ms": 600_000, "confirm": false });
        let mut last = Value::Null;
        let found = wait::until(code, || {
            let answer = post(self.agent.events, "/api/v1/diagnose", &question).ok()?;
            last = serde_json::from_str(&answer.body).ok()?;
            let wrong = last["findings"].as_array()?.iter().filter(|finding| finding["severity"] != 0);
            match wrong.collect::<Vec<_>>()[..] {
                [found] if found["code"] == code => Some(found.clone()),
                _ => None,
            }
        });
        found.with_context(|| format!("{last:#}"))
    }

    /// Connects from the client, some times in vain.
    fn connects_in_vain(&self, to: SocketAddrV4) -> Result<()> {
        self.scene.client().run(|| {
            for _ in 0..3 {
                let tried = TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE);
                ensure!(tried.is_err(), "{to} took a connection");
            }
            Ok(())
        })
    }
}

fn routed(endpoint: Option<u16>) -> Routed {
    Routed {
        name: "shop/db",
        proto: "tcp",
        at: at(CLUSTER_IP, 5432),
        node_port: None,
        endpoint: endpoint.map(|port| at(POD_IP, port)),
        is_without_local: false,
    }
}

fn at(ip: &str, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip.parse().expect("an address"), port)
}

fn title(finding: &Value) -> &str {
    finding["title"].as_str().unwrap_or_default()
}

fn is_about(finding: &Value, words: &[&str]) -> Result<()> {
    let text = finding.to_string();
    for word in words {
        ensure!(text.contains(word), "{word} is not in {finding:#}");
    }
    Ok(())
}

#[test]
fn a_service_without_endpoints() -> Result<()> {
    for mode in MODES {
        let cluster = Cluster::start(mode, &routed(None), service("shop", "db", CLUSTER_IP, 5432, 5432))?;
        cluster.connects_in_vain(at(CLUSTER_IP, 5432))?;
        let found = cluster.finding("service-without-endpoints")?;
        ensure!(title(&found).starts_with("Service shop/db: it has no endpoint that is ready"), "{found:#}");
        assert_eq!(
            found["entities"][0],
            json!({ "name": "db", "kind": "service", "namespace": "shop", "node": "" })
        );
        is_about(&found, &["kubectl -n shop describe service db", "10.96.0.20:5432 is Service shop/db"])?;
    }
    Ok(())
}

#[test]
fn a_service_whose_target_port_is_wrong() -> Result<()> {
    for mode in MODES {
        let cluster =
            Cluster::start(mode, &routed(Some(5433)), service("shop", "db", CLUSTER_IP, 5432, 5433))?;
        cluster.connects_in_vain(at(CLUSTER_IP, 5432))?;
        let found = cluster.finding("service-port-not-listening")?;
        assert_eq!(
            title(&found),
            "Service shop/db sends port 5432 on to port 5433 of pod shop/db-0 (targetPort 5433), where nobody listens"
        );
        let (client, server) = (cluster.scene.client().name(), cluster.scene.server().name());
        assert_eq!(
            (&found["entities"][0]["name"], &found["entities"][1]["name"]),
            (&server.into(), &client.into())
        );
        is_about(&found, &["10.96.0.20:5432 (Service shop/db) arrives at 10.9.1.2:5433 (pod shop/db-0)"])?;
    }
    Ok(())
}

#[test]
fn a_node_port_whose_connections_come_from_the_node() -> Result<()> {
    for mode in MODES {
        let node_port = at(NODE_IP, 30_432);
        let routed = Routed { node_port: Some(node_port), ..routed(Some(5433)) };
        let mut object = service("shop", "db", CLUSTER_IP, 5432, 5433);
        object["spec"]["ports"][0]["nodePort"] = 30_432.into();
        let cluster = Cluster::start(mode, &routed, object)?;
        // It is not refused: the kernel forgets at once what a reset is the only answer to.
        faults::drop_incoming(cluster.scene.server(), "tcp", 5433)?;
        cluster.connects_in_vain(node_port)?;
        let found = cluster.finding("firewall-drop")?;
        let sent_on = "connection tracking sends TCP to 10.9.0.254:30432 (Service shop/db) on to 10.9.1.2:5433 (pod shop/db-0)";
        is_about(&found, &[sent_on, cluster.scene.client().name(), cluster.scene.server().name()])?;
    }
    Ok(())
}

#[test]
fn a_service_that_only_sends_to_pods_of_a_node_that_has_none() -> Result<()> {
    for mode in MODES {
        let node_port = at(NODE_IP, 30_432);
        let routed = Routed { node_port: Some(node_port), is_without_local: true, ..routed(Some(5432)) };
        let mut object = service("shop", "db", CLUSTER_IP, 5432, 5432);
        object["spec"]["ports"][0]["nodePort"] = 30_432.into();
        object["spec"]["externalTrafficPolicy"] = "Local".into();
        let cluster = Cluster::start(mode, &routed, object)?;
        cluster.connects_in_vain(node_port)?;
        let found = cluster.finding("service-without-local-endpoints")?;
        is_about(
            &found,
            &["externalTrafficPolicy is Local", "10.9.0.254:30432", "kubectl -n shop get endpointslices"],
        )?;
    }
    Ok(())
}

#[test]
fn a_service_that_still_sends_to_a_pod_that_is_ending() -> Result<()> {
    for mode in MODES {
        let cluster =
            Cluster::start(mode, &routed(Some(5432)), service("shop", "db", CLUSTER_IP, 5432, 5432))?;
        let mut backend = pod("shop", "db-0", "u1", "db");
        backend["status"]["podIPs"] = json!([{ "ip": POD_IP }]);
        backend["metadata"]["deletionTimestamp"] = "2026-11-30T12:00:00Z".into();
        cluster.api.set(backend);
        cluster.connects_in_vain(at(CLUSTER_IP, 5432))?;
        let found = cluster.finding("service-backend-ending")?;
        ensure!(
            title(&found).starts_with("Service shop/db still sends to pod shop/db-0, which is terminating: "),
            "{found:#}"
        );
    }
    Ok(())
}

#[test]
fn a_name_server_behind_a_service_that_does_not_run() -> Result<()> {
    for mode in MODES {
        let dns = at("10.96.0.10", 53);
        let routed = Routed {
            name: "kube-system/kube-dns",
            proto: "udp",
            at: dns,
            endpoint: Some(at(POD_IP, 53)),
            ..routed(None)
        };
        let mut object = service("kube-system", "kube-dns", "10.96.0.10", 53, 53);
        object["spec"]["ports"][0]["protocol"] = "UDP".into();
        let cluster = Cluster::start(mode, &routed, object)?;
        cluster.scene.client().run(|| {
            for id in 0..3u8 {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(dns)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                let query =
                    [&[0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03www\x04shop\x00", &[0, 1, 0, 1]]
                        .concat();
                socket.send(&query)?;
                ensure!(socket.recv(&mut [0; 512]).is_err(), "somebody answered");
            }
            Ok(())
        })?;
        let found = cluster.finding("service-port-not-listening")?;
        is_about(
            &found,
            &[
                "connection tracking sends UDP to 10.96.0.10:53 (Service kube-system/kube-dns) on to 10.9.1.2:53",
                "pod shop/db-0",
            ],
        )?;
    }
    Ok(())
}

#[test]
fn the_other_end_of_an_event_is_named() -> Result<()> {
    let cluster =
        Cluster::start(Mode::Nftables, &routed(None), service("shop", "db", CLUSTER_IP, 5432, 5432))?;
    let stream = EventStream::open(cluster.agent.events, "type=PACKETLOSS")?;
    cluster.connects_in_vain(at(CLUSTER_IP, 5432))?;
    wait::until("an event with the Service's name", || {
        let is_named = |event: &Value| event["attrs"]["dst_entity"] == "service/shop/db";
        stream.received().iter().any(is_named).then_some(())
    })
    .with_context(|| format!("{:#?}", stream.received()))
}

#[test]
fn pods_of_other_nodes_are_named_where_the_agent_may_list_them() -> Result<()> {
    let api = ApiServer::start(0)?;
    api.allow_all_pods();
    let scene = Scene::new(Topology::Direct, Family::V4)?;
    let mut other = pod("shop", "far-0", "u2", "far");
    other["spec"]["nodeName"] = "node-2".into();
    other["status"]["podIPs"] = json!([{ "ip": "10.9.0.77" }]);
    api.set(other);
    let config =
        format!("kubernetes.peers = 'cluster'\nkubernetes.kubeconfig = '{}'", api.kubeconfig()?.display());
    let args = ["--node.name", NODE].map(str::to_owned).into();
    let agent = Agent::start(&Settings { config, args, ..Settings::default() })?;
    let objects = |resource| agent.scrape().ok()?.sum("inspector_kube_objects", &[("resource", resource)]);
    wait::until("the pods of all nodes", || objects("all-pods").filter(|pods| *pods == 1.0))
        .with_context(|| agent.log().join("\n"))?;
    assert_eq!(objects("pods"), Some(0.0), "it is none of this node");
    // An address that nobody on the link has: the neighbour is asked for in vain.
    let stream = EventStream::open(agent.events, "")?;
    let to = SocketAddr::from(at("10.9.0.77", 80));
    scene.client().run(|| {
        // Nobody answers.
        drop(TcpStream::connect_timeout(&to, PATIENCE));
        Ok(())
    })?;
    wait::until("an event with the pod's name", || {
        let is_named = |event: &Value| event["attrs"]["dst_entity"] == "shop/far-0";
        stream.received().iter().any(is_named).then_some(())
    })
    .with_context(|| format!("{:#?}", stream.received()))
}
