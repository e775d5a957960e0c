//! Objects that are watched: of each only what is used is kept while it is decoded.

pub(super) mod addressed;
pub(super) mod node_pod;
pub(super) mod service;

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::told::{Options, Told};
use crate::pods::Change;
use crate::status::Resource;

/// The uid by which the kubelet runs a static pod; the API server has only a mirror of it.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// What says that a pod is the mirror of a static one.
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// An object as the API has it.
pub(super) trait Watched:
    kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// What is kept of it.
    type Known;
    /// What it is.
    const RESOURCE: Resource;

    /// By what it is told apart.
    fn key(&self) -> String;

    /// What is used of it; `None` for one that is not used, or whose name is none.
    fn known(self, options: &Options) -> Option<Self::Known>;

    /// What is told of a change.
    fn told(change: Change<Self::Known>) -> Told;
}

/// Says which resource of the API a type is.
macro_rules! resource {
    ($type:ident, $kind:literal, $plural:literal, $scope:ty) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> std::borrow::Cow<'_, str> {
                "".into()
            }

            fn version((): &()) -> std::borrow::Cow<'_, str> {
                "v1".into()
            }

            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &kube::api::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut kube::api::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
use resource;

/// Metadata without what takes the most room and is of no use here, such as managedFields.
fn metadata<'de, D: Deserializer<'de>>(value: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Used {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        deletion_timestamp: Option<Time>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
        owner_references: Option<Vec<OwnerReference>>,
    }
    let mut used = Used::deserialize(value)?;
    if let Some(annotations) = &mut used.annotations {
        annotations.retain(|key, _| [CONFIG_HASH, CONFIG_MIRROR].contains(&key.as_str()));
    }
    Ok(ObjectMeta {
        name: used.name,
        namespace: used.namespace,
        uid: used.uid,
        resource_version: used.resource_version,
        deletion_timestamp: used.deletion_timestamp,
        labels: used.labels,
        annotations: used.annotations,
        owner_references: used.owner_references,
        ..ObjectMeta::default()
    })
}

/// Addresses that are some.
fn addresses<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<std::net::IpAddr> {
    let mut ips = Vec::new();
    for ip in texts.into_iter().filter_map(|text| text.parse::<std::net::IpAddr>().ok()) {
        let ip = ip.to_canonical();
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}
