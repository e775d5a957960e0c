//! Looks closer where a finding asks for it: bounded and read-only, inside the namespace of an entity,
//! and only when a user asked for it (`inspector diagnose --confirm`).
//!
//! | check | looks at | parameters |
//! |---|---|---|
//! | `listeners` | listening sockets, their queues and backlogs | `port`, `proto` |
//! | `route` | the route that the kernel would take | `to`, `from` |
//! | `neighbour` | the entry for an address of the link | `address` |
//! | `netfilter` | chains and rules that could drop, and which of them does | `hook`, `dport`, `saddr`, `daddr` |
//! | `capture` | packets of one connection, into a file | `saddr`, `daddr`, `sport`, `dport`, `proto` |
//!
//! Each look has a thread of its own, which enters the namespace and ends there: one that hangs in
//! the kernel is not waited for and costs its own result. Parameters come from guests, so each is
//! parsed into an address or a number before it is used, and none reaches a command line.

mod capture;
mod fact;
mod listeners;
mod neighbour;
mod netfilter;
mod params;
mod route;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use crate::answers::report::Check;
use crate::entities::{Entity, Kind};
use crate::netns;

pub use fact::Fact;
use fact::MAX_FACTS;
use params::Params;

/// Looks of one question; the rest is said not to have been done.
const MAX_LOOKS: usize = 16;

/// What was seen; or why nothing was.
pub type Facts = Result<Vec<Fact>, String>;

/// What to look at and where.
#[derive(Debug, Clone)]
pub struct Look {
    /// What.
    pub check: Check,
    /// In whose namespace.
    pub entity: Arc<Entity>,
}

/// Does all at once, and returns the facts of each in the same order. Blocks until the deadline at
/// most.
pub fn look(looks: Vec<Look>, deadline: Instant) -> Vec<Facts> {
    let mut found: Vec<Facts> = vec![Err("not in time".to_owned()); looks.len()];
    let (done, results) = channel();
    for (at, look) in looks.into_iter().enumerate() {
        if at >= MAX_LOOKS {
            found[at] = Err(format!("not done: more than {MAX_LOOKS} checks at once"));
            continue;
        }
        let done = done.clone();
        let body = move || {
            // Nobody waits any more: then nobody wants to know.
            let _ = done.send((at, inside(&look, deadline)));
        };
        if let Err(e) = thread::Builder::new().name("check".to_owned()).spawn(body) {
            found[at] = Err(format!("no thread for it: {e}"));
        }
    }
    drop(done);
    while let Ok((at, facts)) = results.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        found[at] = facts;
    }
    found
}

fn inside(look: &Look, deadline: Instant) -> Facts {
    let Check { kind, params, .. } = &look.check;
    let params = Params(params);
    let (cookie, _) =
        netns::enter(&look.entity.path).map_err(|e| format!("cannot enter it: {}", netns::refusal(&e)))?;
    if cookie != look.entity.cookie {
        return Err("it is gone".to_owned());
    }
    let texts = match kind.as_str() {
        "listeners" => listeners::look(&params),
        "route" => route::look(&params),
        "neighbour" => neighbour::look(&params),
        "netfilter" => {
            let mut facts = netfilter::look(&params, deadline);
            // Network plugins write on the node; what a pod writes for itself stands for nobody's policy.
            if look.entity.kind == Kind::Pod {
                facts.iter_mut().flatten().for_each(|fact| fact.policies.clear());
            }
            return shortened(facts);
        }
        "capture" => capture::look(&params, deadline),
        _ => return Err("this version does not know that check".to_owned()),
    };
    shortened(texts.map(|texts| texts.into_iter().map(Fact::from).collect()))
}

fn shortened(facts: io::Result<Vec<Fact>>) -> Facts {
    let mut facts = facts.map_err(|e| e.to_string())?;
    if let Some(more) = facts.len().checked_sub(MAX_FACTS).filter(|more| *more > 0) {
        facts.truncate(MAX_FACTS);
        facts.push(Fact::from(format!("and {more} more")));
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The namespace of the tests, as an entity.
    fn here() -> Arc<Entity> {
        let path = std::path::PathBuf::from("/proc/thread-self/ns/net");
        let (cookie, inode) = netns::enter(&path).expect("a namespace");
        Arc::new(Entity { id: 1, kind: Kind::Host, cookie, inode, path, ..Entity::default() })
    }

    fn facts(kind: &str, params: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let check = Check { kind: kind.to_owned(), entity: 1, params };
        let deadline = Instant::now() + Duration::from_secs(20);
        let facts = look(vec![Look { check, entity: here() }], deadline).remove(0);
        facts.map(|facts| facts.into_iter().map(|fact| fact.text).collect())
    }

    #[test]
    fn a_listener_is_found_with_its_backlog_and_its_absence_is_said() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port().to_string();
        let found = facts("listeners", &[("port", &port)]).expect("listeners");
        assert!(found[0].starts_with(&format!("TCP 127.0.0.1:{port} listens: 0 of ")), "{found:?}");
        drop(listener);
        // A child of another test has a copy of the socket until it runs its own program.
        let nothing = Ok(vec![format!("nothing listens on TCP port {port}")]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while facts("listeners", &[("port", &port)]) != nothing {
            assert!(Instant::now() < deadline, "{:?}", facts("listeners", &[("port", &port)]));
        }
        let socket = std::net::UdpSocket::bind("[::1]:0").expect("a free port");
        let port = socket.local_addr().expect("bound").port().to_string();
        let found = facts("listeners", &[("port", &port), ("proto", "udp")]).expect("listeners");
        assert!(found[0].starts_with(&format!("UDP [::1]:{port} is bound: 0 bytes wait")), "{found:?}");
    }

    #[test]
    fn the_way_to_an_address_is_told() {
        assert_eq!(facts("route", &[("to", "127.0.0.1")]).expect("a route"), ["127.0.0.1 is local, by lo"]);
        let found = facts("neighbour", &[("address", "198.51.100.7")]).expect("a table");
        assert_eq!(found, ["no entry for 198.51.100.7"]);
    }

    #[test]
    fn nonsense_of_a_guest_is_refused() {
        for (kind, params) in [
            ("moon", vec![]),
            ("route", vec![]),
            ("route", vec![("to", "; rm -rf /")]),
            ("listeners", vec![("port", "70000")]),
            ("listeners", vec![("proto", "x")]),
            ("capture", vec![("saddr", "10.0.0.1")]),
        ] {
            assert!(facts(kind, &params).is_err(), "{kind} {params:?}");
        }
    }
}
