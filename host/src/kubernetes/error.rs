//! Why the cluster does not give what it was asked for, in words that say what to do.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use kube::client::AuthError;
use kube::config::{InClusterError, KubeconfigError};

use crate::text::cause;
use crate::text::escape::{MAX_REASON, admit};

/// Why there is no answer of the cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a kubeconfig nor a pod's account.
    #[error("no cluster is known: {looked}; name a file with --kubeconfig")]
    NoCluster {
        /// Where was looked, and what is there.
        looked: String,
    },
    /// A kubeconfig that cannot be read.
    #[error("cannot use the kubeconfig {}", .file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// The kubeconfig has no such context.
    #[error("there is no context {asked:?} in {file}; {}", there_are(.known))]
    NoContext {
        /// What was asked for.
        asked: String,
        /// Where.
        file: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// The kubeconfig chooses no context, and nobody else does.
    #[error("{file} chooses no context: name one with --context; {}", there_are(.known))]
    NoneChosen {
        /// Which file.
        file: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// What a context refers to is not there or cannot be used.
    #[error("cannot use the context {context:?}")]
    Context {
        /// Which.
        context: String,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// The account of the pod that this runs in cannot be used.
    #[error("cannot use the service account of this pod")]
    Account(#[source] InClusterError),
    /// A client cannot be made of the settings.
    #[error("cannot use the settings of {url}: {why}")]
    Settings {
        /// The API server.
        url: String,
        /// What is wrong with them.
        why: String,
    },
    /// Nobody answers there.
    #[error("cannot reach the API server {url}: {why} (is it the right --context?)")]
    Unreachable {
        /// The API server.
        url: String,
        /// What the network says.
        why: String,
    },
    /// It said nothing for too long.
    #[error("the API server {url} did not answer within {}: cannot {permission}", humantime::format_duration(*.within))]
    Silent {
        /// The API server.
        url: String,
        /// What it was asked for.
        permission: Permission,
        /// How long was waited.
        within: Duration,
    },
    /// The credentials are not good.
    #[error(
        "the API server {url} does not know you: {why} (log in again: what the kubeconfig has may have \
         expired)"
    )]
    Unknown {
        /// The API server.
        url: String,
        /// What it says.
        why: String,
    },
    /// The credentials cannot be had.
    #[error("cannot log in to the API server {url}: {why}")]
    Login {
        /// The API server.
        url: String,
        /// What is wrong with what the kubeconfig names.
        why: String,
    },
    /// RBAC does not allow it.
    #[error("you may not {permission}: ask for the roles inspector-user")]
    Forbidden {
        /// What is missing.
        permission: Permission,
    },
    /// It is not there.
    #[error("cannot {permission}: there is none")]
    NotFound {
        /// What was asked for.
        permission: Permission,
    },
    /// Anything else that the API server says.
    #[error("cannot {permission}: {why}")]
    Refused {
        /// What was asked for.
        permission: Permission,
        /// What it says.
        why: String,
    },
    /// A list that goes on for ever.
    #[error("cannot {permission}: the list has no end")]
    Endless {
        /// What was asked for.
        permission: Permission,
    },
    /// There is no agent to be asked.
    #[error(
        "no agent was found in namespace {namespace} with the labels {selector}: is Inspector installed \
         there? (--agent-namespace, --agent-selector)"
    )]
    NoAgent {
        /// Where was looked.
        namespace: String,
        /// For which pods.
        selector: String,
    },
    /// A node whose agent cannot be asked now.
    #[error("{why}")]
    NotReady {
        /// What is the matter with it.
        why: String,
    },
}

/// What a request does, in the words of RBAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// What is done.
    pub verb: &'static str,
    /// To what.
    pub resource: &'static str,
    /// Where.
    pub namespace: String,
}

impl Permission {
    /// To do that to such a resource of a namespace.
    pub fn to(verb: &'static str, resource: &'static str, namespace: &str) -> Self {
        Self { verb, resource, namespace: namespace.to_owned() }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in namespace {}", self.verb, self.resource, self.namespace)
    }
}

