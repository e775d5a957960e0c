//! Text that came from outside (plugins, pods, processes, DNS, other servers): how much of it is
//! let in, and how its control characters are made visible.
//!
//! No control character passes [`visible`], so what went through it can be shown on a terminal,
//! in a log and in JSON. Applying it again changes nothing.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Bytes of a sentence in which a guest or a library says why something failed.
pub const MAX_REASON: usize = 512;

/// The text with control characters, bidirectional overrides and characters without a width written as
/// `\n` or `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_unsafe) else { return Cow::Borrowed(text) };
    let mut shown = String::with_capacity(text.len() + 8);
    shown.push_str(&text[..first]);
    for c in text[first..].chars() {
        if is_unsafe(c) {
            write!(shown, "{}", c.escape_default()).expect("writing to a String cannot fail");
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// The longest front of the text that is at most `max` bytes long and ends between characters.
pub fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// [`visible`], then [`cut`], for text that is kept.
pub fn admit(text: String, max: usize) -> String {
    if text.len() <= max && !text.contains(is_unsafe) {
        return text;
    }
    // Cut first as well, so that a text of many megabytes is not escaped only to be thrown away.
    cut(&visible(cut(&text, max)), max).to_owned()
}

/// Control characters, and those by which a text can show itself in another order than it has, or two
/// different names as the same.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_are_shown_and_not_obeyed() {
        assert_eq!(visible("a\u{1b}[31m\nb\u{202e}"), "a\\u{1b}[31m\\nb\\u{202e}");
        assert_eq!(visible("grün"), "grün");
        assert_eq!(visible("we\u{200b}b"), "we\\u{200b}b");
    }

    #[test]
    fn what_is_visible_stays_as_it_is() {
        let once = visible("\0\r\u{9b}x").into_owned();
        assert_eq!(visible(&once), once);
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(admit("\u{1b}".repeat(10), 8), "\\u{1b}\\u");
    }
}
