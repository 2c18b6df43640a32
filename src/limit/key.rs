//! What is counted: identities, and the hashes that stand for them on the wire.

use std::fmt;
use std::hash::Hasher as _;
use std::net::IpAddr;

use ipnet::IpNet;
use siphasher::sip::SipHasher24 as RuleHasher;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

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
    Ip(IpAddr),
    /// A network whose addresses count together.
    Network(IpNet),
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
    /// The entries of a descriptor, keys and values, as whoever asks the rate limit service gives them.
    Descriptor(&'a [(String, String)]),
}

/// How much of its address names a client: the bits of the network that counts as one.
///
/// Who has an IPv6 address as a rule has the whole /64 that it is in (RFC 4291 §2.5.1, RFC 6177), and so as many
/// addresses as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPrefixes {
    /// Of an IPv4 address: 1 to 32.
    pub v4: u8,
    /// Of an IPv6 address: 1 to 128.
    pub v6: u8,
}

impl Default for IpPrefixes {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

impl IpPrefixes {
    /// Who the client at `address` counts as. An IPv4-mapped IPv6 address is the IPv4 one (RFC 4291 §2.5.5.2).
    #[must_use]
    pub fn identity(self, address: IpAddr) -> Identity<'static> {
        let address = address.to_canonical();
        let bits = match address {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        };
        match IpNet::new(address, bits) {
            Ok(network) if bits < network.max_prefix_len() => Identity::Network(network.trunc()),
            _ => Identity::Ip(address),
        }
    }
}

/// Turns identities into [`KeyHash`]es under the cluster's identity key.
#[derive(Clone)]
pub struct IdentityHasher {
    keyed: SipHasher24,
}

/// The key of hashes that hide nothing and need only be the same everywhere, in every version.
const PUBLIC_KEY: &[u8; 16] = b"weir public hash";

impl RuleId {
    /// The id of a rule over one period, from the texts that identify it. Each is hashed with its
    /// length, so that no two triples run together.
    pub(super) fn new(name: &str, count_by: &str, period: &str) -> Self {
        let mut hasher = RuleHasher::new_with_key(PUBLIC_KEY);
        for text in [name, count_by, period] {
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text.as_bytes());
        }
        Self(hasher.finish())
    }

    /// What spreads the keys of one (rule, window) over the counter table.
    pub(super) fn salt(self, window: Window) -> u128 {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&window.start.0.to_le_bytes());
        bytes[16..].copy_from_slice(&window.end.0.to_le_bytes());
        SipHasher24::new_with_key(PUBLIC_KEY).hash(&bytes).as_u128()
    }
}

impl IdentityHasher {
    /// A hasher under the cluster's identity key.
    #[must_use]
    pub fn new(key: [u8; 16]) -> Self {
        Self {
            keyed: SipHasher24::new_with_key(&key),
        }
    }

    /// The hash that stands for `identity` (SipHash-2-4 with 128 bits of output). Identities of
    /// different kinds never share a hash, even of equal text.
    #[must_use]
    pub fn hash(&self, identity: &Identity<'_>) -> KeyHash {
        match identity {
            Identity::Ip(address) => match address.to_canonical() {
                IpAddr::V4(v4) => self.tagged(1, &v4.octets()),
                IpAddr::V6(v6) => self.tagged(2, &v6.octets()),
            },
            Identity::Header(value) => self.tagged(3, value),
            Identity::Path(path) => self.tagged(4, path.as_bytes()),
            Identity::Route(name) => self.tagged(5, name.as_bytes()),
            Identity::Upstream(name) => self.tagged(6, name.as_bytes()),
            Identity::All => self.tagged(7, &[]),
            Identity::Network(network) => self.network(network),
            Identity::Descriptor(entries) => self.descriptor(entries),
        }
    }

    /// Each text with its length, so that no two descriptors run together.
    fn descriptor(&self, entries: &[(String, String)]) -> KeyHash {
        let mut hasher = self.keyed;
        hasher.write(&[64]);
        for text in entries.iter().flat_map(|(key, value)| [key, value]) {
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text.as_bytes());
        }
        KeyHash(hasher.finish128().as_u128())
    }

    /// With its length, so that counts under another length never mix with these.
    fn network(&self, network: &IpNet) -> KeyHash {
        let mut bytes = [0; 17];
        bytes[0] = network.prefix_len();
        match network.network() {
            IpAddr::V4(v4) => {
                bytes[1..5].copy_from_slice(&v4.octets());
                self.tagged(8, &bytes[..5])
            }
            IpAddr::V6(v6) => {
                bytes[1..].copy_from_slice(&v6.octets());
                self.tagged(9, &bytes)
            }
        }
    }

    fn tagged(&self, kind: u8, bytes: &[u8]) -> KeyHash {
        let mut hasher = self.keyed;
        hasher.write(&[kind]);
        hasher.write(bytes);
        KeyHash(hasher.finish128().as_u128())
    }
}

