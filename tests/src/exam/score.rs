//! Whether an answer is right.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::lab::Scene;
use crate::lab::cases::{Case, Expected, Place};

/// An answer may take so long.
const PROMPT: Duration = Duration::from_secs(2);

/// What an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The first finding is an expected one at its place; healthy traffic gave none.
    Right,
    /// Another one came first, or it sits elsewhere.
    Wrong,
    /// No finding at all.
    Nothing,
    /// It was right, and too late.
    Late,
    /// A warning about healthy traffic.
    FalseAlarm,
    /// The case did not happen, or the question was not answered.
    Broken,
}

impl Mark {
    /// As the table shows it.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Right => "ok",
            Self::Wrong => "WRONG",
            Self::Nothing => "none",
            Self::Late => "LATE",
            Self::FalseAlarm => "false alarm",
            Self::Broken => "BROKEN",
        }
    }
}

/// A finding, as far as the lab judges it.
#[derive(Debug, Clone)]
pub struct Concluded {
    /// Its code.
    pub code: String,
    /// Where its cause sits, if that is a host of the scene.
    pub place: Option<Place>,
    /// 0 to 2.
    pub severity: u64,
    /// 0 to 100.
    pub confidence: u64,
}

impl Concluded {
    fn is(&self, expected: &Expected) -> bool {
        self.code == expected.code && self.place == Some(expected.at)
    }
}

impl fmt::Display for Concluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place.map_or("elsewhere", Place::word);
        write!(f, "{} @{place} ({}, {} %)", self.code, self.severity, self.confidence)
    }
}

/// The findings of an answer, most important first.
pub fn findings(answer: &Value, scene: &Scene) -> Vec<Concluded> {
    let findings = answer["findings"].as_array().into_iter().flatten();
    findings.map(|finding| concluded(finding, scene)).collect()
}

fn concluded(finding: &Value, scene: &Scene) -> Concluded {
    let at = &finding["entities"][0];
    let name = at["name"].as_str().unwrap_or_default();
    let place = if at["kind"] == "host" { Some(Place::Host) } else { place(scene, name) };
    Concluded {
        code: finding["code"].as_str().unwrap_or_default().to_owned(),
        place,
        severity: finding["severity"].as_u64().unwrap_or_default(),
        confidence: finding["confidence"].as_u64().unwrap_or_default(),
    }
}

fn place(scene: &Scene, name: &str) -> Option<Place> {
    let hosts = [
        (Place::Client, Some(scene.client())),
        (Place::Server, Some(scene.server())),
        (Place::Router, scene.router().ok()),
        (Place::Third, scene.third().ok()),
    ];
    hosts.into_iter().find_map(|(place, host)| host.filter(|host| host.name() == name).map(|_| place))
}

/// Judges the findings of a case.
pub fn mark(case: &Case, findings: &[Concluded], took: Duration) -> Mark {
    let right = match case.expect {
        [] if findings.iter().any(|finding| finding.severity >= 1) => return Mark::FalseAlarm,
        [] => true,
        _ if findings.is_empty() => return Mark::Nothing,
        expect => expect.iter().any(|expected| comes_first(expected, findings)),
    };
    let all = case.also.iter().all(|expected| findings.iter().any(|finding| finding.is(expected)));
    match (right && all, took <= PROMPT) {
        (false, _) => Mark::Wrong,
        (true, false) => Mark::Late,
        (true, true) => Mark::Right,
    }
}

/// Before what is no fault, other findings of severity info may come, but no warning.
fn comes_first(expected: &Expected, findings: &[Concluded]) -> bool {
    if expected.info {
        let infos = findings.iter().take_while(|finding| finding.severity == 0);
        return infos.into_iter().any(|finding| finding.is(expected));
    }
    findings.first().is_some_and(|finding| finding.is(expected))
}
