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
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{client, refusal};
use super::object::Watched;
use super::object::addressed::{ClusterNode, ClusterPod};
use super::object::node_pod::NodePod;
use super::object::service::ClusterService;
use super::told::{Options, Told};
use crate::pods::Change;
use crate::text::cause;

/// How long one watch lasts before the next one goes on from there: a connection that went silent is
/// noticed some seconds later.
const WATCH: u32 = 240;
/// Time between two attempts to find out how to reach the API server at all.
const AGAIN: Duration = Duration::from_secs(15);
/// Requests for each kind of objects in each [`PER`], at most: twice as many where two of them meet.
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
/// How long the API server's version is waited for; as long as it is unknown, it is an old one.
const VERSION: Duration = Duration::from_secs(5);

/// Whether this process runs in a pod that may ask the API server.
pub fn is_in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Tells of what is followed until it is dropped.
pub async fn follow(options: Options, tell: impl Fn(Told)) {
    let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", options.node));
    let all = watcher::Config::default;
    let pods = each::<NodePod>(of_node, &options, &tell);
    let services = each::<ClusterService>(all(), &options, &tell);
    let nodes = each::<ClusterNode>(all(), &options, &tell);
    let all_pods = each::<ClusterPod>(all(), &options, &tell);
    join(join(pods, services), join(nodes, all_pods)).await;
}

/// Follows one kind of objects, if it is among those that are followed.
async fn each<T: Watched>(config: watcher::Config, options: &Options, tell: &impl Fn(Told)) {
    if !options.resources().contains(&T::RESOURCE) {
        return;
    }
    let mut api = loop {
        match ApiServer::new(options).await {
            Ok(api) => break api,
            Err(why) => tell(Told::Failed(T::RESOURCE, why)),
        }
        tokio::time::sleep(AGAIN).await;
    };
    // From the API server's memory: the state of some moments ago will do, and 5 000 nodes ask. With pages the
    // library would ask for the newest state, which comes from etcd.
    let config = watcher::Config { page_size: None, ..config.any_semantic().timeout(WATCH) };
    let mut may_stream = true;
    for pause in watcher::DefaultBackoff::default() {
        let is_streamed = std::mem::replace(&mut may_stream, true) && api.streams().await;
        let config = if is_streamed { config.clone().streaming_lists() } else { config.clone() };
        let why = match once::<T>(&mut api, config, is_streamed, options, tell).await {
            // The feature gate may be off (422), or etcd be too old for it (500): then a list may do.
            Ended::Refused(_) if is_streamed => {
                may_stream = false;
                continue;
            }
            Ended::Refused(why) | Ended::Failed(why) => why,
        };
        tell(Told::Failed(T::RESOURCE, why));
        // The library's jitter doubles its longest pause at most.
        tokio::time::sleep(if pause > LONGEST { pause / 2 } else { pause }).await;
    }
}

/// The API server, for one kind of objects.
struct ApiServer {
    client: Client,
    /// Changes with each answer that is no error.
    answers: Receiver<()>,
    /// It has streaming lists; `None` until it has said its version.
    streams: Option<bool>,
}

impl ApiServer {
    async fn new(options: &Options) -> Result<Self, String> {
        let (answered, answers) = tokio::sync::watch::channel(());
        let client = client(options, REQUESTS, PER, move || answered.send_replace(())).await?;
        Ok(Self { client, answers, streams: None })
    }

    /// Asked until it is answered: the API server may start after the agent.
    async fn streams(&mut self) -> bool {
        if self.streams.is_none() {
            let version = timeout(VERSION, self.client.apiserver_version()).await;
            self.streams = version.ok().and_then(Result::ok).map(|version| has_streaming_lists(&version));
        }
        self.streams.unwrap_or(false)
    }
}

fn has_streaming_lists(version: &Info) -> bool {
    // Some say `34+`.
    let minor = version.minor.trim_end_matches('+').parse::<u32>();
    version.major == "1" && minor.is_ok_and(|minor| minor >= STREAMS_SINCE)
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
    api: &mut ApiServer,
    config: watcher::Config,
    is_streamed: bool,
    options: &Options,
    tell: &impl Fn(Told),
) -> Ended {
    let mut events = pin!(watcher(Api::<T>::all(api.client.clone()), config));
    let mut listed = BTreeMap::new();
    let mut left_out = 0;
    let (mut is_listed, mut is_watching) = (false, false);
    let end_of_list = Instant::now() + LIST;
    loop {
        let next = match (is_listed, is_watching) {
            (false, _) => match timeout_at(end_of_list, events.next()).await {
                Ok(next) => next,
                Err(_) => {
                    let of = T::RESOURCE.words();
                    return Ended::Refused(format!(
                        "its list of {of} is not whole after {} s",
                        LIST.as_secs()
                    ));
                }
            },
            // A watch is not there because a list was: it is answered, or refused, by itself.
            (true, false) => tokio::select! {
                biased;
                Ok(()) = api.answers.changed() => {
                    is_watching = true;
                    tell(Told::Watching(T::RESOURCE));
                    continue;
                }
                next = events.next() => next,
            },
            (true, true) => events.next().await,
        };
        let Some(event) = next else {
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
                api.answers.mark_unchanged();
                // A streaming list is a watch already.
                if is_streamed && !is_watching {
                    is_watching = true;
                    tell(Told::Watching(T::RESOURCE));
                }
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
        error => {
            return Ended::Failed(format!("the API server cannot be reached: {}", cause::innermost(error)));
        }
    };
    Ended::Refused(refusal(status.code, &status.message))
}
