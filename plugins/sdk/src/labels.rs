//! What tells the series of one metric apart.

use std::hash::Hash;

/// A key that is cheap to compare, and the label values that it stands for. They are asked for only
/// when a series is new.
pub trait Labels: Clone + Eq + Hash {
    /// One value per declared label.
    fn values(&self) -> Vec<String>;
}

impl Labels for () {
    fn values(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Labels for &'static str {
    fn values(&self) -> Vec<String> {
        vec![(*self).to_owned()]
    }
}

impl Labels for String {
    fn values(&self) -> Vec<String> {
        vec![self.clone()]
    }
}

impl<const N: usize> Labels for [&'static str; N] {
    fn values(&self) -> Vec<String> {
        self.iter().map(|&value| value.to_owned()).collect()
    }
}
