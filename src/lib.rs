//! Weir: an API gateway that keeps one rate limit across a whole cluster without Redis.
//!
//! The house in reading order; a module depends only on those above it:
//!
//! - [`path`]: the normal form of request paths, which routes match, limits count and upstreams receive. Pure.
//! - [`limit`]: rules, keys, windows, counters and the admission decision. Pure.
//! - [`replica`]: who counts: node ids and the generations that tell a node's lives apart. Pure.
//! - [`bounded`]: who may spend how much of a limit that is never exceeded: roster, shares, transfers, wills. Pure.
//! - [`replication`]: the state machine that spreads counters between nodes, and its wire codec. Pure.
//! - [`config`]: one typed, checked configuration from file, environment and flags. Pure.
//! - [`cluster`]: membership, discovery and the sealed UDP transport; drives [`replication`].
//! - [`admission`]: what surrounds a decision: peers are told, rights are waited for.
//! - [`sockets`]: listening sockets of several threads.
//! - [`proxy`]: listeners, routing, upstream pools, headers, the response to every error.
//! - [`ratelimit`]: the limits as a service to other proxies: Envoy's rate limit service, and HTTP.
//! - [`admin`]: health, metrics and the admin API.
//! - [`gateway`]: the composition root: wires the shells, orders start and shutdown.
//! - [`cli`]: the commands of the `weir` binary.
//!
//! Pure means: no tokio, no sockets, no clock and no ambient randomness. Time and random generators
//! come in as arguments, so the simulator runs the very code that production runs.

pub mod admin;
pub mod admission;
pub mod bounded;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod gateway;
pub mod limit;
pub mod path;
pub mod proxy;
pub mod ratelimit;
pub mod replica;
pub mod replication;
pub mod sim;
pub mod sockets;
