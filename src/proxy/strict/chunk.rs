//! Chunked bodies (RFC 9112 §7.1), byte by byte as they arrive. Pure.

use super::fields::TOKEN;
use super::message::Limits;
use super::violation::Violation;

/// Most bytes of chunk extensions in one body. Nobody is known to use any; RFC 9112 §7.1.1 asks for a
/// bound.
const EXTENSION_BYTES_MAX: usize = 4096;
/// Most digits of a chunk's size: all of them are a `u64` then.
const SIZE_DIGITS_MAX: u8 = 16;

/// Checks the framing of one chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkScanner {
    state: State,
    size: u64,
    digits: u8,
    /// Bytes of all chunks begun so far.
    total: u64,
    extension_bytes: usize,
    trailer_bytes: usize,
    trailer_fields: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    /// Whitespace that only an extension may follow.
    BeforeSemicolon,
    ExtensionStart,
    ExtensionName,
    AfterName,
    ValueStart,
    Value,
    Quoted,
    QuotedPair,
    AfterQuoted,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    FieldStart,
    FieldName,
    FieldValue,
    FieldLf,
    EndLf,
    Over,
}

impl ChunkScanner {
    pub(super) fn new() -> Self {
        Self {
            state: State::Size,
            size: 0,
            digits: 0,
            total: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            trailer_fields: 0,
        }
    }

