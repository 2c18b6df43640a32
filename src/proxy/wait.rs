//! How the proxy waits for rights of other nodes: by the node's configuration, and counted by the worker.

use std::time::Duration;

use super::ProxyShared;
use super::metrics::{Shard, WaitEnd};
use crate::admission::{Rights, WaitLog};
use crate::limit::{Charge, Decision};

pub(super) use crate::admission::wall_clock;

/// See [`Rights::wait`].
pub(super) async fn wait_for_rights(
    shared: &ProxyShared,
    shard: &Shard,
    charges: &[Charge],
    denied: Decision,
) -> Decision {
    let rights = Rights {
        limiter: shared.limiter(),
        on_due: &shared.lasting.on_due,
        patience: shared.config().bounded.wait,
    };
    rights.wait(shard, charges, denied).await
}

impl WaitLog for Shard {
    fn began(&self) {
        self.waits_started.add(1);
    }

    fn turned_away(&self) {
        self.turned_away.add(1);
    }

    fn ended(&self, end: WaitEnd, time: Duration) {
        self.waited(end, time);
    }
}
