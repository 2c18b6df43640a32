//! Requests, decisions and upstreams.

use std::fmt;

use prometheus_client::metrics::MetricType;

use super::families::Families;
use super::{Metrics, UpstreamReading};

impl Metrics {
    pub(super) fn encode_requests(&self, out: &mut Families<'_>) -> fmt::Result {
        out.counters("requests", "Requests answered", "status_class", &self.requests)?;
        let help = "Requests that the node refused itself";
        out.counters("requests_refused", help, "reason", &self.requests_refused)?;
        let help = "Lines of the access log that were dropped";
        out.counter("access_log_dropped", help, self.access_log_dropped)?;
        out.family(
            "decisions",
            "Decisions of the limiter",
            MetricType::Counter,
            |samples| {
                self.decisions.iter().try_for_each(|decision| {
                    let rule = decision.rule.clone().map(|rule| ("rule", rule));
                    let mode = decision.mode.map(|mode| ("mode", mode.to_string()));
                    let outcome = ("outcome", decision.outcome.to_owned());
                    let labels: Vec<_> = rule.into_iter().chain(mode).chain([outcome]).collect();
                    samples.counter(&labels, decision.count)
                })
            },
        )?;
        let help = "Time from a request's head to its response's head";
        out.histogram("request_duration_seconds", help, &self.request_duration)?;
        let help = "Requests that no upstream answered";
        out.counters("upstream_failures", help, "reason", &self.upstream_failures)?;
        self.encode_upstreams(out)?;
        out.gauge(
            "requests_in_flight",
            "Requests being answered",
            self.requests_in_flight,
        )?;
        out.gauge("connections", "Open client connections", self.connections)
    }

    pub(super) fn encode_service(&self, out: &mut Families<'_>) -> fmt::Result {
        let help = "Questions to the rate limit service";
        out.family("ratelimit_requests", help, MetricType::Counter, |samples| {
            let mut requests = self.service_requests.iter();
            requests.try_for_each(|(api, outcome, count)| {
                samples.counter(&[("api", *api), ("outcome", *outcome)], *count)
            })
        })?;
        let help = "Descriptors in shadow mode that were over their limit";
        out.counter("ratelimit_shadow_denied", help, self.service_shadow_denied)?;
        let help = "Open connections to the rate limit service";
        out.gauge("ratelimit_connections", help, self.service_connections)
    }

    fn encode_upstreams(&self, out: &mut Families<'_>) -> fmt::Result {
        let help = "Endpoints of an upstream and how they stand";
        out.family("upstream_endpoint", help, MetricType::Gauge, |samples| {
            self.upstreams.iter().try_for_each(|upstream| {
                upstream.endpoints.iter().try_for_each(|(endpoint, state)| {
                    let labels = [
                        ("upstream", upstream.name.as_str()),
                        ("endpoint", endpoint),
                        ("state", state),
                    ];
                    samples.gauge(&labels, 1)
                })
            })
        })?;
        type Value<T> = fn(&UpstreamReading) -> T;
        let gauges: [(&str, &str, Value<u64>); 2] = [
            (
                "upstream_panic",
                "Whether no endpoint is good, so that all are used",
                |upstream| u64::from(upstream.panic),
            ),
            (
                "upstream_requests_in_flight",
                "Requests in flight to an upstream",
                |upstream| upstream.in_flight,
            ),
        ];
        for (name, help, value) in gauges {
            out.family(name, help, MetricType::Gauge, |samples| {
                let mut upstreams = self.upstreams.iter();
                upstreams.try_for_each(|it| samples.gauge(&[("upstream", it.name.as_str())], value(it)))
            })?;
        }
        let help = "Times that an endpoint was left out for failing requests";
        out.family("upstream_ejections", help, MetricType::Counter, |samples| {
            let mut upstreams = self.upstreams.iter();
            upstreams.try_for_each(|it| samples.counter(&[("upstream", it.name.as_str())], it.ejections))
        })?;
        type Counts = Value<[(&'static str, u64); 2]>;
        let counters: [(&str, &str, Counts); 2] = [
            (
                "upstream_retries",
                "Requests tried again, or kept from it by the retry budget",
                |upstream| upstream.retries,
            ),
            (
                "upstream_pending_refused",
                "Requests that found no connection to an upstream",
                |upstream| upstream.pending_refused,
            ),
        ];
        for (name, help, counts) in counters {
            out.family(name, help, MetricType::Counter, |samples| {
                self.upstreams.iter().try_for_each(|upstream| {
                    counts(upstream).iter().try_for_each(|(why, count)| {
                        let labels = [("upstream", upstream.name.as_str()), ("outcome", *why)];
                        samples.counter(&labels, *count)
                    })
                })
            })?;
        }
        Ok(())
    }
}
