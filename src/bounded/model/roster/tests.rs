use super::super::{holds, violates, walks};
use super::{Rules, SAFE, Scenario};

fn join() -> Scenario {
    Scenario {
        nodes: vec!['a', 'b', 'c'],
        together: 3,
        ..Scenario::default()
    }
}

fn restart() -> Scenario {
    Scenario {
        nodes: vec!['a', 'b', 'a'],
        crashes: 1,
        min_roster: 2,
        ..Scenario::default()
    }
}

fn founding() -> Scenario {
    Scenario {
        members: 0,
        unaware: true,
        min_roster: 2,
        ..Scenario::default()
    }
}

#[test]
fn members_that_leave_never_leave_more_than_the_limit() {
    holds(
        "leave",
        &Scenario {
            leaves: 1,
            horizon: 7,
            window: 3,
            ..Scenario::default()
        },
    );
    holds(
        "leave, lazy",
        &Scenario {
            leaves: 1,
            lazy: true,
            ..Scenario::default()
        },
    );
}

#[test]
fn a_joiner_never_adds_more_than_the_limit() {
    holds("join", &join());
    holds(
        "join, leave",
        &Scenario {
            leaves: 1,
            newest_only: true,
            ..join()
        },
    );
    holds(
        "join, lazy",
        &Scenario {
            lazy: true,
            newest_only: true,
            ..join()
        },
    );
}

#[test]
fn a_restart_never_adds_more_than_the_limit() {
    holds(
        "restart",
        &Scenario {
            horizon: 6,
            ..restart()
        },
    );
    holds(
        "restart, leave",
        &Scenario {
            leaves: 1,
            newest_only: true,
            ..restart()
        },
    );
    holds(
        "zombie",
        &Scenario {
            crashes: 0,
            zombies: true,
            newest_only: true,
            ..restart()
        },
    );
}

#[test]
fn founders_never_begin_with_more_than_the_limit() {
    holds("founding", &founding());
    holds(
        "founding of three",
        &Scenario {
            nodes: vec!['a', 'b', 'c'],
            newest_only: true,
            skew: 0,
            ..founding()
        },
    );
    let alone = Scenario {
        nodes: vec!['a', 'a'],
        min_roster: 1,
        crashes: 1,
        together: 1,
        ..founding()
    };
    holds(
        "founder of one, restart",
        &Scenario {
            horizon: 7,
            window: 3,
            ..alone
        },
    );
}

#[test]
fn forgetting_a_crashed_member_never_adds_more_than_the_limit() {
    let forget = Scenario {
        crashes: 1,
        forgets: 1,
        newest_only: true,
        ..join()
    };
    holds(
        "forget",
        &Scenario {
            skew: 0,
            together: 2,
            ..forget
        },
    );
}

#[test]
fn larger_clusters_never_exceed_the_limit() {
    let four = Scenario {
        nodes: vec!['a', 'b', 'c', 'd'],
        min_roster: 3,
        horizon: 6,
        ..Scenario::default()
    };
    let walk = |name, scenario: Scenario| walks(name, &scenario, |_| {});
    walk(
        "two join, two leave",
        Scenario {
            leaves: 2,
            together: 2,
            ..four.clone()
        },
    );
    walk(
        "two join, two leave, lazy",
        Scenario {
            leaves: 2,
            lazy: true,
            ..four.clone()
        },
    );
    let restarts = Scenario {
        nodes: vec!['a', 'b', 'a', 'b'],
        crashes: 2,
        min_roster: 2,
        ..four.clone()
    };
    walk(
        "both restart, one leaves",
        Scenario {
            leaves: 1,
            ..restarts
        },
    );
    let founding = Scenario {
        members: 0,
        unaware: true,
        horizon: 8,
        ..four
    };
    walk(
        "founding of four",
        Scenario {
            leaves: 1,
            together: 3,
            ..founding
        },
    );
}

#[test]
fn after_faults_end_every_live_node_shares_again_within_three_windows() {
    let heals = |name, scenario: Scenario| {
        let (mut shared, mut worst) = (0, 0);
        walks(name, &scenario, |state| {
            if let Some(able) = scenario.able(&state) {
                let windows = scenario.windows_to_share(state.clone(), &able);
                worst = worst
                    .max(windows.unwrap_or_else(|| panic!("{name}: {able:?} never share after {state:#?}")));
                shared += 1;
            }
        });
        println!("{name}: {shared} healed, at most {worst} windows");
        assert!(
            shared > 100 && worst <= 3,
            "{name}: {shared} healed, worst {worst}"
        );
    };
    heals("join, leave, heal", Scenario { leaves: 1, ..join() });
    heals("restart, heal", restart());
    heals(
        "founding, heal",
        Scenario {
            nodes: vec!['a', 'b', 'c'],
            ..founding()
        },
    );
}

#[test]
fn without_from_a_joiner_counts_in_a_window_that_did_not_count_it() {
    let rules = Rules {
        from: false,
        ..Rules::ALL
    };
    violates("no from", SAFE, Scenario { rules, ..join() });
}

#[test]
fn without_until_a_leaver_is_not_counted_in_the_window_it_spent_in() {
    let rules = Rules {
        until: false,
        ..Rules::ALL
    };
    violates(
        "no until",
        SAFE,
        Scenario {
            leaves: 1,
            rules,
            ..Scenario::default()
        },
    );
}

#[test]
fn without_the_skew_after_boot_a_restart_spends_again() {
    let rules = Rules {
        skew: false,
        ..Rules::ALL
    };
    let alone = Scenario {
        nodes: vec!['a', 'a'],
        min_roster: 1,
        crashes: 1,
        ..founding()
    };
    violates("no + S", SAFE, Scenario { rules, ..alone });
}

#[test]
fn without_gathering_two_founders_each_take_the_whole() {
    let rules = Rules {
        gathering: false,
        ..Rules::ALL
    };
    violates("no gathering", SAFE, Scenario { rules, ..founding() });
}

#[test]
fn without_its_own_mark_a_leaver_takes_what_others_share() {
    let rules = Rules {
        leaving: false,
        ..Rules::ALL
    };
    violates(
        "no leaving",
        SAFE,
        Scenario {
            leaves: 1,
            horizon: 6,
            rules,
            ..Scenario::default()
        },
    );
}
