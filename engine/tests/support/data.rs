//! The first group that holds resources, where those lie that name no affinity.

use palisade::{Engine, Group, GroupId};

pub(crate) trait Data {
    fn data(&self) -> Group;
}

impl Data for Engine {
    fn data(&self) -> Group {
        self.group(GroupId::new(1)).unwrap()
    }
}
