//! The normal form of request paths. Pure.
//!
//! One string is matched by routes, counted by limits and sent upstream, so that no spelling of a path gets
//! past a route or a counter. Promises that normalising is idempotent, never makes a path longer, and copies
//! nothing that is normal already.

use std::borrow::Cow;

use thiserror::Error;

/// What becomes of `%2F` and `%5C` in a path, which some servers take for separators and others for data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// The request is refused.
    #[default]
    Refuse,
    /// They pass as data, undecoded.
    Pass,
}

/// Why a path has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{}", self.message())]
pub enum PathError {
    /// It does not begin with `/`.
    NotRooted,
    /// It has a byte that RFC 3986 §3.3 allows only percent-encoded, or a backslash.
    Character,
    /// A `%` without two hexadecimal digits (RFC 3986 §2.1).
    Encoding,
    /// It has a `%00`.
    EncodedNul,
    /// It has a `%2F` or `%5C`.
    EscapedSlash,
}

impl PathError {
    /// What a client is told.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::NotRooted => "the request's path does not begin with a slash",
            Self::Character => "the request's path has a character that must be percent-encoded",
            Self::Encoding => "the request's path has a percent sign without two hexadecimal digits",
            Self::EncodedNul => "the request's path has an encoded NUL",
            Self::EscapedSlash => "the request's path has an encoded slash or backslash",
        }
    }
}

/// `path` in normal form: unreserved characters decoded and the digits of other encodings in upper case
/// (RFC 3986 §6.2.2.1, §6.2.2.2), empty segments left out, then dot segments resolved (§5.2.4). `..` in the
/// root stays there.
///
/// # Errors
/// [`PathError`] when two servers could read the path in different ways.
pub fn normalize(path: &str, slashes: EscapedSlashes) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotRooted);
    }
    Ok(if is_normal(path.as_bytes(), slashes)? {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(rewritten(path))
    })
}

/// One look at every byte, which finds all that is wrong, too.
fn is_normal(path: &[u8], slashes: EscapedSlashes) -> Result<bool, PathError> {
    let mut normal = true;
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'/' => normal &= !begins_with_empty_or_dots(after),
            b'%' => {
                let (octet, spelt_normally) = encoded(after).ok_or(PathError::Encoding)?;
                match octet {
                    0 => return Err(PathError::EncodedNul),
                    b'/' | b'\\' if slashes == EscapedSlashes::Refuse => {
                        return Err(PathError::EscapedSlash);
                    }
                    _ => normal &= spelt_normally && !is_unreserved(octet),
                }
                rest = after.get(2..).unwrap_or_default();
            }
            // Where the path would end, and what others read as a slash.
            b'?' | b'#' | b'\\' => return Err(PathError::Character),
            _ if byte.is_ascii_graphic() => {}
            _ => return Err(PathError::Character),
        }
    }
    Ok(normal)
}

/// Whether the segment that begins here is `.`, `..`, or empty and not the last.
fn begins_with_empty_or_dots(rest: &[u8]) -> bool {
    matches!(
        rest,
        [b'/', ..] | [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..]
    )
}

/// The octet that the two digits at the beginning of `rest` stand for, and whether they are in upper case.
fn encoded(rest: &[u8]) -> Option<(u8, bool)> {
    let (&high, &low) = (rest.first()?, rest.get(1)?);
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let octet = digit(high)? << 4 | digit(low)?;
    Some((octet, !high.is_ascii_lowercase() && !low.is_ascii_lowercase()))
}

/// RFC 3986 §2.3.
fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"-._~".contains(&octet)
}

/// Segment by segment, so that each byte is written once and taken back at most once.
fn rewritten(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    let mut ends_in_slash = false;
    for segment in path.split('/').skip(1) {
        let start = normal.len();
        normal.push('/');
        push_decoded(&mut normal, segment);
        let parent = match normal.get(start..).unwrap_or_default() {
            "/" | "/." => Some(start),
            "/.." => normal
                .get(..start)
                .and_then(|before| before.rfind('/'))
                .or(Some(0)),
            _ => None,
        };
        if let Some(parent) = parent {
            normal.truncate(parent);
        }
        ends_in_slash = parent.is_some();
    }
    if ends_in_slash {
        normal.push('/');
    }
    normal
}

