//! An agent's connection to the API server: as the account of its pod, or as a kubeconfig file says.

use std::time::Duration;

use http::Response;
use kube::client::{ClientBuilder, DynBody};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::limit::RateLimitLayer;
use tower::util::MapResponseLayer;

use super::told::Options;
use crate::text::cause;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A client of at most so many requests in each time of some length: some libraries ask again at once for what
/// ends at once, as all does through a broken proxy, and each node of a cluster would. `answered` is called when
/// the head of an answer is there that is no error.
///
/// # Errors
/// If there is no way to ask it, in words.
pub(super) async fn client(
    options: &Options,
    requests: u64,
    per: Duration,
    answered: impl Fn() + Clone + Send + Sync + 'static,
) -> Result<Client, String> {
    let mut config = if options.kubeconfig.as_os_str().is_empty() {
        Config::incluster().map_err(|error| cause::chain(&error))?
    } else {
        let words =
            |error: KubeconfigError| format!("{}: {}", options.kubeconfig.display(), cause::chain(&error));
        let file = Kubeconfig::read_from(&options.kubeconfig).map_err(words)?;
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(words)?
    };
    config.connect_timeout = Some(CONNECT);
    // Whoever asks repeats, and tells; the client would repeat for long before it does.
    config.default_retry = false;
    let builder = ClientBuilder::try_from(config).map_err(|error| cause::chain(&error))?;
    let heard = MapResponseLayer::new(move |response: Response<Box<DynBody>>| {
        if response.status().is_success() {
            answered();
        }
        response
    });
    Ok(builder.with_layer(&heard).with_layer(&RateLimitLayer::new(requests, per)).build())
}

/// What a person can do something about, of an answer that is an error.
pub(super) fn refusal(code: u16, message: &str) -> String {
    match code {
        401 => "the API server does not accept who the agent says it is (401)".to_owned(),
        // It says who may not do what.
        403 => format!("{message} (403): see the ClusterRole of the agent's manifests"),
        code => format!("the API server answers {code}: {message}"),
    }
}
