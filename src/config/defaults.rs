//! Every default, and why it is that number.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Loopback until told otherwise: a gateway that was only tried out must not be reachable.
pub(super) const LISTEN: SocketAddr = loopback(8000);

/// Next to the client port; loopback, since the admin API can switch the whole cluster's mode.
pub(super) const ADMIN: SocketAddr = loopback(8001);

/// 7946 is where gossip is looked for (Serf, memberlist); loopback, since open gossip believes anyone.
pub(super) const GOSSIP: SocketAddr = loopback(7946);

/// One product, one cluster, until a second one shares the network.
pub(super) const CLUSTER_ID: &str = "weir";

/// A fifth of the time in which a human notices; three nodes then spend well under 1 % of a core on
/// membership.
pub(super) const GOSSIP_INTERVAL: Duration = Duration::from_millis(100);

/// Thirty rounds of gossip: enough for pods that start together, short enough for a first node.
pub(super) const JOIN_GRACE: Duration = Duration::from_secs(3);

/// What is not urgent is at most this stale. Shorter costs datagrams and gains nothing: what is near its
/// limit does not wait for the tick.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// No assumption about nodes that are not seen.
pub(super) const MIN_REPLICAS: u32 = 1;

/// Fits every path without IP fragmentation: the IPv6 minimum of 1,280 bytes less its headers.
pub(super) const DATAGRAM_BYTES: usize = 1200;

/// NTP keeps nodes within milliseconds; this forgives a node that boots before its clock is set.
pub(super) const MAX_CLOCK_SKEW: Duration = Duration::from_secs(10);

/// Many times what NTP lets clocks differ by. A node that starts waits this long for its first share.
pub(super) const BOUNDED_SKEW: Duration = Duration::from_secs(1);

/// Ten round trips within a data centre, and little beside what an upstream takes.
pub(super) const BOUNDED_WAIT: Duration = Duration::from_millis(20);

/// A million clients are about 250 MB of counters, which a gateway node has.
pub(super) const MAX_KEYS: u32 = 1_000_000;

/// Within a data centre a connection takes milliseconds; two seconds survive one lost SYN (retried
/// after one).
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What nginx, Envoy's peers and Kong wait for an answer.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Covers the concurrency one worker has with one server; more only holds sockets open.
pub(super) const IDLE_CONNECTIONS: usize = 64;

/// A body that stands still this long will not go on: what nginx and HAProxy's guides give it.
pub(super) const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// More than one server serves at once, and a bound on sockets; Envoy's default.
pub(super) const UPSTREAM_CONNECTIONS_MAX: u32 = 1024;

/// As many again as a worker's connections: more would only wait to be turned away.
pub(super) const PENDING_MAX: u32 = 1024;

/// A request that found no connection for a second would better be told.
pub(super) const PENDING_TIMEOUT: Duration = Duration::from_secs(1);

/// Two more tries pass over two servers of one that are down; each further one mostly adds load.
pub(super) const TRIES: u32 = 3;

/// Holds most bodies of APIs, and little beside what a connection may buffer anyway.
pub(super) const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// Envoy's and Linkerd's: when everything fails, load grows by a fifth at most.
pub(super) const RETRY_BUDGET_PERMILLE: u32 = 200;

/// So that requests that come one at a time can be retried at all; Envoy's default.
pub(super) const RETRY_BUDGET_MIN: u32 = 3;

/// By chance a server that fails one request in five fails as many in a row once in 3,000; Envoy's default.
pub(super) const EJECTION_FAILURES: u32 = 5;

/// About what a process takes to restart.
pub(super) const EJECTION_TIME: Duration = Duration::from_secs(10);

/// A server that keeps failing is asked again every five minutes; Envoy's default.
pub(super) const EJECTION_TIME_MAX: Duration = Duration::from_secs(300);

/// Half has to bear the load of all: leaving out more would bring down the rest.
pub(super) const EJECTION_SHARE_PERMILLE: u32 = 500;

/// Finds a dead server within three intervals, and is no load.
pub(super) const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// A server that takes longer to say that it is well is not.
pub(super) const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// One success may be luck.
pub(super) const HEALTHY_AFTER: u32 = 2;

/// One lost packet, or one pause for garbage, must not take a server out.
pub(super) const UNHEALTHY_AFTER: u32 = 3;

/// Spares name servers when a record says 0.
pub(super) const DNS_TTL_MIN: Duration = Duration::from_secs(5);

/// Records of a day must not keep a moved server's old address for a day.
pub(super) const DNS_TTL_MAX: Duration = Duration::from_secs(300);

/// Room for large cookies and tokens; a client cannot make a connection cost more memory than this.
pub(super) const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Browsers send about twenty; hyper's own default.
pub(super) const HEADERS_MAX: usize = 100;

/// Room for the links that single sign-on makes; RFC 9112 §3 asks for 8,000 at least, nginx gives 8,192.
pub(super) const REQUEST_LINE_BYTES_MAX: usize = 16 * 1024;

/// Half of what nginx gives a client that sends nothing; what it sends in that time has to reach the rate below.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes a second, as Kestrel has it: below what a modem of 2400 baud sends, and far above a slow attack.
pub(super) const BODY_RATE_MIN: u32 = 240;

/// What nginx gives a client that does not take its response.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// What nginx gives a client between requests.
pub(super) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);

/// What HAProxy's manual sets: a tunnel may be silent for long, and none of its ends can be asked.
pub(super) const TUNNEL_TIMEOUT: Duration = Duration::from_secs(3600);

/// A head arrives in one packet; ten seconds are for bad radio, not for Slowloris.
pub(super) const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Two sockets each stay under the common limit of 20,000 to 65,536 open files.
pub(super) const CONNECTIONS_MAX: usize = 10_000;

/// Three looks of a readiness probe that looks every second, and the time in which Kubernetes tells all its nodes that
/// an endpoint is gone.
pub(super) const DRAIN_DELAY: Duration = Duration::from_secs(5);

/// A third of Kubernetes' grace period of 30 s, which leaves time to leave the cluster.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts, stops and what goes wrong; requests are not logged at this level.
pub(super) const LOG_FILTER: &str = "info";

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
