//! `weir roster`: who shares limits in bounded mode, and who is given up.

use std::fmt::Write as _;

use bytes::Bytes;
use http::Method;

use crate::admin::views::{ForgetView, MemberView, RosterView, ShareView};

use super::args::{RosterArgs, RosterCommand};
use super::http::{Client, admin_headers, success};

/// Shows the roster of the node at `--admin`, or has it forget a node.
///
/// # Errors
/// The node refuses or does not answer.
pub async fn run(args: &RosterArgs) -> anyhow::Result<()> {
    let headers = admin_headers(args.token.as_deref())?;
    let mut client = Client::new(&args.admin.to_string())?;
    match &args.command {
        None | Some(RosterCommand::List) => {
            let answer = client
                .request(Method::GET, "/v1/roster", headers, Bytes::new())
                .await?;
            let roster: RosterView = success(&answer)?.json()?;
            print!("{}", listing(&roster));
        }
        Some(RosterCommand::Forget { node }) => {
            let body = Bytes::from(serde_json::json!({ "node": node }).to_string());
            let answer = client
                .request(Method::POST, "/v1/roster/forget", headers, body)
                .await?;
            let answer: ForgetView = success(&answer)?.json()?;
            println!(
                "forgotten: {}; its share goes to the others in windows that start more than `bounded.skew` from now",
                answer.forgotten.join(", ")
            );
        }
    }
    Ok(())
}

fn listing(roster: &RosterView) -> String {
    if !roster.bounded {
        return "no rule is bounded\n".to_owned();
    }
    let mut out = String::new();
    for member in &roster.members {
        line(&mut out, &label(member, &roster.members), &describe(member));
    }
    if roster.shares.is_empty() {
        out.push_str("no rule is bounded any more: nothing is shared\n");
    }
    for share in &roster.shares {
        line(
            &mut out,
            &format!("window/{}", share.period),
            &describe_share(share),
        );
    }
    for replica in &roster.inherited {
        line(&mut out, replica, "its rights belong to this node");
    }
    for will in roster.wills.iter().filter(|will| !will.executed) {
        line(
            &mut out,
            &will.leaver,
            &format!("leaves its rights to {}", will.heir),
        );
    }
    out
}

fn line(out: &mut String, what: &str, text: &str) {
    // Writing to memory does not fail.
    let _ = writeln!(out, "{what:<24} {text}");
}

/// The node, with its generation where several of its lives are listed.
fn label(member: &MemberView, members: &[MemberView]) -> String {
    let lives = members.iter().filter(|other| other.node_id == member.node_id);
    if lives.count() > 1 {
        format!("{}/{}", member.node_id, member.generation)
    } else {
        member.node_id.clone()
    }
}

fn describe(member: &MemberView) -> String {
    if let Some(until) = &member.departed_until {
        return format!("takes no share of windows after {until}");
    }
    let mut text = match &member.dead_since {
        Some(since) => format!("dead since {since}"),
        None => "alive".to_owned(),
    };
    if !member.lists_this_node {
        text.push_str(", does not list this node");
    }
    if !member.active {
        text.push_str(", has taken no share yet");
    }
    text
}

fn describe_share(share: &ShareView) -> String {
    match (share.members, &share.blocked) {
        (Some(members), _) => format!("from {}: shared by {members}", share.window_start),
        (None, Some(reason)) => format!("from {}: no share: {reason}", share.window_start),
        (None, None) => format!("from {}: not decided yet", share.window_start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_names_who_is_missing_and_why_there_is_no_share() {
        let member = |node: &str, dead: Option<&str>, departed: Option<&str>| MemberView {
            node_id: node.to_owned(),
            generation: 1,
            from: "2026-01-05T12:00:00Z".to_owned(),
            departed_until: departed.map(str::to_owned),
            dead_since: dead.map(str::to_owned),
            lists_this_node: dead.is_none(),
            active: true,
        };
        let share = |members, blocked: Option<&str>| ShareView {
            period: "minute".to_owned(),
            window_start: "12:00".to_owned(),
            window_end: "12:01".to_owned(),
            members,
            blocked: blocked.map(str::to_owned),
        };
        let mut roster = RosterView {
            bounded: true,
            members: vec![
                member("a", None, None),
                member("b", Some("11:59"), None),
                member("c", None, Some("11:58")),
            ],
            shares: vec![share(None, Some("member b/1 has not been heard"))],
            inherited: vec!["c/1".to_owned()],
            wills: Vec::new(),
        };
        let lines = |roster: &RosterView| -> Vec<String> {
            let text = listing(roster);
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            text.lines().map(words).collect()
        };
        assert_eq!(
            lines(&roster),
            [
                "a alive",
                "b dead since 11:59, does not list this node",
                "c takes no share of windows after 11:58",
                "window/minute from 12:00: no share: member b/1 has not been heard",
                "c/1 its rights belong to this node",
            ]
        );
        roster.shares = vec![share(Some(2), None)];
        assert_eq!(lines(&roster)[3], "window/minute from 12:00: shared by 2");
        roster.shares.clear();
        roster.members[2].node_id = "b".to_owned();
        roster.members[2].generation = 2;
        assert_eq!(
            lines(&roster)[1..4],
            [
                "b/1 dead since 11:59, does not list this node",
                "b/2 takes no share of windows after 11:58",
                "no rule is bounded any more: nothing is shared",
            ]
        );
        roster.bounded = false;
        assert_eq!(lines(&roster), ["no rule is bounded"]);
    }
}
