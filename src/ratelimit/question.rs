//! What is asked, and what keeps it from being answered. Pure.

use std::net::IpAddr;

use thiserror::Error;

use crate::limit::{CountBy, Hits, Identity, IpPrefixes, Rule};

/// Most descriptors of one question; Envoy sends one for each action list of a route.
pub(super) const DESCRIPTORS_MAX: usize = 64;
/// Most entries of one descriptor; the configuration cannot be nested as deep.
pub(super) const ENTRIES_MAX: usize = 16;

/// What is asked about: one descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Keys and values.
    pub entries: Vec<(String, String)>,
    /// How much it costs; 0 only looks.
    pub hits: u64,
}

/// Why a question cannot be answered, and what to do. Nothing was counted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Unanswerable {
    #[error("no domain is given")]
    NoDomain,
    #[error("no descriptor is given")]
    NoDescriptors,
    #[error("{0} descriptors are too many: at most {DESCRIPTORS_MAX}")]
    TooManyDescriptors(usize),
    #[error("a descriptor has {0} entries: 1 to {ENTRIES_MAX} are possible")]
    Entries(usize),
    #[error("an entry has no key")]
    NoKey,
    #[error("{0} hits are too many: one question counts at most {max}", max = Hits::MAX)]
    Hits(u64),
    #[error("limits in requests are not supported: configure the descriptor instead")]
    Override,
    #[error("there is no rule `{0}`")]
    NoRule(String),
    #[error("the rule `{rule}` counts by {by}: give the key that is counted")]
    KeyMissing { rule: String, by: String },
    #[error("the rule `{0}` counts by ip, and the key is no address")]
    NoAddress(String),
    #[error("the rule `{0}` counts by path, and the key is none")]
    NoPath(String),
    #[error(
        "the rule `{rule}` counts by {by}, which only a forwarded request has: use a domain with descriptors"
    )]
    NotAskable { rule: String, by: String },
}

/// Whether a question about descriptors is one: within bounds, and with all that it needs.
pub(super) fn check_form(domain: &str, asked: &[Asked]) -> Result<(), Unanswerable> {
    if domain.is_empty() {
        return Err(Unanswerable::NoDomain);
    }
    match asked.len() {
        0 => return Err(Unanswerable::NoDescriptors),
        1..=DESCRIPTORS_MAX => {}
        more => return Err(Unanswerable::TooManyDescriptors(more)),
    }
    for Asked { entries, .. } in asked {
        if !(1..=ENTRIES_MAX).contains(&entries.len()) {
            return Err(Unanswerable::Entries(entries.len()));
        }
        if entries.iter().any(|(key, _)| key.is_empty()) {
            return Err(Unanswerable::NoKey);
        }
    }
    Ok(())
}

/// Who `key` is to a rule of the file: the same as for a request that the proxy forwards.
pub(super) fn identity<'k>(
    rule: &Rule,
    key: Option<&'k [u8]>,
    prefixes: IpPrefixes,
) -> Result<Identity<'k>, Unanswerable> {
    let name = || rule.name.clone();
    let by = rule.count_by.to_string();
    match (&rule.count_by, key) {
        (CountBy::All, _) => Ok(Identity::All),
        (CountBy::Ip, Some(key)) => {
            let address = std::str::from_utf8(key)
                .ok()
                .and_then(|text| text.parse::<IpAddr>().ok());
            let address = address.ok_or_else(|| Unanswerable::NoAddress(name()))?;
            Ok(prefixes.identity(address))
        }
        (CountBy::Header(_), Some(key)) => Ok(Identity::Header(key)),
        (CountBy::Ip | CountBy::Header(_) | CountBy::Path, None) => {
            Err(Unanswerable::KeyMissing { rule: name(), by })
        }
        _ => Err(Unanswerable::NotAskable { rule: name(), by }),
    }
}
