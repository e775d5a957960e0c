//! dns: queries, answers and the time between them, at the client's side.

use std::time::Duration;

use anyhow::Result;
use inspector::probe::Options;
use inspector_ebpf::dns::{KIND_ANSWER, KIND_QUERY};
use inspector_ebpf::record::{FLAG_PACKET, FLAG_PORTS};
use inspector_ebpf::skb_drop::KIND_DROP;
use inspector_ebpf::{Dns, SkbDrop};
use inspector_tests::lab::dns::{A, AAAA, LATE, Resolver, Transport};
use inspector_tests::lab::{Family, Pair};

use super::{TCP, UDP, check_head, is};
use crate::observer::Observer;

const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;

fn observer() -> Result<Observer> {
    Observer::of(&["dns"], Options::default())
}

fn kind(dns: &Dns, kind: u16, name: &str) -> bool {
    dns.head.kind == kind && dns.query_name() == name
}

#[test]
fn a_query_and_its_answer_are_seen_once_with_name_type_code_and_time() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let resolver = Resolver::start(&pair)?;
    let client = pair.client.cookie()?;
    for (transport, proto) in [(Transport::Udp, UDP), (Transport::Tcp, TCP)] {
        for family in Family::BOTH {
            for (name, qtype, rcode, answers) in
                [("found.example", A, NOERROR, 1), ("missing.nx.example", AAAA, NXDOMAIN, 0)]
            {
                let asked = resolver.ask(family, transport, name, qtype)?;
                let (from, to) = (asked.client, asked.server);
                let of = |d: &Dns, k| kind(d, k, name) && is(&d.head, client, proto, from, to);
                let query = observer.wait_for::<Dns>("the query", |d| of(d, KIND_QUERY))?;
                let answer = observer.wait_for::<Dns>("the answer", |d| of(d, KIND_ANSWER))?;
                for record in [&query, &answer] {
                    check_head(&record.head, record.head.kind, 0)?;
                    assert_eq!(record.head.flags, FLAG_PACKET | FLAG_PORTS);
                    assert_eq!((record.id, record.qtype), (asked.id, qtype));
                    assert_eq!((record.matched, record.tries), (1, 1));
                    assert_eq!(usize::from(record.name_length), name.len() + 2);
                    assert_ne!(record.socket, 0);
                }
                assert_eq!(query.socket, answer.socket);
                assert_eq!((query.latency_ns, query.rcode, query.answers), (0, 0, 0));
                assert_eq!((answer.rcode, answer.answers), (rcode, answers));
                assert_eq!(query.length, asked.query_bytes);
                assert_eq!(answer.length, asked.answer_bytes);
                let latency = Duration::from_nanos(answer.latency_ns);
                let between = Duration::from_nanos(answer.head.ts_ns - query.head.ts_ns);
                assert!(latency <= asked.took, "{latency:?} of {:?}", asked.took);
                assert!(latency.abs_diff(between) < Duration::from_millis(20), "{latency:?} {between:?}");
                let all = observer.records::<Dns>();
                let seen = |k| all.iter().filter(|d| of(d, k)).count();
                assert_eq!((seen(KIND_QUERY), seen(KIND_ANSWER)), (1, 1), "nor at the server's side");
            }
        }
    }
    let server = pair.server.cookie()?;
    assert!(observer.records::<Dns>().iter().all(|dns| dns.head.netns != server));
    Ok(())
}

#[test]
fn an_answer_that_takes_its_time_has_that_latency() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let resolver = Resolver::start(&pair)?;
    for family in Family::BOTH {
        let asked = resolver.ask(family, Transport::Udp, "slow.late.example", A)?;
        let (from, to) = (asked.client, asked.server);
        let answer = observer.wait_for::<Dns>("the answer", |d| {
            d.head.kind == KIND_ANSWER && (d.head.source(), d.head.sport) == (from.ip(), from.port())
        })?;
        assert_eq!((answer.head.destination(), answer.head.dport), (to.ip(), to.port()));
        let latency = Duration::from_nanos(answer.latency_ns);
        assert!(latency >= LATE && latency <= asked.took, "{latency:?} of {:?}", asked.took);
    }
    Ok(())
}

#[test]
fn a_query_that_is_sent_again_keeps_its_start_and_counts_its_tries() -> Result<()> {
    let (pair, observer) = (Pair::new()?, observer()?);
    let resolver = Resolver::start(&pair)?;
    for family in Family::BOTH {
        let asked = resolver.ask_without_answer(family, "a.silent.example", 3)?;
        let again = observer.wait_for::<Dns>("the third", |d| {
            d.tries == 3 && (d.head.source(), d.head.sport) == (asked.client.ip(), asked.client.port())
        })?;
        assert!(kind(&again, KIND_QUERY, "a.silent.example"));
        assert_eq!(again.id, asked.id);
        let client = pair.client.cookie()?;
        let own = observer.records::<Dns>().into_iter().filter(|d| d.head.netns == client);
        let kinds: Vec<_> =
            own.filter(|d| d.head.source() == asked.client.ip()).map(|d| d.head.kind).collect();
        assert_eq!(kinds, [KIND_QUERY; 3]);
    }
    Ok(())
}

#[test]
fn an_answer_to_a_client_that_is_gone_is_a_drop_without_a_socket() -> Result<()> {
    let (pair, observer) = (Pair::new()?, Observer::of(&["dns", "skb-drop"], Options::default())?);
    let resolver = Resolver::start(&pair)?;
    let client = pair.client.cookie()?;
    for family in Family::BOTH {
        let asked = resolver.ask_without_answer(family, "slow.late.example", 1)?;
        let drop = observer.wait_for::<SkbDrop>("the answer's drop", |d| {
            is(&d.head, client, UDP, asked.server, asked.client)
        })?;
        assert_eq!(drop.head.kind, KIND_DROP);
        assert_eq!(observer.names.drop_reason(drop.reason), "NO_SOCKET");
        let mut own = observer.records::<Dns>().into_iter().filter(|d| d.head.netns == client);
        assert!(own.all(|d| d.head.kind == KIND_QUERY), "nobody got it");
    }
    Ok(())
}
