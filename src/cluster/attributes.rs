//! What a node publishes about itself, as chitchat key-values.
//!
//! Pure. Keys are ASCII and few; values of peers are bounded before they are kept.

use std::net::SocketAddr;

use super::members::{Attributes, Presence};

/// Key of the newest sync mode, as [`Announcement`](super::mode::Announcement) writes it.
pub(super) const MODE: &str = "mode";
/// Key of the leaving mark.
pub(super) const PRESENCE: &str = "leaving";

/// Key of the roster record, and of the estate record.
pub(super) const ROSTER: &str = "roster";
pub(super) const ESTATE: &str = "estate";

const VERSION: &str = "version";
pub(super) const CONFIG_DIGEST: &str = "config";
const ADMIN: &str = "admin";
const LISTEN: &str = "listen";
const FRAME_VERSION: &str = "frames";

/// Longest text that is kept of a peer's value.
const TEXT_BYTES_MAX: usize = 64;
/// Most listeners that are kept of a peer.
const LISTENERS_MAX: usize = 16;

/// The key-values that say `attributes`.
pub(super) fn to_key_values(attributes: &Attributes) -> Vec<(String, String)> {
    let listen: Vec<String> = attributes.listen.iter().map(SocketAddr::to_string).collect();
    let values = [
        (VERSION, Some(attributes.version.clone())),
        (CONFIG_DIGEST, Some(attributes.config_digest.clone())),
        (MODE, attributes.mode.map(|mode| mode.to_string())),
        (ADMIN, attributes.admin.map(|address| address.to_string())),
        (LISTEN, Some(listen.join(","))),
        (
            FRAME_VERSION,
            attributes.frame_version.map(|version| version.to_string()),
        ),
        (PRESENCE, Some(presence_value(attributes.presence))),
    ];
    values
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
}

/// Reads attributes back, but for the records, which [`super::records`] reads; a value that is missing or not
/// understood counts as not published.
pub(super) fn from_key_values<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Attributes {
    let text = |key| {
        let short = value(key).filter(|text| text.len() <= TEXT_BYTES_MAX);
        short.unwrap_or_default().to_owned()
    };
    let listen = value(LISTEN).unwrap_or_default().split(',');
    Attributes {
        version: text(VERSION),
        config_digest: text(CONFIG_DIGEST),
        mode: value(MODE).and_then(|text| text.parse().ok()),
        admin: value(ADMIN).and_then(|text| text.parse().ok()),
        listen: listen
            .take(LISTENERS_MAX)
            .filter_map(|text| text.parse().ok())
            .collect(),
        frame_version: value(FRAME_VERSION).and_then(|text| text.parse().ok()),
        presence: match value(PRESENCE) {
            Some("leaving") => Presence::Leaving,
            Some("left") => Presence::Left,
            _ => Presence::Staying,
        },
        roster: None,
        estate: None,
    }
}

/// The value under [`PRESENCE`].
pub(super) fn presence_value(presence: Presence) -> String {
    match presence {
        Presence::Staying => "no",
        Presence::Leaving => "leaving",
        Presence::Left => "left",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::cluster::mode::{Announcement, ModeVersion};
    use crate::limit::{SyncMode, UnixMillis};

    use super::*;

    #[test]
    fn what_a_node_publishes_is_what_its_peers_read() {
        let attributes = Attributes {
            version: "0.1.0".to_owned(),
            config_digest: "0123456789abcdef".to_owned(),
            mode: Some(Announcement::of(
                ModeVersion::configured(SyncMode::Local).next(SyncMode::Bounded, UnixMillis(0)),
            )),
            admin: Some(([127, 0, 0, 1], 8001).into()),
            listen: vec![([127, 0, 0, 1], 8000).into(), ([10, 0, 0, 1], 80).into()],
            frame_version: Some(2),
            presence: Presence::Leaving,
            ..Attributes::default()
        };
        let published: HashMap<_, _> = to_key_values(&attributes).into_iter().collect();
        let read = from_key_values(|key| published.get(key).map(String::as_str));
        assert_eq!(read, attributes);
    }

    #[test]
    fn values_that_are_missing_malformed_or_too_long_count_as_not_published() {
        assert_eq!(from_key_values(|_| None), Attributes::default());
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        assert_eq!(from_key_values(|_| Some(&long)), Attributes::default());
        let many = "127.0.0.1:1,".repeat(LISTENERS_MAX + 1);
        assert_eq!(from_key_values(|_| Some(&many)).listen.len(), LISTENERS_MAX);
    }
}