    /// The body has ended.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Goes on with `bytes`. Answers how many of them belong to the body and are as they should be: all,
    /// unless the body ends among them or breaks a rule.
    pub(super) fn scan(&mut self, bytes: &[u8], limits: &Limits) -> (usize, Result<(), Violation>) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Over => break,
                State::Data => {
                    let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                    let take = left.min(bytes.len() - at);
                    at += take;
                    self.size -= take as u64;
                    if self.size == 0 {
                        self.state = State::DataCr;
                    }
                }
                state => match self.step(state, byte, limits) {
                    Ok(next) => {
                        self.state = next;
                        at += 1;
                    }
                    Err(violation) => return (at, Err(violation)),
                },
            }
        }
        (at, Ok(()))
    }

    fn step(&mut self, state: State, byte: u8, limits: &Limits) -> Result<State, Violation> {
        use State::{
            AfterName, AfterQuoted, BeforeSemicolon, Data, DataCr, DataLf, EndLf, ExtensionName,
            ExtensionStart, FieldLf, FieldName, FieldStart, FieldValue, Over, Quoted, QuotedPair, Size,
            SizeLf, Value, ValueStart,
        };
        match state {
            Size => self.size_byte(byte, limits),
            SizeLf if byte == b'\n' => Ok(self.after_size_line()),
            DataCr if byte == b'\r' => Ok(DataLf),
            DataLf if byte == b'\n' => Ok(Size),
            SizeLf | Data | DataCr | DataLf | Over => Err(Violation::Chunk),
            BeforeSemicolon | ExtensionStart | ExtensionName | AfterName | ValueStart | Value | Quoted
            | QuotedPair | AfterQuoted => self.extension_byte(state, byte),
            FieldStart | FieldName | FieldValue | FieldLf | EndLf => self.trailer_byte(state, byte, limits),
        }
    }

    fn size_byte(&mut self, byte: u8, limits: &Limits) -> Result<State, Violation> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            self.digits += 1;
            if self.digits > SIZE_DIGITS_MAX {
                return Err(Violation::Chunk);
            }
            self.size = self.size << 4 | u64::from(digit);
            return Ok(State::Size);
        }
        let next = match byte {
            b'\r' => State::SizeLf,
            b';' => State::ExtensionStart,
            b' ' | b'\t' => State::BeforeSemicolon,
            _ => return Err(Violation::Chunk),
        };
        if self.digits == 0 {
            return Err(Violation::Chunk);
        }
        self.digits = 0;
        self.total = self.total.checked_add(self.size).ok_or(Violation::Chunk)?;
        if self.total > limits.body_bytes_max {
            return Err(Violation::BodyTooLarge);
        }
        Ok(next)
    }

    fn after_size_line(&self) -> State {
        if self.size == 0 {
            State::FieldStart
        } else {
            State::Data
        }
    }

    /// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`
    fn extension_byte(&mut self, state: State, byte: u8) -> Result<State, Violation> {
        use State::{
            AfterName, AfterQuoted, BeforeSemicolon, ExtensionName, ExtensionStart, Quoted, QuotedPair,
            SizeLf, Value, ValueStart,
        };
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(Violation::ChunkExtension);
        }
        let is_token = TOKEN[usize::from(byte)];
        match (state, byte) {
            (BeforeSemicolon, b' ' | b'\t') => Ok(BeforeSemicolon),
            (ExtensionStart, b' ' | b'\t') => Ok(ExtensionStart),
            (ValueStart, b' ' | b'\t') => Ok(ValueStart),
            (ExtensionName | AfterName, b' ' | b'\t') => Ok(AfterName),
            (Value | AfterQuoted, b' ' | b'\t') => Ok(BeforeSemicolon),
            (ExtensionName | AfterName, b'=') => Ok(ValueStart),
            (BeforeSemicolon | ExtensionName | AfterName | Value | AfterQuoted, b';') => Ok(ExtensionStart),
            (ExtensionName | Value | AfterQuoted, b'\r') => Ok(SizeLf),
            (ExtensionStart | ExtensionName, _) if is_token => Ok(ExtensionName),
            (ValueStart, b'"') => Ok(Quoted),
            (ValueStart | Value, _) if is_token => Ok(Value),
            (Quoted, b'"') => Ok(AfterQuoted),
            (Quoted, b'\\') => Ok(QuotedPair),
            (Quoted | QuotedPair, b'\t' | b' '..=b'~' | 0x80..) => Ok(Quoted),
            // As if it were a bad size: whitespace after a size that no extension follows.
            (BeforeSemicolon, _) => Err(Violation::Chunk),
            _ => Err(Violation::ChunkExtension),
        }
    }

    fn trailer_byte(&mut self, state: State, byte: u8, limits: &Limits) -> Result<State, Violation> {
        use State::{EndLf, FieldLf, FieldName, FieldStart, FieldValue, Over};
        self.trailer_bytes += 1;
        if self.trailer_bytes > limits.head_bytes_max {
            return Err(Violation::Trailer);
        }
        let is_token = TOKEN[usize::from(byte)];
        match (state, byte) {
            (FieldStart, b'\r') => Ok(EndLf),
            (EndLf, b'\n') => Ok(Over),
            (FieldStart, _) if is_token => {
                self.trailer_fields += 1;
                let is_allowed = self.trailer_fields <= limits.fields_max;
                is_allowed.then_some(FieldName).ok_or(Violation::Trailer)
            }
            (FieldName, b':') => Ok(FieldValue),
            (FieldName, _) if is_token => Ok(FieldName),
            (FieldValue, b'\r') => Ok(FieldLf),
            (FieldValue, b'\t' | b' '..=b'~' | 0x80..) => Ok(FieldValue),
            (FieldLf, b'\n') => Ok(FieldStart),
            _ => Err(Violation::Trailer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            request_line_bytes_max: 100,
            head_bytes_max: 100,
            fields_max: 2,
            body_bytes_max: 40,
        }
    }

    #[test]
    fn a_body_ends_where_its_last_chunk_does() {
        for valid in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "005;a\r\nhello\r\nA ; b = c;d=\"x\\\"y\"\r\n0123456789\r\n0;e\r\nx: 1\r\ny:\r\n\r\n",
        ] {
            let mut scanner = ChunkScanner::new();
            let more = format!("{valid}GET");
            assert_eq!(
                scanner.scan(more.as_bytes(), &limits()),
                (valid.len(), Ok(())),
                "{valid:?}"
            );
            assert!(scanner.is_over());
        }
    }

    #[test]
    fn each_bad_byte_is_found_where_it_stands() {
        for (good, bad, expected) in [
            ("", "\r\n", Violation::Chunk),
            ("", "g", Violation::Chunk),
            ("", "-1", Violation::Chunk),
            ("0", "x5", Violation::Chunk),
            ("", " 5", Violation::Chunk),
            ("5", "\n", Violation::Chunk),
            ("5\r", "hello", Violation::Chunk),
            ("1 ", "\r\n", Violation::Chunk),
            ("5;", "\r\n", Violation::ChunkExtension),
            ("5;a", "\n", Violation::ChunkExtension),
            ("5;a", "\u{1}", Violation::ChunkExtension),
            ("5;a=", "\r\n", Violation::ChunkExtension),
            ("5;a ", "\r\n", Violation::ChunkExtension),
            ("5;a=\"", "\r\n", Violation::ChunkExtension),
            ("5\r\nhello", "x", Violation::Chunk),
            ("5\r\nhello\r", "\r", Violation::Chunk),
            ("5\r\nhello", "\n", Violation::Chunk),
            ("0000000000000005", "0", Violation::Chunk),
            ("29", "\r\n", Violation::BodyTooLarge),
            (
                "20\r\n01234567890123456789012345678901\r\n9",
                "\r\n",
                Violation::BodyTooLarge,
            ),
            ("0\r\n", "\n", Violation::Trailer),
            ("0\r\n", " x: 1", Violation::Trailer),
            ("0\r\nx", " : 1", Violation::Trailer),
            ("0\r\nx: 1", "\n", Violation::Trailer),
            ("0\r\na:\r\nb:\r\n", "c:\r\n", Violation::Trailer),
        ] {
            let mut scanner = ChunkScanner::new();
            let (at, result) = scanner.scan(format!("{good}{bad}").as_bytes(), &limits());
            assert_eq!((at, result), (good.len(), Err(expected)), "{good:?} {bad:?}");
        }
    }

    #[test]
    fn extensions_are_bounded_over_the_whole_body() {
        let mut scanner = ChunkScanner::new();
        let limits = Limits {
            body_bytes_max: u64::MAX,
            ..limits()
        };
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1000));
        let results: Vec<_> = (0..5)
            .map(|_| scanner.scan(chunk.as_bytes(), &limits).1)
            .collect();
        assert_eq!(results[3], Ok(()));
        assert_eq!(results[4], Err(Violation::ChunkExtension));
    }
}
