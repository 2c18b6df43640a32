//! Readers of single values: a text to a checked value, or what is wrong with it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Why a text is no value of the type, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) problem: String,
    pub(super) remedy: String,
}

pub(super) fn wrong<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        problem: problem.into(),
        remedy: remedy.into(),
    })
}

/// `text` fit for a message: short, and without control characters that would garble a terminal.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut shown: String = text
        .chars()
        .take(CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// Reads a duration such as `100ms` or `1m 30s` within `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, Wrong> {
    move |text| {
        let Ok(value) = humantime::parse_duration(text) else {
            return wrong(
                format!("`{}` is no duration", shown(text)),
                "write a number and a unit, such as `100ms`, `2s` or `1m`",
            );
        };
        let show = |duration: &Duration| humantime::format_duration(*duration).to_string();
        if range.contains(&value) {
            Ok(value)
        } else {
            out_of_range(text, show(range.start()), show(range.end()))
        }
    }
}

/// Reads a whole number within `range`; `_` may group its digits.
pub(super) fn integer<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, Wrong>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    move |text| {
        let digits = text.replace('_', "");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return wrong(format!("`{}` is no whole number", shown(text)), "");
        }
        let value = digits
            .parse::<u64>()
            .ok()
            .and_then(|value| T::try_from(value).ok());
        match value {
            Some(value) if range.contains(&value) => Ok(value),
            _ => out_of_range(text, range.start(), range.end()),
        }
    }
}

/// Reads a share such as `0.2` in thousandths, within `permille`.
pub(super) fn share(permille: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, Wrong> {
    move |text| {
        let Ok(value) = text.parse::<f64>() else {
            return wrong(format!("`{}` is no number", shown(text)), "");
        };
        let scaled = (value * 1000.0).round();
        let (low, high) = (f64::from(*permille.start()), f64::from(*permille.end()));
        if !(low..=high).contains(&scaled) {
            return out_of_range(text, low / 1000.0, high / 1000.0);
        }
        if (scaled - value * 1000.0).abs() > 1e-6 {
            return wrong(
                format!("`{text}` is finer than a thousandth"),
                "round it to three decimals",
            );
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within the range of a u32, and whole"
        )]
        Ok(scaled as u32)
    }
}

/// Reads `true` or `false`.
pub(super) fn boolean(text: &str) -> Result<bool, Wrong> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => wrong(format!("`{}` is neither `true` nor `false`", shown(text)), ""),
    }
}

/// Reads `ADDRESS:PORT`; port 0 lets the system choose.
pub(super) fn socket_addr(text: &str) -> Result<SocketAddr, Wrong> {
    let remedy = "write ADDRESS:PORT, such as `127.0.0.1:8000` or `[::1]:8000`";
    text.parse()
        .or_else(|_| wrong(format!("`{}` is no address with a port", shown(text)), remedy))
}

/// Reads a name: 1 to 64 ASCII letters, digits, `-`, `_` and `.`.
pub(super) fn plain_name(text: &str) -> Result<String, Wrong> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        wrong(
            format!("`{}` is no name", shown(text)),
            "use 1 to 64 letters, digits, `-`, `_` or `.`",
        )
    }
}

/// Reads a secret, which no message repeats.
pub(super) fn secret(text: &str) -> Result<String, Wrong> {
    if !text.is_empty() && text.len() <= 4096 && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        wrong(
            "the secret is empty, too long or holds other than visible ASCII",
            "",
        )
    }
}

fn out_of_range<T>(text: &str, low: impl Display, high: impl Display) -> Result<T, Wrong> {
    wrong(
        format!("`{}` is out of range", shown(text)),
        format!("use {low} to {high}"),
    )
}
