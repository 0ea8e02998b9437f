//! Structured fields (RFC 9651, which replaces RFC 8941), read as far as the two fields here need it.

/// What is left of a field's value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// An item without its parameters (RFC 9651, section 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bare {
    Boolean(bool),
    String(String),
    Token(String),
    /// Numbers, dates, byte sequences and display strings, whose values nobody here asks for.
    Other,
}

impl Bare {
    /// The text of a string or a token.
    pub(crate) fn text(self) -> Option<String> {
        match self {
            Self::String(text) | Self::Token(text) => Some(text),
            Self::Boolean(_) | Self::Other => None,
        }
    }
}

impl<'a> Reader<'a> {
    /// Spaces at both ends do not count (RFC 9651, section 4.2).
    pub(crate) fn new(field: &'a [u8]) -> Self {
        let mut reader = Self { rest: field };
        reader.spaces();
        while let [before @ .., b' '] = reader.rest {
            reader.rest = before;
        }
        reader
    }

    pub(crate) fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes `byte` off the front, if it is there.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Takes the comma between two members of a list, with what may be around it; `None` if there is none, or nothing
    /// after it (RFC 9651, section 4.2.1).
    pub(crate) fn comma(&mut self) -> Option<()> {
        self.blanks();
        if !self.take(b',') {
            return None;
        }
        self.blanks();
        (!self.is_done()).then_some(())
    }

    /// An item without its parameters; `None` if there is none (RFC 9651, section 4.2.3.1).
    pub(crate) fn bare(&mut self) -> Option<Bare> {
        match *self.rest.first()? {
            b'"' => self.string().map(Bare::String),
            b'?' => {
                self.take(b'?');
                let value = self.take(b'1');
                (value || self.take(b'0')).then_some(Bare::Boolean(value))
            }
            b'*' | b'A'..=b'Z' | b'a'..=b'z' => {
                let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b);
                Some(Bare::Token(self.run(token)))
            }
            b':' => {
                self.take(b':');
                self.run(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
                self.take(b':').then_some(Bare::Other)
            }
            b'@' | b'-' | b'0'..=b'9' => {
                self.take(b'@');
                self.take(b'-');
                let digits = self.run(|b| b.is_ascii_digit() || b == b'.');
                digits.bytes().any(|b| b.is_ascii_digit()).then_some(Bare::Other)
            }
            b'%' => {
                self.take(b'%');
                self.string().map(|_| Bare::Other)
            }
            _ => None,
        }
    }

    /// Parameters of an item, each given to `each`; `None` if they break off (RFC 9651, section 4.2.3.2).
    pub(crate) fn parameters(&mut self, mut each: impl FnMut(&str, Bare)) -> Option<()> {
        while self.take(b';') {
            self.spaces();
            if !matches!(self.rest.first()?, b'*' | b'a'..=b'z') {
                return None;
            }
            let key = self.run(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.*".contains(&b));
            let value = if self.take(b'=') { self.bare()? } else { Bare::Boolean(true) };
            each(&key, value);
        }
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        if !self.take(b'"') {
            return None;
        }
        let mut text = String::new();
        loop {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'"' => return Some(text),
                b'\\' => {
                    let (&escaped, rest) = self.rest.split_first()?;
                    self.rest = rest;
                    text.push(matches!(escaped, b'"' | b'\\').then_some(escaped)?.into());
                }
                b' '..=b'~' => text.push(byte.into()),
                _ => return None,
            }
        }
    }

    /// Takes what `is` is true of off the front; only for what is ASCII.
    fn run(&mut self, is: impl Fn(u8) -> bool) -> String {
        let len = self.rest.iter().position(|b| !is(*b)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(len);
        self.rest = rest;
        run.iter().map(|b| char::from(*b)).collect()
    }

    fn spaces(&mut self) {
        while self.take(b' ') {}
    }

    fn blanks(&mut self) {
        while self.take(b' ') || self.take(b'\t') {}
    }
}

/// Appends `text` as a string (RFC 9651, section 4.1.6). What a string cannot have, everything but printable ASCII,
/// becomes a question mark; what is longer than `longest` characters is cut off.
pub(crate) fn put_string(text: &str, longest: usize, out: &mut String) {
    out.push('"');
    for c in text.chars().take(longest) {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc9651_4_2_3_1_items_of_each_type() {
        let bare = |text: &str| {
            let mut reader = Reader::new(text.as_bytes());
            reader.bare().filter(|_| reader.is_done())
        };
        assert_eq!(bare(r#"  "a\"\\ b" "#), Some(Bare::String(r#"a"\ b"#.into())));
        assert_eq!(bare("foo.example:80/x"), Some(Bare::Token("foo.example:80/x".into())));
        assert_eq!(bare("*a"), Some(Bare::Token("*a".into())));
        assert_eq!((bare("?1"), bare("?0")), (Some(Bare::Boolean(true)), Some(Bare::Boolean(false))));
        for other in ["1", "-1", "1.5", "@1659578233", ":cHJldGVuZA==:", r#"%"a%c3%bc""#] {
            assert_eq!(bare(other), Some(Bare::Other), "{other}");
        }
        for bad in ["", "?2", "?", "\"a", "\"\\a\"", "\"\u{7f}\"", "\"ü\"", "(a b)", "-", ":a", "{", "\ta"] {
            assert_eq!(bare(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in "[ -~]{0,40}", other in any::<String>()) {
            let mut out = String::new();
            put_string(&text, 100, &mut out);
            prop_assert_eq!(Reader::new(out.as_bytes()).bare(), Some(Bare::String(text)));
            let mut out = String::new();
            put_string(&other, 10, &mut out);
            let read = Reader::new(out.as_bytes()).bare().unwrap().text().unwrap();
            prop_assert_eq!(read.len(), other.chars().count().min(10));
        }
    }
}
