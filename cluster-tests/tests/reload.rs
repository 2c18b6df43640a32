//! A node takes up another configuration without a restart.

use std::fs;
use std::os::unix::fs::symlink;

use cluster_tests::service::Service;
use cluster_tests::traffic::{Kind, Traffic};
use cluster_tests::{Client, Cluster, DEADLINE, Node, wait_until};

const METRIC: &str = "weir_config_reloads_total";

#[tokio::test]
async fn sighup_puts_a_valid_file_in_force_and_any_other_changes_nothing() {
    let headers = |hidden: bool| format!("limits:\n  hide_headers: {hidden}\n");
    let cluster = Cluster::with_limit(10)
        .nodes(1)
        .config(&headers(false))
        .start()
        .await;
    let node = &cluster.nodes[0];
    let mut client = Client::new("client");
    assert_eq!(client.get(node).await.remaining(), Some(9));

    cluster.configure("limits:\n  hide_haeders: true\n  overflow: maybe\n");
    reloaded(node, "refused", 1).await;
    let log = node.log();
    for error in [
        "weir.yaml:2:3: limits.hide_haeders: ",
        "weir.yaml:3:13: limits.overflow: ",
    ] {
        assert!(log.contains(error), "no `{error}` in\n{log}");
    }
    assert_eq!(client.get(node).await.remaining(), Some(8));

    cluster.configure(&format!("{}sync:\n  tick: 77ms\n", headers(true)));
    reloaded(node, "refused", 2).await;
    let refusal = "`sync.tick` cannot change in a running node: restart the node";
    assert!(node.log().contains(refusal), "{}", node.log());
    assert_eq!(client.get(node).await.remaining(), Some(7));

    cluster.configure(&headers(true));
    reloaded(node, "applied", 1).await;
    assert_eq!(client.get(node).await.remaining(), None);

    cluster.configure(&headers(false));
    reloaded(node, "applied", 2).await;
    assert_eq!(client.get(node).await.remaining(), Some(5), "counts are kept");
}

#[tokio::test]
async fn peers_hear_that_a_node_has_another_configuration_now() {
    let cluster = Cluster::with_limit(10)
        .nodes(2)
        .config("limits:\n  ipv4_prefix: 32\n")
        .start()
        .await;
    let [a, b] = &cluster.nodes[..] else {
        panic!("a cluster of two")
    };
    agree(a, b, true).await;
    cluster.configure("limits:\n  ipv4_prefix: 24\n");
    reloaded(a, "applied", 1).await;
    agree(a, b, false).await;
    reloaded(b, "applied", 1).await;
    agree(a, b, true).await;
}

#[tokio::test]
async fn no_request_fails_over_a_hundred_reloads_under_load_and_invalid_files_change_nothing() {
    const RELOADS: u32 = 100;
    const IDENTITY: &str = Traffic::IDENTITY;
    let edition = |number: u32| {
        let hidden = number % 2 == 1;
        // What counts is the same in all of them.
        let rule = format!(
            "rules: [{{name: r, by: 'header:x-client', windows: [{}/year]}}]\n",
            50_000_000 + number
        );
        format!("limits: {{hide_headers: {hidden}}}\n{rule}")
    };
    let builder = Cluster::with_limit(1).unlimited().nodes(1);
    let mut cluster = builder
        .config(&edition(0))
        .args(&["--epsilon", "0"])
        .start()
        .await;
    let service = Service::of(&cluster.nodes);
    let mut traffic = Traffic::start(3, service.endpoints());
    let (mut applied, mut refused) = (0, 0);
    while applied < RELOADS {
        // One file of ten is broken.
        let (outcome, count) = if (applied + refused) % 10 == 9 {
            cluster.configure(&format!("{}routes: nowhere\n", edition(applied + 1)));
            refused += 1;
            ("refused", refused)
        } else {
            applied += 1;
            cluster.configure(&edition(applied));
            ("applied", applied)
        };
        reloaded(&cluster.nodes[0], outcome, count).await;
        traffic.goes_on(20).await;
    }
    let answered = traffic.answered();
    let seen = traffic.stop().await;
    println!(
        "{applied} reloads and {refused} refused ones under load: {answered} requests answered, 0 failed"
    );
    for (kind, seen) in &seen {
        println!(
            "  {kind:?}: {} requests, {} connections",
            seen.answered(),
            seen.connections()
        );
        // No connection was closed for it.
        assert!(
            *kind == Kind::NewConnection || seen.connections() == 3,
            "{kind:?}"
        );
    }
    let all = seen.iter().map(|(_, seen)| seen.answered()).sum::<u64>();
    assert_eq!(cluster.upstream.count(IDENTITY), all);
    let node = &mut cluster.nodes[0];
    let limits = node.json("/v1/limits").await.expect("the admin API answers");
    assert_eq!(limits["limits"][0]["total"], all, "no count is lost: {limits}");
    assert!(node.is_running());
}

