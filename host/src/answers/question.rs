//! A question of a user ("why do connections fail?") and why it cannot be answered.
//!
//! One type for the client, the wire and the agent; what it names is checked where it is known.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::answers::report::Report;

/// What is asked if nothing is said.
pub const SCENARIO: &str = "node";
/// How far back is looked if nothing is said.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Maximum number of entities a question may name; without a name, it is about all.
pub const MAX_ENTITIES: usize = 256;

/// Answers a question; blocks for some seconds at most.
pub type Answerer = Arc<dyn Fn(&Question) -> Result<Report, Refusal> + Send + Sync>;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Question {
    /// What is asked, e.g. `connect`: one that an analyzer declares.
    pub scenario: String,
    /// Whose network is asked about, by the names that `list entity` shows; empty = all.
    pub entities: Vec<String>,
    /// How far to look back, in milliseconds.
    pub window_ms: u32,
    /// The agent may look at what findings ask to be looked at.
    pub confirm: bool,
}

impl Default for Question {
    fn default() -> Self {
        let window_ms = WINDOW.as_millis() as u32;
        Self { scenario: SCENARIO.to_owned(), entities: Vec::new(), window_ms, confirm: false }
    }
}

impl Question {
    /// How far to look back.
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms.into())
    }
}

/// Why a question is not answered; each says what could be asked instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No analyzer answers anything.
    #[error("no analyzer answers questions: {}", whys.join("; "))]
    NoAnalyzer {
        /// What became of each plugin that does not run; if there is none, that none was found.
        whys: Vec<String>,
    },
    /// No analyzer declares the scenario.
    #[error("there is no scenario {asked:?}; there are {}", few(known))]
    Scenario {
        /// What was asked for.
        asked: String,
        /// What can be asked for.
        known: Vec<String>,
    },
    /// Nobody is called so.
    #[error("there is no entity {asked:?}; {}", there_are(known))]
    Entity {
        /// Who was asked for.
        asked: String,
        /// Who is there.
        known: Vec<String>,
    },
    /// It is there, and its network cannot be looked at.
    #[error("{asked} cannot be seen: {why}")]
    Unentered {
        /// Who was asked for.
        asked: String,
        /// What stands in the way.
        why: String,
    },
    /// More than [`MAX_ENTITIES`].
    #[error("{0} entities are too many: name at most {MAX_ENTITIES}, or none for all")]
    TooMany(usize),
    /// The agent starts: who would answer is not there yet. With what it waits for.
    #[error("the agent is starting, ask again in some seconds; {}", .0.join("; "))]
    Starting(Vec<String>),
    /// A window without any time in it.
    #[error("the window is empty: window_ms must be at least 1")]
    NoWindow,
}

impl Refusal {
    /// What could be asked instead, with the name that it has in JSON.
    pub fn known(&self) -> Option<(&'static str, &[String])> {
        match self {
            Self::Scenario { known, .. } => Some(("scenarios", known)),
            Self::Entity { known, .. } => Some(("entities", known)),
            Self::NoAnalyzer { .. }
            | Self::Unentered { .. }
            | Self::TooMany(_)
            | Self::NoWindow
            | Self::Starting(_) => None,
        }
    }
}

fn there_are(known: &[String]) -> String {
    if known.is_empty() { "there is none at all".to_owned() } else { format!("there are {}", few(known)) }
}

fn few(known: &[String]) -> String {
    /// More names than this are no help in a message; the JSON has them all.
    const SHOWN: usize = 40;
    let shown = known.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match known.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_its_default_and_what_is_unknown_is_refused() {
        let read = serde_json::from_str::<Question>;
        assert_eq!(read("{}").expect("valid"), Question::default());
        assert_eq!(read(r#"{"scenario":"dns","window_ms":5}"#).expect("valid").window_ms, 5);
        for wrong in [r#"{"senario":"dns"}"#, r#"{"window_ms":-1}"#, r#"{"entities":"web"}"#, "7"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_refusal_says_what_there_is() {
        let refusal = Refusal::Scenario { asked: "x\u{1b}".into(), known: vec!["dns".into(), "node".into()] };
        assert_eq!(refusal.to_string(), r#"there is no scenario "x\u{1b}"; there are dns, node"#);
        let known = (0..50).map(|n| format!("e{n}")).collect();
        let refusal = Refusal::Entity { asked: "x".into(), known };
        assert!(refusal.to_string().ends_with("e39 and 10 more"), "{refusal}");
        let refusal = Refusal::NoAnalyzer { whys: vec!["a.wasm is refused: b".into(), "c".into()] };
        assert_eq!(refusal.to_string(), "no analyzer answers questions: a.wasm is refused: b; c");
    }
}
