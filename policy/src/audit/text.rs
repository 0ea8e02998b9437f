//! Texts of peers: bounded, and without anything that ends a line or hides what follows.

use std::borrow::Cow;

/// What of a text has room. Each costs what it takes in the encoding where it takes most; what is cut off is marked with `…`.
pub(super) fn clip(text: &str, room: usize) -> Cow<'_, str> {
    let mut used = 0;
    let mut cut = 0;
    for (at, c) in text.char_indices() {
        used += cost(c);
        if used > room {
            return Cow::Owned(format!("{}{CUT}", &text[..cut]));
        }
        if used + CUT.len_utf8() <= room {
            cut = at + c.len_utf8();
        }
    }
    Cow::Borrowed(text)
}

/// Whether it would end a line for some reader, or change how what follows is shown: control characters, the line and paragraph
/// separators, and the characters that turn the direction of writing (Unicode Standard Annex 9).
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn cost(c: char) -> usize {
    match c {
        // \u0000
        c if is_unsafe(c) => 6,
        '"' | '\\' | '|' | '=' => 2,
        c => c.len_utf8(),
    }
}

/// Of users and tenants.
pub(super) const NAME: usize = 128;
/// Of each group, and how many there are.
pub(super) const GROUP: usize = 64;
pub(super) const GROUPS: usize = 8;
/// Of a rule, a session, and each half of a rate.
pub(super) const WORD: usize = 128;
/// Of a host; names of DNS have 253 bytes.
pub(super) const HOST: usize = 256;
/// Of a path, and of its last part.
pub(super) const PATH: usize = 2048;
pub(super) const LAST: usize = 256;
/// Of a reason.
pub(super) const REASON: usize = 512;

const CUT: char = '…';
