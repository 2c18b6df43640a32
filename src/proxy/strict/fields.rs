//! Field lines, and the framing that they give a body. Pure.

use super::violation::Violation;

/// How the body of a message is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none, or none was announced.
    None,
    /// By its length in bytes.
    Length(u64),
    /// By chunks.
    Chunked,
}

/// Bytes of a token (RFC 9110 §5.6.2).
pub(super) const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
            )
            || b == b'~';
        byte += 1;
    }
    table
};

/// Most digits of a Content-Length: all of them are a `u64` then.
const LENGTH_DIGITS_MAX: usize = 18;

/// What the field lines of a head say of its body, line by line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    count: usize,
    length: Option<u64>,
    has_coding: bool,
    /// `chunked` was seen; how often does not matter beyond twice.
    chunked: u8,
    ends_chunked: bool,
    has_other_coding: bool,
    has_upgrade: bool,
}

impl Fields {
    /// Takes one line, without its end.
    pub(super) fn line(&mut self, line: &[u8], fields_max: usize) -> Result<(), Violation> {
        let (name, value) = split(line)?;
        self.count += 1;
        if self.count > fields_max {
            return Err(Violation::TooManyFields);
        }
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.has_upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => self.length(value)?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.codings(value),
            _ => {}
        }
        Ok(())
    }

    /// Whether there is an Upgrade field.
    pub(super) fn has_upgrade(&self) -> bool {
        self.has_upgrade
    }

    /// How the body is delimited. `is_old`: the message is of HTTP/1.0.
    pub(super) fn framing(&self, is_old: bool) -> Result<Framing, Violation> {
        match (self.has_coding, self.length) {
            (true, Some(_)) => Err(Violation::LengthAndCoding),
            (true, None) if is_old => Err(Violation::CodingInOldVersion),
            (true, None) if !self.ends_chunked || self.chunked > 1 => Err(Violation::CodingOrder),
            (true, None) if self.has_other_coding => Err(Violation::Coding),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(Framing::None),
        }
    }

    fn length(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.length.is_some() {
            return Err(Violation::SeveralLengths);
        }
        let is_number =
            (1..=LENGTH_DIGITS_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
        if !is_number {
            return Err(Violation::Length);
        }
        let digit = |sum: u64, b: &u8| sum * 10 + u64::from(b - b'0');
        self.length = Some(value.iter().fold(0, digit));
        Ok(())
    }

    fn codings(&mut self, value: &[u8]) {
        self.has_coding = true;
        for coding in value.split(|&b| b == b',') {
            let is_chunked = coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
            self.chunked = self.chunked.saturating_add(u8::from(is_chunked));
            self.has_other_coding |= !is_chunked;
            self.ends_chunked = is_chunked;
        }
    }
}

/// The name and the trimmed value of a field line.
fn split(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    let end = line
        .iter()
        .position(|&b| !TOKEN[usize::from(b)])
        .unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    match rest.first() {
        Some(b':') if !name.is_empty() => {}
        Some(b' ' | b'\t') if name.is_empty() => return Err(Violation::Folded),
        Some(b' ' | b'\t') => return Err(Violation::SpaceBeforeColon),
        _ => return Err(Violation::FieldName),
    }
    let value = rest.get(1..).unwrap_or_default();
    if has_control(value) {
        return Err(Violation::FieldValue);
    }
    Ok((name, value.trim_ascii()))
}

/// Whether there are control characters other than the tab (RFC 9110 §5.5). Without an early exit, so that
/// it is done in vectors.
fn has_control(value: &[u8]) -> bool {
    value.iter().fold(false, |found, &b| {
        found | ((b < b' ') & (b != b'\t')) | (b == 0x7f)
    })
}
