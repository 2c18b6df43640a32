//! The configuration in force as JSON, in the shape of the file, without its secrets.

use std::time::Duration;

use humantime::format_duration;
use serde_json::{Value, json};

use super::{Config, ListenerConfig, RouteConfig, UpstreamConfig};
use crate::limit::{CountBy, Period, Rule, RuleScope};

/// Stands where a secret is.
const REDACTED: &str = "(redacted)";

impl Config {
    /// Every setting that has a value, defaults included, as a file would say it; secrets are replaced
    /// by a mark. Without secrets, reading it back gives the same configuration.
    #[must_use]
    pub fn to_json(&self) -> Value {
        without_nulls(json!({
            "node_id": self.node_id.as_str(),
            "listen": self.listen.iter().map(ListenerConfig::to_json).collect::<Value>(),
            "admin": { "listen": self.admin.listen, "token": redacted(self.admin.token.as_ref()) },
            "cluster": self.cluster_json(),
            "sync": self.sync_json(),
            "bounded": self.bounded.to_json(),
            "limits": {
                "max_keys": self.limits.max_keys,
                "hide_headers": self.limits.hide_headers,
                "overflow": self.limits.overflow,
                "ipv4_prefix": self.limits.ip_prefixes.v4,
                "ipv6_prefix": self.limits.ip_prefixes.v6,
            },
            "rules": self.limits.rules.iter().filter(|rule| is_of_file(rule)).map(rule).collect::<Value>(),
            "ratelimit": self.ratelimit.to_json(),
            "dns": self.dns.to_json(),
            "upstreams": self.upstreams.iter().map(UpstreamConfig::to_json).collect::<Value>(),
            "routing": self.routing.to_json(),
            "routes": self.routes.iter().map(RouteConfig::to_json).collect::<Value>(),
            "proxy": self.proxy.to_json(),
            "access_log": self.access_log.to_json(),
            "log": { "filter": self.log.filter, "json": self.log.json },
            "reload": self.reload.to_json(),
        }))
    }

    fn cluster_json(&self) -> Value {
        let cluster = &self.cluster;
        json!({
            "id": cluster.id,
            "gossip": cluster.gossip,
            "advertise": cluster.advertise,
            "seeds": cluster.seeds,
            "key_file": cluster.key_file,
            "key": redacted(cluster.key.as_ref()),
            "insecure_gossip": cluster.insecure_gossip,
            "identity_secret": redacted(cluster.identity_secret.as_ref()),
            "gossip_interval": text(cluster.gossip_interval),
            "join_grace": text(cluster.join_grace),
        })
    }

    fn sync_json(&self) -> Value {
        let sync = &self.sync;
        json!({
            "mode": sync.mode,
            "tick": text(sync.tick),
            "alpha": f64::from(sync.significance.alpha_permille) / 1000.0,
            "epsilon": f64::from(sync.significance.epsilon_permille) / 1000.0,
            "min_replicas": sync.min_replicas,
            "datagram_bytes": sync.datagram_bytes,
            "frame_version": sync.frame_version,
            "max_clock_skew": text(sync.max_clock_skew),
        })
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(entries) => entries
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(values) => values.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// Those of the rate limit service stand with their descriptors.
fn is_of_file(rule: &Rule) -> bool {
    rule.count_by != CountBy::Descriptor
}

fn rule(rule: &Rule) -> Value {
    let windows = rule
        .windows
        .iter()
        .map(|window| format!("{}/{}", window.limit.hits(), period_text(window.period)));
    let mut json = json!({
        "name": rule.name,
        "by": rule.count_by.to_string(),
        "windows": windows.collect::<Value>(),
        "hits": rule.hits.get(),
        "mode": rule.mode,
    });
    match &rule.scope {
        RuleScope::Everything => {}
        RuleScope::Route(name) => json["route"] = name.as_str().into(),
        RuleScope::Upstream(name) => json["upstream"] = name.as_str().into(),
    }
    json
}

/// The period as the file writes it.
pub(super) fn period_text(period: Period) -> String {
    match period {
        Period::Second => "second".to_owned(),
        Period::Minute => "minute".to_owned(),
        Period::Hour => "hour".to_owned(),
        Period::Day => "day".to_owned(),
        Period::Month => "month".to_owned(),
        Period::Year => "year".to_owned(),
        // Without the spaces that humantime puts between units, so that it can be read back.
        Period::Every(millis) => text(Duration::from_millis(millis.get())).replace(' ', ""),
    }
}

pub(super) fn text(duration: Duration) -> String {
    format_duration(duration).to_string()
}

pub(super) fn redacted(secret: Option<&String>) -> Option<&'static str> {
    secret.map(|_| REDACTED)
}