impl Error {
    /// Whether trying again ends the same until somebody does something about it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Forbidden { .. } | Self::Unknown { .. } | Self::Login { .. })
    }

    /// Whether a name is wrong that the user gave.
    pub fn is_wrong_usage(&self) -> bool {
        matches!(self, Self::NoContext { .. } | Self::NoneChosen { .. })
    }

    /// What an error of a request means.
    pub(super) fn of(error: kube::Error, url: &str, permission: &Permission) -> Self {
        let (url, permission) = (url.to_owned(), permission.clone());
        match error {
            kube::Error::Api(status) => Self::of_status(status.code, status.message, url, permission),
            kube::Error::Auth(source) => Self::Login { url, why: no_login(&source) },
            kube::Error::Service(source) => match source.downcast_ref::<AuthError>() {
                Some(source) => Self::Login { url, why: no_login(source) },
                None => Self::Unreachable { url, why: unreachable(&*source) },
            },
            kube::Error::HyperError(source) => Self::Unreachable { url, why: unreachable(&source) },
            other => Self::Refused { permission, why: said(&other) },
        }
    }

    fn of_status(code: u16, message: String, url: String, permission: Permission) -> Self {
        match code {
            401 => Self::Unknown { url, why: admit(format!("401 {message}"), MAX_REASON) },
            403 => {
                let verb = refused(&message).unwrap_or(permission.verb);
                Self::Forbidden { permission: Permission { verb, ..permission } }
            }
            404 => Self::NotFound { permission },
            code => Self::Refused { permission, why: admit(format!("{code} {message}"), MAX_REASON) },
        }
    }
}

/// The verb that RBAC says is missing. A port-forward takes two: it begins with a GET, and newer API
/// servers want `create` as well.
fn refused(message: &str) -> Option<&'static str> {
    let (_, verb) = message.split_once(" cannot ")?;
    let verb = verb.split_once(" resource ")?.0;
    ["get", "list", "create"].into_iter().find(|known| *known == verb)
}

/// Why there are no credentials. What the program that has them wrote may be such, so only what it
/// complains of is shown.
pub(super) fn no_login(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecStart(why) => {
            format!("cannot run the program that the kubeconfig names for it: {why}")
        }
        AuthError::AuthExecRun { out, .. } => {
            let complaint = String::from_utf8_lossy(&out.stderr);
            let why =
                format!("the program that the kubeconfig names for it failed: {} {}", out.status, complaint);
            admit(why.trim().to_owned(), MAX_REASON)
        }
        error => said(error),
    }
}

/// Without the library's name for where that was.
fn unreachable(error: &(dyn std::error::Error + 'static)) -> String {
    let why = said(error);
    why.strip_prefix("client error (Connect): ").map_or(why.clone(), str::to_owned)
}

/// What an error says, with its causes, cut and made safe.
pub(super) fn said(error: &(dyn std::error::Error + 'static)) -> String {
    admit(cause::chain(error), MAX_REASON)
}

fn there_are(known: &[String]) -> String {
    if known.is_empty() {
        "there is none at all".to_owned()
    } else {
        format!("there are {}", known.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_status(code: u16) -> Error {
        let permission = Permission::to("create", "pods/portforward", "kube-system");
        Error::of_status(code, "said\u{1b}".into(), "http://a:1".into(), permission)
    }

    #[test]
    fn a_refusal_names_what_is_missing_and_whom_to_ask() {
        assert_eq!(
            of_status(403).to_string(),
            "you may not create pods/portforward in namespace kube-system: ask for the roles inspector-user"
        );
        assert!(of_status(401).to_string().starts_with("the API server http://a:1 does not know you: 401"));
        let said =
            "pods \"a\" is forbidden: User \"u\" cannot get resource \"pods/portforward\" in API group";
        assert_eq!(refused(said), Some("get"));
        assert!(of_status(403).is_final() && of_status(401).is_final() && !of_status(500).is_final());
    }

    #[test]
    fn what_the_api_server_says_is_made_safe() {
        let refused = of_status(500).to_string();
        assert_eq!(refused, "cannot create pods/portforward in namespace kube-system: 500 said\\u{1b}");
    }
}
