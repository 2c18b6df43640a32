//! What happens once faults end.

use super::{LIMITS, Scenario, State};

impl Scenario {
    /// The replicas that could share from now on; `None` where somebody who may hold a share is gone and has
    /// not come back, or too few are left to begin.
    pub(super) fn able(&self, state: &State) -> Option<Vec<usize>> {
        let booted = |replica: &usize| state.replicas[*replica].booted;
        let present = |replica: &usize| state.runs(*replica) && !state.marked(*replica);
        let returned = |gone: usize| {
            (gone + 1..self.nodes.len()).any(|next| self.nodes[next] == self.nodes[gone] && present(&next))
        };
        let all: Vec<_> = (0..self.nodes.len()).filter(booted).collect();
        let resolved = all
            .iter()
            .all(|replica| state.runs(*replica) || returned(*replica));
        let able: Vec<_> = all
            .into_iter()
            .filter(present)
            .filter(|replica| !returned(*replica))
            .collect();
        (resolved && able.len() >= self.min_roster).then_some(able)
    }

    /// Windows until all who are able share one whole limit, when everybody hears everybody's newest record
    /// twice a tick.
    pub(super) fn windows_to_share(&self, mut state: State, able: &[usize]) -> Option<u64> {
        let from = state.now;
        let slack = self.skew + 1;
        while state.now < from + 4 * self.window + slack {
            for (replica, owner) in (0..2 * self.nodes.len()).flat_map(|to| {
                let to = to % self.nodes.len();
                (0..self.nodes.len()).map(move |of| (to, of))
            }) {
                let newest = state.replicas[owner]
                    .published
                    .last()
                    .map(|record| record.version);
                if let Some(version) = newest.filter(|_| replica != owner && state.runs(replica)) {
                    state.hear(replica, owner, version);
                }
            }
            self.tick(&mut state);
            let whole = |(_, (takers, sums)): &(&u64, &(usize, [u64; 3]))| {
                *takers == able.len() && *sums == LIMITS.map(|(limit, _)| limit)
            };
            if let Some((start, _)) = state.taken.iter().find(whole) {
                return Some(start.saturating_sub(from).div_ceil(self.window));
            }
            state.settle(self);
        }
        None
    }
}
