//! Findings while they last: a metric that counts them, and an event when one begins and ends.

use inspector_sdk::labels::Labels;
use inspector_sdk::map::Map;
use inspector_sdk::metrics::Counter;
use inspector_sdk::{Description, EntityId, Error, Event, MetricDecl, Severity, Timestamp};

use crate::codes::Code;
use crate::finding::Conclusion;
use crate::window::Window;

const FINDINGS: &str = "inspector_findings_total";
const BEGAN: &str = "FINDING_BEGAN";
const ENDED: &str = "FINDING_ENDED";

/// How far back a finding that counts as present was observed.
pub const WINDOW_NS: u64 = 30_000_000_000;
/// Time between two looks.
const LOOK_NS: u64 = 10_000_000_000;
/// Findings that may last at a time; more are neither counted nor reported, they are asked for.
const PRESENT: usize = 512;

/// Label values of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Found {
    code: Code,
    severity: Severity,
}

impl Labels for Found {
    fn values(&self) -> Vec<String> {
        vec![self.code.as_str().to_owned(), u8::from(self.severity).to_string()]
    }
}

/// What is present.
#[derive(Debug)]
pub struct Live {
    found: Counter<Found>,
    present: Map<(Code, EntityId), String>,
    looked: Timestamp,
}

/// Declares the metric and the events.
pub fn describe(description: Description) -> Description {
    description
        .metric(
            MetricDecl::counter(FINDINGS, "Diagnoses that began, by the code of their finding and severity (0 info, 1 warning, 2 critical).")
                .labels(&["code", "severity"]),
        )
        .event(BEGAN, "a diagnosis: the cause of a fault was found, see `inspector diagnose`")
        .event(ENDED, "a diagnosis no longer holds: its cause was not seen for half a minute")
}

impl Live {
    /// Nothing yet.
    ///
    /// # Errors
    /// If the metric is not declared.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { found: Counter::declared(FINDINGS)?, present: Map::default(), looked: 0 })
    }

    /// Whether it is time to look again.
    pub fn is_due(&mut self, now: Timestamp) -> bool {
        // The clock may have been set back.
        let is_due = now.abs_diff(self.looked) >= LOOK_NS;
        if is_due {
            self.looked = now;
        }
        is_due
    }

    /// Emits events of what began and what ended.
    pub fn report(&mut self, window: &Window, found: Vec<Conclusion>, now: Timestamp) {
        let worth: Vec<_> = found.into_iter().filter(|found| found.severity >= Severity::Warning).collect();
        for found in &worth {
            let key = (found.code, found.at);
            if self.present.contains_key(&key) || self.present.len() >= PRESENT {
                continue;
            }
            self.found.add(found.at, Found { code: found.code, severity: found.severity }, 1);
            event(BEGAN, key, &found.text_of_title(), window, now)
                .severity(found.severity)
                .attr("confidence", found.confidence.percent())
                .emit();
            self.present.insert(key, found.text_of_title());
        }
        let lasts = |key: &(Code, EntityId)| worth.iter().any(|found| (found.code, found.at) == *key);
        let mut ended: Vec<_> = self
            .present
            .iter()
            .filter(|(key, _)| !lasts(key))
            .map(|(key, title)| (*key, title.clone()))
            .collect();
        ended.sort_by_key(|((code, at), _)| (code.as_str(), *at));
        for (key, title) in ended {
            self.present.remove(&key);
            event(ENDED, key, &title, window, now).emit();
        }
    }
}

fn event(kind: &str, (code, at): (Code, EntityId), title: &str, window: &Window, now: Timestamp) -> Event {
    let mut event = Event::new(kind, now).entity(at).attr("code", code.as_str());
    event.message = format!("{}: {}: {title}", code.as_str(), window.name(at));
    event
}
