//! Sets up an instance of one version of a plugin: probes granted, metrics and types of events
//! declared, state restored, and the entities that are there already told.

use std::sync::Arc;

use super::bindings::exports::inspector::analyzer::guest::ProbeInfo;
use super::bindings::inspector::analyzer::manifest::Subscription;
use super::instance::{Failure, Instance};
use super::prepare::Prepared;
use crate::events::log::EventType;
use crate::plugin::options::Limits;
use crate::plugin::shared::Shared;
use crate::series::declaration::MAX_HELP;
use crate::series::metrics::PluginSeries;
use crate::status::ProbeState;
use crate::text::escape;

/// What a guest keeps for its successor.
pub(crate) struct Saved {
    /// Version of the plugin that saved it.
    pub(crate) version: String,
    /// As the guest wrote it.
    pub(crate) state: Vec<u8>,
}

/// Makes an instance that can be called.
///
/// # Errors
/// In words: a required probe is missing, a metric cannot be declared, or the guest failed.
pub(crate) fn start(
    prepared: &Prepared,
    shared: &Arc<Shared>,
    limits: Limits,
    saved: Option<&Saved>,
) -> Result<Instance, String> {
    let probes = granted_probes(prepared, shared)?;
    let series = declare(prepared, shared)?;
    let mut instance = Instance::new(prepared, shared, limits, series, probes).map_err(|e| e.to_string())?;
    if let Some(saved) = saved {
        match instance.restore(&saved.version, &saved.state) {
            Ok(()) => {}
            Err(Failure::Refused(why)) => {
                let plugin = &prepared.description.name;
                tracing::info!(plugin, from = saved.version, error = why, "plugin starts empty");
            }
            Err(e) => return Err(e.to_string()),
        }
    }
    // What is there already was announced before this instance existed.
    let live: Vec<_> = shared.entities.live().iter().map(|entity| entity.id).collect();
    instance.entities(&live, &[]).map_err(|e| e.to_string())?;
    Ok(instance)
}

/// Declares the metrics and types of events of a version; they take the place of an earlier one's.
///
/// # Errors
/// In words: a metric cannot be declared.
pub(crate) fn declare(prepared: &Prepared, shared: &Shared) -> Result<PluginSeries, String> {
    let description = &prepared.description;
    let plugin = &description.name;
    let series = shared.metrics.register(plugin, &prepared.metrics).map_err(|e| e.to_string())?;
    let types = description.events.iter().map(|event| EventType {
        plugin: plugin.clone(),
        kind: event.kind.clone(),
        help: escape::admit(event.help.clone(), MAX_HELP),
    });
    shared.events.declare(plugin, types.collect());
    Ok(series)
}

/// For each subscription the probe, if this node can serve it.
fn granted_probes(prepared: &Prepared, shared: &Shared) -> Result<Vec<Option<ProbeInfo>>, String> {
    let states = shared.status.snapshot();
    let grant = |subscription: &Subscription| {
        let selection = prepared.selections.iter().find(|s| s.probe.name == subscription.probe);
        let status = states.probes.get(&subscription.probe);
        let up = matches!(status.map(|status| &status.state), Some(ProbeState::Up | ProbeState::Partial));
        let granted = selection.filter(|s| up && subscription.min_schema <= s.probe.schema);
        if granted.is_none() && subscription.required {
            let why = status.map_or("this agent has no such probe", |status| status.reason.as_str());
            return Err(format!("needs probe {}: {why}", subscription.probe));
        }
        Ok(granted.map(|s| ProbeInfo {
            probe: s.probe.id,
            name: s.probe.name.to_owned(),
            schema: s.probe.schema,
            stride: s.probe.stride,
        }))
    };
    prepared.description.subscriptions.iter().map(grant).collect()
}
