//! A merged layer to a [`Config`], or everything that is wrong with it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::error::{At, ConfigErrors, Origin, Report};
use super::layer::Layer;
use super::listeners::{ListenerConfig, check_trust, clash};
use super::read::{Found, Section};
use super::scalars::{Wrong, boolean, duration, integer, secret, share, shown, socket_addr, wrong};
use super::syntax::{cluster_id, log_filter, overflow, path, reachable, secret_text, seed, sync_mode};
use super::{AdminConfig, ClusterConfig, Config, LimitsConfig, LogConfig, SyncConfig};
use super::{access_log, bounded, clients, defaults, listeners, proxy, ratelimit, reload, traffic};
use crate::limit::significance::Significance;
use crate::limit::{IpPrefixes, Overflow, SyncMode};
use crate::replica::NodeId;
use crate::replication::codec::{FRAME_VERSION, FRAME_VERSION_MIN};

/// What a node knows of where it runs, read by the shell; defaults follow from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `POD_NAME` of the Kubernetes downward API: the node id unless one is given.
    pub pod_name: Option<String>,
    /// `POD_IP`: advertised when gossip listens on every address.
    pub pod_ip: Option<IpAddr>,
    /// Name of the host: the node id when nothing else gives one.
    pub host_name: Option<String>,
    /// Processors available: one worker each.
    pub processors: Option<usize>,
}

/// Reads and checks a whole configuration.
pub(super) fn resolve(layer: Layer, surroundings: &Surroundings) -> Result<Config, ConfigErrors> {
    let report = Report::default();
    for conflict in layer.conflicts {
        report.push(conflict);
    }
    let mut root = Section::open(&layer.root, String::new(), &report);
    let node_id = node_id(&mut root, surroundings, &report);
    let listen = listeners::read(&mut root, &report);
    let admin = admin(&mut root, &listen, &report);
    let cluster = cluster(&mut root, surroundings, &report);
    let sync = sync(&mut root);
    let bounded = bounded::read(&mut root, &cluster, &sync, &report);
    let (max_keys, hide_headers, overflow, ip_prefixes) = limits(&mut root);
    let taken = [
        (
            "clients",
            listen.iter().map(|found| found.value.address).collect(),
        ),
        ("the admin API", vec![admin.listen]),
    ];
    let ratelimit = ratelimit::read(&mut root, &taken, (sync.mode, &bounded), &report);
    let mut traffic = traffic::read(&mut root, sync.mode, &bounded, &report);
    traffic.rules.extend(ratelimit.rules());
    let proxy = proxy::read(&mut root, surroundings);
    let access_log = access_log::read(&mut root);
    check_trust(&listen, &proxy, &report);
    let log = log(&mut root);
    let reload = reload::read(&mut root);
    root.finish();
    if let Some(errors) = report.into_errors() {
        return Err(errors);
    }
    Ok(Config {
        node_id: node_id.expect("a missing node id was reported"),
        listen: listen.into_iter().map(|found| found.value).collect(),
        admin,
        cluster,
        sync,
        bounded,
        limits: LimitsConfig {
            max_keys,
            hide_headers,
            overflow,
            ip_prefixes,
            rules: traffic.rules,
        },
        ratelimit,
        dns: traffic.dns,
        upstreams: traffic.upstreams,
        routing: traffic.routing,
        routes: traffic.routes,
        proxy,
        access_log,
        log,
        reload,
    })
}

fn node_id(root: &mut Section<'_>, surroundings: &Surroundings, report: &Report) -> Option<NodeId> {
    let read = |text: &str| {
        text.parse::<NodeId>()
            .or_else(|error| wrong(format!("`{}`: {error}", shown(text)), ""))
    };
    if root.has("node_id") {
        return root.value("node_id", read).map(|found| found.value);
    }
    root.expect_key("node_id");
    let pod = surroundings.pod_name.as_deref();
    let host = surroundings.host_name.as_deref();
    let fallback = pod
        .map(|name| (name, Origin::Variable("POD_NAME".into())))
        .or(host.map(|name| (name, Origin::HostName)));
    let Some((text, origin)) = fallback else {
        root.require("node_id", "name this node with --node-id");
        return None;
    };
    let key = "node_id".to_owned();
    read(text)
        .map_err(|Wrong { problem, .. }| {
            report.wrong(&At { origin, key }, problem, "name this node with --node-id");
        })
        .ok()
}

fn admin(root: &mut Section<'_>, listen: &[Found<ListenerConfig>], report: &Report) -> AdminConfig {
    let mut section = root.section("admin");
    let address = section.value("listen", socket_addr);
    let token = section.value("token", secret);
    if let Some(address) = &address
        && !address.value.ip().is_loopback()
        && token.is_none()
    {
        report.wrong(
            &address.at,
            format!("`{}` is not loopback and there is no token", address.value),
            "set `admin.token` (WEIR_ADMIN_TOKEN), or listen on 127.0.0.1",
        );
    }
    let value = address.as_ref().map_or(defaults::ADMIN, |found| found.value);
    if let Some(client) = listen.iter().find(|found| clash(found.value.address, value)) {
        let at = address.as_ref().map_or(&client.at, |found| &found.at);
        report.wrong(
            at,
            format!("clients and the admin API both listen on port {}", value.port()),
            "give each a port of its own",
        );
    }
    section.finish();
    AdminConfig {
        listen: value,
        token: token.map(|found| found.value),
    }
}

