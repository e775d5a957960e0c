//! What a look at the node brings.

/// Facts that one look may bring.
pub(super) const MAX_FACTS: usize = 12;

/// Something that was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fact {
    /// In words.
    pub text: String,
    /// The kinds and names of the network policies that it speaks of, e.g. `NetworkPolicy shop/deny-all`.
    pub policies: Vec<String>,
}

impl From<String> for Fact {
    fn from(text: String) -> Self {
        Self { text, policies: Vec::new() }
    }
}
