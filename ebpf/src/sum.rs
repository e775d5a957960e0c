//! What programs add up in the kernel (`sums.h`) instead of delivering it one by one.
//!
//! A probe that adds up defines in [`Summed`] what a key means, as one of its own records. The host makes
//! that record once a second, and need not know the probe for it.

use zerocopy::FromZeros;

use crate::record::{FromBytes, Head, Immutable, IntoBytes, KnownLayout, Record};

/// Which sum: `struct sum_key`. What the fields mean is defined by each probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Key {
    /// Namespace cookie, 0 = unknown or none.
    pub netns: u64,
    /// E.g. an address in the kernel.
    pub what: u64,
    /// E.g. a reason, a CPU or an interface.
    pub which: u32,
    /// E.g. a protocol, or a stage and a bucket.
    pub detail: u16,
    /// 0 or 1: the second in which it was added to.
    pub epoch: u16,
}

/// What was added up under a key: `struct sum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// Nanoseconds or bytes of all of them, as the probe says.
    pub total: u64,
}

/// A record that may stand for a sum.
pub trait Summed: Record {
    /// The record of a sum; time and namespace are set in `head`, everything else of it is 0.
    fn of_sum(head: Head, key: &Key, sum: &Sum) -> Self;
}

/// Appends the packed words of a sum's record, as a ring would have delivered it at `ts_ns`.
pub(crate) fn append<R: Summed>(words: &mut Vec<u64>, ts_ns: u64, key: &Key, sum: &Sum) {
    let head = Head { ts_ns, netns: key.netns, ..Head::new_zeroed() };
    let record = R::of_sum(head, key, sum);
    let (chunks, _) = record.as_bytes().as_chunks::<8>();
    words.extend(chunks.iter().map(|word| u64::from_le_bytes(*word)));
}

/// Inclusive upper bounds of the buckets of `bucket_of`, in nanoseconds; one more bucket is above
/// them. 1-2-5 steps, because 1 ms, 10 ms and 100 ms must be bounds for counters of what took
/// longer to be exact.
pub const BOUNDS_NS: [u64; 21] = {
    let mut bounds = [0; 21];
    let mut decade = 1_000;
    let mut i = 0;
    while i < bounds.len() {
        bounds[i] = decade;
        bounds[i + 1] = 2 * decade;
        bounds[i + 2] = 5 * decade;
        decade *= 10;
        i += 3;
    }
    bounds
};

/// Upper bounds, in seconds, of a histogram that is made of sums: [`BOUNDS_NS`] from `from_ns` to
/// `to_ns`. `coarse` leaves out those that begin with 2.
pub fn bounds_seconds(from_ns: u64, to_ns: u64, coarse: bool) -> Vec<f64> {
    let bounds = BOUNDS_NS.iter().enumerate();
    let bounds = bounds.filter(|(i, bound)| (from_ns..=to_ns).contains(*bound) && !(coarse && i % 3 == 1));
    bounds.map(|(_, bound)| mean_seconds(1, *bound)).collect()
}

/// The mean of a sum in seconds, which lies in its bucket as each of them does: observed as often
/// as they are, it makes a histogram with the right buckets and the right sum.
pub fn mean_seconds(count: u64, total_ns: u64) -> f64 {
    total_ns as f64 / count.max(1) as f64 / 1e9
}

/// Whether everything in the bucket took longer than `bound_ns`, one of [`BOUNDS_NS`].
pub fn is_above(bucket: u16, bound_ns: u64) -> bool {
    BOUNDS_NS.iter().position(|bound| *bound == bound_ns).is_some_and(|index| usize::from(bucket) > index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_that_counters_ask_for_are_bounds() {
        for bound in [1_000_000, 10_000_000, 100_000_000] {
            let index = BOUNDS_NS.iter().position(|b| *b == bound).expect("it is a bound") as u16;
            assert!(!is_above(index, bound) && is_above(index + 1, bound));
        }
        assert_eq!((BOUNDS_NS[0], BOUNDS_NS[20]), (1_000, 5_000_000_000));
        assert_eq!(bounds_seconds(1_000_000, 20_000_000, true), [0.001, 0.005, 0.01]);
        assert_eq!(mean_seconds(3, 30_000_000), 0.01, "a bound is reached exactly");
        assert!(BOUNDS_NS.is_sorted_by(|a, b| a < b));
    }
}
