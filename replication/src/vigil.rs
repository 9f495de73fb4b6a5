//! A node that was started hears what its peers remember of its directory before it promises anything: one that
//! was put back from a copy would otherwise give its vote to a peer that knows nothing of it, before it hears
//! from one that does. See "A directory that was put back" in `docs/protocol.md`.

use std::collections::BTreeSet;

use crate::identity::NodeId;

/// Whose word is awaited, and for how long at most.
pub(crate) struct Vigil {
    awaited: BTreeSet<NodeId>,
    ticks_left: u32,
}

impl Vigil {
    /// Of a node that asks these peers.
    pub(crate) fn new(peers: impl IntoIterator<Item = NodeId>, ticks_max: u32) -> Self {
        Self { awaited: peers.into_iter().collect(), ticks_left: ticks_max }
    }

    /// The peer holds nothing against this node.
    pub(crate) fn heard(&mut self, of: NodeId) {
        self.awaited.remove(&of);
    }

    /// Those who are away may be so for ever.
    pub(crate) fn tick(&mut self) {
        self.ticks_left = self.ticks_left.saturating_sub(1);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.awaited.is_empty() || self.ticks_left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_the_last_word_or_with_the_last_tick() {
        let peers = || [2, 3].map(NodeId::new);
        let mut heard = Vigil::new(peers(), 5);
        heard.heard(NodeId::new(3));
        heard.heard(NodeId::new(3));
        assert!(!heard.is_over());
        heard.heard(NodeId::new(2));
        assert!(heard.is_over());

        let mut alone = Vigil::new(peers(), 5);
        (0..4).for_each(|_| alone.tick());
        assert!(!alone.is_over());
        alone.tick();
        assert!(alone.is_over());
        assert!(Vigil::new([], 5).is_over() && Vigil::new(peers(), 0).is_over());
    }
}
