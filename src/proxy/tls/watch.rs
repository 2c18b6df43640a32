//! Follows the files of all listeners' TLS: takes up changed ones, warns of certificates that end.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: whether a certificate has ended is told by the wall clock"
)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use super::TlsError;
use super::ends::EndWarnings;
use super::server::{Loaded, Terminator};
use crate::config::ListenerConfig;
use crate::proxy::metrics::{CertificateReading, ProxyMetrics, ReloadOutcome};

/// How often the files are read: their content is compared, so a swapped symlink of a mounted secret is seen, and
/// no resolution of timestamps matters.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The TLS of all listeners, with the thread that follows its files. Dropping it ends the thread.
pub(in crate::proxy) struct Watch {
    terminators: Vec<Option<Arc<Terminator>>>,
    _stop: Option<Sender<()>>,
}

impl Watch {
    /// Loads what `listeners` need and begins to follow the files; blocks.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub(in crate::proxy) fn start(
        listeners: &[ListenerConfig],
        metrics: &Arc<ProxyMetrics>,
    ) -> Result<Self, TlsError> {
        let mut terminators = Vec::new();
        let mut follower = Follower::new(Arc::clone(metrics));
        for listener in listeners {
            terminators.push(match &listener.tls {
                None => None,
                Some(section) => Some(follower.follow(Terminator::load(section)?)),
            });
        }
        follower.publish();
        follower.warn_of_ends(SystemTime::now());
        Ok(Self {
            terminators,
            _stop: follower
                .spawn()
                .map_err(|error| TlsError::Setup(error.to_string()))?,
        })
    }

    /// The TLS of each listener, in their order.
    pub(in crate::proxy) fn terminators(&self) -> &[Option<Arc<Terminator>>] {
        &self.terminators
    }
}

/// One listener's files, as they were read last.
struct Followed {
    terminator: Arc<Terminator>,
    digest: [u8; 32],
    ends: Vec<(PathBuf, u64)>,
    /// The fault that has been logged.
    fault: Option<String>,
}

struct Follower {
    followed: Vec<Followed>,
    metrics: Arc<ProxyMetrics>,
    warnings: EndWarnings,
}

impl Follower {
    fn new(metrics: Arc<ProxyMetrics>) -> Self {
        Self {
            followed: Vec::new(),
            metrics,
            warnings: EndWarnings::default(),
        }
    }

    fn follow(&mut self, (terminator, loaded): (Terminator, Loaded)) -> Arc<Terminator> {
        let terminator = Arc::new(terminator);
        self.followed.push(Followed {
            terminator: Arc::clone(&terminator),
            digest: loaded.digest,
            ends: loaded.ends,
            fault: None,
        });
        terminator
    }

    /// The thread ends with the sender; there is none where there is nothing to follow.
    fn spawn(self) -> io::Result<Option<Sender<()>>> {
        if self.followed.is_empty() {
            return Ok(None);
        }
        let (stop, stopped) = channel();
        let run = move || self.run(&stopped);
        std::thread::Builder::new()
            .name("weir-tls-files".to_owned())
            .spawn(run)?;
        Ok(Some(stop))
    }

    fn run(mut self, stopped: &Receiver<()>) {
        while stopped.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let mut changed = false;
            for followed in &mut self.followed {
                changed |= followed.reload(&self.metrics);
            }
            if changed {
                self.warnings.forget();
                self.publish();
            }
            self.warn_of_ends(SystemTime::now());
        }
    }

    fn publish(&self) {
        let ends = self.followed.iter().flat_map(|followed| &followed.ends);
        let mut readings: Vec<_> = ends
            .map(|(path, not_after)| CertificateReading {
                file: path.display().to_string(),
                not_after: *not_after,
            })
            .collect();
        // Listeners may share a file.
        readings.sort();
        readings.dedup_by(|a, b| a.file == b.file);
        self.metrics.set_certificates(readings);
    }

    fn warn_of_ends(&mut self, now: SystemTime) {
        let ends = self.followed.iter().flat_map(|followed| &followed.ends);
        for (path, left) in self.warnings.due(ends, now) {
            warn_of_end(path, left);
        }
    }
}

fn warn_of_end(path: &Path, left: Duration) {
    let file = path.display();
    if left.is_zero() {
        tracing::error!(%file, "the certificate has ended: clients refuse it");
    } else {
        let hours = left.as_secs() / 3600;
        tracing::warn!(%file, hours, "the certificate ends soon");
    }
}

impl Followed {
    /// Takes up changed files; whether there were any. What cannot be used changes nothing, and the log says why, once
    /// per fault.
    fn reload(&mut self, metrics: &ProxyMetrics) -> bool {
        match self.terminator.reload(&self.digest) {
            Ok(None) => {
                self.fault = None;
                false
            }
            Ok(Some(loaded)) => {
                tracing::info!(certificates = loaded.ends.len(), "certificates changed");
                metrics.reloaded(ReloadOutcome::Changed);
                self.digest = loaded.digest;
                self.ends = loaded.ends;
                self.fault = None;
                true
            }
            Err(error) => {
                let fault = error.to_string();
                if self.fault.as_ref() != Some(&fault) {
                    tracing::warn!(%error, "certificates not changed");
                    metrics.reloaded(ReloadOutcome::Refused);
                    self.fault = Some(fault);
                }
                false
            }
        }
    }
}
