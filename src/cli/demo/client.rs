//! The clients of the demo: one that waits for each answer, and many that ask at the same moment.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::task::JoinSet;

use crate::cli::http::{Client, Response};

use super::cluster::{CLIENT_HEADER, Node};

/// What the names of Kong's headers begin with; the window's name follows.
const REMAINING: &str = "x-ratelimit-remaining-";

/// One client, counted under its own name by every node: one request after the other, over the nodes in turn.
#[derive(Debug)]
pub(super) struct RoundRobin {
    path: String,
    headers: HeaderMap,
    connections: Vec<Client>,
    turn: usize,
}

/// What the client read off one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// 200 or 429.
    pub(super) status: StatusCode,
    /// The node that answered.
    pub(super) node: String,
    /// The window it counted in: start in Unix milliseconds.
    pub(super) window: String,
    /// The window's name, as in `X-RateLimit-Remaining-Minute`.
    pub(super) window_name: String,
    /// What is left in that window.
    pub(super) remaining: String,
}

impl RoundRobin {
    /// A client that is counted as `identity`, and asks for `/path`.
    pub(super) fn new(identity: &str, nodes: &[Node], path: &str) -> anyhow::Result<Self> {
        let connections: Result<_, _> = nodes.iter().map(|node| Client::new(&node.listen)).collect();
        Ok(Self {
            path: format!("/{path}"),
            headers: headers(identity)?,
            connections: connections?,
            turn: 0,
        })
    }

    /// Sends one request to the node whose turn it is, and reads the whole answer.
    pub(super) async fn send(&mut self) -> anyhow::Result<Answer> {
        let turn = self.turn % self.connections.len();
        self.turn += 1;
        ask(&mut self.connections[turn], &self.path, &self.headers).await
    }
}

/// Connections over all nodes, each of which carries one request of the same client.
#[derive(Debug)]
pub(super) struct Burst {
    path: String,
    headers: HeaderMap,
    connections: Vec<Client>,
}

impl Burst {
    /// Connects for `requests` requests, counted as `identity`, for `/path`.
    pub(super) async fn connect(
        identity: &str,
        nodes: &[Node],
        path: &str,
        requests: u64,
    ) -> anyhow::Result<Self> {
        let mut connections = Vec::new();
        for (_, node) in (0..requests).zip(nodes.iter().cycle()) {
            let mut connection = Client::new(&node.listen)?;
            connection.connect().await?;
            connections.push(connection);
        }
        Ok(Self {
            path: format!("/{path}"),
            headers: headers(identity)?,
            connections,
        })
    }

    /// Sends everything at once, and reads all answers.
    pub(super) async fn send(self) -> anyhow::Result<Vec<Answer>> {
        let mut asking = JoinSet::new();
        for mut connection in self.connections {
            let (path, headers) = (self.path.clone(), self.headers.clone());
            asking.spawn(async move { ask(&mut connection, &path, &headers).await });
        }
        let mut answers = Vec::new();
        while let Some(answer) = asking.join_next().await {
            answers.push(answer??);
        }
        Ok(answers)
    }
}

fn headers(identity: &str) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(CLIENT_HEADER, HeaderValue::from_str(identity)?);
    Ok(headers)
}

async fn ask(connection: &mut Client, path: &str, headers: &HeaderMap) -> anyhow::Result<Answer> {
    let response = connection
        .request(Method::GET, path, headers.clone(), Bytes::new())
        .await?;
    Answer::read(&response).with_context(|| format!("the answer of http://{}", connection.authority()))
}

impl Answer {
    fn read(response: &Response) -> anyhow::Result<Self> {
        let status = response.status;
        if !matches!(status, StatusCode::OK | StatusCode::TOO_MANY_REQUESTS) {
            bail!("expected 200 or 429, got {status}: {}", response.excerpt());
        }
        let text = |name: &str| {
            let value = response
                .header(name)
                .with_context(|| format!("{status} without `{name}`"))?;
            anyhow::Ok(value.to_owned())
        };
        let window_name = response
            .headers
            .keys()
            .find_map(|name| name.as_str().strip_prefix(REMAINING));
        let window_name = window_name.with_context(|| format!("{status} without `{REMAINING}…`"))?;
        Ok(Self {
            status,
            node: text("x-weir-node")?,
            window: text("x-weir-window")?,
            window_name: capitalized(window_name),
            remaining: text(&format!("{REMAINING}{window_name}"))?,
        })
    }
}

/// Header names arrive in lower case; `minute` is written `Minute`.
fn capitalized(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_ascii_uppercase().to_string() + letters.as_str()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&'static str, &'static str)]) -> Response {
        let headers = headers
            .iter()
            .map(|&(name, value)| (name, HeaderValue::from_static(value)));
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers
                .map(|(name, value)| (name.parse().unwrap(), value))
                .collect(),
            body: Bytes::from_static(b"{\"message\":\"why\"}"),
        }
    }

    #[test]
    fn an_answer_tells_node_window_and_what_remains() {
        let headers = [
            ("x-weir-node", "b"),
            ("x-weir-window", "1700000040000"),
            ("x-ratelimit-limit-minute", "5"),
            ("x-ratelimit-remaining-minute", "3"),
        ];
        let answer = Answer::read(&response(429, &headers)).unwrap();
        assert_eq!(
            (answer.node.as_str(), answer.window.as_str()),
            ("b", "1700000040000")
        );
        assert_eq!(
            (answer.window_name.as_str(), answer.remaining.as_str()),
            ("Minute", "3")
        );
        assert!(
            Answer::read(&response(200, &headers[..3])).is_err(),
            "nothing says what remains"
        );
    }

    #[test]
    fn an_answer_that_is_neither_admitted_nor_denied_is_an_error_that_shows_it() {
        let error = Answer::read(&response(502, &[])).unwrap_err().to_string();
        assert!(error.contains("502") && error.contains("why"), "{error}");
    }
}
