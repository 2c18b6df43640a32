//! The sealed envelope around every gossip datagram.
//!
//! Pure: random numbers come in as an argument. Promises that nothing of a datagram is parsed beyond its
//! fixed header before it has opened, and that neither side panics or allocates by what it is sent.
//!
//! Sealed:
//!
//! ```text
//! version 1 (1 byte) | key id (4) | nonce (24) | ciphertext | tag (16)
//! ```
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03): a nonce of 192 random bits never repeats in
//! practice, so no state has to survive a restart. The AEAD key is derived from the gossip key and the
//! cluster id, and version, key id and cluster id are the associated data: a key that is used for two
//! clusters by mistake still keeps them apart.
//!
//! Open (a cluster without a keyring):
//!
//! ```text
//! version 0 (1 byte) | first 8 bytes of the hashed cluster id | plaintext
//! ```
//!
//! which keeps neighbours apart by accident, not by force.

use chacha20::cipher::consts::U10;
use chacha20::hchacha;
use rand::CryptoRng;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::keyring::{GossipKey, Keyring};

const VERSION_OPEN: u8 = 0;
const VERSION_SEALED: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const CLUSTER_TAG_BYTES: usize = 8;
const SEALED_HEADER_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_BYTES;
const OPEN_HEADER_BYTES: usize = 1 + CLUSTER_TAG_BYTES;

/// Seals and opens the datagrams of one cluster.
pub struct Envelope(Kind);

enum Kind {
    Open { cluster: [u8; CLUSTER_TAG_BYTES] },
    // Never empty: a keyring has at least one key. The first seals.
    Sealed(Vec<SealingKey>),
}

struct SealingKey {
    id: [u8; KEY_ID_BYTES],
    key: chacha20::Key,
    associated_data: Box<[u8]>,
}

impl Envelope {
    /// What sealing adds to a plaintext at most, in bytes. Open envelopes add less; the difference is
    /// not used, so that a cluster sends the same datagrams with and without keys.
    pub const OVERHEAD_BYTES: usize = SEALED_HEADER_BYTES + TAG_BYTES;

    /// Envelopes under `keyring` for the cluster `cluster_id`.
    #[must_use]
    pub fn sealed(keyring: &Keyring, cluster_id: &str) -> Self {
        let derive = |key| SealingKey::derive(key, cluster_id);
        Self(Kind::Sealed(keyring.keys().iter().map(derive).collect()))
    }

    /// Envelopes that anybody can open and forge, for the cluster `cluster_id`.
    #[must_use]
    pub fn open_to_all(cluster_id: &str) -> Self {
        let cluster = leading_bytes(&hash(b"weir open gossip v0", &[], cluster_id));
        Self(Kind::Open { cluster })
    }

    /// Whether a key protects these envelopes.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        matches!(self.0, Kind::Sealed(_))
    }

    /// The id of the key that seals, in hex: derived from the key, and gives nothing of it away.
    #[must_use]
    pub fn key_id(&self) -> Option<String> {
        match &self.0 {
            Kind::Open { .. } => None,
            Kind::Sealed(keys) => keys.first().map(|key| hex(&key.id)),
        }
    }

    /// How many keys open: none when anybody does.
    #[must_use]
    pub fn key_count(&self) -> usize {
        match &self.0 {
            Kind::Open { .. } => 0,
            Kind::Sealed(keys) => keys.len(),
        }
    }

    /// Writes the envelope of the concatenated `parts` to `out`, whose previous content goes. Allocates
    /// only if `out` is too small.
    pub fn seal(&self, rng: &mut impl CryptoRng, parts: &[&[u8]], out: &mut Vec<u8>) {
        out.clear();
        match &self.0 {
            Kind::Open { cluster } => {
                out.push(VERSION_OPEN);
                out.extend_from_slice(cluster);
                parts.iter().for_each(|part| out.extend_from_slice(part));
            }
            Kind::Sealed(keys) => keys
                .first()
                .expect("a keyring has at least one key")
                .seal(rng, parts, out),
        }
    }

    /// Opens `datagram` in place and returns its plaintext.
    ///
    /// # Errors
    /// Why it is to be dropped. Its bytes may have been overwritten.
    pub fn open<'a>(&self, datagram: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let version = *datagram.first().ok_or(OpenError::TooShort)?;
        match (&self.0, version) {
            (Kind::Open { cluster }, VERSION_OPEN) => {
                let (header, plaintext) = datagram
                    .split_at_mut_checked(OPEN_HEADER_BYTES)
                    .ok_or(OpenError::TooShort)?;
                let claimed = header.get(1..).ok_or(OpenError::TooShort)?;
                if claimed != cluster {
                    return Err(OpenError::WrongCluster);
                }
                Ok(plaintext)
            }
            (Kind::Sealed(keys), VERSION_SEALED) => {
                let (header, sealed) = datagram
                    .split_at_mut_checked(SEALED_HEADER_BYTES)
                    .ok_or(OpenError::TooShort)?;
                let (_, header) = header.split_first().ok_or(OpenError::TooShort)?;
                let (id, nonce) = header.split_at_checked(KEY_ID_BYTES).ok_or(OpenError::TooShort)?;
                let key = keys
                    .iter()
                    .find(|key| key.id == id)
                    .ok_or(OpenError::UnknownKey)?;
                key.open(nonce, sealed)
            }
            (Kind::Open { .. }, VERSION_SEALED) | (Kind::Sealed(_), VERSION_OPEN) => {
                Err(OpenError::ProtectionMismatch)
            }
            (_, version) => Err(OpenError::UnknownVersion(version)),
        }
    }
}