/// Appends `segment`, whose encodings are valid, with each in its normal form.
fn push_decoded(normal: &mut String, segment: &str) {
    let mut rest = segment;
    while let Some((before, after)) = rest.split_once('%') {
        normal.push_str(before);
        let (digits, behind) = after.split_at_checked(2).unwrap_or((after, ""));
        match encoded(digits.as_bytes()) {
            Some((octet, _)) if is_unreserved(octet) => normal.push(char::from(octet)),
            _ => {
                normal.push('%');
                normal.extend(digits.chars().map(|digit| digit.to_ascii_uppercase()));
            }
        }
        rest = behind;
    }
    normal.push_str(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [EscapedSlashes; 2] = [EscapedSlashes::Refuse, EscapedSlashes::Pass];

    #[test]
    fn every_spelling_of_a_path_has_one_form() {
        for (path, expected) in [
            // RFC 3986 §6.2.2.2: unreserved characters mean the same encoded.
            ("/%61p%69/%7euser%2D1", "/api/~user-1"),
            // RFC 3986 §6.2.2.1: the digits are upper case; other encodings stay.
            ("/caf%c3%a9/a%20b/%3f%23%25", "/caf%C3%A9/a%20b/%3F%23%25"),
            // What is decoded once is not decoded again.
            ("/%2541", "/%2541"),
            // RFC 3986 §5.2.4.
            ("/a/b/../c", "/a/c"),
            ("/a/./b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/../../a", "/a"),
            ("/..", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/mid/content=5/../6", "/mid/6"),
            // Dots that are a part of a name.
            ("/a/.hidden/..b/c.../...", "/a/.hidden/..b/c.../..."),
            // Empty segments.
            ("//a///b//", "/a/b/"),
            ("/a//../b", "/b"),
            ("//", "/"),
            ("/", "/"),
            ("/a;p=1/b@c:d!$&'()*+,=", "/a;p=1/b@c:d!$&'()*+,="),
        ] {
            for slashes in BOTH {
                assert_eq!(normalize(path, slashes).as_deref(), Ok(expected), "{path}");
            }
        }
    }

    #[test]
    fn a_path_that_servers_read_in_different_ways_has_none() {
        for (path, error) in [
            ("", PathError::NotRooted),
            ("a/b", PathError::NotRooted),
            ("*", PathError::NotRooted),
            ("/a\\b", PathError::Character),
            ("/a\u{7f}", PathError::Character),
            ("/a\tb", PathError::Character),
            ("/a b", PathError::Character),
            ("/caf\u{e9}", PathError::Character),
            ("/a?b", PathError::Character),
            ("/a#b", PathError::Character),
            ("/%", PathError::Encoding),
            ("/%4", PathError::Encoding),
            ("/%4/1", PathError::Encoding),
            ("/%zz", PathError::Encoding),
            ("/%+1", PathError::Encoding),
            ("/%\u{e9}", PathError::Encoding),
            ("/a%00", PathError::EncodedNul),
        ] {
            for slashes in BOTH {
                assert_eq!(normalize(path, slashes), Err(error), "{path}");
            }
        }
    }

    #[test]
    fn encoded_slashes_are_refused_unless_they_may_pass_and_are_never_decoded() {
        for path in ["/a%2fb", "/a%2Fb", "/a%5cb", "/a/..%5C..%2f"] {
            assert_eq!(
                normalize(path, EscapedSlashes::Refuse),
                Err(PathError::EscapedSlash)
            );
            let passed = normalize(path, EscapedSlashes::Pass).unwrap();
            assert_eq!(passed, path.replace("%2f", "%2F").replace("%5c", "%5C"));
        }
    }

    #[test]
    fn what_is_normal_is_not_copied() {
        for path in ["/", "/a/b", "/a/b/", "/caf%C3%A9/.x", "/a%20b"] {
            assert!(
                matches!(normalize(path, EscapedSlashes::Refuse), Ok(Cow::Borrowed(_))),
                "{path}"
            );
        }
    }

    fn paths() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "//", ".", "..", "/../", "/./", "a", "B", "%61", "%2e", "%2E", "%2f", "%5C", "%25",
            "41", "%c3%A9", "%00", "%", "\\", "é", ";", "~",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn normalising_again_changes_nothing(path in paths()) {
            for slashes in BOTH {
                if let Ok(normal) = normalize(&path, slashes) {
                    prop_assert_eq!(normalize(&normal, slashes), Ok(Cow::Borrowed(&*normal)));
                    prop_assert!(normal.starts_with('/') && normal.len() <= path.len());
                    let dots = normal.split('/').any(|segment| segment == "." || segment == "..");
                    prop_assert!(!dots && !normal.contains("//"), "{}", normal);
                    prop_assert_eq!(matches!(normal, Cow::Borrowed(_)), normal == path.as_str());
                }
            }
        }

        #[test]
        fn any_text_is_normalised_or_refused(path in any::<String>()) {
            for slashes in BOTH {
                if let Ok(normal) = normalize(&path, slashes) {
                    prop_assert!(normal.bytes().all(|byte| byte.is_ascii_graphic()));
                }
            }
        }
    }
}
