//! Which events a client wants: the query of `/api/v1/events`, turned once into a checked type.
//!
//! | parameter | values | default |
//! |---|---|---|
//! | `type` | event types, repeated or separated by commas | all |
//! | `namespace`, `pod` | exactly that name | all |
//! | `entity` | id, name, or `namespace/name` | all |
//! | `severity` | at least `info`, `warn`, `error`, or 0 to 2 | `info` |
//! | `since` | a duration back from now, or a time in RFC 3339 | |
//! | `backlog` | at most so many of the events that are kept | all with `since` or without `follow`, else 0 |
//! | `follow` | `true` or `false`: go on with new events | `true` |

use std::time::{Duration, UNIX_EPOCH};

use crate::escape;
use crate::events::Event;

/// A checked query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventQuery {
    types: Vec<String>,
    namespace: Option<String>,
    pod: Option<String>,
    entity: Option<String>,
    severity: u8,
    /// Nanoseconds since the Unix epoch.
    since_ns: u64,
    pub(super) backlog: usize,
    pub(super) follow: bool,
}

/// What is wrong with a query.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error(
        "parameter {0:?} is unknown; known are type, namespace, pod, entity, severity, since, backlog, follow"
    )]
    Unknown(String),
    #[error("parameter {name}: {value:?} is not {allowed}")]
    Value { name: String, value: String, allowed: &'static str },
}

impl EventQuery {
    /// Reads the text behind the `?`; `now` is since the Unix epoch.
    pub(super) fn parse(text: &str, now: Duration) -> Result<Self, QueryError> {
        let mut query = Self {
            types: Vec::new(),
            namespace: None,
            pod: None,
            entity: None,
            severity: 0,
            since_ns: 0,
            backlog: 0,
            follow: true,
        };
        let mut backlog = None;
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, raw) = pair.split_once('=').unwrap_or((pair, ""));
            let bad = |value: &str, allowed| QueryError::Value {
                name: name.to_owned(),
                value: escape::admit(value.to_owned(), 64),
                allowed,
            };
            let value = decode(raw).ok_or_else(|| bad(raw, "percent-encoded UTF-8"))?;
            match name {
                "type" => query.types.extend(value.split(',').map(str::to_owned)),
                "namespace" => query.namespace = Some(value),
                "pod" => query.pod = Some(value),
                "entity" => query.entity = Some(value),
                "severity" => {
                    query.severity =
                        severity(&value).ok_or_else(|| bad(&value, "one of info, warn, error, 0, 1, 2"))?;
                }
                "since" => {
                    let since = since_ns(&value, now);
                    query.since_ns =
                        since.ok_or_else(|| bad(&value, "a duration like 5m or a time in RFC 3339"))?;
                }
                "backlog" => {
                    backlog = Some(value.parse().map_err(|_| bad(&value, "a number of events"))?);
                }
                "follow" => query.follow = value.parse().map_err(|_| bad(&value, "true or false"))?,
                _ => return Err(QueryError::Unknown(escape::admit(name.to_owned(), 64))),
            }
        }
        let all = query.since_ns > 0 || !query.follow;
        query.backlog = backlog.unwrap_or(if all { usize::MAX } else { 0 });
        Ok(query)
    }

    /// Whether the client wants this event.
    pub(super) fn matches(&self, event: &Event) -> bool {
        let who = event.who.as_deref();
        let is = |wanted: &Option<String>, has: Option<&String>| {
            wanted.as_ref().is_none_or(|wanted| has.is_some_and(|has| has == wanted))
        };
        let is_entity = |wanted: &String| {
            wanted.parse() == Ok(event.entity)
                || who.is_some_and(|who| who.name == *wanted || who.display() == *wanted)
        };
        event.severity >= self.severity
            && event.time_ns >= self.since_ns
            && (self.types.is_empty() || self.types.contains(&event.kind))
            && is(&self.namespace, who.map(|who| &who.namespace))
            && is(&self.pod, who.map(|who| &who.name))
            && self.entity.as_ref().is_none_or(is_entity)
    }
}

fn severity(value: &str) -> Option<u8> {
    match value.to_ascii_lowercase().as_str() {
        "info" | "0" => Some(0),
        "warn" | "1" => Some(1),
        "error" | "2" => Some(2),
        _ => None,
    }
}

fn since_ns(value: &str, now: Duration) -> Option<u64> {
    if let Ok(ago) = humantime::parse_duration(value) {
        // At least 1, which is "everything that is kept".
        return u64::try_from(now.saturating_sub(ago).as_nanos()).ok().map(|ns| ns.max(1));
    }
    let at = humantime::parse_rfc3339(value).ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(at.as_nanos()).ok()
}

/// Undoes percent-encoding, with `+` for a blank.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    #[test]
    fn a_plain_request_follows_from_now_on() {
        let query = EventQuery::parse("", NOW).expect("valid");
        assert!(query.follow && query.backlog == 0);
        let query = EventQuery::parse("follow=false", NOW).expect("valid");
        assert!(!query.follow && query.backlog == usize::MAX);
        let query = EventQuery::parse("since=5m&backlog=3", NOW).expect("valid");
        assert_eq!((query.since_ns, query.backlog), (999_700_000_000_000, 3));
    }

    #[test]
    fn values_are_decoded_once() {
        let query = EventQuery::parse("pod=a%26type%3Dx%20y%2525&type=A,B&type=C", NOW).expect("valid");
        assert_eq!(query.pod.as_deref(), Some("a&type=x y%25"));
        assert_eq!(query.types, ["A", "B", "C"]);
    }

    #[test]
    fn a_wrong_query_is_told_what_is_allowed() {
        let wrong = |text| EventQuery::parse(text, NOW).expect_err(text).to_string();
        assert_eq!(
            wrong("severity=bad"),
            r#"parameter severity: "bad" is not one of info, warn, error, 0, 1, 2"#
        );
        assert_eq!(wrong("follow=yes"), r#"parameter follow: "yes" is not true or false"#);
        assert!(wrong("typ=X").starts_with(r#"parameter "typ" is unknown; known are type,"#));
        for text in ["since=yesterday", "since=", "backlog=-1", "pod=%f", "pod=%ff", "pod=%+1"] {
            wrong(text);
        }
    }
}
