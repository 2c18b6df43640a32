//! `weir echo`: an upstream that answers 200 with what it received. For demonstrations and tests.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Answers `{"requests": N}` and is not counted itself.
const COUNT_PATH: &str = "/_echo/count";
/// Most connections at once.
const CONNECTIONS_MAX: usize = 4096;
/// Longest wait for a request head, and pause after an accept that failed for want of resources.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Listens on `listen` for HTTP/1.1 and HTTP/2 (prior knowledge), prints `listening on ADDR` to stdout
/// once it does, and answers each request after `delay` until the future is dropped.
///
/// # Errors
/// When `listen` cannot be bound or stdout is closed.
pub async fn run(listen: SocketAddr, delay: Duration) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    announce(listener.local_addr()?)?;
    serve(listener, delay).await;
    Ok(())
}

fn announce(address: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "listening on {address}")?;
    stdout.flush()
}

/// What all connections share.
struct Echo {
    /// Requests received, but those for [`COUNT_PATH`].
    requests: AtomicU64,
    /// How long an answer waits.
    delay: Duration,
}

/// Answers on `listener` until the future is dropped.
async fn serve(listener: TcpListener, delay: Duration) {
    let echo = Arc::new(Echo {
        requests: AtomicU64::new(0),
        delay,
    });
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let echo = Arc::clone(&echo);
        tokio::spawn(async move {
            serve_connection(stream, echo).await;
            drop(permit);
        });
    }
}

async fn serve_connection(stream: TcpStream, echo: Arc<Echo>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| {
        let echo = Arc::clone(&echo);
        async move { Ok::<_, Infallible>(answer(request, &echo).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error, "connection ended");
    }
}

async fn answer(request: Request<Incoming>, echo: &Echo) -> Response<Full<Bytes>> {
    if request.uri().path() == COUNT_PATH {
        return json_response(
            StatusCode::OK,
            &json!({ "requests": echo.requests.load(Relaxed) }),
        );
    }
    let count = echo.requests.fetch_add(1, Relaxed) + 1;
    if !echo.delay.is_zero() {
        tokio::time::sleep(echo.delay).await;
    }
    let (head, body) = request.into_parts();
    match body_length(body).await {
        Ok(length) => {
            let received = json!({
                "method": head.method.as_str(),
                "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
                "headers": headers_as_json(&head.headers),
                "body_bytes": length,
                "requests": count,
            });
            json_response(StatusCode::OK, &received)
        }
        Err(error) => {
            let message = json!({ "message": format!("the request's body broke off: {error}") });
            json_response(StatusCode::BAD_REQUEST, &message)
        }
    }
}

/// Reads the body to its end without keeping it.
async fn body_length(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(length)
}

/// Each field's values, joined by commas as RFC 9110 §5.3 allows.
fn headers_as_json(headers: &HeaderMap) -> Value {
    let joined = |name| {
        let values = headers.get_all(name).iter();
        let texts: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        Value::String(texts.join(", "))
    };
    headers
        .keys()
        .map(|name| (name.to_string(), joined(name)))
        .collect()
}

fn json_response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn it_tells_what_it_received_and_counts_requests_but_not_questions() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Duration::ZERO));
        let mut client = TcpStream::connect(address).await.unwrap();
        let post = "POST /a?b HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 3\r\n\r\nxyz";
        let count = "GET /_echo/count HTTP/1.1\r\nHost: h\r\n\r\n";
        let last = "GET /_echo/count HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let requests = format!("{post}{count}{last}");
        client.write_all(requests.as_bytes()).await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        let bodies: Vec<Value> = answers
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let received = json!({
            "method": "POST", "path": "/a?b", "body_bytes": 3, "requests": 1,
            "headers": { "host": "h", "x-a": "1, 2", "content-length": "3" },
        });
        assert_eq!(
            bodies,
            [received, json!({ "requests": 1 }), json!({ "requests": 1 })]
        );
        server.abort();
    }
}
