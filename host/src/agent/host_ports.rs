//! Which ports of the host belong to pods that use its network: kept in mind, so that events name them, and
//! looked up for a question.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::discover;
use crate::entities::{Entities, Kind};

/// Time between two looks: a program that listens does so for long.
const EACH: Duration = Duration::from_secs(5);
/// A look takes 1 % of a CPU at most: on a node of many processes it comes less often.
const REST: u32 = 99;

/// Never ends.
pub(super) async fn follow(entities: Arc<Entities>, procfs: PathBuf) {
    let mut was_refused = false;
    loop {
        let (known, proc) = (Arc::clone(&entities), procfs.clone());
        let began = Instant::now();
        let looked = tokio::task::spawn_blocking(move || look(&known, &proc)).await;
        match looked.expect("looking does not panic and is not cancelled") {
            Ok(ports) => entities.set_host_ports(ports),
            Err(error) if !was_refused => {
                tracing::warn!(%error, "events do not name pods with the host's network");
                was_refused = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(EACH.max(began.elapsed() * REST)).await;
    }
}

/// The pod that has a port of the host, by protocol and port.
///
/// # Errors
/// The host's sockets or processes cannot be listed.
pub(super) fn look(entities: &Entities, procfs: &Path) -> io::Result<BTreeMap<(u8, u16), String>> {
    let pods = entities.host_pods();
    let host = entities.live().into_iter().find(|entity| entity.kind == Kind::Host);
    let Some(host) = host.filter(|_| !pods.is_empty()) else { return Ok(BTreeMap::new()) };
    let ports = discover::host_ports(procfs, &host.path, |uid| pods.contains_key(uid))?;
    Ok(ports.into_iter().filter_map(|(port, uid)| Some((port, pods.get(&uid)?.clone()))).collect())
}
