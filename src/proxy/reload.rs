//! Another configuration comes into force while clients are served.
//!
//! All that can fail is done first, beside what is in force; the change itself is one store. Requests in flight go
//! on by the former configuration to their end, and no connection is dropped.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::access_log::AccessLog;
use super::in_force::Edition;
use super::listener::Terms;
use super::tls::{self, TlsError};
use super::upstream::{Attendance, Upstreams};
use super::wait::wall_clock;
use super::{Proxy, ProxyShared};
use crate::config::{AccessLogPath, Config, ListenerConfig};

/// Longest wait for the addresses of new names. Requests to an upstream whose names have none yet wait by themselves.
const LOOKUP_MAX: Duration = Duration::from_secs(2);

/// Why a configuration did not come into force. Nothing changed.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// It differs in what a running node cannot change.
    #[error("{} cannot change in a running node: restart the node", .0.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "))]
    NeedsRestart(Vec<String>),
    /// The sync mode that was set at run time does not allow its rules.
    #[error("the cluster is in bounded mode: {0}")]
    Mode(String),
    /// A certificate, a key or an authority cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The access log cannot be written.
    #[error("cannot open the access log {path}: {error}")]
    AccessLog {
        /// Where it should go.
        path: AccessLogPath,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// A thread cannot be started, or has died.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// What a configuration needs beside what is in force.
struct Prepared {
    upstreams: Arc<Upstreams>,
    attendance: Option<Attendance>,
    access_log: Option<Arc<AccessLog>>,
    /// `None`: those in force stay.
    certificates: Option<tls::Watch>,
}

impl Proxy {
    /// Puts `config` in force: for the requests that begin from now on, and for the beginning of connections. What a
    /// connection has begun with, it keeps: TLS, the trust in its peer, the bounds on its heads. Counts stay with the
    /// rules that keep their name and what they count by.
    ///
    /// In bounded mode a changed rule holds from its next window.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing changed.
    pub async fn reload(&mut self, config: Config) -> Result<(), ReloadError> {
        let former = self.in_force.edition();
        let shared = Arc::clone(&former.shared);
        let needing_restart = shared.config.needing_restart(&config);
        if !needing_restart.is_empty() {
            return Err(ReloadError::NeedsRestart(needing_restart));
        }
        if let Some(objection) = config.objection_to(shared.limiter().mode()) {
            return Err(ReloadError::Mode(objection));
        }
        let config = Arc::new(config);
        let prepare = {
            let config = Arc::clone(&config);
            move || Prepared::new(&shared, &config)
        };
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let prepared = prepared.map_err(|error| ReloadError::Thread(io::Error::other(error)))??;
        let _ = tokio::time::timeout(LOOKUP_MAX, prepared.upstreams.looked_up()).await;
        // From here on nothing fails or waits.
        let terms = match &prepared.certificates {
            Some(certificates) => Terms::of(&config.listen, certificates),
            None => former.terms.clone(),
        };
        let shared = former
            .shared
            .followed_by(config, prepared.upstreams, prepared.access_log);
        shared.metrics().watch(&shared.upstreams);
        let shared = Arc::new(shared);
        self.in_force.publish(Edition { shared, terms });
        self.attendance = prepared.attendance;
        if let Some(certificates) = prepared.certificates {
            self.certificates = certificates;
        }
        Ok(())
    }
}

impl Prepared {
    /// Blocks: it reads and opens files.
    fn new(former: &ProxyShared, config: &Config) -> Result<Self, ReloadError> {
        let upstreams = former
            .upstreams()
            .followed_by(&config.upstreams, &config.dns, config.proxy.workers);
        upstreams.secure()?;
        let upstreams = Arc::new(upstreams);
        Ok(Self {
            access_log: open_log(former, config)?,
            attendance: Attendance::start(&upstreams).map_err(ReloadError::Thread)?,
            upstreams,
            // Last, since it says what is in force.
            certificates: follow_certificates(&former.config.listen, &config.listen, former)?,
        })
    }
}

/// A file is opened anew in any case: whoever rotates logs has moved it.
fn open_log(former: &ProxyShared, config: &Config) -> Result<Option<Arc<AccessLog>>, ReloadError> {
    let log = &config.access_log;
    let is_file = matches!(log.path, AccessLogPath::File(_));
    if !is_file && *log == former.config.access_log {
        return Ok(former.access_log.clone());
    }
    let opened = AccessLog::open(log).map_err(|error| ReloadError::AccessLog {
        path: log.path.clone(),
        error,
    })?;
    Ok(opened.map(Arc::new))
}

/// Changed files of the same listeners are taken up without a reload.
fn follow_certificates(
    former: &[ListenerConfig],
    listeners: &[ListenerConfig],
    shared: &ProxyShared,
) -> Result<Option<tls::Watch>, ReloadError> {
    if former == listeners {
        return Ok(None);
    }
    Ok(Some(tls::Watch::start(listeners, shared.metrics())?))
}

impl ProxyShared {
    /// What follows, with `config` in force: the limiter has its rules when this returns. They come first, since
    /// routes are charged by the places that they get; requests of the former routes charge no rule but their own.
    fn followed_by(
        &self,
        config: Arc<Config>,
        upstreams: Arc<Upstreams>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Self {
        let limiter = self.limiter();
        if config.limits.rules != self.config.limits.rules {
            limiter.set_rules(config.limits.rules.clone(), wall_clock());
            // Rows may have become due.
            drop(self.announce());
        }
        limiter.set_overflow(config.limits.overflow);
        Self::build(config, self.lasting.clone(), upstreams, access_log)
    }
}
