//! socket-latency: slow readers and blocked sends, and none where a connection is idle.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;
use inspector::probe::Options;
use inspector_ebpf::SocketLatency;
use inspector_ebpf::socket_latency::{KIND_READ, KIND_READS, KIND_SEND, KIND_SENDS};
use inspector_ebpf::sum::{BOUNDS_NS, is_above};
use inspector_tests::lab::{Connection, Family, Pair};

use super::{ESTABLISHED, TCP, UDP, check_head, is};
use crate::observer::Observer;

const SLOW: Duration = Duration::from_millis(150);

fn observer() -> Result<Observer> {
    Observer::of(&["socket-latency"], Options::default())
}

/// As the kernel keeps it: cut after 15 bytes.
fn own_name() -> String {
    let name = thread::current().name().unwrap_or_default().to_owned();
    name.chars().take(15).collect()
}

fn wait_for(
    observer: &Observer,
    kind: u16,
    netns: u64,
    proto: u8,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<SocketLatency> {
    observer.wait_for::<SocketLatency>("the slow one", |l| {
        l.head.kind == kind && l.latency_ns >= SLOW.as_nanos() as u64 && is(&l.head, netns, proto, from, to)
    })
}

#[test]
fn a_reader_that_comes_late_is_slow_by_the_time_that_data_waited() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let server = pair.server.cookie()?;
    for family in Family::BOTH {
        let mut connection = Connection::open(&pair, family)?;
        connection.exchange(1, 1)?;
        let started = Instant::now();
        connection.client.write_all(&[b'x'; 1000])?;
        connection.server.peek(&mut [0])?;
        sleep(SLOW);
        connection.server.read_exact(&mut [0; 600])?;
        let took = started.elapsed();
        let (from, to) = (connection.server_at, connection.client_at);
        let slow = wait_for(&observer, KIND_READ, server, TCP, from, to)?;
        check_head(&slow.head, KIND_READ, ESTABLISHED)?;
        assert!(u128::from(slow.latency_ns) <= took.as_nanos(), "{} of {took:?}", slow.latency_ns);
        assert_eq!((slow.bytes, slow.left), (600, 400));
        assert_eq!(slow.pid, std::process::id());
        assert_eq!(slow.thread_name(), own_name());
    }
    Ok(())
}

/// Data becomes ready on one CPU while a read ends on another: the time between is no less than 0.
#[test]
fn data_that_comes_while_a_read_ends_has_not_waited_for_ever() -> Result<()> {
    const BYTES: u64 = 500 << 20;

    let (pair, mut observer) = (Pair::new()?, observer()?);
    let server = pair.server.cookie()?;
    let started = Instant::now();
    for family in Family::BOTH {
        let Connection { mut client, mut server, .. } = Connection::open(&pair, family)?;
        let writer = thread::spawn(move || std::io::copy(&mut std::io::repeat(0).take(BYTES), &mut client));
        // Small reads, so that many end while more comes.
        let mut buffer = [0; 4096];
        while server.read(&mut buffer)? > 0 {}
        assert_eq!(writer.join().expect("writing does not panic")?, BYTES);
    }
    observer.unload();
    let took = started.elapsed();
    let reads: Vec<_> =
        observer.records::<SocketLatency>().into_iter().filter(|l| l.head.netns == server).collect();
    assert!(reads.iter().any(|l| l.head.kind == KIND_READS), "no read was timed");
    let longest = reads.iter().filter(|l| l.head.kind == KIND_READ).map(|l| l.latency_ns).max();
    assert!(longest.is_none_or(|ns| u128::from(ns) <= took.as_nanos()), "{longest:?} ns of {took:?}");
    Ok(())
}

#[test]
fn an_idle_connection_is_no_slow_reader() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let (client, server) = (pair.client.cookie()?, pair.server.cookie()?);
    for family in Family::BOTH {
        let mut connection = Connection::open(&pair, family)?;
        connection.exchange(1000, 1000)?;
        thread::scope(|scope| -> Result<()> {
            // It waits for data all the time, and takes it at once.
            let mut end = connection.server.try_clone()?;
            let reader = scope.spawn(move || end.read_exact(&mut [0; 100]));
            sleep(2 * SLOW);
            connection.client.write_all(&[b'x'; 100])?;
            Ok(reader.join().expect("it does not panic")?)
        })?;
        sleep(2 * SLOW);
        connection.close()?;
    }
    // A later one shows that everything before it has been seen.
    let mut connection = Connection::open(&pair, Family::V4)?;
    connection.client.write_all(b"x")?;
    connection.server.peek(&mut [0])?;
    sleep(SLOW);
    connection.server.read_exact(&mut [0])?;
    let (from, to) = (connection.server_at, connection.client_at);
    wait_for(&observer, KIND_READ, server, TCP, from, to)?;
    let is_slow = |l: &SocketLatency| {
        [client, server].contains(&l.head.netns) && l.latency_ns >= SLOW.as_nanos() as u64
    };
    assert_eq!(observer.records::<SocketLatency>().into_iter().filter(is_slow).count(), 1);
    Ok(())
}

