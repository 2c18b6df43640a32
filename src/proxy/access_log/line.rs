//! How one line of the access log looks. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::Version;
use jiff::Timestamp;
use serde::Serialize;

/// Longest text of a client that a line repeats, in bytes: what is longer is cut, and marked.
const TEXT_BYTES_MAX: usize = 1024;

/// What a line says.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    pub(super) time: String,
    pub(super) request_id: Option<String>,
    pub(super) client: IpAddr,
    pub(super) method: String,
    pub(super) host: Option<String>,
    pub(super) path: String,
    pub(super) protocol: &'static str,
    pub(super) status: u16,
    pub(super) bytes: u64,
    /// The client was handed all of it.
    pub(super) complete: bool,
    pub(super) duration_ms: f64,
    pub(super) upstream_ms: Option<f64>,
    pub(super) route: Option<&'a str>,
    pub(super) limit: Option<&'static str>,
    pub(super) rule: Option<&'a str>,
    pub(super) refusal: Option<&'static str>,
    pub(super) user_agent: Option<String>,
    pub(super) referer: Option<String>,
}

impl Line<'_> {
    /// One JSON object; what is not known is null.
    pub(super) fn as_json(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Apache's combined format, and behind it the request id, how long it and the upstream took in
    /// milliseconds, the route, and what the limits said.
    pub(super) fn as_text(&self, time: SystemTime) -> Vec<u8> {
        let or_dash = |text: Option<&str>| escaped(text.unwrap_or("-"));
        let mut line = format!(
            "{} - - [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"",
            self.client,
            common_log_time(time),
            escaped(&self.method),
            escaped(&self.path),
            self.protocol,
            self.status,
            self.bytes,
            or_dash(self.referer.as_deref()),
            or_dash(self.user_agent.as_deref()),
        );
        // Writing to a string does not fail.
        let _ = write!(
            line,
            " {} {}",
            or_dash(self.request_id.as_deref()),
            self.duration_ms
        );
        let _ = match self.upstream_ms {
            Some(millis) => write!(line, " {millis}"),
            None => line.write_str(" -"),
        };
        let _ = write!(
            line,
            " {} {} {}",
            or_dash(self.route),
            or_dash(self.limit),
            or_dash(self.rule)
        );
        line.push('\n');
        line.into_bytes()
    }
}

/// Text of a client as a line may repeat it: at most [`TEXT_BYTES_MAX`] of it, in UTF-8.
pub(super) fn clipped(bytes: &[u8]) -> String {
    let kept = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    let mut text = String::from_utf8_lossy(kept).into_owned();
    if kept.len() < bytes.len() {
        text.push('…');
    }
    text
}

/// The instant in RFC 3339, to the millisecond.
pub(super) fn rfc3339(time: SystemTime) -> String {
    timestamp(time).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// A time span in milliseconds, to the microsecond.
pub(super) fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

/// The protocol of a request as logs name it.
pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

fn common_log_time(time: SystemTime) -> String {
    timestamp(time).strftime("%d/%b/%Y:%H:%M:%S +0000").to_string()
}

/// Beyond what jiff can name no clock stands.
fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What could end a field or a line, or change what a terminal shows, as nginx writes it: `\x22`.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '"' | '\\' => {
                let _ = write!(escaped, "\\x{:02X}", u32::from(char));
            }
            char if char.is_control() => {
                let _ = write!(escaped, "\\x{:02X}", u32::from(char));
            }
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(user_agent: &str) -> Line<'static> {
        Line {
            time: rfc3339(SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_548_000_123_999)),
            request_id: Some("id7".to_owned()),
            client: "192.0.2.1".parse().unwrap(),
            method: "GET".to_owned(),
            host: Some("a.test".to_owned()),
            path: "/x?y=1".to_owned(),
            protocol: protocol(Version::HTTP_11),
            status: 429,
            bytes: 52,
            complete: true,
            duration_ms: millis(Duration::from_nanos(1_234_600)),
            upstream_ms: None,
            route: Some("r"),
            limit: Some("denied"),
            rule: Some("per-client"),
            refusal: Some("API rate limit exceeded"),
            user_agent: Some(user_agent.to_owned()),
            referer: None,
        }
    }

    #[test]
    fn a_line_is_one_line_whatever_a_client_sends() {
        let hostile = "a\"b\\c\n192.0.2.9 - - \u{1b}[2J\u{85}";
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_548_000);
        assert_eq!(
            String::from_utf8(line(hostile).as_text(time)).unwrap(),
            "192.0.2.1 - - [24/Nov/2026:19:20:00 +0000] \"GET /x?y=1 HTTP/1.1\" 429 52 \"-\" \
             \"a\\x22b\\x5Cc\\x0A192.0.2.9 - - \\x1B[2J\\x85\" id7 1.235 - r denied per-client\n"
        );
        let json = line(hostile).as_json();
        assert_eq!(json.iter().filter(|byte| **byte == b'\n').count(), 1);
        let parsed: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(parsed["user_agent"], hostile);
        assert_eq!(parsed["time"], "2026-11-24T19:20:00.123Z");
        assert!(parsed["referer"].is_null());
    }

    #[test]
    fn long_text_is_cut_and_marked() {
        assert_eq!(clipped(b"ab\xff"), "ab\u{fffd}");
        let long = clipped(&[b'x'; 5000]);
        assert_eq!(long.len(), TEXT_BYTES_MAX + '…'.len_utf8());
        assert!(long.ends_with('…'));
    }
}
