//! chitchat's view of our transport.
//!
//! chitchat knows messages, not datagrams: a message goes out through a [`Sender`] of its own, and comes
//! in through a bounded queue that the gossip thread's receive loop fills. `recv` keeps no state across
//! its await, since chitchat cancels it in a `select!`.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport as ChitchatTransport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use tokio::sync::mpsc;
use tracing::debug;

use super::transport::Sender;

/// Messages that wait for chitchat; each peer has a handshake or two under way. More are dropped, and
/// the next round makes up for them.
pub(super) const INBOX_MESSAGES_MAX: usize = 256;

/// One membership message as it arrived, and where to answer it.
pub(super) type InboxMessage = (SocketAddr, Vec<u8>);

/// Hands chitchat its only socket.
pub(super) struct GossipTransport {
    socket: Mutex<Option<GossipSocket>>,
}

impl GossipTransport {
    pub(super) fn new(sender: Sender, inbox: mpsc::Receiver<InboxMessage>) -> Self {
        let socket = GossipSocket {
            sender,
            inbox,
            outgoing: Vec::new(),
        };
        Self {
            socket: Mutex::new(Some(socket)),
        }
    }
}

#[async_trait]
impl ChitchatTransport for GossipTransport {
    async fn open(&self, _listen_addr: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let mut slot = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.take() {
            Some(socket) => Ok(Box::new(socket)),
            None => anyhow::bail!("the gossip socket was opened twice"),
        }
    }
}

struct GossipSocket {
    sender: Sender,
    inbox: mpsc::Receiver<InboxMessage>,
    outgoing: Vec<u8>,
}

#[async_trait]
impl Socket for GossipSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.outgoing.clear();
        message.serialize(&mut self.outgoing);
        self.sender.send_message(to, &self.outgoing).await;
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let Some((from, bytes)) = self.inbox.recv().await else {
                anyhow::bail!("the gossip thread has stopped receiving");
            };
            if let Some(message) = deserialize(&bytes) {
                return Ok((from, message));
            }
            debug!(%from, bytes = bytes.len(), "malformed membership message");
        }
    }
}

/// chitchat's decoder asserts some of what it reads, so a panic is one more way to be malformed.
fn deserialize(bytes: &[u8]) -> Option<ChitchatMessage> {
    let decode = AssertUnwindSafe(|| ChitchatMessage::deserialize(&mut &*bytes));
    catch_unwind(decode).ok()?.ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whatever_arrives_is_a_message_or_nothing() {
        let bad_cluster = ChitchatMessage::BadCluster.serialize_to_vec();
        assert_eq!(deserialize(&bad_cluster), Some(ChitchatMessage::BadCluster));
        assert_eq!(deserialize(&[]), None);
        for length in 0..bad_cluster.len() {
            assert_eq!(deserialize(&bad_cluster[..length]), None);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_behind_a_valid_header_never_panic(
            kind in 0_u8..5,
            tail in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = ChitchatMessage::BadCluster.serialize_to_vec();
            bytes.truncate(3);
            bytes.push(kind);
            bytes.extend(tail);
            let _ = deserialize(&bytes);
        }
    }
}
