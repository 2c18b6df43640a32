//! What is counted: identities, and the hashes that stand for them on the wire.

use super::window::Window;

/// Names one (rule, window length) pair: the stable hash of the rule's name, what it counts by and the
/// period. Not of the limit or the sync mode, so that those can change without losing counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u64);

/// A keyed 128-bit hash (SipHash-2-4) of one identity. All nodes of a cluster use the same key, so no
/// client address crosses the wire and nobody outside can forge a collision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub u128);

/// Names one counter: one identity under one rule in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// The rule and period.
    pub rule: RuleId,
    /// The window.
    pub window: Window,
    /// The identity.
    pub key: KeyHash,
}

/// Who or what a request is counted as, before hashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// A client address. IPv4-mapped IPv6 equals IPv4.
    Ip(std::net::IpAddr),
    /// The value of the header the rule names.
    Header(&'a [u8]),
    /// A request path.
    Path(&'a str),
    /// A route, by name.
    Route(&'a str),
    /// An upstream, by name.
    Upstream(&'a str),
    /// Everyone together.
    All,
}

/// Turns identities into [`KeyHash`]es under the cluster's identity key.
#[derive(Clone)]
pub struct IdentityHasher {
    _key: [u8; 16],
}
