//! The questions that users ask.

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// `connect`
    Connect,
    /// `reset`
    Reset,
    /// `loss`
    Loss,
    /// `latency`
    Latency,
    /// `dns`
    Dns,
    /// `gateway`
    Gateway,
    /// `node`
    Node,
}

impl Scenario {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 7] =
        [Self::Connect, Self::Reset, Self::Loss, Self::Latency, Self::Dns, Self::Gateway, Self::Node];

    /// The scenario of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.as_str() == name)
    }

    /// Its name in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Loss => "loss",
            Self::Latency => "latency",
            Self::Dns => "dns",
            Self::Gateway => "gateway",
            Self::Node => "node",
        }
    }

    /// What it asks.
    pub fn question(self) -> &'static str {
        match self {
            Self::Connect => "why do connections fail or take long to open?",
            Self::Reset => "why are connections reset?",
            Self::Loss => "where do packets get lost?",
            Self::Latency => "why is it slow or jittery?",
            Self::Dns => "why do names not resolve, or late?",
            Self::Gateway => "why does my gateway answer 499, 502, 503, 504?",
            Self::Node => "is this node's network healthy?",
        }
    }
}
