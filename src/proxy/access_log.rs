//! The access log: one line for each request, written by a thread of its own.
//!
//! A request costs its line's formatting on its worker, after its response; it never waits for a disk or a
//! pipe. What the writer cannot keep up with is dropped, and counted.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: lines carry the time of day and how long a request took"
)]

mod line;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Version};
use rand::Rng;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::config::{AccessLogConfig, AccessLogFormat, AccessLogPath};
use line::{Line, clipped, rfc3339};

/// Most lines that wait for the writer: some tens of megabytes at worst, and seconds of a busy node.
const LINES_WAITING_MAX: usize = 65_536;

/// Where lines go. Dropping it writes what waits, for at most a second.
pub struct AccessLog {
    format: AccessLogFormat,
    sample_permille: u32,
    writer: NonBlocking,
    dropped: ErrorCounter,
    _guard: WorkerGuard,
}

impl AccessLog {
    /// Opens the log that `config` asks for; `None` where it asks for none.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the writer's thread not be started.
    pub fn open(config: &AccessLogConfig) -> io::Result<Option<Self>> {
        let Some(format) = config.format else {
            return Ok(None);
        };
        let sink: Box<dyn Write + Send> = match &config.path {
            AccessLogPath::Stdout => Box::new(io::stdout()),
            AccessLogPath::Stderr => Box::new(io::stderr()),
            AccessLogPath::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        Ok(Some(Self::writing(sink, format, config.sample_permille)))
    }

    /// A log that writes to `sink`.
    pub(super) fn writing(
        sink: impl Write + Send + 'static,
        format: AccessLogFormat,
        sample_permille: u32,
    ) -> Self {
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_WAITING_MAX)
            .thread_name("weir-access-log")
            .finish(sink);
        Self {
            format,
            sample_permille,
            dropped: writer.error_counter(),
            writer,
            _guard: guard,
        }
    }

    /// Counts the lines that were dropped, since the writer could not keep up.
    pub(super) fn dropped(&self) -> &ErrorCounter {
        &self.dropped
    }

    /// Begins the entry of a request, if it is one of the sample.
    pub(super) fn begin<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        client: IpAddr,
        started: Instant,
        rng: &mut impl Rng,
    ) -> Option<Box<Entry>> {
        if self.sample_permille < 1000 && rng.random_range(0..1000) >= self.sample_permille {
            return None;
        }
        let headers = request.headers();
        Some(Box::new(Entry {
            log: Arc::clone(self),
            time: SystemTime::now(),
            started,
            client,
            method: request.method().clone(),
            host: request
                .uri()
                .authority()
                .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
                .or_else(|| headers.get(header::HOST).cloned()),
            target: request.uri().path_and_query().cloned(),
            version: request.version(),
            user_agent: headers.get(header::USER_AGENT).cloned(),
            referer: headers.get(header::REFERER).cloned(),
            outcome: None,
            bytes: 0,
            complete: false,
        }))
    }
}

/// What a request came to, known with the head of its response.
pub(super) struct Outcome {
    pub(super) request_id: HeaderValue,
    pub(super) status: StatusCode,
    /// Name of the route, if there was one.
    pub(super) route: Option<String>,
    /// How long the upstream took to the head of its response, if one answered.
    pub(super) upstream_time: Option<Duration>,
    /// What the limits said, if any applied.
    pub(super) limit: Option<Verdict>,
    /// Why Weir answered itself, in the words that the client got.
    pub(super) refusal: Option<&'static str>,
}

/// What the limits said of a request.
pub(super) enum Verdict {
    Admitted,
    /// Denied, by the rule of this name.
    Denied(String),
}

/// The entry of one request. Written when it is dropped: with the last byte of the response, or when the
/// client went away.
pub(super) struct Entry {
    log: Arc<AccessLog>,
    time: SystemTime,
    started: Instant,
    client: IpAddr,
    method: Method,
    host: Option<HeaderValue>,
    target: Option<PathAndQuery>,
    version: Version,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    outcome: Option<Outcome>,
    bytes: u64,
    complete: bool,
}

impl Entry {
    /// Notes what came of the request.
    pub(super) fn conclude(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// Counts bytes of the response's body.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Notes that the whole body was handed over.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    fn line(&self) -> Vec<u8> {
        let outcome = self.outcome.as_ref();
        let text = |value: Option<&HeaderValue>| value.map(|value| clipped(value.as_bytes()));
        let (limit, rule) = match outcome.and_then(|outcome| outcome.limit.as_ref()) {
            None => (None, None),
            Some(Verdict::Admitted) => (Some("admitted"), None),
            Some(Verdict::Denied(rule)) => (Some("denied"), Some(rule.as_str())),
        };
        let line = Line {
            time: rfc3339(self.time),
            request_id: text(outcome.map(|outcome| &outcome.request_id)),
            client: self.client,
            method: clipped(self.method.as_str().as_bytes()),
            host: text(self.host.as_ref()),
            path: clipped(self.target.as_ref().map_or("", PathAndQuery::as_str).as_bytes()),
            protocol: line::protocol(self.version),
            // No head went to a client that broke off before; nginx calls that 499.
            status: outcome.map_or(499, |outcome| outcome.status.as_u16()),
            bytes: self.bytes,
            complete: self.complete,
            duration_ms: line::millis(self.started.elapsed()),
            upstream_ms: outcome
                .and_then(|outcome| outcome.upstream_time)
                .map(line::millis),
            route: outcome.and_then(|outcome| outcome.route.as_deref()),
            limit,
            rule,
            refusal: outcome.and_then(|outcome| outcome.refusal),
            user_agent: text(self.user_agent.as_ref()),
            referer: text(self.referer.as_ref()),
        };
        match self.log.format {
            AccessLogFormat::Json => line.as_json(),
            AccessLogFormat::Text => line.as_text(self.time),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // It counts the lines that it has no room for; only a writer that has ended refuses them.
        let _ = self.log.writer.clone().write_all(&self.line());
    }
}

#[cfg(test)]
mod tests;
