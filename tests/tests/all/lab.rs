//! The lab itself: a test that trusts a fault must know that the fault happens and goes away.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use inspector_tests::lab::counters::counter;
use inspector_tests::lab::{Connection, Family, Namespace, Pace, Pair, Scene, Topology, faults, run};
use inspector_tests::wait;

fn exists(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

#[test]
fn a_pair_carries_data_in_both_families() -> Result<()> {
    let pair = Pair::new()?;
    for family in Family::BOTH {
        let mut connection = Connection::open(&pair, family)?;
        connection.exchange(3000, 70_000)?;
        assert_eq!(connection.client_at.ip(), pair.client_ip(family));
        connection.close()?;
    }
    assert_ne!(pair.client.cookie()?, pair.server.cookie()?);
    Ok(())
}

#[test]
fn every_fault_really_happens() -> Result<()> {
    let pair = Pair::new()?;
    for family in Family::BOTH {
        let closed = pair.server_at(family, faults::CLOSED_PORT);
        assert_eq!(faults::connect_to_closed_port(&pair.client, closed)?.ip(), pair.client_ip(family));
        assert_eq!(faults::send_udp(&pair.client, closed, 3, 10)?.ip(), pair.client_ip(family));
        faults::reset_by_linger(&pair, family)?;
        faults::reset_by_unread_data(&pair, family)?;
    }
    let full = faults::fill_accept_queue(&pair, Family::V4)?;
    wait::until("ListenOverflows to rise", || (overflows(&pair.server) > 0).then_some(()))?;
    drop(full);
    Ok(())
}

#[test]
fn a_dropping_rule_holds_until_it_is_removed() -> Result<()> {
    let pair = Pair::new()?;
    let mut connection = Connection::open(&pair, Family::V6)?;
    faults::drop_incoming(&pair.server, "tcp", connection.server_at.port())?;
    std::io::Write::write_all(&mut connection.client, b"late")?;
    connection.server.set_nonblocking(true)?;
    assert!(connection.server.peek(&mut [0]).is_err(), "the rule does not drop");
    faults::stop_dropping(&pair.server)?;
    wait::until("the retransmission", || connection.server.peek(&mut [0]).ok())?;
    Ok(())
}

#[test]
fn clients_of_an_ongoing_form_go_on_until_they_end_and_wait_no_longer_than_they_may() -> Result<()> {
    let scene = Scene::new(Topology::Direct, Family::V4)?.at_pace(Pace::Again(Duration::from_millis(200)));
    let (wall, open) = (scene.server_at(80), scene.server_at(81));
    faults::drop_incoming(scene.server(), "tcp", wall.port())?;
    let knocking = scene.connect(scene.client(), wall)?;
    scene.in_vain(scene.client(), 3)?;
    // Who gives up within a second has repeated no SYN.
    ensure!(counter(scene.client(), "TcpExtTCPSynRetrans")? == 0, "a client was patient");
    drop(knocking);

    let refused = scene.refused(scene.client(), open)?;
    scene.attempts.go_on(2)?;
    let listener = scene.server().listen(open)?;
    let failed = || (scene.attempts.failed() > 0).then_some(());
    wait::until("an attempt that is not refused", failed)?;
    scene.attempts.end();
    drop((refused, listener));
    Ok(())
}

#[test]
fn a_namespace_is_deleted_after_a_panic() {
    let mut name = String::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let namespace = Namespace::new("panic").expect("root");
        name = namespace.name().to_owned();
        assert!(!exists(&name), "this panics, as it should");
    }));
    assert!(panicked.is_err());
    assert!(!exists(&name));
}

#[test]
fn a_namespace_of_a_dead_run_is_removed_by_the_next_one() -> Result<()> {
    // Process ids end at 2^22, so nobody has this one.
    let orphan = "ins4194305-0-orphan";
    run("ip", &format!("netns add {orphan}"))?;
    let own = Namespace::new("own")?;
    Namespace::remove_leftovers();
    assert!(!exists(orphan));
    assert!(exists(own.name()));
    Ok(())
}

fn overflows(namespace: &Namespace) -> u64 {
    let table = namespace.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?));
    let table = table.expect("netstat is readable");
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let column = names.split(' ').position(|name| name == "ListenOverflows").expect("on every kernel");
    values.split(' ').nth(column).and_then(|value| value.parse().ok()).expect("a number")
}
