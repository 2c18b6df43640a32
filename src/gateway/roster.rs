//! The roster as the admin API shows it.

use crate::admin::Refused;
use crate::admin::views::{ForgetView, MemberView, RosterView, ShareView, WillView, rfc3339};
use crate::bounded::{EscrowStatus, ForgetError, MemberStatus, PeriodStatus, WillStatus};
use crate::cluster::{ClusterError, ClusterHandle};
use crate::replica::{NodeId, ReplicaId};

/// What `GET /v1/roster` answers.
pub(super) fn view(status: &EscrowStatus) -> RosterView {
    RosterView {
        bounded: status.involved,
        members: status.members.iter().map(member).collect(),
        shares: status.periods.iter().map(share).collect(),
        inherited: status.inherited.iter().map(ReplicaId::to_string).collect(),
        wills: status.wills.iter().map(will).collect(),
    }
}

/// What `POST /v1/roster/forget` does.
pub(super) async fn forget(cluster: &ClusterHandle, node: NodeId) -> Result<ForgetView, Refused> {
    match cluster.forget(node).await {
        Ok(gone) => Ok(ForgetView {
            forgotten: gone.iter().map(ReplicaId::to_string).collect(),
        }),
        Err(ClusterError::NotForgotten(reason @ ForgetError::Unknown)) => {
            Err(Refused::NotFound(reason.to_string()))
        }
        Err(ClusterError::NotForgotten(reason)) => Err(Refused::Conflict(reason.to_string())),
        Err(error) => Err(Refused::Unavailable(error.to_string())),
    }
}

fn member(status: &MemberStatus) -> MemberView {
    MemberView {
        node_id: status.replica.node.to_string(),
        generation: status.replica.generation.0,
        from: rfc3339(status.from),
        departed_until: status.departed_until.map(rfc3339),
        dead_since: status.dead_since.map(rfc3339),
        lists_this_node: status.lists_me,
        active: status.active,
    }
}

fn share(status: &PeriodStatus) -> ShareView {
    ShareView {
        period: status.period.to_string(),
        window_start: rfc3339(status.window.start),
        window_end: rfc3339(status.window.end),
        members: status.divisor,
        blocked: status.blocked.as_ref().map(ToString::to_string),
    }
}

fn will(status: &WillStatus) -> WillView {
    WillView {
        leaver: status.leaver.to_string(),
        heir: status.heir.to_string(),
        executed: status.executed,
    }
}
