//! HTTP/2 to upstreams: shared connections, trailers, cancelled streams, servers that go away.

use std::convert::Infallible;
use std::pin::pin;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::sync::{Barrier, Notify, Semaphore, mpsc};

use super::*;

const GET: &str = "GET /a?b HTTP/1.1\r\nHost: shop.test\r\n\r\n";

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

/// An HTTP/2 server, by prior knowledge.
struct Http2Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Has all its connections send GOAWAY, and finish what is in flight.
    go_away: Arc<Notify>,
}

impl Http2Server {
    async fn start<S, F>(streams_max: u32, answer: S) -> Self
    where
        S: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::new(AtomicUsize::new(0)),
            go_away: Arc::new(Notify::new()),
        };
        let (connections, go_away) = (Arc::clone(&server.connections), Arc::clone(&server.go_away));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, SeqCst);
                let (answer, go_away) = (answer.clone(), Arc::clone(&go_away));
                let service = service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                tokio::spawn(async move {
                    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    builder.max_concurrent_streams(streams_max);
                    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
                    tokio::select! {
                        _ = serving.as_mut() => return,
                        () = go_away.notified() => serving.as_mut().graceful_shutdown(),
                    }
                    let _ = serving.await;
                });
            }
        });
        server
    }

    fn gateway(&self, more: &str) -> Gateway {
        let target = format!("http://{}", self.address);
        Gateway::start_with(
            &format!("upstreams:\n  - name: up\n    protocol: h2\n    targets: ['{target}']\n{more}"),
            Arc::new(|| Box::pin(std::future::ready(()))),
        )
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

fn text(text: String) -> Response<Body> {
    Response::new(Full::from(text).boxed())
}

#[tokio::test]
async fn many_requests_share_a_connection_and_are_addressed_as_http2_has_it() {
    let together = Arc::new(Barrier::new(30));
    let barrier = Arc::clone(&together);
    let server = Http2Server::start(100, move |request| {
        let barrier = Arc::clone(&barrier);
        async move {
            // All are in flight at once.
            barrier.wait().await;
            assert!(!request.headers().contains_key("host") && !request.headers().contains_key("connection"));
            text(request.uri().to_string())
        }
    })
    .await;
    let gateway = server.gateway("");
    within(async {
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let mut client = gateway.connect().await;
            asking.spawn(async move {
                client.send(GET).await;
                client.receive().await
            });
        }
        while let Some(response) = asking.join_next().await {
            let response = response.unwrap();
            assert_eq!(response.text(), "http://shop.test/a?b");
            assert_eq!(response.field("via").as_deref(), Some("2 weir"));
        }
    })
    .await;
    assert_eq!(server.connections(), 1);
    assert_eq!(gateway.metrics().upstreams[0].in_flight, 0);
}

#[tokio::test]
async fn a_server_that_allows_few_streams_gets_more_connections_up_to_the_bound() {
    let (release, arrived) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (held, counter) = (Arc::clone(&release), Arc::clone(&arrived));
    let server = Http2Server::start(2, move |_| {
        let (held, counter) = (Arc::clone(&held), Arc::clone(&counter));
        async move {
            if counter.fetch_add(1, SeqCst) > 0 {
                held.acquire().await.unwrap().forget();
            }
            text("ok".to_owned())
        }
    })
    .await;
    let gateway = server.gateway("    connections_max: 2\n    pending_timeout: 1m\n");
    within(async {
        // The first tells how many streams the server allows.
        assert_eq!(gateway.ask(GET).await.status(), 200);
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = gateway.connect().await;
            client.send(GET).await;
            clients.push(client);
        }
        while arrived.load(SeqCst) < 5 || gateway.metrics().in_flight < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The fifth waits for a stream.
        assert_eq!((server.connections(), arrived.load(SeqCst)), (2, 5));
        release.add_permits(5);
        for client in &mut clients {
            assert_eq!(client.receive().await.status(), 200);
        }
    })
    .await;
}

#[tokio::test]
async fn grpc_passes_with_its_trailers_both_over_http2() {
    let server = Http2Server::start(100, |request: Request<Incoming>| async move {
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let body = Full::from(sent).with_trailers(async move { Some(Ok(trailers)) });
        Response::new(body.boxed())
    })
    .await;
    let gateway = server.gateway("");
    within(async {
        let mut sender = gateway.connect_http2().await;
        let request = Request::post("http://shop.test/pkg.Service/Method")
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(Full::<Bytes>::from("\0\0\0\0\x02hi"))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "\0\0\0\0\x02hi");
    })
    .await;
}

/// Tells when it is dropped.
struct Told(mpsc::UnboundedSender<&'static str>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send("cancelled");
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_stream_and_no_other() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = Http2Server::start(100, move |request| {
        let tell = tell.clone();
        async move {
            if request.uri().path() == "/hang" {
                tell.send("asked").unwrap();
                let _told = Told(tell);
                std::future::pending::<()>().await;
            }
            text("ok".to_owned())
        }
    })
    .await;
    let gateway = server.gateway("");
    within(async {
        let mut client = gateway.connect().await;
        client.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(told.recv().await, Some("asked"));
        drop(client);
        assert_eq!(told.recv().await, Some("cancelled"));
        assert_eq!(gateway.ask(GET).await.text(), "ok");
    })
    .await;
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_server_that_goes_away_finishes_what_it_has_and_gets_no_more_on_that_connection() {
    let (release, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (held, tell) = (Arc::clone(&release), Arc::clone(&arrived));
    let server = Http2Server::start(100, move |request| {
        let (held, tell) = (Arc::clone(&held), Arc::clone(&tell));
        async move {
            if request.uri().path() == "/hang" {
                tell.notify_one();
                held.notified().await;
            }
            text("ok".to_owned())
        }
    })
    .await;
    let gateway = server.gateway("");
    within(async {
        let mut slow = gateway.connect().await;
        slow.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await;
        arrived.notified().await;
        server.go_away.notify_waiters();
        // Not even a POST is lost while the connection winds down.
        while server.connections() < 2 {
            let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
            assert_eq!(gateway.ask(post).await.status(), 200);
        }
        release.notify_one();
        assert_eq!(slow.receive().await.text(), "ok");
    })
    .await;
}