#[tokio::test]
async fn a_file_that_changes_is_taken_up_where_that_was_asked_for() {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let at = |name: &str| folder.path().join(name);
    // As the kubelet mounts a ConfigMap, and changes it: by another target for one symlink.
    let publish = |version: u32, yaml: &str| {
        let name = format!("..v{version}");
        fs::create_dir(at(&name)).expect("it is writable");
        fs::write(at(&name).join("weir.yaml"), yaml).expect("it is writable");
        symlink(name, at("..next")).expect("it is writable");
        fs::rename(at("..next"), at("..data")).expect("it is writable");
    };
    publish(1, "limits: {hide_headers: false}\n");
    symlink("..data/weir.yaml", at("weir.yaml")).expect("it is writable");
    let file = at("weir.yaml").display().to_string();
    let builder = Cluster::with_limit(1_000).nodes(1);
    let cluster = builder
        .args(&["--config", &file, "--reload-interval", "1s"])
        .start()
        .await;
    let node = &cluster.nodes[0];
    let mut client = Client::new("client");
    assert_eq!(client.get(node).await.remaining(), Some(999));

    publish(2, "limits: {hide_headers: true}\n");
    counted(node, "applied", 1).await;
    assert_eq!(client.get(node).await.remaining(), None);
    publish(3, "limits: {hide_headers: perhaps}\n");
    counted(node, "refused", 1).await;
    assert_eq!(client.get(node).await.remaining(), None);
    publish(4, "limits: {hide_headers: false}\n");
    counted(node, "applied", 2).await;
    assert_eq!(client.get(node).await.remaining(), Some(996));
    // What was refused was refused once.
    assert_eq!(node.metric(METRIC, "outcome=\"refused\"").await, Ok(1.0));
}

/// Sends SIGHUP, and waits until so many reloads have ended in `outcome`.
async fn reloaded(node: &Node, outcome: &str, count: u32) {
    node.reload();
    counted(node, outcome, count).await;
}

/// Waits until so many reloads have ended in `outcome`.
async fn counted(node: &Node, outcome: &str, count: u32) {
    let label = format!("outcome=\"{outcome}\"");
    let what = format!("node {}: reload {count} is {outcome}", node.id());
    wait_until(&what, DEADLINE, async || {
        match node.metric(METRIC, &label).await? {
            counted if counted >= f64::from(count) => Ok(()),
            counted => Err(format!("{counted} are\n{}", node.log())),
        }
    })
    .await;
}

/// Waits until both say that the other has the same configuration, or has not.
async fn agree(a: &Node, b: &Node, expected: bool) {
    for node in [a, b] {
        let what = format!("node {} sees the configuration of the other", node.id());
        wait_until(&what, DEADLINE, async || {
            let peers = node.json("/v1/peers").await?;
            match peers["peers"][0]["config_matches"].as_bool() {
                Some(matches) if matches == expected => Ok(()),
                _ => Err(peers.to_string()),
            }
        })
        .await;
    }
}
