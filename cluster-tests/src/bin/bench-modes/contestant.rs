//! What is compared: three nodes that keep a limit in some way, and the same three without a limit.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use cluster_tests::{Cluster, Upstream};

use crate::peer::Peers;
use crate::redis_server::RedisServer;

/// How many nodes each contestant has.
pub(crate) const NODES: usize = 3;

/// All there are.
pub(crate) const MODES: [&str; 4] = ["local", "gossip", "bounded", "redis"];

/// A table of the size that a few clients need.
const FLAGS: [&str; 2] = ["--max-keys", "100000"];

pub(crate) enum Contestant {
    /// Weir in one of its modes.
    Weir(Box<Weir>),
    /// A small proxy that asks Redis about each request.
    Redis(Box<Redis>),
}

pub(crate) struct Weir {
    limited: Cluster,
    unlimited: Cluster,
}

pub(crate) struct Redis {
    limited: Peers,
    unlimited: Peers,
    upstream: Upstream,
    server: RedisServer,
}

impl Contestant {
    /// Starts all its processes, and waits until they can keep the limit.
    pub(crate) async fn start(mode: &str, limit: u64, window: Duration) -> anyhow::Result<Self> {
        let mode = match mode {
            "local" => "local",
            "gossip" => "gossip",
            "bounded" => "bounded",
            "redis" => return Self::start_redis(limit, window).await,
            other => bail!("there is no mode {other}: there are {MODES:?}"),
        };
        let builder = Cluster::with_limit(limit)
            .nodes(NODES)
            .mode(mode)
            .workers(1)
            .args(&FLAGS);
        let unlimited = builder.clone().mode("local").unlimited().start().await;
        let mut limited = builder.limit(limit, &format!("{}s", window.as_secs()));
        if mode == "bounded" {
            limited = limited.config("bounded: {skew: 500ms, min_roster: 3}\n");
        }
        let limited = limited.start().await;
        if mode == "bounded" {
            limited.shared_window(window, 3).await;
        }
        Ok(Self::Weir(Box::new(Weir { limited, unlimited })))
    }

    async fn start_redis(limit: u64, window: Duration) -> anyhow::Result<Self> {
        let upstream = Upstream::start().await;
        let server = RedisServer::start().await?;
        let counter = Some((server.port(), limit, window));
        Ok(Self::Redis(Box::new(Redis {
            limited: Peers::start(NODES, upstream.address(), counter).await?,
            unlimited: Peers::start(NODES, upstream.address(), None).await?,
            upstream,
            server,
        })))
    }

    /// The nodes that keep the limit.
    pub(crate) fn limited(&self) -> Vec<SocketAddr> {
        match self {
            Self::Weir(weir) => weir.limited.addresses(),
            Self::Redis(redis) => redis.limited.addresses(),
        }
    }

    /// The same nodes without a limit.
    pub(crate) fn unlimited(&self) -> Vec<SocketAddr> {
        match self {
            Self::Weir(weir) => weir.unlimited.addresses(),
            Self::Redis(redis) => redis.unlimited.addresses(),
        }
    }

    /// How many requests of `identity` were admitted, counted by the upstream.
    pub(crate) fn admitted(&self, identity: &str) -> u64 {
        match self {
            Self::Weir(weir) => weir.limited.upstream.count(identity),
            Self::Redis(redis) => redis.upstream.count(identity),
        }
    }

    /// How many admitted requests have waited for rights of another node; every request waits for Redis, which is not
    /// counted here.
    pub(crate) async fn waited(&self) -> anyhow::Result<f64> {
        match self {
            Self::Weir(weir) => weir.sum("weir_rights_waits_total", "outcome=\"served\"").await,
            Self::Redis(_) => Ok(0.0),
        }
    }

    /// How many messages the nodes have sent and, where a server counts for them, received because of the limit:
    /// every datagram of gossip, membership included; a call of Redis and its answer.
    pub(crate) async fn messages(&self) -> anyhow::Result<f64> {
        match self {
            Self::Weir(weir) => {
                weir.sum("weir_gossip_datagrams_total", "direction=\"sent\"")
                    .await
            }
            Self::Redis(redis) => Ok(2.0 * redis.server.calls().await?),
        }
    }
}

impl Weir {
    /// A metric of the nodes that keep the limit, all together.
    async fn sum(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for node in &self.limited.nodes {
            sum += node.metric(name, label).await.map_err(anyhow::Error::msg)?;
        }
        Ok(sum)
    }
}
