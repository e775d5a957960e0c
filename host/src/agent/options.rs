//! What each part is told of the configuration.

use crate::config::{self, Config};
use crate::discover::Places;
use crate::events::log::Limits;
use crate::kubernetes::{told, watch};
use crate::plugin;
use crate::probe;
use crate::series::choice::Choice;
use crate::series::metrics::Budget;

pub(super) fn budget(config: &Config) -> Budget {
    Budget { per_plugin: config.plugins.max_series, per_agent: config.plugins.max_series_total }
}

pub(super) fn choice(config: &Config) -> Choice {
    let config::Metrics { profile, allow, deny } = config.metrics.clone();
    Choice { profile, allow, deny }
}

pub(super) fn event_limits(config: &Config) -> Limits {
    Limits {
        backlog: config.events.backlog as usize,
        per_second: config.plugins.events_per_second,
        burst: config.plugins.events_burst,
    }
}

pub(super) fn plugins(config: &Config) -> plugin::Options {
    let plugins = &config.plugins;
    plugin::Options {
        directories: plugins.directories.clone(),
        disabled: plugins.disabled.clone(),
        cache: (!plugins.cache_dir.as_os_str().is_empty()).then(|| plugins.cache_dir.clone()),
        limits: plugin::Limits {
            memory_bytes: (plugins.memory_mib as usize) << 20,
            deadline: plugins.batch_deadline,
        },
    }
}

pub(super) fn probes(config: &Config) -> probe::Options {
    let probes = &config.probes;
    probe::Options {
        ring_bytes: probes.ring_kib << 10,
        limit_per_second: probes.limit_per_second,
        limit_burst: probes.limit_burst,
    }
}

/// `None` where there is no API server to ask.
pub(super) fn api_server(config: &Config) -> Option<told::Options> {
    let config::Kubernetes { watch, kubeconfig, labels, peers, events: _ } = config.kubernetes.clone();
    let can_ask = !kubeconfig.as_os_str().is_empty() || watch::is_in_cluster();
    let options = told::Options {
        node: config.node.name.clone(),
        kubeconfig,
        labels,
        peers: peers != config::Peers::Never,
        all_pods: peers == config::Peers::Cluster,
    };
    (watch == config::Watch::Auto && can_ask).then_some(options)
}

pub(super) fn places(config: &Config) -> Places {
    let config::Paths { procfs, netns, pod_logs, runtimes } = config.paths.clone();
    Places { proc: procfs, netns, pod_logs, runtimes }
}
