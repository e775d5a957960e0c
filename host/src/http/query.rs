//! The query of `/api/v1/events`, turned once into a checked type.
//!
//! | parameter | values | default |
//! |---|---|---|
//! | `type` | event types, repeated or separated by commas | all |
//! | `reason` | reasons of drops and resets, or names of errors, likewise | all |
//! | `address` | addresses or networks (`10.0.0.0/8`) of either end, likewise | all |
//! | `port` | ports of either end, likewise | all |
//! | `protocol` | `TCP`, `UDP`, …, or a number, likewise | all |
//! | `namespace`, `pod`, `node` | exactly that name, likewise | all |
//! | `entity` | id, name, or `namespace/name`, likewise | all |
//! | `severity` | at least `info`, `warning`, `error`, or 0 to 2 | `info` |
//! | `noise` | `false`: not what is the normal course of things, nor the agent's own traffic | `true` |
//! | `since` | a duration back from now, or a time in RFC 3339 | |
//! | `until` | the same; the stream ends when that is over | never |
//! | `backlog` | at most so many of the events that are kept | all with `since`, with an `until` that is over, or without `follow`; else 0 |
//! | `follow` | `true` or `false`: go on with new events | `true` |
//! | `cursor` | `LOG-NUMBER`: what came behind that event; `Last-Event-ID` says the same. In place of `backlog` | |
//! | `limit` | the stream ends behind so many events | never |
//!
//! A value behind a `!` is excluded; see [`Filter`]. A type that no running analyzer declares is an
//! error, because nobody would ever send it.

use std::time::{Duration, UNIX_EPOCH};

use crate::events::event::Event;
use crate::events::filter::{Filter, PROPERTIES};
use crate::events::log::EventType;
use crate::text::escape;
use crate::text::similar;

/// A checked query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventQuery {
    filter: Filter,
    noise: bool,
    /// Nanoseconds since the Unix epoch.
    since_ns: u64,
    /// Nanoseconds since the Unix epoch; the largest number means never.
    pub(super) until_ns: u64,
    pub(super) backlog: usize,
    pub(super) follow: bool,
    /// Goes on behind an event.
    pub(super) cursor: Option<Position>,
    /// Events at most.
    pub(super) limit: usize,
}

/// A client's place in the events of one run of an agent, which numbers them anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) log: u64,
    pub(super) seq: u64,
}

impl Position {
    fn parse(text: &str) -> Option<Self> {
        let (log, seq) = text.split_once('-')?;
        Some(Self { log: u64::from_str_radix(log, 16).ok()?, seq: seq.parse().ok()? })
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{}", self.log, self.seq)
    }
}

/// What is wrong with a query.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error(
        "parameter {0:?} is unknown; known are {properties}, noise, since, until, backlog, follow, cursor, limit",
        properties = PROPERTIES.join(", ")
    )]
    Unknown(String),
    #[error("parameter {name}: {value:?} is not {allowed}")]
    Value { name: String, value: String, allowed: &'static str },
    #[error("no running analyzer declares event type {asked:?}{hint}; there are {known}", hint = similar::hint(asked, known), known = known.join(", "))]
    Type { asked: String, known: Vec<String> },
}

impl EventQuery {
    /// Reads the text behind the `?`; `now` is since the Unix epoch.
    pub(super) fn parse(text: &str, now: Duration) -> Result<Self, QueryError> {
        let mut query = Self {
            filter: Filter::default(),
            noise: true,
            since_ns: 0,
            until_ns: u64::MAX,
            backlog: 0,
            follow: true,
            cursor: None,
            limit: usize::MAX,
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
            let time = || time_ns(&value, now).ok_or_else(|| bad(&value, TIME));
            let flag = || value.parse().map_err(|_| bad(&value, "true or false"));
            match name {
                "since" => query.since_ns = time()?,
                "until" => query.until_ns = time()?,
                "backlog" => {
                    backlog = Some(value.parse().map_err(|_| bad(&value, "a number of events"))?);
                }
                "follow" => query.follow = flag()?,
                "limit" => query.limit = value.parse().map_err(|_| bad(&value, "a number of events"))?,
                "cursor" => query.cursor = Some(Position::parse(&value).ok_or_else(|| bad(&value, CURSOR))?),
                "noise" => query.noise = flag()?,
                _ if query.filter.add(name, &value).map_err(|wrong| bad(&value, wrong.allowed))? => {}
                _ => return Err(QueryError::Unknown(escape::admit(name.to_owned(), 64))),
            }
        }
        let is_over = Duration::from_nanos(query.until_ns) <= now;
        let all = query.since_ns > 0 || is_over || !query.follow;
        query.backlog = backlog.unwrap_or(if all { usize::MAX } else { 0 });
        Ok(query)
    }

