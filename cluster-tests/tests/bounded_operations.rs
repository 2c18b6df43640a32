//! What an operator does with a bounded cluster: run one node or two, lose one for good, scale to zero and back.

use std::time::Duration;

use cluster_tests::bounded::{WINDOWS_MAX, assert_used, cluster, judge};
use cluster_tests::{Client, Cluster, DEADLINE, Flood, Tally, Window, binary, wait_until};
use hyper::StatusCode;

const WINDOW: Duration = Duration::from_secs(6);
const LIMIT: u64 = 100;

/// It knows of nobody who could have spent anything, so it need not wait for the hour to end.
#[tokio::test]
async fn a_single_node_serves_at_once_and_admits_exactly_the_limit() {
    let cluster = cluster(5, WINDOW).limit(5, "hour").nodes(1).start().await;
    let mut client = Client::new("client");
    let tally = client.round_robin(&cluster.nodes, 20).await;
    assert_eq!((tally.admitted(), tally.denied()), (5, 15));
    assert_eq!(cluster.upstream.count("client"), 5);
}

/// The share of a crashed member is nobody's until an operator says that it will not return.
#[tokio::test]
async fn of_two_nodes_one_keeps_its_half_when_the_other_is_lost_and_has_all_once_that_is_forgotten() {
    let mut cluster = cluster(LIMIT, WINDOW).nodes(2).start().await;
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    let tally = flood(&cluster, "both", window).await;
    assert_used(judge(&cluster, "both", &tally, LIMIT, window), LIMIT);

    cluster.nodes[1].kill();
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    let tally = flood(&cluster, "half", window).await;
    assert_eq!(judge(&cluster, "half", &tally, LIMIT, window), LIMIT / 2);

    roster(&cluster, &["forget", "b"]).await;
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    // The lost node shares the windows that start within the skew after it was forgotten.
    let window = window.next();
    let tally = flood(&cluster, "all", window).await;
    assert_used(judge(&cluster, "all", &tally, LIMIT, window), LIMIT);
}

/// Nobody is left to say what was spent, so nothing of the window is: nodes that start take later ones only.
#[tokio::test]
async fn a_cluster_that_is_scaled_to_zero_and_back_spends_no_window_twice() {
    const WINDOW: Duration = Duration::from_secs(10);
    let mut cluster = cluster(LIMIT, WINDOW).start().await;
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    window.starts().await;
    let mut client = Client::new("client");
    let mut tally = client.round_robin(&cluster.nodes, 60).await;
    assert_eq!(tally.admitted(), 60);

    for node in &cluster.nodes {
        node.terminate();
    }
    for node in &mut cluster.nodes {
        assert!(node.exited().await.success());
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    for node in &mut cluster.nodes {
        node.ready().await;
    }
    assert!(window.left() > 0, "the window ended while the nodes were away");
    tally.add(flood(&cluster, "client", window).await);
    let admitted = judge(&cluster, "client", &tally, LIMIT, window);
    assert!(admitted >= 60, "{admitted}");

    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    let tally = flood(&cluster, "back", window).await;
    assert_used(judge(&cluster, "back", &tally, LIMIT, window), LIMIT);
}

/// While a crashed member may still hold rights, who joins has no share, and lives on what others grant.
#[tokio::test]
async fn a_joiner_beside_a_crashed_member_lives_on_grants_until_that_is_forgotten() {
    let mut cluster = cluster(LIMIT, WINDOW).start().await;
    cluster.shared_window(WINDOW, WINDOWS_MAX).await;
    cluster.nodes[2].kill();
    cluster.join().ready().await;
    let window = Window::in_progress(WINDOW).next();
    window.starts().await;
    let mut client = Client::new("joiner's");
    let what = "the joiner serves by grants";
    wait_until(what, DEADLINE, async || {
        match client.get(&cluster.nodes[3]).await.status {
            StatusCode::OK => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    let joiner = &cluster.nodes[3];
    assert!(
        joiner.has_share(Window::in_progress(WINDOW)).await.is_err(),
        "beside a crashed member"
    );

    roster(&cluster, &["forget", "c"]).await;
    cluster.shared_window(WINDOW, WINDOWS_MAX).await;
}

/// `weir roster ARGS` at the first node.
async fn roster(cluster: &Cluster, args: &'static [&'static str]) {
    let admin = cluster.nodes[0].admin().to_string();
    let command = move || binary::run(&[&["roster"], args, &["--admin", &admin]].concat());
    let output = tokio::task::spawn_blocking(command)
        .await
        .expect("the command runs");
    assert!(output.status.success(), "weir roster {args:?}: {output:?}");
}

/// Several times the limit, at every node that runs.
async fn flood(cluster: &Cluster, identity: &str, window: Window) -> Tally {
    let running = cluster.nodes.iter().filter(|node| node.is_started());
    let flood = Flood::new(identity, running.map(|node| node.listen()).collect(), window);
    flood.pause(Duration::from_millis(10)).run().await
}