fn cluster(root: &mut Section<'_>, surroundings: &Surroundings, report: &Report) -> ClusterConfig {
    let mut section = root.section("cluster");
    let id = section.value_or("id", cluster_id, defaults::CLUSTER_ID.to_owned());
    let gossip = section.value("gossip", socket_addr);
    let advertise = section.value("advertise", reachable);
    let seeds = section
        .values("seeds", seed)
        .map_or(Vec::new(), |list| list.value);
    let key_file = section.value("key_file", path);
    let key = section.value("key", secret_text);
    let insecure_gossip = section.value_or("insecure_gossip", boolean, false);
    let identity_secret = section.value("identity_secret", secret);
    let gossip_interval = section.value_or(
        "gossip_interval",
        duration(millis(10)..=millis(60_000)),
        defaults::GOSSIP_INTERVAL,
    );
    let join_grace = section.value_or(
        "join_grace",
        duration(Duration::ZERO..=millis(300_000)),
        defaults::JOIN_GRACE,
    );
    if let Some(key) = &key {
        check_key(key, key_file.as_ref(), report);
    }
    if let Some(gossip) = &gossip
        && !gossip.value.ip().is_loopback()
        && key.is_none()
        && key_file.is_none()
        && !insecure_gossip
    {
        report.wrong(
            &gossip.at,
            format!("`{}` is not loopback and gossip has no key", gossip.value),
            "set `cluster.key_file` to a file made by `weir keygen`, or `insecure_gossip: true` \
             where the network is yours alone",
        );
    }
    let address = gossip.as_ref().map_or(defaults::GOSSIP, |found| found.value);
    let pod = surroundings.pod_ip.map(|ip| SocketAddr::new(ip, address.port()));
    let advertise = advertise.map(|found| found.value);
    let advertise = advertise.or(pod.filter(|_| address.ip().is_unspecified()));
    if let (Some(gossip), None) = (&gossip, advertise)
        && address.ip().is_unspecified()
    {
        report.wrong(
            &gossip.at,
            format!("peers cannot reach a node at `{address}`"),
            "set `cluster.advertise` (--advertise) to the address that they see, or POD_IP",
        );
    }
    section.finish();
    ClusterConfig {
        id,
        gossip: address,
        advertise,
        seeds: seeds.into_iter().map(|found| found.value).collect(),
        key_file: key_file.map(|found| found.value),
        key: key.map(|found| found.value),
        insecure_gossip,
        identity_secret: identity_secret.map(|found| found.value),
        gossip_interval,
        join_grace,
    }
}

fn check_key(key: &Found<String>, key_file: Option<&Found<PathBuf>>, report: &Report) {
    if matches!(key.at.origin, Origin::File { .. }) {
        report.wrong(
            &key.at,
            "keys do not belong into this file",
            "put them into `cluster.key_file` or WEIR_GOSSIP_KEY",
        );
    }
    if let Some(file) = key_file {
        let problem = format!("gossip has keys from here and from {}", file.at.origin);
        report.wrong(&key.at, problem, "keep one of the two");
    }
}

fn sync(root: &mut Section<'_>) -> SyncConfig {
    let mut section = root.section("sync");
    let significance = Significance::default();
    let sync = SyncConfig {
        mode: section.value_or("mode", sync_mode, SyncMode::default()),
        tick: section.value_or("tick", duration(millis(5)..=millis(10_000)), defaults::TICK),
        significance: Significance {
            alpha_permille: section.value_or("alpha", share(1..=999), significance.alpha_permille),
            epsilon_permille: section.value_or("epsilon", share(0..=500), significance.epsilon_permille),
        },
        min_replicas: section.value_or("min_replicas", integer(1..=10_000), defaults::MIN_REPLICAS),
        datagram_bytes: section.value_or("datagram_bytes", integer(512..=65_000), defaults::DATAGRAM_BYTES),
        frame_version: section.value_or(
            "frame_version",
            integer(FRAME_VERSION_MIN..=FRAME_VERSION),
            FRAME_VERSION,
        ),
        max_clock_skew: section.value_or(
            "max_clock_skew",
            duration(millis(1)..=millis(3_600_000)),
            defaults::MAX_CLOCK_SKEW,
        ),
    };
    section.finish();
    sync
}

fn limits(root: &mut Section<'_>) -> (u32, bool, Overflow, IpPrefixes) {
    let mut section = root.section("limits");
    let max_keys = section.value_or("max_keys", integer(1024..=100_000_000), defaults::MAX_KEYS);
    let hide_headers = section.value_or("hide_headers", boolean, false);
    let overflow = section.value_or("overflow", overflow, Overflow::default());
    let ip_prefixes = clients::ip_prefixes(&mut section);
    section.finish();
    (max_keys, hide_headers, overflow, ip_prefixes)
}

fn log(root: &mut Section<'_>) -> LogConfig {
    let mut section = root.section("log");
    let log = LogConfig {
        filter: section.value_or("filter", log_filter, defaults::LOG_FILTER.to_owned()),
        json: section.value_or("json", boolean, false),
    };
    section.finish();
    log
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