    /// Goes on where the header `Last-Event-ID` says, unless the query says where.
    ///
    /// # Errors
    /// It is no place in a stream of events.
    pub(super) fn after(mut self, last_event_id: &str) -> Result<Self, QueryError> {
        if self.cursor.is_none() {
            let position = Position::parse(last_event_id).ok_or_else(|| QueryError::Value {
                name: "Last-Event-ID".to_owned(),
                value: escape::admit(last_event_id.to_owned(), 64),
                allowed: CURSOR,
            })?;
            self.cursor = Some(position);
        }
        Ok(self)
    }

    /// Whether every type that it names is declared.
    ///
    /// # Errors
    /// The first one that is not.
    pub(super) fn check_types(&self, declared: &[EventType]) -> Result<(), QueryError> {
        let is_known = |asked: &str| declared.iter().any(|known| known.kind.eq_ignore_ascii_case(asked));
        let Some(asked) = self.filter.types().find(|asked| !is_known(asked)) else { return Ok(()) };
        let mut known: Vec<_> = declared.iter().map(|known| known.kind.clone()).collect();
        known.sort();
        known.dedup();
        Err(QueryError::Type { asked: escape::admit(asked.to_owned(), 64), known })
    }

    /// Whether the client wants this event.
    pub(super) fn matches(&self, event: &Event) -> bool {
        (self.since_ns..=self.until_ns).contains(&event.time_ns)
            && (self.noise || !event.is_noise())
            && self.filter.admits(event)
    }
}

/// What `cursor` can be.
const CURSOR: &str = "an id that the stream gave (`LOG-NUMBER`)";
/// What `since` and `until` can be.
const TIME: &str = "a duration like 5m or a time in RFC 3339";

fn time_ns(value: &str, now: Duration) -> Option<u64> {
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
        let query = EventQuery::parse("pod=a%26type%3Dx%20y%2525&type=A,B&type=%21C", NOW).expect("valid");
        let mut filter = Filter::default();
        for (property, value) in [("pod", "a&type=x y%25"), ("type", "A,B,!C")] {
            filter.add(property, value).expect("valid");
        }
        assert_eq!(query.filter, filter);
    }

    #[test]
    fn a_wrong_query_is_told_what_is_allowed() {
        let wrong = |text| EventQuery::parse(text, NOW).expect_err(text).to_string();
        assert_eq!(
            wrong("severity=bad"),
            r#"parameter severity: "bad" is not one of info, warning, error (or 0, 1, 2)"#
        );
        assert_eq!(wrong("follow=yes"), r#"parameter follow: "yes" is not true or false"#);
        assert!(wrong("typ=X").starts_with(r#"parameter "typ" is unknown; known are type,"#));
        for text in [
            "since=yesterday",
            "since=",
            "until=x",
            "noise=1",
            "backlog=-1",
            "pod=%f",
            "pod=%ff",
            "pod=%+1",
            "pod=",
        ] {
            wrong(text);
        }
    }

    #[test]
    fn a_type_that_nobody_sends_is_told_with_those_that_there_are() {
        let declared = ["TCPRETRANS", "PACKETLOSS", "PACKETLOSS"].map(|kind| EventType {
            plugin: "p".to_owned(),
            kind: kind.to_owned(),
            help: String::new(),
        });
        let check = |text| EventQuery::parse(text, NOW).expect("valid").check_types(&declared);
        assert_eq!(check("type=packetloss,!TCPRETRANS"), Ok(()));
        assert_eq!(
            check("type=PACKETLOS").expect_err("unknown").to_string(),
            "no running analyzer declares event type \"PACKETLOS\" (did you mean PACKETLOSS?); \
             there are PACKETLOSS, TCPRETRANS"
        );
    }

    #[test]
    fn a_window_that_is_over_ends_with_its_last_event() {
        let query = EventQuery::parse("since=10m&until=5m", NOW).expect("valid");
        assert_eq!((query.since_ns, query.until_ns), (999_400_000_000_000, 999_700_000_000_000));
        assert_eq!(EventQuery::parse("until=5m", NOW).expect("valid").backlog, usize::MAX);
    }
}
