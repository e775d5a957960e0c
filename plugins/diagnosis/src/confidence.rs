//! How sure a conclusion is.

/// Four levels, since nobody can tell 88 from 90. A rule chooses one; evidence that speaks against the
/// conclusion lowers it by one (`Conclusion::although`), and nothing else changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// A guess: reported because nothing better is known, or although something speaks against it.
    Weak,
    /// It fits what was observed, and so does something else; or it is concluded from what was not
    /// observed.
    Likely,
    /// Facts of its own kind point to it, and another reading of them is rare.
    Strong,
    /// The kernel says so itself, by a reason, an event or a counter that means nothing else.
    Certain,
}

impl Confidence {
    /// The contract's number, 0 to 100.
    pub fn percent(self) -> u8 {
        match self {
            Self::Weak => 45,
            Self::Likely => 70,
            Self::Strong => 85,
            Self::Certain => 95,
        }
    }

    /// The level below; the lowest stays.
    #[must_use]
    pub fn lowered(self) -> Self {
        match self {
            Self::Certain => Self::Strong,
            Self::Strong => Self::Likely,
            Self::Likely | Self::Weak => Self::Weak,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_a_larger_number_than_the_one_below() {
        let levels = [Confidence::Weak, Confidence::Likely, Confidence::Strong, Confidence::Certain];
        assert!(levels.is_sorted_by(|a, b| a < b && a.percent() < b.percent()));
        for (below, level) in levels.iter().zip(&levels[1..]) {
            assert_eq!(level.lowered(), *below);
        }
    }
}
