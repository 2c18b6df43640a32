//! What a running node cannot change.

use serde_json::Value;

use super::Config;

/// Sections that are bound to the node's place in the cluster, its sockets or its start.
const SECTIONS: [&str; 5] = ["admin", "cluster", "sync", "bounded", "log"];

/// Further settings, whose memory or threads are made at the start.
const SETTINGS: [&[&str]; 6] = [
    &["node_id"],
    &["limits", "max_keys"],
    &["ratelimit", "listen"],
    &["proxy", "workers"],
    &["proxy", "connections_max"],
    &["proxy", "connections_per_client_max"],
];

impl Config {
    /// The keys in which `next` differs, and which hold until the node is restarted; each once, such as
    /// `cluster.seeds`. Empty when a running node can go over to it.
    #[must_use]
    pub fn needing_restart(&self, next: &Self) -> Vec<String> {
        let (former, latter) = (self.to_json(), next.to_json());
        let mut keys: Vec<String> = SETTINGS
            .iter()
            .filter(|path| at(&former, path) != at(&latter, path))
            .map(|path| path.join("."))
            .collect();
        let addresses = |config: &Self| -> Vec<_> { config.listen.iter().map(|one| one.address).collect() };
        if addresses(self) != addresses(next) {
            keys.push("listen".to_owned());
        }
        for section in SECTIONS {
            keys.extend(differing(section, &former[section], &latter[section]));
        }
        keys.extend(self.differing_secrets(next));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The keys of the secrets that differ: as JSON, all look the same.
    fn differing_secrets(&self, next: &Self) -> impl Iterator<Item = String> {
        let (cluster, next_cluster) = (&self.cluster, &next.cluster);
        let secrets = [
            ("admin.token", self.admin.token != next.admin.token),
            ("ratelimit.token", self.ratelimit.token != next.ratelimit.token),
            ("cluster.key", cluster.key != next_cluster.key),
            (
                "cluster.identity_secret",
                cluster.identity_secret != next_cluster.identity_secret,
            ),
        ];
        let differing = secrets.into_iter().filter(|(_, differs)| *differs);
        differing.map(|(key, _)| key.to_owned())
    }
}

fn at<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// The keys of the settings in which two values of `section` differ.
fn differing(section: &str, former: &Value, latter: &Value) -> Vec<String> {
    let keys = |value: &Value| -> Vec<String> {
        let entries = value.as_object();
        entries.map_or_else(Vec::new, |entries| entries.keys().cloned().collect())
    };
    let mut all = keys(former);
    all.extend(keys(latter));
    all.retain(|key| former.get(key) != latter.get(key));
    all.iter().map(|key| format!("{section}.{key}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "node_id: a\nlisten: [127.0.0.1:1]\nadmin: {listen: 127.0.0.1:2}\n\
        cluster: {gossip: 127.0.0.1:3}\nupstreams: [{name: up, targets: [http://h:1]}]\n";

    fn read(more: &str) -> Config {
        Config::from_yaml("test", &format!("{BASE}{more}")).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn routes_rules_and_timeouts_change_in_a_running_node() {
        let next = read(
            "proxy: {body_timeout: 9s, drain_delay: 9s, trusted_proxies: [10.0.0.0/8]}\nlimits: {hide_headers: true, overflow: allow}\n\
             rules: [{name: r, by: ip, windows: [5/minute]}]\naccess_log: {format: json}\ndns: {ttl_max: 9s}\n\
             reload: {interval: 2s}\n\
             ratelimit: {domains: [{domain: d, descriptors: [{key: k, windows: [5/minute]}]}]}\n",
        );
        assert_eq!(read("").needing_restart(&next), Vec::<String>::new());
    }

    #[test]
    fn what_needs_a_restart_is_named_key_by_key() {
        let changes = "proxy: {workers: 7, connections_max: 5, connections_per_client_max: 3}\n\
            limits: {max_keys: 4096}\nsync: {tick: 77ms}\nlog: {json: true}\nbounded: {wait: 3ms}\n";
        let mut next = read(changes);
        next.listen[0].address.set_port(9);
        next.cluster.seeds = vec!["h:1".to_owned()];
        next.cluster.identity_secret = Some("t".to_owned());
        next.admin.token = Some("t".to_owned());
        next.ratelimit.token = Some("t".to_owned());
        next.ratelimit.listen = next.listen.first().map(|one| one.address);
        let mut former = read("");
        former.cluster.identity_secret = Some("s".to_owned());
        let expected = [
            "admin.token",
            "bounded.wait",
            "cluster.identity_secret",
            "cluster.seeds",
            "limits.max_keys",
            "listen",
            "log.json",
            "proxy.connections_max",
            "proxy.connections_per_client_max",
            "proxy.workers",
            "ratelimit.listen",
            "ratelimit.token",
            "sync.tick",
        ];
        assert_eq!(former.needing_restart(&next), expected);
        assert_eq!(next.needing_restart(&former), expected);
    }
}