#[test]
fn a_datagram_that_waits_is_timed_and_what_waits_behind_it_is_counted() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let server = pair.server.cookie()?;
    for family in Family::BOTH {
        let socket = pair.server.udp((pair.server_ip(family), 0))?;
        let sender = pair.client.udp((pair.client_ip(family), 0))?;
        socket.connect(sender.local_addr()?)?;
        for _ in 0..3 {
            sender.send_to(&[0; 50], socket.local_addr()?)?;
        }
        socket.peek(&mut [0; 50])?;
        sleep(SLOW);
        socket.recv(&mut [0; 50])?;
        let (from, to) = (socket.local_addr()?, sender.local_addr()?);
        let slow = wait_for(&observer, KIND_READ, server, UDP, from, to)?;
        assert_eq!((slow.bytes, slow.left, slow.head.tcp_state), (50, 2, 0));
    }
    Ok(())
}

#[test]
fn a_send_that_waits_for_its_reader_is_slow() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let netns = pair.client.cookie()?;
    for family in Family::BOTH {
        let connection = Connection::open(&pair, family)?;
        let Connection { mut client, mut server, client_at, server_at } = connection;
        let data = vec![b'x'; 16 << 20];
        let sent = thread::scope(|scope| -> Result<u128> {
            let sender = scope.spawn(|| {
                let started = Instant::now();
                client.write_all(&data).map(|()| started.elapsed().as_nanos())
            });
            sleep(SLOW + SLOW);
            server.read_exact(&mut vec![0; data.len()])?;
            Ok(sender.join().expect("it does not panic")?)
        })?;
        let slow = wait_for(&observer, KIND_SEND, netns, TCP, client_at, server_at)?;
        check_head(&slow.head, KIND_SEND, ESTABLISHED)?;
        assert!(u128::from(slow.latency_ns) <= sent, "{} of {sent}", slow.latency_ns);
        assert!(slow.bytes > 0 && slow.bytes as usize <= data.len());
        assert_eq!((slow.left, slow.pid), (0, std::process::id()));
    }
    Ok(())
}

#[test]
fn every_read_and_send_is_in_a_sum_of_its_bucket() -> Result<()> {
    let (pair, mut observer) = (Pair::new()?, observer()?);
    let (client, server) = (pair.client.cookie()?, pair.server.cookie()?);
    let mut connection = Connection::open(&pair, Family::V6)?;
    for _ in 0..10 {
        connection.client.write_all(&[b'x'; 100])?;
        connection.server.peek(&mut [0])?;
        connection.server.read_exact(&mut [0; 100])?;
    }
    connection.client.write_all(b"x")?;
    connection.server.peek(&mut [0])?;
    sleep(SLOW);
    connection.server.read_exact(&mut [0])?;
    observer.unload();
    let all = observer.records::<SocketLatency>();
    let sums = |netns, kind| {
        all.iter().filter(move |l| (l.head.netns, l.head.kind) == (netns, kind)).collect::<Vec<_>>()
    };
    let (reads, sends) = (sums(server, KIND_READS), sums(client, KIND_SENDS));
    assert_eq!(sends.iter().map(|sum| sum.count).sum::<u64>(), 11);
    assert_eq!(reads.iter().map(|sum| sum.count).sum::<u64>(), 11);
    let slow: Vec<_> = reads.iter().filter(|sum| is_above(sum.bucket, 100_000_000)).collect();
    assert_eq!(slow.iter().map(|sum| sum.count).sum::<u64>(), 1);
    assert!(slow[0].latency_ns >= SLOW.as_nanos() as u64);
    for sum in reads.iter().chain(&sends) {
        let mean = sum.latency_ns / sum.count;
        let index = usize::from(sum.bucket);
        assert!(index == 0 || mean > BOUNDS_NS[index - 1], "{sum:?}");
        assert!(index == BOUNDS_NS.len() || mean <= BOUNDS_NS[index], "{sum:?}");
    }
    Ok(())
}
