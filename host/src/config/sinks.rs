//! Section `[sinks]`: where events are sent, beside the clients of the event server.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

use super::address::Address;
use super::bounds::between;

/// Ports where none is given.
const LOKI_PORT: u16 = 3100;
const OTLP_PORT: u16 = 4318;

/// Section `[sinks]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sinks {
    /// Where what cannot be sent waits, a folder for each server in it; empty for memory alone.
    pub spool_dir: PathBuf,
    /// MiB of it for each server, 1 to 65 536.
    #[serde(deserialize_with = "between::<1, 65_536, _>")]
    pub spool_mib: u32,
    /// Grafana Loki.
    pub loki: Loki,
    /// OpenTelemetry.
    pub otlp: Otlp,
    /// A file.
    pub file: File,
    /// Standard error.
    pub stderr: Stderr,
}

/// Section `[sinks.loki]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Loki {
    /// Address, as a URL; empty for none.
    #[serde(deserialize_with = "loki_address")]
    pub address: String,
    /// How a batch is written.
    pub encoding: Encoding,
    /// Value of `X-Scope-OrgID`; empty for none.
    pub tenant: String,
    /// User, with `password_file`.
    pub username: String,
    /// See `username`.
    pub password_file: PathBuf,
    /// A file with a bearer token, read for each request.
    pub bearer_token_file: PathBuf,
    /// PEM of the authorities that the server is to be of; empty for the system's.
    pub ca_file: PathBuf,
    /// PEM of the own certificate, with `key_file`.
    pub cert_file: PathBuf,
    /// See `cert_file`.
    pub key_file: PathBuf,
    /// What labels are called.
    pub labels: Labels,
}

/// Section `[sinks.loki.labels]`: a name for each label; empty leaves it out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Labels {
    /// Always `inspector`.
    #[serde(deserialize_with = "label")]
    pub job: String,
    /// The node.
    #[serde(deserialize_with = "label")]
    pub node: String,
    /// The pod's namespace.
    #[serde(deserialize_with = "label")]
    pub namespace: String,
    /// Type of the event.
    #[serde(deserialize_with = "label")]
    pub r#type: String,
    /// How bad it is.
    #[serde(deserialize_with = "label")]
    pub severity: String,
}

/// Section `[sinks.otlp]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// Address without the path of a signal, as a URL; empty for none.
    #[serde(deserialize_with = "otlp_endpoint")]
    pub endpoint: String,
    /// See [`Loki`], as all that follows.
    pub username: String,
    /// See `username`.
    pub password_file: PathBuf,
    /// Instead of them.
    pub bearer_token_file: PathBuf,
    /// Who the server is to be of.
    pub ca_file: PathBuf,
    /// The own certificate.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// How a batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Protocol buffers, snappy.
    #[default]
    Protobuf,
    /// JSON, gzip.
    Json,
}

/// Section `[sinks.file]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// The file; empty for none.
    pub path: PathBuf,
    /// MiB from which on a new one is begun, 1 to 65 536.
    #[serde(deserialize_with = "between::<1, 65_536, _>")]
    pub max_mib: u32,
    /// Files kept beside it, up to 1000.
    #[serde(deserialize_with = "between::<0, 1000, _>")]
    pub keep: u32,
}

/// Section `[sinks.stderr]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stderr {
    /// Whether events are written there.
    pub enabled: bool,
}

impl Sinks {
    /// Whether events are sent anywhere.
    pub fn is_any(&self) -> bool {
        !self.loki.address.is_empty()
            || !self.otlp.endpoint.is_empty()
            || !self.file.path.as_os_str().is_empty()
            || self.stderr.enabled
    }
}

impl Default for Sinks {
    fn default() -> Self {
        Self {
            spool_dir: "/var/lib/inspector/spool".into(),
            spool_mib: 64,
            loki: Loki::default(),
            otlp: Otlp::default(),
            file: File::default(),
            stderr: Stderr::default(),
        }
    }
}

impl Default for File {
    fn default() -> Self {
        Self { path: PathBuf::new(), max_mib: 64, keep: 4 }
    }
}

impl Default for Labels {
    fn default() -> Self {
        let [job, node, namespace, r#type, severity] =
            ["job", "node", "namespace", "type", "severity"].map(str::to_owned);
        Self { job, node, namespace, r#type, severity }
    }
}

/// The URL of a Loki: of `host` and `host:port` as the original exporter takes them, with port 3100 where none
/// is given, or of a URL, whose port is that of its scheme.
///
/// # Errors
/// If it is none of the three.
pub fn check_loki_address(text: &str) -> Result<String, String> {
    check_server(text, LOKI_PORT)
}

/// The base URL of a collector, as [`check_loki_address`], with port 4318.
///
/// # Errors
/// See there.
pub fn check_otlp_endpoint(text: &str) -> Result<String, String> {
    check_server(text, OTLP_PORT)
}

fn check_server(text: &str, port: u16) -> Result<String, String> {
    if text.is_empty() || text.contains("://") {
        let is_http = text.is_empty() || text.starts_with("http://") || text.starts_with("https://");
        let is_plain = !text.contains(['?', '#', ' ']);
        if text.contains('@') {
            // Whatever it is, it may be a password.
            return Err("an address names no user: see username and bearer_token_file".to_owned());
        }
        return match is_http && is_plain {
            true => Ok(text.trim_end_matches('/').to_owned()),
            false => {
                Err(format!("`{}` is no http:// or https:// address without a query", text.escape_debug()))
            }
        };
    }
    let address = Address::with_default_port(text, port).map_err(|error| error.to_string())?;
    if address.host.is_empty() {
        return Err(format!("`{text}` names no host"));
    }
    Ok(format!("http://{address}"))
}

fn loki_address<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    check_loki_address(&String::deserialize(value)?).map_err(de::Error::custom)
}

fn otlp_endpoint<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    check_otlp_endpoint(&String::deserialize(value)?).map_err(de::Error::custom)
}

fn label<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    let name = String::deserialize(value)?;
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.chars().all(is_allowed) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(de::Error::custom(format!("`{}` is no name of a label", name.escape_debug())));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_loki_is_a_host_with_or_without_a_port_or_a_url() {
        for (text, url) in [
            ("loki", "http://loki:3100"),
            ("10.0.0.1:80", "http://10.0.0.1:80"),
            ("fd00::1", "http://[fd00::1]:3100"),
            ("https://loki.example.com/behind/", "https://loki.example.com/behind"),
            ("", ""),
        ] {
            assert_eq!(check_loki_address(text).as_deref(), Ok(url));
        }
        assert_eq!(check_otlp_endpoint("collector").as_deref(), Ok("http://collector:4318"));
        for text in ["ftp://loki", "http://a@loki", "loki:port", ":3100", "lo ki"] {
            assert!(check_loki_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_that_loki_refuses_is_refused_here() {
        let refused = Config::parse("x.toml", "[sinks.loki.labels]\nnode = \"1 node\"").expect_err("no name");
        assert_eq!(refused.to_string(), "x.toml:2: sinks.loki.labels.node: `1 node` is no name of a label");
    }
}
