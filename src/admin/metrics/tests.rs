use super::*;

fn line_of<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.lines().find(|line| line.starts_with(start))
}

#[test]
fn every_reading_appears_under_its_conventional_name() {
    let metrics = Metrics {
        ready: true,
        mode: SyncMode::Gossip,
        requests: vec![("2xx", 7), ("4xx", 3)],
        requests_refused: vec![("no_route", 5)],
        connections_refused: 14,
        access_log_dropped: 15,
        decisions: vec![
            DecisionCount {
                rule: None,
                mode: None,
                outcome: "denied",
                count: 3,
            },
            DecisionCount {
                rule: Some("a\"b".into()),
                mode: Some(SyncMode::Local),
                outcome: "admitted",
                count: 9,
            },
        ],
        request_duration: HistogramReading {
            buckets: vec![(0.001, 2), (0.01, 3), (f64::INFINITY, 1)],
            sum_seconds: 0.5,
        },
        tls_handshakes: 8,
        transport_failures: vec![("tls_handshake", 2)],
        certificate_reloads: vec![("refused", 1)],
        config_reloads: vec![("applied", 2)],
        certificate_ends: vec![("/tls/a.pem".into(), 1_900_000_000)],
        upstreams: vec![UpstreamReading {
            name: "app".into(),
            endpoints: vec![("10.0.0.1:80".into(), "ejected")],
            panic: true,
            ejections: 2,
            retries: [("sent", 5), ("over_budget", 1)],
            ..UpstreamReading::default()
        }],
        keys_evicted: 4,
        gossip: GossipReading {
            bytes_sent: 12,
            dropped: vec![("bad_tag", 2)],
            ..Default::default()
        },
        peer_clock_offsets_ms: vec![("b".into(), -1500)],
        config_mismatches: 1,
        roster: EscrowReading {
            members: 3,
            members_missing: 1,
            ..EscrowReading::default()
        },
        transfers: TransferStats {
            granted: 40,
            ..TransferStats::default()
        },
        waits: WaitReading {
            ended: vec![("served", 6)],
            ..WaitReading::default()
        },
        ..Metrics::default()
    };
    let text = metrics.encode().unwrap();
    for expected in [
        "weir_ready 1",
        "weir_sync_mode{mode=\"gossip\"} 1",
        "weir_roster_members 3",
        "weir_roster_members_missing 1",
        "weir_rights_moved_total{direction=\"granted\"} 40",
        "weir_rights_waits_total{outcome=\"served\"} 6",
        "weir_sync_mode{mode=\"local\"} 0",
        "weir_requests_total{status_class=\"2xx\"} 7",
        "weir_requests_refused_total{reason=\"no_route\"} 5",
        "weir_connections_refused_total 14",
        "weir_access_log_dropped_total 15",
        "weir_decisions_total{outcome=\"denied\"} 3",
        "weir_decisions_total{rule=\"a\\\"b\",mode=\"local\",outcome=\"admitted\"} 9",
        "weir_request_duration_seconds_bucket{le=\"0.01\"} 5",
        "weir_request_duration_seconds_bucket{le=\"+Inf\"} 6",
        "weir_request_duration_seconds_count 6",
        "weir_tls_handshakes_total 8",
        "weir_transport_failures_total{reason=\"tls_handshake\"} 2",
        "weir_certificate_reloads_total{outcome=\"refused\"} 1",
        "weir_config_reloads_total{outcome=\"applied\"} 2",
        "weir_certificate_not_after_seconds{file=\"/tls/a.pem\"} 1900000000",
        "weir_upstream_endpoint{upstream=\"app\",endpoint=\"10.0.0.1:80\",state=\"ejected\"} 1",
        "weir_upstream_panic{upstream=\"app\"} 1",
        "weir_upstream_ejections_total{upstream=\"app\"} 2",
        "weir_upstream_retries_total{upstream=\"app\",outcome=\"over_budget\"} 1",
        "weir_keys_evicted_total 4",
        "weir_gossip_bytes_total{direction=\"sent\"} 12",
        "weir_gossip_dropped_total{reason=\"bad_tag\"} 2",
        "weir_peer_clock_offset_seconds{peer=\"b\"} -1.5",
        "weir_config_mismatch 1",
        "# TYPE weir_requests counter",
    ] {
        assert!(
            text.lines().any(|line| line == expected),
            "no line `{expected}` in\n{text}"
        );
    }
    assert!(line_of(&text, "weir_build_info{version=\"").is_some_and(|line| line.ends_with(" 1")));
    assert!(text.ends_with("# EOF\n"));
}
