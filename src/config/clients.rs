//! Who a client is: which header names it, and how much of its address.

use super::error::did_you_mean;
use super::read::Section;
use super::scalars::{Wrong, integer, shown, wrong};
use crate::limit::IpPrefixes;

/// The header by which trusted proxies say whom they speak for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientIpHeader {
    /// `X-Forwarded-For`, what nearly all proxies write.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl ClientIpHeader {
    /// The name of the header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

/// Reads the name of the header that names clients.
pub(super) fn client_ip_header(text: &str) -> Result<ClientIpHeader, Wrong> {
    let all = [ClientIpHeader::XForwardedFor, ClientIpHeader::Forwarded];
    match all
        .into_iter()
        .find(|header| header.name().eq_ignore_ascii_case(text))
    {
        Some(header) => Ok(header),
        None => {
            let mut remedy = did_you_mean(text, all.map(ClientIpHeader::name));
            if remedy.is_empty() {
                remedy = "use `x-forwarded-for` or `forwarded`".to_owned();
            }
            wrong(
                format!("`{}` is no header that names clients", shown(text)),
                remedy,
            )
        }
    }
}

/// Reads how much of an address a limit by address counts by.
pub(super) fn ip_prefixes(limits: &mut Section<'_>) -> IpPrefixes {
    let default = IpPrefixes::default();
    IpPrefixes {
        v4: limits.value_or("ipv4_prefix", integer(1..=32), default.v4),
        v6: limits.value_or("ipv6_prefix", integer(1..=128), default.v6),
    }
}
