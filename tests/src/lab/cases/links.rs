//! Links that are down.

use std::io::Write as _;

use anyhow::ensure;
use nix::libc;

use crate::lab::Connection;
use crate::lab::bridges::put_on_bridge;
use crate::lab::cases::{BLIND, Case, KNOWN, Ongoing, UNSEEN, VARIATION, client, router, server, unanswered};
use crate::lab::counters::{counted, neighbour_failed};
use crate::lab::sockets::set_option;

pub const CASES: &[Case] = &[
    Case {
        name: "veth_down_peer",
        made: "the server's end of the link goes down while a connection is in use",
        expect: &[client("link-down"), server("link-down")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            connection.exchange(1, 1)?;
            let patience: u32 = 3000;
            set_option(&connection.client, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &patience)?;
            scene.server().ip("link set eth0 down")?;
            connection.client.write_all(b"hello?")?;
            counted(scene.client(), "TcpExtTCPTimeouts", 2)?;
            Ok(Box::new(connection))
        },
        ..KNOWN
    },
    Case {
        name: "var_router_link_down",
        made: "the router's link to the server goes down while a connection is in use",
        expect: &[router("link-down"), router("route-missing"), server("link-down")],
        ongoing: Ongoing::ByItself,
        run: |scene| {
            let mut connection = Connection::open(&scene.pair, scene.family)?;
            connection.exchange(100, 100)?;
            scene.router()?.ip("link set eth1 down")?;
            std::io::Write::write_all(&mut connection.client, b"hello?")?;
            counted(scene.client(), "TcpExtTCPTimeouts", 2)?;
            Ok(Box::new(connection))
        },
        ..VARIATION.routed()
    },
    Case {
        name: "var_vpn_ended",
        made: "the program behind the client's tunnel device has ended, and its routes are still there",
        expect: &[client("link-down")],
        run: |scene| {
            let client = scene.client();
            client.ip("tuntap add dev tun0 mode tun")?;
            client.ip("link set tun0 addrgenmode none up")?;
            client.ip(&format!("route add {} dev tun0", scene.beyond_net()))?;
            ensure!(client.ip("link show tun0")?.contains("NO-CARRIER"), "somebody reads from the tunnel");
            unanswered(scene, scene.beyond())
        },
        ..BLIND
    },
    Case {
        name: "var_spanning_tree",
        made: "the port of the server's bridge still listens for loops and forwards nothing",
        expect: &[server("link-down"), client("neighbour-unresolved")],
        run: |scene| {
            put_on_bridge(scene.server(), "stp_state 1 forward_delay 1500")?;
            let connecting = scene.connect(scene.client(), scene.server_at(80))?;
            neighbour_failed(scene.client())?;
            Ok(connecting)
        },
        ..UNSEEN
    },
];
