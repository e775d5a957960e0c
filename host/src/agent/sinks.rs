//! Starts the sinks that are configured. One that cannot be started stops nothing else.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::config;
use crate::config::sinks::Sinks;
use crate::loss::Stage;
use crate::sink::{
    Account, Credentials, Deliver, Encoding, File, Labels, Login, Loki, Otlp, Place, Running, Sink, Stderr,
};
use crate::view::View;

/// Starts them.
pub(super) fn start(config: &Sinks, view: &View) -> Vec<Running> {
    let mut running = Vec::new();
    let config::sinks::Loki { address, .. } = &config.loki;
    if !address.is_empty() {
        match loki(&config.loki) {
            Ok(to) => {
                let place = place(config, "loki");
                running.extend(started(to, Stage::Loki, address, place, view));
            }
            Err(error) => tracing::error!(address, error, "events are not sent to Loki"),
        }
    }
    let config::sinks::Otlp { endpoint, .. } = &config.otlp;
    if !endpoint.is_empty() {
        match otlp(&config.otlp) {
            Ok(to) => {
                let place = place(config, "otlp");
                running.extend(started(to, Stage::Otlp, endpoint, place, view));
            }
            Err(error) => tracing::error!(endpoint, error, "events are not sent by OTLP"),
        }
    }
    let config::sinks::File { path, max_mib, keep } = &config.file;
    if !path.as_os_str().is_empty() {
        let to = File::new(path.clone(), u64::from(*max_mib) << 20, *keep);
        running.extend(started(to, Stage::File, &path.display().to_string(), None, view));
    }
    if config.stderr.enabled {
        running.extend(started(Stderr, Stage::Stderr, "standard error", None, view));
    }
    running
}

/// Of a sink that does not start, the state says why.
fn started<D: Deliver + Send + 'static>(
    to: D,
    stage: Stage,
    target: &str,
    place: Option<Place>,
    view: &View,
) -> Option<Running> {
    let account = Account::new(stage, target.to_owned(), Arc::clone(&view.loss), Arc::clone(&view.status));
    let started: io::Result<Running> = Sink { to, place, account }.start(Arc::clone(&view.events));
    started.inspect_err(|error| tracing::error!(target, %error, "a sink cannot be started")).ok()
}

fn place(config: &Sinks, name: &str) -> Option<Place> {
    let is_given = !config.spool_dir.as_os_str().is_empty();
    is_given
        .then(|| Place { directory: config.spool_dir.join(name), quota: u64::from(config.spool_mib) << 20 })
}

fn loki(config: &config::sinks::Loki) -> Result<Loki, String> {
    let at = config.address.parse().map_err(|error| format!("{error}"))?;
    let credentials = Credentials {
        login: login(&config.username, &config.password_file, &config.bearer_token_file),
        ca_file: config.ca_file.clone(),
        cert_file: config.cert_file.clone(),
        key_file: config.key_file.clone(),
    };
    let encoding = match config.encoding {
        config::sinks::Encoding::Protobuf => Encoding::Protobuf,
        config::sinks::Encoding::Json => Encoding::Json,
    };
    let config::sinks::Labels { job, node, namespace, r#type: kind, severity } = config.labels.clone();
    let labels = Labels { job, node, namespace, kind, severity };
    Ok(Loki::new(at, &config.tenant, credentials, encoding, labels)?)
}

fn otlp(config: &config::sinks::Otlp) -> Result<Otlp, String> {
    let at = config.endpoint.parse().map_err(|error| format!("{error}"))?;
    let credentials = Credentials {
        login: login(&config.username, &config.password_file, &config.bearer_token_file),
        ca_file: config.ca_file.clone(),
        cert_file: config.cert_file.clone(),
        key_file: config.key_file.clone(),
    };
    Ok(Otlp::new(at, credentials))
}

fn login(user: &str, password_file: &Path, token_file: &Path) -> Login {
    match user {
        "" if token_file.as_os_str().is_empty() => Login::Nobody,
        "" => Login::Bearer { token_file: token_file.to_owned() },
        user => Login::Basic { user: user.to_owned(), password_file: password_file.to_owned() },
    }
}
