//! Which events are wanted, as flags and as the query of the event server.

use std::fmt::Write as _;
use std::time::Duration;

/// Flags that choose events; an event must pass all of them.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filter {
    /// Only events of this type, as `inspector list event` names it; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    kinds: Vec<String>,
    /// Only events of this Kubernetes namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Only events of this pod, or of what has this name
    #[arg(long)]
    pod: Option<String>,
    /// Only events of this entity, by id or by name as `inspector list entity` shows it
    #[arg(long)]
    entity: Option<String>,
    /// Also what the server still has of this time
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
}

impl Filter {
    /// Path and query of the stream; `since` overrides what the flag says.
    pub fn path(&self, since: Option<Duration>) -> String {
        let mut path = String::from("/api/v1/events?follow=true");
        let kinds = self.kinds.iter().map(|kind| ("type", kind));
        let others = [("namespace", &self.namespace), ("pod", &self.pod), ("entity", &self.entity)];
        let others = others.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (name, value) in kinds.chain(others) {
            write!(path, "&{name}={}", percent_encoded(value)).expect("writing to a String cannot fail");
        }
        if let Some(since) = since.or(self.since) {
            write!(path, "&since={}ms", since.as_millis()).expect("writing to a String cannot fail");
        }
        path
    }
}

/// Everything but the unreserved characters of RFC 3986 as `%` and two digits.
fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_cannot_smuggle_in_another_parameter() {
        let kinds = vec!["A".to_owned(), "B".to_owned()];
        let filter = Filter { kinds, pod: Some("a&type=x y".into()), ..Filter::default() };
        assert_eq!(filter.path(None), "/api/v1/events?follow=true&type=A&type=B&pod=a%26type%3Dx%20y");
    }

    #[test]
    fn a_reconnect_asks_for_what_happened_meanwhile() {
        let filter = Filter { since: Some(Duration::from_secs(300)), ..Filter::default() };
        assert_eq!(filter.path(None), "/api/v1/events?follow=true&since=300000ms");
        assert_eq!(filter.path(Some(Duration::from_millis(1500))), "/api/v1/events?follow=true&since=1500ms");
    }
}
