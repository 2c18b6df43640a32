//! `weir keygen`: prints a fresh gossip key.

use std::io::{self, Write};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::cluster::keyring::GossipKey;

/// Prints one fresh gossip key from the system's entropy to standard output: a line of a keyring.
///
/// # Errors
/// When standard output cannot be written.
pub fn run() -> io::Result<()> {
    let key = GossipKey::generate(&mut StdRng::from_os_rng());
    writeln!(io::stdout().lock(), "{}", key.to_base64())
}
