//! One follower for each node of a cluster, also for nodes that join while events are watched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::mpsc::Sender;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::filter::Filter;
use super::follow::{Follower, Message};
use crate::cli::cluster::{self, Found};
use crate::cli::terminal;
use crate::http::reach::Server;
use crate::kubernetes::agents::Agents;
use crate::kubernetes::error::Error;
use crate::text::cause;

/// How often it is looked which agents there are.
const LOOK: Duration = Duration::from_secs(30);

/// The followers of a cluster.
pub struct Crew {
    agents: Arc<Agents>,
    filter: Filter,
    /// What is normal is wanted too.
    noise: bool,
    out: Sender<(Arc<str>, Message)>,
    followers: JoinSet<()>,
    of_node: BTreeMap<String, AbortHandle>,
    /// What was said last of a node that cannot be asked, so that it is said once.
    said: BTreeMap<String, String>,
}

impl Crew {
    /// A crew for the agents that there are. It follows nobody yet.
    ///
    /// # Errors
    /// If the cluster does not say which agents there are, or there is none.
    pub async fn find(
        agents: Arc<Agents>,
        filter: Filter,
        noise: bool,
        out: Sender<(Arc<str>, Message)>,
    ) -> Result<(Self, Found), Error> {
        allow_connections();
        let found = cluster::find(&agents, &[]).await?;
        let names = found.servers.iter().map(|server| server.name().to_string());
        let names: Vec<_> = names.chain(found.absent.iter().map(|(node, _)| node.clone())).collect();
        for nobody in filter.no_node(&names) {
            terminal::complain(&Message::Nobody(nobody).to_string());
        }
        let (followers, of_node, said) = (JoinSet::new(), BTreeMap::new(), BTreeMap::new());
        Ok((Self { agents, filter, noise, out, followers, of_node, said }, found))
    }

    /// Follows who was found and who joins, until every follower has ended by itself.
    pub async fn run(mut self, found: Found) {
        self.take(found).await;
        while !self.is_over() {
            tokio::select! {
                Some(_) = self.followers.join_next() => {}
                () = sleep(LOOK), if !self.filter.no_follow => match cluster::find(&self.agents, &[]).await {
                    Ok(found) => self.take(found).await,
                    Err(why) => {
                        let why = cause::chain(&why);
                        terminal::complain(&format!("cannot look for new nodes: {why}; trying again"));
                    }
                },
            }
        }
    }

    fn is_over(&self) -> bool {
        let is_nobody_left = self.of_node.values().all(AbortHandle::is_finished);
        is_nobody_left && (self.filter.no_follow || !self.of_node.is_empty())
    }

    /// Follows who is new, and no longer who has left.
    async fn take(&mut self, found: Found) {
        let Found { mut servers, mut absent } = found;
        servers.retain(|server| self.filter.wants_node(server.name()));
        absent.retain(|(node, _)| self.filter.wants_node(node));
        let is_there = |node: &str| {
            servers.iter().any(|server| &**server.name() == node)
                || absent.iter().any(|(name, _)| name == node)
        };
        let left: Vec<_> = self.of_node.keys().filter(|node| !is_there(node)).cloned().collect();
        for node in left {
            if let Some(follower) = self.of_node.remove(&node) {
                follower.abort();
            }
            self.say(&node, Message::Left).await;
        }
        for (node, why) in absent {
            if self.said.get(&node) != Some(&why) {
                terminal::complain(&format!("{node}: {why}"));
                self.said.insert(node, why);
            }
        }
        for server in servers {
            self.said.remove(&**server.name());
            if !self.of_node.contains_key(&**server.name()) {
                self.follow(server).await;
            }
        }
    }

    async fn follow(&mut self, server: Server) {
        let node = server.name().to_string();
        self.say(&node, Message::Joined).await;
        let follower = Follower::new(server, self.filter.clone(), self.noise, self.out.clone());
        self.of_node.insert(node, self.followers.spawn(follower.run()));
    }

    async fn say(&self, node: &str, message: Message) {
        // Nobody reads any more only when all of this ends.
        let _ = self.out.send((node.into(), message)).await;
    }
}

/// Each node takes a descriptor, of which a shell gives 1024: as many as may be had.
fn allow_connections() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Where it is refused, the last nodes say that there are too many open files.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
