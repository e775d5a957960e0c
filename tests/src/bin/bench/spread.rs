//! Medians with minimum and maximum, and how far a baseline moved.

/// Several measurements of one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these values; NaN if there are none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { at(middle) } else { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 };
        Self { median, min: at(0), max: at(sorted.len().wrapping_sub(1)) }
    }
}

/// By which part of itself a value moved between the first and the second half of its rounds.
pub fn drift(rounds: &[f64]) -> f64 {
    let half = rounds.len() / 2;
    let (first, second) = (&rounds[..half], &rounds[rounds.len() - half..]);
    (Spread::of(first).median / Spread::of(second).median - 1.0).abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_of_what_was_measured() {
        assert_eq!(Spread::of(&[3.0, 1.0, 9.0]), Spread { median: 3.0, min: 1.0, max: 9.0 });
        assert_eq!(Spread::of(&[4.0, 2.0]).median, 3.0);
        assert!(Spread::of(&[]).median.is_nan());
    }

    #[test]
    fn a_baseline_that_jumps_in_the_middle_has_moved() {
        assert!(drift(&[100.0, 101.0, 99.0, 100.0, 112.0, 111.0, 113.0]) > 0.05);
        assert!(drift(&[100.0, 101.0, 150.0, 99.0, 100.0]) < 0.05);
    }
}
