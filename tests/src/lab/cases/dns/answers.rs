//! Name servers that are slow or say no.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::cases::dns::silence::{asking, either};
use crate::lab::cases::{Case, KNOWN, LIFE, NOISE, ONGOING, Ongoing, client, server};
use crate::lab::counters::counted;
use crate::lab::dns::{A, FAILED, LATE, Resolver, Transport};
use crate::lab::pair::{address, join};
use crate::lab::{Family, Held, Namespace, Scene};

pub const CASES: &[Case] = &[
    Case {
        name: "dns_slow",
        made: "a name server that takes 300 ms for each answer",
        expect: &either("dns-slow"),
        ongoing: Ongoing::Again,
        run: |scene| {
            let resolver = Resolver::start(&scene.pair)?;
            for _ in 0..6 {
                let asked = resolver.ask(scene.family, Transport::Udp, "www.late.example", A)?;
                ensure!(asked.took >= LATE, "it took {:?}", asked.took);
            }
            Ok(Box::new(()))
        },
        ..KNOWN
    },
    Case {
        name: "dns_servfail",
        made: "a name server that fails",
        expect: &either("dns-error"),
        ongoing: Ongoing::Again,
        run: |scene| ask_times(scene, 20, "www.servfail.example"),
        ..KNOWN
    },
    Case {
        name: "dns_refused",
        made: "a name server that refuses",
        expect: &either("dns-error"),
        ongoing: Ongoing::Again,
        run: |scene| ask_times(scene, 20, "www.refused.example"),
        ..KNOWN
    },
    Case {
        name: "dns_nxdomain_storm",
        made: "fifty questions for names that do not exist, and none for one that does",
        expect: &either("dns-error"),
        ongoing: Ongoing::Again,
        run: |scene| ask_times(scene, 50, "missing.nx.example"),
        ..KNOWN
    },
    Case {
        name: "life_late_dns_answer",
        made: "a name server answers after its client has given up, again and again",
        expect: &[server("dns-slow"), client("dns-slow"), server("dns-timeout"), client("dns-timeout")],
        ongoing: Ongoing::Again,
        run: late_answers,
        ..LIFE
    },
    Case {
        name: "var_failing_names_amid_pods",
        made: "a name server fails for one zone, while a pod of its host starts and ends",
        expect: &[server("dns-error"), client("dns-error")],
        ongoing: Ongoing::Never("its pod starts and ends once"),
        run: failing_names,
        ..NOISE
    },
    Case {
        name: "ongoing_servfail",
        made: "a name server that fails for ever, asked every 0.3 s",
        expect: &[server("dns-error"), client("dns-error")],
        run: |scene| {
            Resolver::start(&scene.pair)?;
            asking(scene, "www.servfail.example", FAILED, 300)
        },
        ..ONGOING
    },
];

fn ask_times(scene: &Scene, times: u32, name: &str) -> Result<Held> {
    let resolver = Resolver::start(&scene.pair)?;
    for _ in 0..times {
        resolver.ask(scene.family, Transport::Udp, name, A)?;
    }
    Ok(Box::new(()))
}

/// The client waits for a third of what the server takes, and closes its socket.
fn late_answers(scene: &Scene) -> Result<Held> {
    let resolver = Resolver::start(&scene.pair)?;
    for n in 0..4 {
        resolver.ask_without_answer(scene.family, &format!("host{n}.late.example"), 1)?;
        sleep(LATE + Duration::from_millis(50));
    }
    let nobody = scene.by_family("UdpNoPorts", "Udp6NoPorts");
    counted(scene.client(), nobody, 3)?;
    Ok(Box::new(()))
}

fn failing_names(scene: &Scene) -> Result<Held> {
    const NET: u8 = 9;
    let resolver = Resolver::start(&scene.pair)?;
    let pod = Namespace::new("pod")?;
    join(&pod, "eth0", scene.server(), "veth0")?;
    for (at, link, host) in [(scene.server(), "veth0", 1), (&pod, "eth0", 2)] {
        at.sysctl(&format!("net/ipv6/conf/{link}/dad_transmits"), "1")?;
        at.ip(&format!("addr add {}/24 dev {link}", address(Family::V4, NET, host)))?;
        at.ip(&format!("link set {link} up"))?;
    }
    for n in 0..20 {
        let zone = if n % 2 == 0 { "servfail.example" } else { "example" };
        resolver.ask(scene.family, Transport::Udp, &format!("host{n}.{zone}"), A)?;
        sleep(Duration::from_millis(50));
    }
    drop(pod);
    Ok(Box::new(()))
}