impl SealingKey {
    fn derive(key: &GossipKey, cluster_id: &str) -> Self {
        let id: [u8; KEY_ID_BYTES] = leading_bytes(&hash(b"weir gossip key id v1", key.as_bytes(), ""));
        let mut associated_data = vec![VERSION_SEALED];
        associated_data.extend_from_slice(&id);
        associated_data.extend_from_slice(cluster_id.as_bytes());
        Self {
            id,
            key: hash(b"weir gossip aead v1", key.as_bytes(), cluster_id).into(),
            associated_data: associated_data.into(),
        }
    }

    fn seal(&self, rng: &mut impl CryptoRng, parts: &[&[u8]], out: &mut Vec<u8>) {
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        out.push(VERSION_SEALED);
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&nonce);
        parts.iter().for_each(|part| out.extend_from_slice(part));
        let (_, plaintext) = out.split_at_mut(SEALED_HEADER_BYTES);
        let (message_key, message_nonce) = self.message_key(&nonce);
        let tag = message_key
            .seal_in_place_separate_tag(message_nonce, Aad::from(&self.associated_data), plaintext)
            .expect("a datagram is far below the 256 GiB that the cipher seals at most");
        out.extend_from_slice(tag.as_ref());
    }

    fn open<'a>(&self, nonce: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let nonce: &[u8; NONCE_BYTES] = nonce.try_into().map_err(|_| OpenError::TooShort)?;
        if sealed.len() < TAG_BYTES {
            return Err(OpenError::TooShort);
        }
        let (message_key, message_nonce) = self.message_key(nonce);
        message_key
            .open_in_place(message_nonce, Aad::from(&self.associated_data), sealed)
            .map_err(|_| OpenError::BadTag)
    }

    /// The extended-nonce step (draft-irtf-cfrg-xchacha-03, section 2.3): HChaCha20 of the first 16
    /// bytes of the nonce gives the message's own key, the last 8 bytes its ChaCha20-Poly1305 nonce.
    fn message_key(&self, nonce: &[u8; NONCE_BYTES]) -> (LessSafeKey, Nonce) {
        let (prefix, suffix) = nonce.split_at(16);
        let subkey = hchacha::<U10>(&self.key, prefix.into());
        let mut message_nonce = [0; 12];
        message_nonce[4..].copy_from_slice(suffix);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &subkey).expect("the subkey has 32 bytes");
        (LessSafeKey::new(key), Nonce::assume_unique_for_key(message_nonce))
    }
}

/// SHA-256 of a label, a key and a cluster id, each with its length, so that no two inputs run together.
fn hash(label: &[u8], key: &[u8], cluster_id: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [label, key, cluster_id.as_bytes()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn leading_bytes<const N: usize>(hash: &[u8; 32]) -> [u8; N] {
    *hash.first_chunk().expect("no id is longer than a hash")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a datagram was dropped before it was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// Shorter than the smallest envelope.
    #[error("too short for an envelope")]
    TooShort,
    /// An envelope of a version that this node does not know.
    #[error("unknown envelope version {0}")]
    UnknownVersion(u8),
    /// An open datagram at a node with a keyring, or a sealed one at a node without.
    #[error("sealed and open gossip do not mix")]
    ProtectionMismatch,
    /// Sealed with a key that is not on the ring.
    #[error("sealed with a key that is not on the ring")]
    UnknownKey,
    /// Tampered with, or sealed for another cluster with the same key.
    #[error("does not authenticate: forged, damaged, or of another cluster")]
    BadTag,
    /// Of another cluster (open gossip).
    #[error("of another cluster")]
    WrongCluster,
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
