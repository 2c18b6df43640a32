//! What nodes of one cluster have to agree on: the identity key, and a digest to compare.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::Config;
use super::json::period_text;
use crate::limit::{Rule, RuleScope};

impl Config {
    /// The key that client identities are hashed with: the first 16 bytes of SHA-256 over the label
    /// `weir identity v1`, the cluster id and the identity secret, each preceded by its length as a
    /// big-endian u64.
    ///
    /// It depends on nothing that rotates, so that one client stays one while gossip keys change.
    /// Without a secret it follows from the cluster id alone: identities then still differ between
    /// clusters, but whoever knows the id can compute them.
    #[must_use]
    pub fn identity_key(&self) -> [u8; 16] {
        let secret = self.cluster.identity_secret.as_deref().unwrap_or("");
        let hash = hash(&["weir identity v1", &self.cluster.id, secret]);
        let (key, _) = hash.split_first_chunk().expect("32 bytes hold 16");
        *key
    }

    /// Sixteen hexadecimal digits that are equal on two nodes exactly when they agree on what has to be
    /// the same in a cluster: its id, the identity key, the tolerated clock difference, how much of an address names a
    /// client, and each rule. Addresses, timeouts, routes and
    /// the order of rules do not count; nor does `sync.mode`, which changes at run time.
    #[must_use]
    pub fn digest(&self) -> String {
        let key = hex(&self.identity_key());
        let mut rules: Vec<String> = self.limits.rules.iter().map(rule_text).collect();
        rules.sort_unstable();
        let skew = self.bounded.skew.as_millis().to_string();
        let prefixes = self.limits.ip_prefixes;
        let prefixes = format!("{}/{}", prefixes.v4, prefixes.v6);
        let mut parts = vec!["weir config v3", &self.cluster.id, &key, &skew, &prefixes];
        parts.extend(rules.iter().map(String::as_str));
        hex(&hash(&parts)[..8])
    }
}

/// Each name holds no space and no separator, so that two rules never have the same text.
fn rule_text(rule: &Rule) -> String {
    let scope = match &rule.scope {
        RuleScope::Everything => "everything".to_owned(),
        RuleScope::Route(name) => format!("route:{name}"),
        RuleScope::Upstream(name) => format!("upstream:{name}"),
    };
    let mut windows: Vec<String> = rule
        .windows
        .iter()
        .map(|window| format!("{}/{}", window.limit.hits(), period_text(window.period)))
        .collect();
    windows.sort_unstable();
    let mode = rule.mode.map_or(String::new(), |mode| mode.to_string());
    format!(
        "{} {scope} {} {} {mode} {}",
        rule.name,
        rule.count_by,
        rule.hits.get(),
        windows.join(",")
    )
}

fn hash(parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every text");
        text
    })
}
