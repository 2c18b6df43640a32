//! Asks every endpoint of an upstream whether it is healthy, once per interval and node.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: checks are timed by a real clock"
)]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng};
use thiserror::Error;
use tokio::task::JoinSet;

use super::super::connection::LocalExecutor;
use super::connect::dial;
use super::endpoint::Endpoint;
use super::state::UpstreamState;
use super::target::Speaks;
use crate::config::HealthConfig;

/// What checks send as User-Agent, so that servers can tell them from requests.
const USER_AGENT: HeaderValue = HeaderValue::from_static("weir-health-check");

/// Why a check did not pass.
#[derive(Debug, Error)]
enum CheckError {
    #[error("it cannot be reached: {0}")]
    Connect(#[from] std::io::Error),
    #[error("it gave no valid response: {0}")]
    Http(#[from] hyper::Error),
    #[error("it answered with {0}")]
    Status(StatusCode),
    #[error("it did not answer in time")]
    Timeout,
}

/// Checks the endpoints of `state` for as long as it is polled.
pub(super) async fn keep_up(state: Arc<UpstreamState>) {
    let mut changes = state.changes();
    let mut watched: Vec<(Arc<Endpoint>, JoinSet<()>)> = Vec::new();
    loop {
        let snapshot = state.snapshot();
        let exists = |endpoint: &Arc<Endpoint>| {
            let mut places = snapshot.places.iter();
            places.any(|place| Arc::ptr_eq(&place.endpoint, endpoint))
        };
        // A set that is dropped ends its checks.
        watched.retain(|(endpoint, _)| exists(endpoint));
        for place in &snapshot.places {
            if !watched
                .iter()
                .any(|(endpoint, _)| Arc::ptr_eq(endpoint, &place.endpoint))
            {
                let mut checks = JoinSet::new();
                checks.spawn_local(watch(Arc::clone(&state), Arc::clone(&place.endpoint)));
                watched.push((Arc::clone(&place.endpoint), checks));
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn watch(state: Arc<UpstreamState>, endpoint: Arc<Endpoint>) {
    let Some(config) = &state.config.health else {
        return;
    };
    let mut rng = SmallRng::from_os_rng();
    loop {
        let checked = tokio::time::timeout(config.timeout, check(&state, &endpoint, config)).await;
        let outcome = checked.unwrap_or(Err(CheckError::Timeout));
        let passed = outcome.is_ok();
        if state.change(|endpoints| endpoints.checked(&endpoint, passed, Instant::now())) {
            let (upstream, endpoint) = (&state.config.name, &endpoint.name);
            match outcome {
                Ok(()) => tracing::info!(upstream, endpoint, "the endpoint is healthy"),
                Err(error) => tracing::warn!(upstream, endpoint, %error, "the endpoint is not healthy"),
            }
        }
        // So that nodes that started together do not check together.
        tokio::time::sleep(config.interval.mul_f64(rng.random_range(0.9..=1.1))).await;
    }
}

async fn check(state: &UpstreamState, endpoint: &Endpoint, config: &HealthConfig) -> Result<(), CheckError> {
    let (stream, speaks) = dial(state, endpoint.target, endpoint.address).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
    let host = config.host.as_deref().and_then(|host| host.parse().ok());
    if let Some(host) = host {
        request.headers_mut().insert(header::HOST, host);
    }
    let path: PathAndQuery = config.path.parse().unwrap_or(PathAndQuery::from_static("/"));
    state.targets[endpoint.target].address(&mut request, &path, speaks);
    // Ends the connection when the check does.
    let mut connections = JoinSet::new();
    let response = match speaks {
        Speaks::Http1 => {
            let (mut sender, connection) = http1::handshake(stream).await?;
            connections.spawn_local(connection);
            sender.send_request(request).await?
        }
        Speaks::Http2 => {
            let (mut sender, connection) = http2::handshake(LocalExecutor, stream).await?;
            connections.spawn_local(connection);
            sender.send_request(request).await?
        }
    };
    let status = response.status();
    let passes = config.statuses.iter().any(|range| range.contains(status));
    if passes {
        Ok(())
    } else {
        Err(CheckError::Status(status))
    }
}