/// The key never shows in a log.
impl fmt::Debug for IdentityHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityHasher")
    }
}

/// As the operator sees it. Not escaped: see [`super::KeyNames`].
impl fmt::Display for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{}", address.to_canonical()),
            Self::Network(network) => write!(f, "{network}"),
            Self::Header(value) => f.write_str(&String::from_utf8_lossy(value)),
            Self::Path(text) => f.write_str(text),
            Self::Route(name) => write!(f, "route {name}"),
            Self::Upstream(name) => write!(f, "upstream {name}"),
            Self::All => f.write_str("all"),
            Self::Descriptor(entries) => {
                for (at, (key, value)) in entries.iter().enumerate() {
                    let separator = if at == 0 { "" } else { " " };
                    write!(f, "{separator}{key}={value}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_address_is_one_client_in_both_of_its_spellings() {
        let hasher = IdentityHasher::new([7; 16]);
        let hash = |text: &str| hasher.hash(&Identity::Ip(text.parse().unwrap()));
        assert_eq!(hash("::ffff:192.0.2.1"), hash("192.0.2.1"));
        assert_ne!(hash("::192.0.2.1"), hash("192.0.2.1"));
    }

    #[test]
    fn addresses_of_one_network_are_one_client_and_those_of_two_are_not() {
        let hasher = IdentityHasher::new([7; 16]);
        let name = |prefixes: IpPrefixes, text: &str| prefixes.identity(text.parse().unwrap()).to_string();
        let hash = |text: &str| hasher.hash(&IpPrefixes::default().identity(text.parse().unwrap()));
        assert_eq!(hash("2001:db8:0:1::1"), hash("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(hash("2001:db8:0:1::1"), hash("2001:db8:0:2::1"));
        assert_ne!(hash("192.0.2.1"), hash("192.0.2.2"));
        assert_eq!(
            hash("::ffff:192.0.2.1"),
            hasher.hash(&Identity::Ip("192.0.2.1".parse().unwrap()))
        );
        assert_eq!(
            name(IpPrefixes::default(), "2001:db8:0:1::1"),
            "2001:db8:0:1::/64"
        );
        let wide = IpPrefixes { v4: 24, v6: 128 };
        assert_eq!(name(wide, "::ffff:192.0.2.77"), "192.0.2.0/24");
        assert_eq!(name(wide, "2001:db8::77"), "2001:db8::77");
        let narrow = IpPrefixes { v4: 24, v6: 56 };
        let other = |text: &str| hasher.hash(&narrow.identity(text.parse().unwrap()));
        assert_ne!(other("2001:db8::1"), hash("2001:db8::1"));
    }

    #[test]
    fn equal_texts_of_different_kinds_are_different_keys_and_depend_on_the_secret() {
        let kinds = |key| {
            let hasher = IdentityHasher::new(key);
            [
                Identity::Header(b"all"),
                Identity::Path("all"),
                Identity::Route("all"),
                Identity::Upstream("all"),
                Identity::All,
            ]
            .map(|identity| hasher.hash(&identity))
        };
        let all: HashSet<_> = kinds([0; 16]).into_iter().chain(kinds([1; 16])).collect();
        assert_eq!(all.len(), 10);
    }

    #[test]
    fn descriptors_that_differ_in_any_way_are_different_keys() {
        let hasher = IdentityHasher::new([7; 16]);
        let hash = |entries: &[(&str, &str)]| {
            let owned: Vec<_> = entries
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            hasher.hash(&Identity::Descriptor(&owned))
        };
        let all: HashSet<_> = [
            hash(&[("a", "bc")]),
            hash(&[("ab", "c")]),
            hash(&[("a", "b"), ("c", "")]),
            hash(&[("a", ""), ("b", "c")]),
            hash(&[("c", ""), ("a", "b")]),
            hash(&[]),
            hasher.hash(&Identity::All),
        ]
        .into_iter()
        .collect();
        assert_eq!(all.len(), 7);
    }

    #[test]
    fn hashes_are_the_same_in_every_build() {
        // Nodes of different versions count together only while these stand.
        let hasher = IdentityHasher::new(*b"0123456789abcdef");
        let address = hasher.hash(&Identity::Ip("192.0.2.1".parse().unwrap()));
        let reference = SipHasher24::new_with_key(b"0123456789abcdef").hash(&[1, 192, 0, 2, 1]);
        assert_eq!(address.0, reference.as_u128());
        assert_ne!(RuleId::new("ab", "c", "d"), RuleId::new("a", "bc", "d"));
        assert_eq!(
            RuleId::new("per-client", "ip", "minute").to_string(),
            "4d44dcc91511ab60"
        );
    }
}
