//! What can be wrong with a message, and what its sender is told.

use http::StatusCode;

/// A rule of RFC 9112 that a message breaks, or a limit that it exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub enum Violation {
    /// A line that does not end in CR LF (RFC 9112 §2.2).
    LineEnd,
    /// Not `method SP target SP version` (RFC 9112 §3).
    RequestLine,
    /// Not `version SP status [SP reason]` (RFC 9112 §4).
    StatusLine,
    /// A version other than 1.0 and 1.1 (RFC 9110 §15.6.6).
    Version,
    /// CONNECT, which a gateway has no use for (RFC 9110 §9.3.6).
    Connect,
    /// A target in none of the forms of RFC 9112 §3.2, or with characters that it may not have.
    Target,
    /// The authority of an absolute target is no host with an optional port (RFC 9112 §3.2.2).
    Authority,
    /// The request line is longer than allowed (RFC 9112 §3).
    TargetTooLong,
    /// A field name that is no token (RFC 9110 §5.1).
    FieldName,
    /// Whitespace between a field name and its colon (RFC 9112 §5.1).
    SpaceBeforeColon,
    /// A field value with control characters (RFC 9110 §5.5).
    FieldValue,
    /// A line that continues a field, or stands before the first (RFC 9112 §5.2, §2.2).
    Folded,
    /// More fields than allowed (RFC 6585 §5).
    TooManyFields,
    /// A larger head than allowed (RFC 6585 §5).
    HeadTooLarge,
    /// Content-Length beside Transfer-Encoding (RFC 9112 §6.1).
    LengthAndCoding,
    /// A Content-Length that is no number (RFC 9110 §8.6).
    Length,
    /// More than one Content-Length (RFC 9112 §6.3).
    SeveralLengths,
    /// A transfer coding that Weir does not pass on (RFC 9112 §6.1).
    Coding,
    /// `chunked` is not the last coding, or not the only `chunked` (RFC 9112 §6.1, §6.3).
    CodingOrder,
    /// Transfer-Encoding in HTTP/1.0 (RFC 9112 §6.1).
    CodingInOldVersion,
    /// A chunk that is not `size [extensions] CR LF data CR LF` (RFC 9112 §7.1).
    Chunk,
    /// An extension that is not `; name [= value]`, or too many bytes of them (RFC 9112 §7.1.1).
    ChunkExtension,
    /// A trailer section that is no list of fields, or is too long (RFC 9112 §7.1.2).
    Trailer,
    /// More body than allowed (RFC 9110 §15.5.14).
    BodyTooLarge,
    /// The body came to a halt, or comes slower than allowed (RFC 9110 §15.5.9).
    BodyTooSlow,
    /// Bytes of an upstream that belong to no response (RFC 9112 §9.3.1).
    Unexpected,
}

impl Violation {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 26] = [
        Self::LineEnd,
        Self::RequestLine,
        Self::StatusLine,
        Self::Version,
        Self::Connect,
        Self::Target,
        Self::Authority,
        Self::TargetTooLong,
        Self::FieldName,
        Self::SpaceBeforeColon,
        Self::FieldValue,
        Self::Folded,
        Self::TooManyFields,
        Self::HeadTooLarge,
        Self::LengthAndCoding,
        Self::Length,
        Self::SeveralLengths,
        Self::Coding,
        Self::CodingOrder,
        Self::CodingInOldVersion,
        Self::Chunk,
        Self::ChunkExtension,
        Self::Trailer,
        Self::BodyTooLarge,
        Self::BodyTooSlow,
        Self::Unexpected,
    ];

    /// What is wrong, in the words that the sender gets.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::LineEnd => "a line does not end in CR LF",
            Self::RequestLine => "the request line is not valid",
            Self::StatusLine => "the status line is not valid",
            Self::Version => "this version of HTTP is not supported",
            Self::Connect => "this method is not allowed",
            Self::Target => "the request target is not valid",
            Self::Authority => "the request's Host is not valid",
            Self::TargetTooLong => "the request target is too long",
            Self::FieldName => "the name of a header field is not valid",
            Self::SpaceBeforeColon => "a header field has whitespace before its colon",
            Self::FieldValue => "a header field has control characters",
            Self::Folded => "a header field is folded over several lines",
            Self::TooManyFields => "the request has too many header fields",
            Self::HeadTooLarge => "the request has too large a head",
            Self::LengthAndCoding => "the message has both Content-Length and Transfer-Encoding",
            Self::Length => "the message has no valid Content-Length",
            Self::SeveralLengths => "the message has more than one Content-Length",
            Self::Coding => "the request has a transfer coding other than chunked",
            Self::CodingOrder => "the message's transfer coding does not end in one chunked",
            Self::CodingInOldVersion => "the message has a Transfer-Encoding in HTTP/1.0",
            Self::Chunk => "a chunk of the body is not valid",
            Self::ChunkExtension => "a chunk of the body has an extension that is not valid",
            Self::Trailer => "the trailer section is not valid",
            Self::BodyTooLarge => "the request's body is too large",
            Self::BodyTooSlow => "the client sent its request too slowly",
            Self::Unexpected => "bytes came that belong to no response",
        }
    }

    /// What a client hears that sent it.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooManyFields | Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl From<Violation> for std::io::Error {
    fn from(violation: Violation) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, violation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_violation_at_the_place_of_its_discriminant() {
        for (place, violation) in Violation::ALL.into_iter().enumerate() {
            assert_eq!(violation as usize, place, "{violation:?}");
        }
        assert_eq!(Violation::Unexpected as usize + 1, Violation::ALL.len());
    }
}
