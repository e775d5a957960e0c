//! Keeps in mind which ports of the host belong to pods that use its network, so that events name them.

use std::collections::BTreeMap;
use std::path::PathBuf;
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
        if let Ok(Err(error)) = looked
            && !was_refused
        {
            tracing::warn!(%error, "events do not name pods with the host's network");
            was_refused = true;
        }
        tokio::time::sleep(EACH.max(began.elapsed() * REST)).await;
    }
}

fn look(entities: &Entities, procfs: &std::path::Path) -> std::io::Result<()> {
    let pods = entities.host_pods();
    let host = entities.live().into_iter().find(|entity| entity.kind == Kind::Host);
    let Some(host) = host.filter(|_| !pods.is_empty()) else {
        entities.set_host_ports(BTreeMap::new());
        return Ok(());
    };
    let ports = discover::host_ports(procfs, &host.path, |uid| pods.contains_key(uid))?;
    let named = ports.into_iter().filter_map(|(port, uid)| Some((port, pods.get(&uid)?.clone())));
    entities.set_host_ports(named.collect());
    Ok(())
}
