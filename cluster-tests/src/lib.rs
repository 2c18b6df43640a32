//! Starts and stops real Weir processes, and judges them from outside: only flags, signals, sockets,
//! HTTP and the admin API, never Weir's own code.
//!
//! In reading order:
//!
//! - [`cluster`]: nodes that know each other, in front of one upstream.
//! - [`builder`]: what a cluster is started with.
//! - [`node`]: one `weir run` process: its addresses, its lives, its log, its admin API.
//! - [`ports`]: ports that stay free while a node is down.
//! - [`upstream`]: the oracle. It knows how many requests were truly admitted.
//! - [`client`]: a keep-alive client, and what it reads off each answer.
//! - [`tally`]: answers, counted by the window that the node reported.
//! - [`service`]: what clients reach nodes through, by their readiness.
//! - [`traffic`]: clients that send without a break, over HTTP/1.1 and HTTP/2.
//! - [`udp`]: what a stranger can send to a gossip port.
//! - [`flood`]: many clients of one identity at once.
//! - [`bounded`]: clusters in bounded mode, and the judge of what they admit.
//! - [`network`]: hosts on a network of their own, which can be cut.
//! - [`clock`]: the windows that nodes count in, and nodes whose clock is wrong.
//! - [`wire`]: a wire between the nodes that can be watched, cut and made lossy.
//! - [`wait`]: conditions with deadlines: the only place where a scenario lets time pass.

#![expect(
    clippy::disallowed_methods,
    reason = "the harness waits for real processes, so it reads the real clock"
)]

pub mod binary;
pub mod bounded;
pub mod builder;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod flood;
pub mod network;
pub mod node;
pub mod ports;
pub mod service;
pub mod tally;
pub mod traffic;
pub mod udp;
pub mod upstream;
pub mod wait;
pub mod wire;

pub use builder::ClusterBuilder;
pub use client::{Answer, Client};
pub use clock::Window;
pub use cluster::Cluster;
pub use flood::Flood;
pub use network::Network;
pub use node::Node;
pub use tally::Tally;
pub use upstream::Upstream;
pub use wait::{DEADLINE, wait_until};
pub use wire::Wire;
