//! Writes what is wrong with a pod as an Event of Kubernetes on it, so that `kubectl describe pod` says why.
//!
//! The library makes one Event of what is told again within six minutes, and counts (`series`).

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::time::timeout;

use super::client::{client, refusal};
use super::told::Options;
use crate::pods::ObjectName;
use crate::text::{cause, escape};

/// Who says it, in `kubectl get events`.
const CONTROLLER: &str = "inspector";
/// Bytes that the API server allows a note, and a reason or an instance.
const MAX_NOTE: usize = 1024;
const MAX_NAME: usize = 128;
/// How long the API server may take for one.
const ANSWER: Duration = Duration::from_secs(10);
/// What is wrong where Events may not be written.
const FORBIDDEN: &str = "the agent may not create or patch events (events.k8s.io) in the namespace of a pod (403): see \
    rbac.podEvents of the chart";
/// Events a minute at most, whatever is wrong: the pods that a kubelet runs by default.
const PER_MINUTE: u64 = 110;

/// What is told of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// The pod.
    pub pod: ObjectName,
    /// Its uid.
    pub uid: String,
    /// Code of the finding, e.g. `accept-queue-overflow`.
    pub code: String,
    /// For people.
    pub note: String,
}

/// Writes Events as an agent.
pub struct PodEvents {
    recorder: Recorder,
}

impl PodEvents {
    /// Nothing is asked of the API server yet.
    ///
    /// # Errors
    /// If there is no way to ask it, in words.
    pub async fn new(options: &Options) -> Result<Self, String> {
        let client = client(options, PER_MINUTE, Duration::from_secs(60), || {}).await?;
        let instance = Some(escape::admit(options.node.clone(), MAX_NAME));
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance };
        Ok(Self { recorder: Recorder::new(client, reporter) })
    }

    /// Writes one.
    ///
    /// # Errors
    /// Why the API server does not take it, in words.
    pub async fn write(&self, event: PodEvent) -> Result<(), String> {
        let pod = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(event.pod.namespace),
            name: Some(event.pod.name),
            uid: Some(event.uid),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: reason(&event.code),
            note: Some(escape::admit(event.note, MAX_NOTE)),
            action: "Diagnose".to_owned(),
            secondary: None,
        };
        match timeout(ANSWER, self.recorder.publish(&event, &pod)).await {
            Err(_) => Err(format!("the API server does not answer within {} s", ANSWER.as_secs())),
            // The API server names the Event, which is another one for each pod.
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => Err(FORBIDDEN.to_owned()),
            Ok(Err(kube::Error::Api(status))) => Err(refusal(status.code, &status.message)),
            Ok(Err(error)) => Err(format!("the API server cannot be reached: {}", cause::innermost(&error))),
            Ok(Ok(())) => Ok(()),
        }
    }
}

/// As Kubernetes writes reasons: `accept-queue-overflow` is `AcceptQueueOverflow`.
fn reason(code: &str) -> String {
    let capitalised = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    escape::admit(code.split('-').map(capitalised).collect(), MAX_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_written_as_kubernetes_writes_them() {
        assert_eq!(reason("accept-queue-overflow"), "AcceptQueueOverflow");
        assert_eq!(reason("dns-timeout"), "DnsTimeout");
        assert!(reason(&"a-".repeat(1000)).len() <= MAX_NAME);
    }
}
