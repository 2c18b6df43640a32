//! The example of `docs/operations.md`, run as a process: it says that it is ready, reloads, and stops in order.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test of a process: it waits by a real clock, and ends where a step fails"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

const EXAMPLE: &str = include_str!("../docs/examples/operations.yaml");
/// A node that hangs fails the test instead; far above what any step takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that answers every request with `ok`.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            // A head of a few lines comes in one read over loopback, or the rest of it does not matter.
            let _ = stream.read(&mut head);
            let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
            let _ = stream.write_all(answer);
        }
    });
    address
}

/// The example as a running process.
struct Node {
    process: Child,
    file: NamedTempFile,
    yaml: String,
    listen: SocketAddr,
    admin: SocketAddr,
    log: Receiver<String>,
}

impl Node {
    fn start() -> Self {
        let yaml = EXAMPLE
            .replace("127.0.0.1:8000", "127.0.0.1:0")
            .replace("127.0.0.1:8001", "127.0.0.1:0")
            .replace("127.0.0.1:9000", &upstream().to_string());
        let file = NamedTempFile::new().unwrap();
        fs::write(&file, &yaml).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["run", "--gossip", "127.0.0.1:0", "--config"])
            .arg(file.path())
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built with this test");
        let mut announced = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut announced).unwrap();
        let address = |label: &str| {
            let rest = announced.split_once(label).map(|(_, rest)| rest);
            let text = rest.and_then(|rest| rest.split(',').next());
            let address = text.and_then(|text| text.trim().parse().ok());
            address.unwrap_or_else(|| panic!("no address after `{label}` in `{announced}`"))
        };
        let (listen, admin) = (address("listening on http://"), address("admin http://"));
        let (lines, log) = channel();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        Self {
            process,
            file,
            yaml,
            listen,
            admin,
            log,
        }
    }

    /// The response to a GET of `path` at `address`.
    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    /// Waits as a load balancer does until requests may come.
    fn becomes_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !Self::get(self.admin, "/readyz").starts_with("HTTP/1.1 200 ") {
            assert!(Instant::now() < deadline, "never ready");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.process.id());
        assert!(
            Command::new("sh")
                .args(["-c", &command])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Writes `yaml` in place of the file, and has the node read it.
    fn reload(&self, yaml: &str) {
        fs::write(&self.file, yaml).unwrap();
        self.signal("HUP");
    }

    /// The next line of the log that has `text` in its message.
    fn logged(&self, text: &str) -> serde_json::Value {
        loop {
            let line = self
                .log
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("never logged: {text}"));
            let entry: serde_json::Value = serde_json::from_str(&line).expect("the log is JSON");
            if line.contains(text) {
                return entry;
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_example_is_ready_reloads_and_stops_in_order() {
    let mut node = Node::start();
    let answers = |of: u32| {
        let response = Node::get(node.listen, "/");
        assert!(
            response.starts_with("HTTP/1.1 200 ") && response.ends_with("\r\n\r\nok"),
            "{response}"
        );
        let limit = format!("x-ratelimit-limit-minute: {of}\r\n");
        assert!(response.to_ascii_lowercase().contains(&limit), "{response}");
    };
    node.becomes_ready();
    answers(100);

    node.reload(&node.yaml.replace("100/minute", "50/minute"));
    node.logged("configuration reloaded");
    answers(50);
    node.reload(&node.yaml.replace("rules:", "rulez:"));
    node.logged("nothing changed");
    answers(50);
    let metrics = Node::get(node.admin, "/metrics");
    for outcome in ["applied", "refused"] {
        let line = format!("weir_config_reloads_total{{outcome=\"{outcome}\"}} 1\n");
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }

    node.signal("TERM");
    node.logged("stopped");
    assert_eq!(node.process.wait().unwrap().code(), Some(0));
}
