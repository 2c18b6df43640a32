//! The head of a message, line by line as it arrives. Pure.

use super::fields::{Fields, Framing};
use super::message::Limits;
use super::target;
use super::violation::Violation;

/// Empty lines that may stand before a request (RFC 9112 §2.2 asks for one at least).
const EMPTY_LINES_MAX: u8 = 2;

/// Which message a head begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
}

/// A head that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its bytes, the empty line included.
    pub(super) bytes: usize,
    /// How its body is delimited, as far as the fields say.
    pub(super) framing: Framing,
    /// It has an Upgrade field.
    pub(super) has_upgrade: bool,
    /// A response's status; 0 for a request.
    pub(super) status: u16,
}

/// Checks a head whose bytes arrive bit by bit; each byte is looked at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadScanner {
    kind: Kind,
    /// Where the first line begins that has not been checked.
    line: usize,
    /// Up to where a line end was looked for.
    searched: usize,
    empty_lines: u8,
    has_start: bool,
    is_old: bool,
    status: u16,
    fields: Fields,
}

impl HeadScanner {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            line: 0,
            searched: 0,
            empty_lines: 0,
            has_start: false,
            is_old: false,
            status: 0,
            fields: Fields::default(),
        }
    }

    /// Goes on with `bytes`, which begin where the head begins and never get fewer. `None` while the head
    /// has not ended.
    pub(super) fn scan(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<Head>, Violation> {
        while let Some(more) = memchr::memchr(b'\n', bytes.get(self.searched..).unwrap_or_default()) {
            let end = self.searched + more;
            let line = bytes.get(self.line..end).unwrap_or_default();
            if end >= limits.head_bytes_max {
                return Err(Violation::HeadTooLarge);
            }
            let line = line.strip_suffix(b"\r").ok_or(Violation::LineEnd)?;
            (self.line, self.searched) = (end + 1, end + 1);
            if self.has_start && line.is_empty() {
                return self.end().map(Some);
            }
            self.take(line, limits)?;
        }
        self.check_part(bytes, limits)?;
        self.searched = bytes.len();
        Ok(None)
    }

    fn take(&mut self, line: &[u8], limits: &Limits) -> Result<(), Violation> {
        if self.has_start {
            return self.fields.line(line, limits.fields_max);
        }
        if line.is_empty() && self.kind == Kind::Request {
            self.empty_lines += 1;
            let is_allowed = self.empty_lines <= EMPTY_LINES_MAX;
            return is_allowed.then_some(()).ok_or(Violation::RequestLine);
        }
        self.has_start = true;
        match self.kind {
            Kind::Request => self.request_line(line, limits),
            Kind::Response => self.status_line(line),
        }
    }

    /// What can be said of a line whose end has not come.
    fn check_part(&self, bytes: &[u8], limits: &Limits) -> Result<(), Violation> {
        let part = bytes.get(self.line..).unwrap_or_default();
        if self.kind == Kind::Request && !self.has_start {
            // Something else than HTTP is told at once; it may never send a line end.
            let new = bytes.get(self.searched..).unwrap_or_default();
            if new.iter().any(|&b| !(b' '..=b'~').contains(&b) && b != b'\r') {
                return Err(Violation::RequestLine);
            }
            // The last of these may be the CR of its end.
            if part.len() > limits.request_line_bytes_max + 1 {
                return Err(Violation::TargetTooLong);
            }
        }
        if bytes.len() >= limits.head_bytes_max {
            return Err(Violation::HeadTooLarge);
        }
        Ok(())
    }

    fn request_line(&mut self, line: &[u8], limits: &Limits) -> Result<(), Violation> {
        if line.len() > limits.request_line_bytes_max {
            return Err(Violation::TargetTooLong);
        }
        let (method, rest) = split_at_space(line).ok_or(Violation::RequestLine)?;
        let (target, version) = split_at_space(rest).ok_or(Violation::RequestLine)?;
        let is_token = method.iter().all(|&b| super::fields::TOKEN[usize::from(b)]);
        if method.is_empty() || !is_token || target.is_empty() {
            return Err(Violation::RequestLine);
        }
        self.is_old = is_old(version).ok_or_else(|| match version {
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                Violation::Version
            }
            _ => Violation::RequestLine,
        })?;
        if method == b"CONNECT" {
            return Err(Violation::Connect);
        }
        target::check(method, target)
    }

    fn status_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (version, rest) = split_at_space(line).ok_or(Violation::StatusLine)?;
        self.is_old = is_old(version).ok_or(Violation::StatusLine)?;
        // Many servers leave out the space that ends an empty reason.
        let (status, reason) = split_at_space(rest).unwrap_or((rest, b""));
        let is_text = |b: &u8| matches!(b, b'\t' | b' '..=b'~' | 0x80..);
        match status {
            [h @ b'1'..=b'9', t @ b'0'..=b'9', u @ b'0'..=b'9'] if reason.iter().all(is_text) => {
                let digit = |b: &u8| u16::from(b - b'0');
                self.status = digit(h) * 100 + digit(t) * 10 + digit(u);
                Ok(())
            }
            _ => Err(Violation::StatusLine),
        }
    }

    fn end(&self) -> Result<Head, Violation> {
        Ok(Head {
            bytes: self.line,
            framing: self.fields.framing(self.is_old)?,
            has_upgrade: self.fields.has_upgrade(),
            status: self.status,
        })
    }
}

fn split_at_space(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b' ', line)?;
    Some((line.get(..at)?, line.get(at + 1..)?))
}

/// Whether a version that Weir speaks is HTTP/1.0.
fn is_old(version: &[u8]) -> Option<bool> {
    match version {
        b"HTTP/1.1" => Some(false),
        b"HTTP/1.0" => Some(true),
        _ => None,
    }
}
