//! Row states, packed: what a table of two million slots and a million rows needs is a million states.

use super::row::RowState;

/// States that are allocated together: 256 KiB, so that growing copies nothing and leaves little unused.
const CHUNK: usize = 4096;

/// States by an index that stays theirs until they are removed.
#[derive(Debug, Default)]
pub(super) struct Arena {
    chunks: Vec<Vec<RowState>>,
    vacant: Vec<u32>,
    len: usize,
}

impl Arena {
    /// States held.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, index: u32) -> Option<&RowState> {
        let at = index as usize;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut RowState> {
        let at = index as usize;
        self.chunks.get_mut(at / CHUNK)?.get_mut(at % CHUNK)
    }

    /// Takes `state` in and returns its index.
    pub(super) fn insert(&mut self, state: RowState) -> u32 {
        self.len += 1;
        if let Some(index) = self.vacant.pop() {
            if let Some(place) = self.get_mut(index) {
                *place = state;
            }
            return index;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("one was just added if need be");
        chunk.push(state);
        u32::try_from(before + chunk.len() - 1).expect("no more rows than slots, which u32 counts")
    }

    /// Takes the state at `index` out; its index is another's from then on.
    pub(super) fn remove(&mut self, index: u32) -> Option<RowState> {
        let state = std::mem::take(self.get_mut(index)?);
        self.vacant.push(index);
        self.len -= 1;
        if self.len == 0 {
            // A quiet hour gives the memory of the busy one back.
            *self = Self::default();
        }
        Some(state)
    }
}
