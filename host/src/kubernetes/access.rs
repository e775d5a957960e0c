//! Which API server is asked, and as whom: what kubectl would use, or the account of the pod that this
//! runs in.

use std::env;
use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::error::{Error, Permission, no_login, said};
use super::proxy;

/// Until the API server must have accepted a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Until it must have answered a request, or given one page of a list.
const ANSWER: Duration = Duration::from_secs(20);
/// Set by kubelet in every pod.
const IN_POD: &str = "KUBERNETES_SERVICE_HOST";

/// What a user may choose.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// File to use instead of those of `KUBECONFIG` or of the home directory.
    pub kubeconfig: Option<PathBuf>,
    /// Context to use instead of the current one.
    pub context: Option<String>,
}

/// An API server and who asks it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// Where it is, for people.
    url: String,
}

impl Cluster {
    /// The cluster that is meant. Nothing is asked of it yet.
    ///
    /// # Errors
    /// If there is no configuration, or one that cannot be used.
    pub async fn of(choice: &Choice) -> Result<Self, Error> {
        let mut config = config(choice).await?;
        config.connect_timeout = Some(CONNECT);
        let uri = &config.cluster_url;
        let (scheme, host) = (uri.scheme_str().unwrap_or("https"), uri.host().unwrap_or_default());
        let port = uri.port_u16().map_or_else(String::new, |port| format!(":{port}"));
        // Without what may stand before the host: a password.
        let url = format!("{scheme}://{host}{port}");
        let unusable = |error| match error {
            // A program that logs in is run here already.
            kube::Error::Auth(why) => Error::Login { url: url.clone(), why: no_login(&why) },
            error => Error::Settings { url: url.clone(), why: said(&error) },
        };
        Ok(Self { client: Client::try_from(config).map_err(unusable)?, url })
    }

    /// Objects of a kind in a namespace.
    pub(super) fn objects<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + DeserializeOwned,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// What comes of a request, within the time that one may take.
    pub(super) async fn ask<T>(
        &self,
        permission: &Permission,
        request: impl IntoFuture<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        let Ok(answer) = timeout(ANSWER, request).await else {
            let (url, permission) = (self.url.clone(), permission.clone());
            return Err(Error::Silent { url, permission, within: ANSWER });
        };
        answer.map_err(|error| Error::of(error, &self.url, permission))
    }
}

async fn config(choice: &Choice) -> Result<Config, Error> {
    let files = match &choice.kubeconfig {
        Some(file) => vec![file.clone()],
        None => usual_files().into_iter().filter(|file| file.exists()).collect(),
    };
    if files.is_empty() && choice.context.is_none() && env::var_os(IN_POD).is_some() {
        return Config::incluster().map_err(Error::Account);
    }
    let Some(merged) = merged(&files)? else { return Err(Error::NoCluster { looked: looked() }) };
    let file = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    let known: Vec<_> = merged.contexts.iter().map(|context| context.name.clone()).collect();
    let chosen = choice.context.clone().or_else(|| merged.current_context.clone());
    let context = match chosen.filter(|name| !name.is_empty()) {
        None => return Err(Error::NoneChosen { file, known }),
        Some(asked) if !known.contains(&asked) => return Err(Error::NoContext { asked, file, known }),
        Some(context) => context,
    };
    let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    // A proxy that the kubeconfig names is used for its cluster whatever the environment says.
    let has_own_proxy = merged.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref());
    let has_own_proxy =
        has_own_proxy.filter_map(|cluster| cluster.proxy_url.as_ref()).any(|url| !url.is_empty());
    let config = Config::from_custom_kubeconfig(merged, &options).await;
    let mut config = config.map_err(|source| Error::Context { context, source })?;
    if !has_own_proxy && proxy::is_direct(config.cluster_url.host().unwrap_or_default()) {
        config.proxy_url = None;
    }
    Ok(config)
}

/// All files as one, as kubectl merges them: the first that says something is right.
fn merged(files: &[PathBuf]) -> Result<Option<Kubeconfig>, Error> {
    let mut merged: Option<Kubeconfig> = None;
    for file in files {
        let unusable = |source| Error::File { file: file.clone(), source };
        let read = Kubeconfig::read_from(file).map_err(unusable)?;
        merged = Some(match merged {
            Some(before) => before.merge(read).map_err(unusable)?,
            None => read,
        });
    }
    Ok(merged)
}

/// Where kubectl looks. Of the files of `KUBECONFIG`, those that are not there are left out by it, too.
fn usual_files() -> Vec<PathBuf> {
    let named = env::var_os("KUBECONFIG").unwrap_or_default();
    let named: Vec<_> = env::split_paths(&named).filter(|file| file != Path::new("")).collect();
    if named.is_empty() { home_file().into_iter().collect() } else { named }
}

fn home_file() -> Option<PathBuf> {
    Some(env::home_dir()?.join(".kube/config"))
}

/// Where was looked in vain.
fn looked() -> String {
    let files = usual_files().iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    let files = match files.as_str() {
        "" => "there is no home directory".to_owned(),
        files => format!("there is no {files}"),
    };
    let variable = match env::var_os("KUBECONFIG") {
        None => "KUBECONFIG is not set, ",
        Some(_) => "",
    };
    let pod = match env::var_os(IN_POD) {
        None => "this is no pod",
        Some(_) => "a pod's account has no contexts",
    };
    format!("{variable}{files}, and {pod}")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;

    use super::*;

    const TWO: &str = "{clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}],
        contexts: [{name: one, context: {cluster: c}}, {name: two, context: {cluster: nope}}]}";

    async fn refused(text: &str, context: Option<&str>) -> io::Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(&file, text)?;
        let kubeconfig = Some(file.path().to_owned());
        let choice = Choice { kubeconfig, context: context.map(str::to_owned) };
        let error = Cluster::of(&choice).await.err().map(|error| crate::text::cause::chain(&error));
        let error = error.unwrap_or_default();
        Ok(error.replace(&file.path().display().to_string(), "FILE"))
    }

    #[tokio::test]
    async fn a_context_that_is_not_there_is_refused_with_those_that_are() -> io::Result<()> {
        let nope = refused(TWO, Some("three")).await?;
        assert_eq!(nope, "there is no context \"three\" in FILE; there are one, two");
        let none = refused(TWO, None).await?;
        assert_eq!(none, "FILE chooses no context: name one with --context; there are one, two");
        assert_eq!(refused(TWO, Some("one")).await?, "");
        let broken = refused(TWO, Some("two")).await?;
        assert!(broken.starts_with("cannot use the context \"two\": failed to load the cluster"), "{broken}");
        let no_yaml = refused("{", None).await?;
        assert!(no_yaml.starts_with("cannot use the kubeconfig FILE: "), "{no_yaml}");
        Ok(())
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let choice = Choice { kubeconfig: Some("/nowhere/config".into()), context: None };
        let error = Cluster::of(&choice).await.err().expect("there is no such file");
        assert!(error.to_string().contains("cannot use the kubeconfig /nowhere/config"), "{error}");
    }
}
