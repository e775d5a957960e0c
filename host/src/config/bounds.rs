//! Numbers within bounds.

use serde::{Deserialize as _, Deserializer, de};

/// A number of `MIN` to `MAX`.
pub(super) fn between<'de, const MIN: u32, const MAX: u32, D: Deserializer<'de>>(
    value: D,
) -> Result<u32, D::Error> {
    // Read wide, so that a negative number is told its bounds too.
    let number = i64::deserialize(value)?;
    u32::try_from(number)
        .ok()
        .filter(|number| (MIN..=MAX).contains(number))
        .ok_or_else(|| de::Error::custom(format!("{number} is not between {MIN} and {MAX}")))
}
