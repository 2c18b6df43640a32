//! Another configuration comes into force without a restart.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::signal::unix::Signal;

use super::Gateway;
use super::files::{Followed, Look};
use crate::config::{Config, ConfigErrors};
use crate::proxy::ReloadError;

/// Reads the configuration anew. May block.
pub type Load = Arc<dyn Fn() -> Result<Config, ConfigErrors> + Send + Sync>;

/// Where the configuration of a node comes from.
#[derive(Clone)]
pub struct Source {
    /// Reads it anew, from all of its sources.
    pub load: Load,
    /// Its file, if it has one, as it was before it was read for the start.
    pub file: Look,
}

/// The pause after a reload, beside the longest wait for rights: a request that was counting by the former rules has
/// counted when the rules change once more, so that none of them finds another rule in its place.
const PAUSE: Duration = Duration::from_millis(10);

/// How reloads ended.
#[derive(Default)]
pub(super) struct ReloadCounts {
    applied: AtomicU64,
    refused: AtomicU64,
}

impl ReloadCounts {
    /// By their names in metrics.
    pub(super) fn readings(&self) -> Vec<(&'static str, u64)> {
        let counts = [("applied", &self.applied), ("refused", &self.refused)];
        let readings = counts.map(|(outcome, count)| (outcome, count.load(Relaxed)));
        readings.to_vec()
    }
}

/// Why nothing changed.
#[derive(Debug, Error)]
enum NotReloaded {
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    #[error("{0}")]
    Proxy(#[from] ReloadError),
    #[error("reading the configuration failed: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

impl Gateway {
    /// Puts in force what `source` says, whenever one of `hangups` comes, or a file has changed where
    /// `reload.interval` has it looked at. Those that come meanwhile count as one.
    pub(super) async fn reload_at(&mut self, hangups: &mut Signal, source: &Source) -> Infallible {
        let mut files = self.follow(source, source.file.clone()).await;
        loop {
            tokio::select! {
                hangup = hangups.recv() => if hangup.is_none() {
                    return pending().await;
                },
                () = changed(&self.config, &mut files) => tracing::info!("a file of the configuration has changed"),
            }
            // Before they are read, so that no later change is missed.
            let paths = files.paths();
            let before = off_thread(move || Look::at(paths)).await;
            self.reload(&source.load).await;
            files = self.follow(source, before).await;
            tokio::time::sleep(self.config.load().bounded.wait + PAUSE).await;
        }
    }

    /// Follows the files that were read last, some of which were looked at before.
    async fn follow(&self, source: &Source, before: Look) -> Followed {
        let paths = source.file.paths().chain(&self.files).cloned().collect();
        off_thread(move || Followed::new(&before, paths)).await
    }

    /// Puts in force what `load` answers, or changes nothing; answers whether it did. The log says so, with every
    /// error, and `weir_config_reloads_total` counts it.
    pub async fn reload(&mut self, load: &Load) -> bool {
        let outcome = self.try_reload(load).await;
        let count = match &outcome {
            Ok(()) => {
                tracing::info!("configuration reloaded");
                &self.reloads.applied
            }
            Err(error) => {
                report(error);
                &self.reloads.refused
            }
        };
        count.fetch_add(1, Relaxed);
        outcome.is_ok()
    }

    async fn try_reload(&mut self, load: &Load) -> Result<(), NotReloaded> {
        let load = Arc::clone(load);
        let mut config = tokio::task::spawn_blocking(move || load()).await??;
        // Even if it is refused: it may be for one of them.
        self.files = config.files_read_at_reload();
        self.proxy.reload(config.clone()).await?;
        // The limiter has its rules now.
        if let Some(service) = &self.ratelimit {
            service.reload(&config);
        }
        // Shown is where it really listens.
        let former = self.config.load_full();
        config.ratelimit.listen = former.ratelimit.listen;
        config.admin.listen = former.admin.listen;
        for (listener, address) in config.listen.iter_mut().zip(self.proxy.addresses()) {
            listener.address = *address;
        }
        let digest = config.digest();
        self.config.store(Arc::new(config));
        if digest != former.digest()
            && let Err(error) = self.cluster.set_config_digest(digest).await
        {
            tracing::warn!(%error, "peers are not told of the configuration");
        }
        Ok(())
    }
}

/// Ends when a file of the configuration in force has changed; never where nobody is to look.
async fn changed(config: &ArcSwap<Config>, files: &mut Followed) {
    let Some(interval) = config.load().reload.interval else {
        return pending().await;
    };
    loop {
        tokio::time::sleep(interval).await;
        let paths = files.paths();
        let now = off_thread(move || Look::at(paths)).await;
        if files.is_settled_change(now) {
            return;
        }
    }
}

/// Files may be slow: on a network, say.
async fn off_thread<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> T {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.expect("looking at files does not panic")
}

fn report(error: &NotReloaded) {
    const NOT_RELOADED: &str = "configuration not reloaded, nothing changed";
    match error {
        NotReloaded::Config(errors) => errors
            .as_slice()
            .iter()
            .for_each(|error| tracing::error!(%error, "{NOT_RELOADED}")),
        other => tracing::error!(error = %other, "{NOT_RELOADED}"),
    }
}
