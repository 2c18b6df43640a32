//! The threads of the service, its connections, and where a request goes. Both versions of HTTP without TLS.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE,
};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tonic::Code as GrpcCode;
use tonic::body::Body;

use super::check::{self, CheckRequest};
use super::judge::Judge;
use super::metrics::{Api, Outcome, RatelimitMetrics};
use super::{IsReady, grpc};
use crate::sockets::{EXHAUSTED_PAUSE, is_of_one_connection};

/// Most connections at once; more wait in the kernel's backlog. Envoy has one for each of its threads, nginx one for
/// each request that it has in flight.
const CONNECTIONS_MAX: usize = 4096;
/// Most calls at once on a connection of HTTP/2, and what hyper itself takes for a safe bound of streams.
const STREAMS_MAX: u32 = 1024;
/// Longest time between requests of HTTP/1: beyond nginx's own 60 s, so that nginx closes first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Longest time from a request's head to its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection over which nothing was asked for so long is closed, whatever state it is in.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// How long requests in flight have once a connection is to close.
pub(super) const CUT_OFF: Duration = Duration::from_secs(2);
/// Most headers of a request, and most bytes of its head.
const HEADERS_MAX: usize = 100;
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Serves `socket` on a thread of its own until told to stop.
pub(super) fn spawn(
    index: usize,
    socket: StdListener,
    door: Arc<Door>,
    stop: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = {
        let _entered = runtime.enter();
        TcpListener::from_std(socket)?
    };
    std::thread::Builder::new()
        .name(format!("weir-ratelimit-{index}"))
        .spawn(move || runtime.block_on(accept(listener, door, stop)))
}

async fn accept(listener: TcpListener, door: Arc<Door>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = async {
            let slot = Arc::clone(&door.slots)
                .acquire_owned()
                .await
                .expect("never closed");
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = stopped(&mut stop) => break,
            (slot, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let serving = serve(stream, Arc::clone(&door), stop.clone());
                    connections.spawn(async move {
                        serving.await;
                        drop(slot);
                    });
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections to the rate limit service");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Returns once the service is to stop, or is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve(stream: TcpStream, door: Arc<Door>, mut stop: watch::Receiver<bool>) {
    let _counted = Counted::new(&door);
    // A small response must not wait for the acknowledgement of the one before it.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let service = service_fn(move |request| {
        count.fetch_add(1, Relaxed);
        let door = Arc::clone(&door);
        async move { Ok::<_, Infallible>(door.answer(request).await) }
    });
    let builder = builder();
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stopped(&mut stop) => None,
        () = idle(&asked) => None,
    };
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(CUT_OFF, connection).await
        }
    };
    if let Ok(Err(error)) = ended {
        tracing::debug!(error, "a connection to the rate limit service failed");
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// Returns when nothing was asked for [`IDLE_MAX`].
async fn idle(asked: &AtomicU64) {
    let mut before = asked.load(Relaxed);
    loop {
        tokio::time::sleep(IDLE_MAX).await;
        let now = asked.load(Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

/// Counts a connection while it lives.
struct Counted(Arc<RatelimitMetrics>);

impl Counted {
    fn new(door: &Door) -> Self {
        let metrics = Arc::clone(door.judge.metrics());
        metrics.connected();
        Self(metrics)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.disconnected();
    }
}

/// Lets in who may ask, and shows the way.
pub(super) struct Door {
    judge: Arc<Judge>,
    /// What is compared in place of the token: the time that takes tells nothing of it.
    token: Option<[u8; 32]>,
    is_ready: IsReady,
    slots: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new(judge: Arc<Judge>, token: Option<&str>, is_ready: IsReady) -> Self {
        Self {
            judge,
            token: token.map(|token| Sha256::digest(token).into()),
            is_ready,
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }

    /// Answers one request, within [`REQUEST_TIMEOUT`].
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let version = request.version();
        let api = match request.uri().path() {
            "/v1/check" => Api::Check,
            grpc::SHOULD_RATE_LIMIT | grpc::HEALTH_CHECK if version == Version::HTTP_2 => Api::Envoy,
            _ if is_grpc(request.headers()) && version == Version::HTTP_2 => {
                return grpc::refuse(GrpcCode::Unimplemented, "there is no such method");
            }
            _ => {
                let message =
                    "no such path: there are `/v1/check`, and over HTTP/2 Envoy's rate limit service";
                return check::refuse(StatusCode::NOT_FOUND, message);
            }
        };
        let is_health = request.uri().path() == grpc::HEALTH_CHECK;
        if !is_health && !self.admits(request.headers()) {
            self.judge.metrics().asked(api, Outcome::Unauthorized);
            return unauthorized(api);
        }
        let answer = async {
            match api {
                Api::Envoy if is_health => grpc::health((self.is_ready)(), request).await,
                Api::Envoy => grpc::should_rate_limit(&self.judge, request).await,
                Api::Check => self.check(request).await,
            }
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                self.judge.metrics().asked(api, Outcome::Malformed);
                match api {
                    Api::Envoy => grpc::refuse(GrpcCode::DeadlineExceeded, "the request came too slowly"),
                    Api::Check => check::refuse(StatusCode::REQUEST_TIMEOUT, "the request came too slowly"),
                }
            }
        }
    }

    async fn check(&self, request: Request<Incoming>) -> Response<Body> {
        let malformed = |status, message: &str| {
            self.judge.metrics().asked(Api::Check, Outcome::Malformed);
            check::refuse(status, message)
        };
        let question = match *request.method() {
            Method::GET | Method::HEAD => {
                CheckRequest::from_query(request.uri().query().unwrap_or_default(), request.headers())
            }
            Method::POST => match Limited::new(request.into_body(), grpc::MESSAGE_BYTES_MAX)
                .collect()
                .await
            {
                Ok(body) => CheckRequest::from_json(&body.to_bytes()),
                Err(_) => {
                    let message = format!(
                        "the body broke off, or has more than {} bytes",
                        grpc::MESSAGE_BYTES_MAX
                    );
                    return malformed(StatusCode::PAYLOAD_TOO_LARGE, &message);
                }
            },
            _ => {
                let mut refusal = malformed(StatusCode::METHOD_NOT_ALLOWED, "use GET, HEAD or POST");
                refusal
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
                return refusal;
            }
        };
        match question {
            Ok(question) => question.answer(&self.judge).await,
            Err(why) => malformed(StatusCode::BAD_REQUEST, &why.to_string()),
        }
    }

    /// Whether the caller has the token, if one is needed.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        given.is_some_and(|given| <[u8; 32]>::from(Sha256::digest(given)) == *token)
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn unauthorized(api: Api) -> Response<Body> {
    let message = "this needs the header `Authorization: Bearer TOKEN`, with `ratelimit.token`";
    match api {
        Api::Envoy => grpc::refuse(GrpcCode::Unauthenticated, message),
        Api::Check => {
            let mut refusal = check::refuse(StatusCode::UNAUTHORIZED, message);
            let headers = refusal.headers_mut();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            refusal
        }
    }
}

/// A response in JSON.
pub(super) fn json(status: StatusCode, view: &impl Serialize) -> Response<Body> {
    let mut text = serde_json::to_string(view).unwrap_or_default();
    // A terminal shows the next prompt on a line of its own.
    text.push('\n');
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
