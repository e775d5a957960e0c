//! How bad an event or a finding is: a number from 0 to 2 at the wire.

use serde::{Deserialize, Serialize};

/// See the module; the worst one is the greatest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Severity {
    /// Nobody has to do anything.
    #[default]
    Info,
    /// Something works worse than it should.
    Warning,
    /// Something does not work.
    Critical,
}

impl Severity {
    /// As people read it of a finding.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// As the level of a log line, which is what an event is shown as.
    pub fn level(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warning => "WARN",
            Self::Critical => "ERROR",
        }
    }
}

/// Whatever is worse than critical is critical: a guest may say anything.
impl From<u8> for Severity {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Info,
            1 => Self::Warning,
            2.. => Self::Critical,
        }
    }
}

impl From<Severity> for u8 {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Info => 0,
            Severity::Warning => 1,
            Severity::Critical => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_number_at_the_wire_and_no_number_is_worse_than_critical() {
        let read = |text| serde_json::from_str::<Severity>(text).expect("a number");
        assert_eq!(["0", "1", "2", "200"].map(read).map(u8::from), [0, 1, 2, 2]);
        assert_eq!(serde_json::to_string(&Severity::Warning).expect("a number"), "1");
        assert!(Severity::Info < Severity::Warning && Severity::Warning < Severity::Critical);
    }
}
