//! Upstreams as JSON, in the shape of the file.

use serde_json::{Value, json};

use super::values::PROTOCOLS;
use super::{EjectionConfig, HealthConfig, RetryConfig, StatusRange, Target, UpstreamConfig, UpstreamTls};
use crate::config::json::text;

impl UpstreamConfig {
    pub(in crate::config) fn to_json(&self) -> Value {
        let protocol = PROTOCOLS.iter().find(|(_, protocol)| *protocol == self.protocol);
        json!({
            "name": self.name,
            "targets": self.targets.iter().map(Target::to_json).collect::<Value>(),
            "protocol": protocol.map(|(name, _)| *name),
            "balance": self.balance.to_string(),
            "connect_timeout": text(self.connect_timeout),
            "response_timeout": text(self.response_timeout),
            "idle_timeout": text(self.idle_timeout),
            "total_timeout": self.total_timeout.map(text),
            "idle_connections": self.idle_connections,
            "connections_max": self.connections_max,
            "pending_max": self.pending_max,
            "pending_timeout": text(self.pending_timeout),
            "slow_start": text(self.slow_start),
            "retries": self.retries.to_json(),
            "ejection": self.ejection.to_json(),
            "health": self.health.as_ref().map(HealthConfig::to_json),
            "tls": (self.tls != UpstreamTls::default()).then(|| self.tls.to_json()),
        })
    }
}

impl Target {
    fn to_json(&self) -> Value {
        match self.weight {
            1 => self.to_string().into(),
            weight => json!({ "url": self.to_string(), "weight": weight }),
        }
    }
}

impl RetryConfig {
    fn to_json(&self) -> Value {
        let reset = self.on_reset.then(|| Value::from("reset"));
        let statuses = self.on_statuses.iter().map(|status| status.as_u16().into());
        json!({
            "tries": self.tries,
            "on": reset.into_iter().chain(statuses).collect::<Value>(),
            "body_bytes_max": self.body_bytes_max,
            "budget": f64::from(self.budget_permille) / 1000.0,
            "budget_min": self.budget_min,
        })
    }
}

impl EjectionConfig {
    fn to_json(&self) -> Value {
        json!({
            "failures": self.failures,
            "statuses": self.statuses.iter().map(|status| status.as_u16()).collect::<Value>(),
            "base_time": text(self.base_time),
            "max_time": text(self.max_time),
            "share_max": f64::from(self.share_max_permille) / 1000.0,
        })
    }
}

impl HealthConfig {
    fn to_json(&self) -> Value {
        let range = |range: &StatusRange| format!("{}-{}", range.first, range.last);
        json!({
            "path": self.path,
            "host": self.host,
            "statuses": self.statuses.iter().map(range).collect::<Value>(),
            "interval": text(self.interval),
            "timeout": text(self.timeout),
            "healthy_after": self.healthy_after,
            "unhealthy_after": self.unhealthy_after,
        })
    }
}

impl UpstreamTls {
    fn to_json(&self) -> Value {
        json!({
            "ca_file": self.ca_file,
            "server_name": self.server_name,
            "certificate": self.certificate,
            "key": self.key,
            "insecure_accept_any_certificate": self.insecure_accept_any_certificate,
        })
    }
}
