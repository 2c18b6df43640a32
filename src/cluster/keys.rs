//! Where the gossip keys come from, and how a changed key file is taken up.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::AsyncReadExt as _;
use tracing::{info, warn};

use crate::config::ClusterConfig;

use super::ClusterError;
use super::keyring::Keyring;
use super::seal::Envelope;

/// How often the key file is read: its content is compared, so a swapped symlink of a mounted secret
/// is seen, and no resolution of timestamps matters.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Largest key file: eight keys with long comments.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// Reads the keyring that `config` names; `None` if it names none. A file is preferred, since it can
/// change while the node runs.
pub(super) fn load(config: &ClusterConfig) -> Result<Option<Keyring>, ClusterError> {
    if let Some(path) = &config.key_file {
        let text = read(path).map_err(|source| ClusterError::KeyFile {
            path: path.clone(),
            source,
        })?;
        return parse(&text, &path.display().to_string()).map(Some);
    }
    let text = config.key.as_deref();
    text.map(|text| parse(text, "the gossip key")).transpose()
}

/// Says whether a node could start with the keys of `config`; blocks.
///
/// # Errors
/// [`ClusterError::KeyFile`] and [`ClusterError::Keyring`].
pub fn check_keys(config: &ClusterConfig) -> Result<(), ClusterError> {
    load(config).map(drop)
}

fn parse(text: &str, origin: &str) -> Result<Keyring, ClusterError> {
    Keyring::parse(text).map_err(|source| ClusterError::Keyring {
        origin: origin.to_owned(),
        source,
    })
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Watches the key file `path` and puts a changed ring in force. A file that cannot be read or parsed
/// changes nothing, and the log says why, once per fault.
pub(super) async fn follow(
    path: PathBuf,
    cluster_id: String,
    mut ring: Keyring,
    envelope: Arc<ArcSwap<Envelope>>,
) {
    let mut fault = None;
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    loop {
        interval.tick().await;
        match reread(&path).await {
            Ok(new) => {
                fault = None;
                if new != ring {
                    let next = Envelope::sealed(&new, &cluster_id);
                    info!(
                        keys = new.keys().len(),
                        sealing = next.key_id(),
                        "gossip keyring changed"
                    );
                    envelope.store(Arc::new(next));
                    ring = new;
                }
            }
            Err(error) => {
                if fault.as_ref() != Some(&error) {
                    warn!(path = %path.display(), %error, "gossip keyring not changed");
                    fault = Some(error);
                }
            }
        }
    }
}

async fn reread(path: &Path) -> Result<Keyring, String> {
    let mut text = String::new();
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| error.to_string())?;
    let mut bounded = file.take(FILE_BYTES_MAX);
    bounded
        .read_to_string(&mut text)
        .await
        .map_err(|error| error.to_string())?;
    Keyring::parse(&text).map_err(|error| error.to_string())
}
