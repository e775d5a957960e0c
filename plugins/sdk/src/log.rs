//! Lines for the agent's log, under the analyzer's name. The host limits their rate.
//!
//! The macros ask for the level first, so a line that nobody reads is never formatted.

use crate::host::log;

/// Error, for what stops the analyzer from doing its work.
pub const ERROR: u8 = 0;
/// Warning, for what makes its output wrong or incomplete.
pub const WARN: u8 = 1;
/// Information, for what an operator wants to know once.
pub const INFO: u8 = 2;
/// Debug, for the analyzer's author.
pub const DEBUG: u8 = 3;

/// Whether lines of this level are written.
pub fn enabled(level: u8) -> bool {
    level <= log::max_level()
}

/// Writes one line; the macros are shorter.
pub fn write(level: u8, message: &str) {
    log::write(level, message);
}

/// Logs at a level, if that level is written: `log!(DEBUG, "{n} rows")`.
#[macro_export]
macro_rules! log {
    ($level:ident, $($message:tt)+) => {
        if $crate::log::enabled($crate::log::$level) {
            $crate::log::write($crate::log::$level, &::std::format!($($message)+));
        }
    };
}
