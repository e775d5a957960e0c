//! Follows this node's pods, and who is at the other end of their conversations: of each kind of objects a
//! list, and a watch that goes on where it was cut off.
//!
//! Where the API server has streaming lists, a watch begins with the objects that there are: it sends
//! them one by one in place of building a list, of which 5 000 nodes that restart want one each.
//!
//! The library goes on where a watch ended, lists
//! anew after `410 Gone`, gives up a silent connection after [`WATCH`], and reads a service account's token
//! again as it rotates. What fails is tried again from the list on, later each time and not at once on all
//! nodes (0.8 s to 30 s, with jitter): a list answers at once, and so tells that the API server is back, where
//! a watch would be silent until a pod changes.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{client, innermost, refusal};
use super::object::Watched;
use super::object::addressed::{ClusterNode, ClusterPod};
use super::object::node_pod::NodePod;
use super::object::service::ClusterService;
use super::told::{Options, Told};
use crate::pods::Change;

/// How long one watch lasts before the next one goes on from there: a connection that went silent is
/// noticed some seconds later.
const WATCH: u32 = 240;
/// Time between two attempts to find out how to reach the API server at all.
const AGAIN: Duration = Duration::from_secs(15);
/// Requests for each kind of objects within a time, at most.
const REQUESTS: u64 = 5;
/// See [`REQUESTS`].
const PER: Duration = Duration::from_secs(10);
/// Longest pause before it is tried again.
const LONGEST: Duration = Duration::from_secs(30);
/// Streaming lists are the default from this minor version of Kubernetes 1 on (feature gate `WatchList`). A
/// server that does not know them ignores that they were asked for, and never says that the list is over.
const STREAMS_SINCE: u32 = 34;
/// How long a list may take. Whoever drops the wish for a streaming list on the way makes it one that never ends.
const LIST: Duration = Duration::from_secs(120);
/// How long the API server's version is waited for; unknown, it is an old one.
const VERSION: Duration = Duration::from_secs(5);
/// A watch that is refused is refused within this time.
const SETTLED: Duration = Duration::from_secs(2);

/// Whether this process runs in a pod that may ask the API server.
pub fn is_in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Tells of what is followed until it is dropped.
pub async fn follow(options: Options, tell: impl Fn(Told)) {
    let resources = options.resources();
    let client = loop {
        match client(&options, REQUESTS * resources.len() as u64, PER).await {
            Ok(client) => break client,
            Err(why) => resources.iter().for_each(|resource| tell(Told::Failed(*resource, why.clone()))),
        }
        tokio::time::sleep(AGAIN).await;
    };
    let version = timeout(VERSION, client.apiserver_version()).await;
    let streams = version.is_ok_and(|answer| answer.is_ok_and(|version| has_streaming_lists(&version)));
    let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", options.node));
    let all = watcher::Config::default;
    let api = ApiServer { client, streams };
    let pods = each::<NodePod>(&api, of_node, &options, &tell);
    let services = each::<ClusterService>(&api, all(), &options, &tell);
    let nodes = each::<ClusterNode>(&api, all(), &options, &tell);
    let all_pods = each::<ClusterPod>(&api, all(), &options, &tell);
    join(join(pods, services), join(nodes, all_pods)).await;
}

struct ApiServer {
    client: Client,
    /// It has streaming lists.
    streams: bool,
}

fn has_streaming_lists(version: &Info) -> bool {
    // Some say `34+`.
    let minor = version.minor.trim_end_matches('+').parse::<u32>();
    version.major == "1" && minor.is_ok_and(|minor| minor >= STREAMS_SINCE)
}

/// Follows one kind of objects, if it is among those that are followed.
async fn each<T: Watched>(api: &ApiServer, config: watcher::Config, options: &Options, tell: &impl Fn(Told)) {
    if !options.resources().contains(&T::RESOURCE) {
        return;
    }
    // From the API server's memory: the state of some moments ago will do, and 5 000 nodes ask.
    let lists = config.any_semantic().timeout(WATCH);
    let mut streams = api.streams;
    for pause in watcher::DefaultBackoff::default() {
        let config = if streams { lists.clone().streaming_lists() } else { lists.clone() };
        let streamed = std::mem::replace(&mut streams, api.streams);
        let why = match once::<T>(api.client.clone(), config, options, tell).await {
            // The feature gate may be off (422), or etcd be too old for it (500): then a list may do.
            Ended::Refused(_) if streamed => {
                streams = false;
                continue;
            }
            Ended::Refused(why) | Ended::Failed(why) => why,
        };
        tell(Told::Failed(T::RESOURCE, why));
        // The library's jitter doubles its longest pause at most.
        tokio::time::sleep(if pause > LONGEST { pause / 2 } else { pause }).await;
    }
}

/// Why nothing more comes, in words.
enum Ended {
    /// The API server answers with an error.
    Refused(String),
    /// There is no answer, or no more of it.
    Failed(String),
}

/// Lists and watches until something fails, and returns what.
async fn once<T: Watched>(
    client: Client,
    config: watcher::Config,
    options: &Options,
    tell: &impl Fn(Told),
) -> Ended {
    let mut events = pin!(watcher(Api::<T>::all(client), config));
    let mut listed = BTreeMap::new();
    let mut left_out = 0;
    let (mut is_listed, mut is_watching) = (false, false);
    let end_of_list = Instant::now() + LIST;
    loop {
        let next = match (is_listed, is_watching) {
            (false, _) => match timeout_at(end_of_list, events.next()).await {
                Ok(next) => Some(next),
                Err(_) => {
                    let of = T::RESOURCE.words();
                    return Ended::Refused(format!(
                        "its list of {of} is not whole after {} s",
                        LIST.as_secs()
                    ));
                }
            },
            // A watch is not there because a list was: each is refused by itself.
            (true, false) => timeout(SETTLED, events.next()).await.ok(),
            (true, true) => Some(events.next().await),
        };
        // Nothing changes, or something does already.
        let is_change = matches!(next, Some(Some(Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_)))));
        if is_listed && !is_watching && (next.is_none() || is_change) {
            is_watching = true;
            tell(Told::Watching(T::RESOURCE));
        }
        let Some(event) = next else { continue };
        let Some(event) = event else {
            return Ended::Failed(format!("the watch of {} ended", T::RESOURCE.words()));
        };
        match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                left_out = 0;
            }
            Ok(watcher::Event::InitApply(object)) => match (object.key(), object.known(options)) {
                (_, None) => {}
                (_, Some(_)) if listed.len() >= T::RESOURCE.kept() => left_out += 1,
                (key, Some(known)) => drop(listed.insert(key, known)),
            },
            Ok(watcher::Event::InitDone) => {
                tell(T::told(Change::All(std::mem::take(&mut listed))));
                is_listed = true;
                if left_out > 0 {
                    tell(Told::LeftOut(T::RESOURCE, left_out));
                }
            }
            Ok(watcher::Event::Apply(object)) => {
                let key = object.key();
                // One that is not used any more, such as a pod that has ended, is as good as gone.
                tell(T::told(match object.known(options) {
                    Some(known) => Change::Set(key, known),
                    None => Change::Gone(key),
                }));
            }
            Ok(watcher::Event::Delete(object)) => tell(T::told(Change::Gone(object.key()))),
            // What the watch would go on from is too old by now, so it lists anew.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
            Err(error) => return in_words(&error),
        }
    }
}

/// What a person can do something about.
fn in_words(error: &watcher::Error) -> Ended {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status,
        error => return Ended::Failed(format!("the API server cannot be reached: {}", innermost(error))),
    };
    Ended::Refused(refusal(status.code, &status.message))
}
