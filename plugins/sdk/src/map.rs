//! A hash map without a random seed.
//!
//! The standard seed would be a random import, and the order of iteration would differ between
//! two replays of one trace. It is also several times slower on the short integer keys of an
//! analyzer. What it gives up is resistance to chosen keys: bound the map, and let the host's
//! deadline do the rest.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A [`HashMap`] with [`FixedHasher`].
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<FixedHasher>>;

/// The multiply-rotate hash of the Rust compiler (`rustc-hash`).
#[derive(Debug, Default, Clone, Copy)]
pub struct FixedHasher(u64);

const MULTIPLIER: u64 = 0xf135_7aea_2e62_a9c5;

impl Hasher for FixedHasher {
    fn finish(&self) -> u64 {
        // The low bits select the bucket, and a multiplication leaves them the weakest.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.wrapping_add(n)).wrapping_mul(MULTIPLIER);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}
