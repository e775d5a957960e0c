//! How much the kernel side may hold and deliver.

use super::load::Tunables;
use crate::privilege;

/// The smallest ring that holds a batch and its threshold.
pub const LEAST_RING: u32 = 64 << 10;
/// The largest power of two that a `u32` of the kernel's interface and its double mapping allow.
const LARGEST_RING: u32 = 1 << 30;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes of each probe's ring; rounded up to a power of two, at least 64 KiB.
    pub ring_bytes: u32,
    /// Records per second of each probe and network namespace; 0 = no limit.
    pub limit_per_second: u32,
    /// Records that may come at once after a quiet time.
    pub limit_burst: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { ring_bytes: 4 << 20, limit_per_second: 2000, limit_burst: 4000 }
    }
}

impl Options {
    /// The same with a size that a ring can have.
    #[must_use]
    pub fn with_possible_ring(self) -> Options {
        let ring_bytes = self.ring_bytes.clamp(LEAST_RING, LARGEST_RING).next_power_of_two();
        Options { ring_bytes, ..self }
    }

    /// The values that each load sets in the object.
    pub fn tunables(self) -> Tunables {
        Tunables {
            ring_bytes: self.ring_bytes,
            limit_per_second: self.limit_per_second,
            limit_burst: self.limit_burst,
            wake_bytes: self.ring_bytes / 4,
            may_read_kernel: u32::from(privilege::may_read_kernel()),
        }
    }
}
