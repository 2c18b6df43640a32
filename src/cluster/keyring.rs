//! The gossip keyring: which keys seal and open datagrams.
//!
//! Pure: turns a text into checked keys. Promises that no key material appears in an error or in `Debug`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::CryptoRng;
use thiserror::Error;

/// One symmetric key of 256 bits that every node of a cluster holds.
#[derive(Clone, PartialEq, Eq)]
pub struct GossipKey([u8; Self::BYTES]);

impl GossipKey {
    /// Length of a key in bytes.
    pub const BYTES: usize = 32;

    /// A fresh key from `rng`.
    #[must_use]
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; Self::BYTES];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The key as a line of a keyring: standard base64 with padding, 44 characters.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// The raw key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Debug for GossipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GossipKey(…)")
    }
}

/// 1 to [`Keyring::KEYS_MAX`] keys: the first seals, all of them open.
///
/// Rotation without a lost datagram: append the new key on every node, then move it to the top on every
/// node, then remove the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<GossipKey>,
}

impl Keyring {
    /// Most keys of a ring: a rotation needs two; the rest is room for one that stalled half way.
    pub const KEYS_MAX: usize = 8;

    /// Reads a keyring: one base64 key a line; empty lines and what follows a `#` are ignored.
    ///
    /// # Errors
    /// The first line at fault, by number.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let mut keys: Vec<(usize, GossipKey)> = Vec::new();
        for (index, raw) in text.lines().enumerate() {
            let line = index + 1;
            let content = raw.split('#').next().unwrap_or_default().trim();
            if content.is_empty() {
                continue;
            }
            let key = parse_key(content, line)?;
            if let Some((first, _)) = keys.iter().find(|(_, known)| *known == key) {
                return Err(KeyringError::Duplicate { line, first: *first });
            }
            if keys.len() == Self::KEYS_MAX {
                return Err(KeyringError::TooMany { line });
            }
            keys.push((line, key));
        }
        if keys.is_empty() {
            return Err(KeyringError::Empty);
        }
        Ok(Self {
            keys: keys.into_iter().map(|(_, key)| key).collect(),
        })
    }

    /// The keys, the sealing one first.
    #[must_use]
    pub fn keys(&self) -> &[GossipKey] {
        &self.keys
    }
}

fn parse_key(content: &str, line: usize) -> Result<GossipKey, KeyringError> {
    let bytes = STANDARD
        .decode(content)
        .map_err(|_| KeyringError::NotBase64 { line })?;
    let length = bytes.len();
    match bytes.try_into() {
        Ok(key) => Ok(GossipKey(key)),
        Err(_) => Err(KeyringError::Length { line, length }),
    }
}

/// Why a text is no keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyringError {
    /// There is no key in it.
    #[error("no key in the keyring: put one base64 key on a line (`weir keygen` prints one)")]
    Empty,
    /// A line is not base64.
    #[error("line {line}: not base64 (standard alphabet, with padding); `weir keygen` prints a valid key")]
    NotBase64 {
        /// Line number, from 1.
        line: usize,
    },
    /// A key has the wrong length.
    #[error("line {line}: a key has {} bytes, this one has {length}", GossipKey::BYTES)]
    Length {
        /// Line number, from 1.
        line: usize,
        /// Its length in bytes.
        length: usize,
    },
    /// A key stands twice.
    #[error("line {line}: the same key as on line {first}")]
    Duplicate {
        /// Line number, from 1.
        line: usize,
        /// Line of its first appearance.
        first: usize,
    },
    /// There are too many keys.
    #[error("line {line}: more than {} keys", Keyring::KEYS_MAX)]
    TooMany {
        /// Line number, from 1.
        line: usize,
    },
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn key(seed: u64) -> String {
        GossipKey::generate(&mut StdRng::seed_from_u64(seed)).to_base64()
    }

    #[test]
    fn the_first_key_seals_and_comments_and_blank_lines_are_skipped() {
        let text = format!("# rotated in June\n\n  {}  # new\r\n{}\n", key(1), key(2));
        let ring = Keyring::parse(&text).unwrap();
        let read: Vec<_> = ring.keys().iter().map(GossipKey::to_base64).collect();
        assert_eq!(read, [key(1), key(2)]);
    }

    #[test]
    fn each_fault_names_its_line_and_never_the_key() {
        let short = STANDARD.encode([7; 31]);
        let nine: String = (0..9).map(|seed| key(seed) + "\n").collect();
        for (text, fault) in [
            ("# nothing\n".to_owned(), KeyringError::Empty),
            (
                format!("{}\nnot base64!", key(1)),
                KeyringError::NotBase64 { line: 2 },
            ),
            (format!("\n{short}"), KeyringError::Length { line: 2, length: 31 }),
            (
                format!("{0}\n\n{0}", key(1)),
                KeyringError::Duplicate { line: 3, first: 1 },
            ),
            (nine, KeyringError::TooMany { line: 9 }),
        ] {
            assert_eq!(Keyring::parse(&text), Err(fault));
        }
        let debug = format!("{:?}", Keyring::parse(&key(1)).unwrap());
        assert!(!debug.contains(&key(1)) && debug.contains('…'), "{debug}");
    }

    #[test]
    fn eight_keys_are_the_most() {
        let eight: String = (0..8).map(|seed| key(seed) + "\n").collect();
        assert_eq!(Keyring::parse(&eight).unwrap().keys().len(), Keyring::KEYS_MAX);
    }
}
