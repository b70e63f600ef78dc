//! Texts of others, as they are shown to people: in logs, conditions and events.
//!
//! A name, a message of a server or the sentence of a policy may hold a newline, a code for terminals, or a character that
//! turns the writing around. Shown as it is, it could look like a line of the operator, or hide one.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

/// Whether a character may be shown as it is: no control character, no separator of lines, and none that sets the direction
/// of writing.
pub fn is_plain(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}') && !turns
}

/// The text with all other characters escaped as in Rust: `\n`, `\u{1b}`. A text that is plain stays as it is.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    // A String takes everything.
    let _ = Plain(&mut escaped).write_str(text);
    Cow::Owned(escaped)
}

/// Passes on what is written to it as [`plain`] text.
pub struct Plain<W>(pub W);

impl<W: Write> Write for Plain<W> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        while let Some((at, c)) = text.char_indices().find(|(_, c)| !is_plain(*c)) {
            self.0.write_str(&text[..at])?;
            write!(self.0, "{}", c.escape_debug())?;
            text = &text[at + c.len_utf8()..];
        }
        self.0.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writing_of_all_languages_stays_as_it_is() {
        for text in ["", "a b", "büro", "\\n", "日本語", "עברית", "👩\u{200d}🚀", "\u{a0}"] {
            assert_eq!(plain(text), text);
        }
    }

    #[test]
    fn what_moves_the_cursor_or_the_writing_is_escaped() {
        for (text, shown) in [
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\u{1b}[2J\u{7}\0\u{7f}", r"\u{1b}[2J\u{7}\0\u{7f}"),
            ("\u{85}\u{9b}31m", r"\u{85}\u{9b}31m"),
            ("\u{2028}\u{2029}\u{b}\u{c}", r"\u{2028}\u{2029}\u{b}\u{c}"),
            ("\u{202e}\u{2066}\u{200f}\u{61c}", r"\u{202e}\u{2066}\u{200f}\u{61c}"),
        ] {
            assert_eq!(plain(text), shown);
        }
    }

    proptest! {
        #[test]
        fn a_plain_text_stays_plain(text: String) {
            let once = plain(&text).into_owned();
            prop_assert!(once.chars().all(is_plain));
            prop_assert_eq!(plain(&once), once.as_str());
        }
    }
}
