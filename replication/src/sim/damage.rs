//! What disks do to logs: bits that rot, sectors that are lost, writes that go astray, syncs and
//! reads that fail, space that runs out.

use palisade_wal::sim::{SimCounts, SimFaults};
use palisade_wal::{Disk, GroupId};

use super::{SimCluster, SimMachine};
use crate::error::NodeError;
use crate::host::is_of_one_log;
use crate::identity::NodeId;

const SECTOR: usize = 512;
/// What the files of snapshots are called.
const EXPORTED: &str = "out-";
const RECEIVED: &str = "in-";

impl<M: SimMachine> SimCluster<M> {
    /// From now on the node may find that its log is damaged: somebody has seen to it.
    pub fn expect_damage(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).expect("a known node").harmed = true;
    }

    /// Something happens to one place of a node's log, or of the snapshots it has received. Returns whether
    /// there was one.
    pub fn damage_log(&mut self, id: NodeId) -> bool {
        self.expect_damage(id);
        let of_snapshots = self.random.below(4) == 0;
        let node = &self.nodes[&id];
        let disk = if of_snapshots { &node.shelf_disk } else { &node.disk }.clone();
        let counts = disk.counts();
        let soon = 1 + self.random.below(20);
        let (what, change): (_, fn(&mut SimFaults, SimCounts, u64)) = match self.random.below(12) {
            0 => ("lost write", |faults, counts, soon| {
                faults.misdirected_write = None;
                faults.lost_write = Some(counts.writes + soon);
            }),
            1 => ("misdirected write", |faults, counts, soon| {
                faults.lost_write = None;
                faults.misdirected_write = Some(counts.writes + soon);
            }),
            2 => ("short write", |faults, counts, soon| {
                faults.short_write = Some(counts.writes + soon);
            }),
            3 => ("failing sync", |faults, counts, soon| {
                faults.failing_sync = Some(counts.syncs + soon);
            }),
            4 => ("failing read", |faults, counts, soon| {
                faults.failing_read = Some(counts.reads + soon);
            }),
            5 => ("altered read", |faults, counts, soon| {
                faults.altered_read = Some(counts.reads + soon);
            }),
            _ if of_snapshots => return self.rot_snapshots(id, RECEIVED),
            _ => return self.damage_place(id),
        };
        self.tell(|| format!("node {id}: {what} soon, of its snapshots: {of_snapshots}"));
        disk.change_faults(|faults| change(faults, counts, soon));
        true
    }

    /// One of the next parts of a snapshot that the node receives is not written, and seems to be.
    pub fn lose_received(&mut self, id: NodeId, soon: u64) {
        self.expect_damage(id);
        let disk = self.nodes[&id].shelf_disk.clone();
        let at = disk.counts().writes + 1 + soon;
        disk.change_faults(|faults| faults.lost_write = Some(at));
    }

    /// The next operation of some kind of a node's disk fails, that of its log or that of its snapshots. Nothing that
    /// was synced is lost by it.
    pub fn fail_operation(&mut self, id: NodeId) {
        let of_snapshots = self.random.below(4) == 0;
        let node = &self.nodes[&id];
        let disk = if of_snapshots { &node.shelf_disk } else { &node.disk }.clone();
        let counts = disk.counts();
        // Writes are many.
        let soon = 1 + self.random.below(40);
        let (what, change): (_, fn(&mut SimFaults, SimCounts, u64)) = match self.random.below(5) {
            0 => ("failing write", |faults, counts, soon| {
                faults.failing_write = Some(counts.writes + soon);
            }),
            1 => ("failing create", |faults, counts, _| {
                faults.failing_create = Some(counts.creates + 1);
            }),
            2 => ("failing rename", |faults, counts, _| {
                faults.failing_rename = Some(counts.renames + 1);
            }),
            3 => ("failing remove", |faults, counts, _| {
                faults.failing_remove = Some(counts.removes + 1);
            }),
            _ => ("failing sync of a directory", |faults, counts, _| {
                faults.failing_sync_dir = Some(counts.dir_syncs + 1);
            }),
        };
        self.tell(|| format!("node {id}: {what} soon, of its snapshots: {of_snapshots}"));
        disk.change_faults(|faults| change(faults, counts, soon));
    }

    /// A place of the snapshots rots that a node serves: whoever is helped by them has another one.
    pub fn rot_exported(&mut self, id: NodeId) {
        self.rot_snapshots(id, EXPORTED);
    }

    fn rot_snapshots(&mut self, id: NodeId, prefix: &str) -> bool {
        let disk = self.nodes[&id].shelf_disk.clone();
        let mut names = disk.list().expect("a simulated disk lists its files");
        names.retain(|name| name.starts_with(prefix));
        let lengths = names.into_iter().map(|name| (disk.contents(&name).len(), name));
        let files: Vec<(usize, String)> = lengths.filter(|(bytes, _)| 0 < *bytes).collect();
        if files.is_empty() {
            return false;
        }
        let (bytes, name) = self.random.pick(&files).clone();
        let at = self.random.below(bytes as u64) as usize;
        match self.random.below(3) {
            0 => disk.zero_sector(&name, at / SECTOR),
            1 => disk.fail_reads(&name, at / SECTOR * SECTOR..(at / SECTOR + 1) * SECTOR),
            _ => disk.flip_bit(&name, at, self.random.below(8) as u8),
        }
        self.count("rotten snapshot");
        self.tell(|| format!("node {id}: {name} of its snapshots rots at {at} of {bytes}"));
        true
    }

    fn damage_place(&mut self, id: NodeId) -> bool {
        let disk = self.nodes[&id].disk.clone();
        let names = disk.list().expect("a simulated disk lists its files");
        let segments: Vec<String> = names.into_iter().filter(|n| n.ends_with(".seg")).collect();
        if segments.is_empty() {
            return false;
        }
        let name = self.random.pick(&segments).clone();
        let contents = disk.contents(&name);
        let written = contents.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        if written == 0 {
            return false;
        }
        let at = self.random.below(written as u64) as usize;
        let from = at / SECTOR * SECTOR;
        // Damage of what was synced last cannot be told from a torn write, if power fails as well.
        if segments.last() == Some(&name) && !disk.shows_synced(&name, from..from + SECTOR) {
            return false;
        }
        let what = match self.random.below(4) {
            0 | 1 => {
                disk.flip_bit(&name, at, self.random.below(8) as u8);
                "flipped bit"
            }
            2 => {
                disk.zero_sector(&name, at / SECTOR);
                "zeroed sector"
            }
            _ => {
                disk.fail_reads(&name, from..from + SECTOR);
                "unreadable sector"
            }
        };
        self.count(what);
        self.tell(|| format!("node {id}: {what}, {name} at {at} of {written}"));
        true
    }

    /// Nothing that has not happened yet will happen to the node's disk, there is room again, and what
    /// nobody has found to be unreadable is readable.
    pub fn mend_disk(&mut self, id: NodeId) {
        let node = &self.nodes[&id];
        node.disk.set_faults(SimFaults::default());
        node.disk.mend_reads();
        node.shelf_disk.set_faults(SimFaults::default());
        node.shelf_disk.mend_reads();
    }

    /// The disk of a node's log has no room for another file.
    pub fn fill_disk(&mut self, id: NodeId) {
        self.count("full disk");
        let disk = self.nodes[&id].disk.clone();
        disk.change_faults(|faults| faults.capacity_bytes = Some(0));
    }

    /// The disks of a node have room for some bytes more, and may need it to write where they have written.
    pub fn crowd_disks(&mut self, id: NodeId) {
        self.count("crowded disk");
        let room = self.random.below(2 * self.options.wal.segment_bytes);
        let copies_on_write = self.random.below(2) == 0;
        let node = &self.nodes[&id];
        for disk in [node.disk.clone(), node.shelf_disk.clone()] {
            let capacity_bytes = Some(disk.used_bytes() + room);
            disk.change_faults(|faults| {
                (faults.capacity_bytes, faults.copies_on_write) = (capacity_bytes, copies_on_write);
            });
        }
    }

    /// The node is up, and no group of it is under repair or on probation, or waits for its state.
    #[must_use]
    pub fn is_whole(&self, id: NodeId) -> bool {
        let Some(running) = &self.nodes[&id].running else { return false };
        let whole = running
            .host
            .replicas()
            .filter(|(_, replica)| !replica.is_on_probation() && replica.installs().is_none());
        whole.count() as u64 == self.options.groups
    }

    /// The node keeps nothing of a snapshot that is still to be installed.
    #[must_use]
    pub fn receives_nothing(&self, id: NodeId) -> bool {
        let names = self.nodes[&id].shelf_disk.list().expect("a simulated disk lists its files");
        !names.iter().any(|name| name.starts_with(RECEIVED))
    }

    /// Every first voter has applied something of every group.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        let mut first = self.nodes.values().filter(|node| node.first.is_some());
        first.all(|node| self.groups().all(|group| node.machine.applied(group).index.get() > 1))
    }

    /// The node says that it, or a group of it, cannot be repaired.
    #[must_use]
    pub fn is_beyond_repair(&self, id: NodeId) -> bool {
        self.nodes[&id].halted.as_ref().is_some_and(is_of_one_log)
            || self.groups().any(|group| self.is_lost(id, group))
    }

    /// The log of this group is beyond repair there.
    pub(super) fn is_lost(&self, id: NodeId, group: GroupId) -> bool {
        match self.nodes[&id].halted_groups.get(&group) {
            Some(NodeError::GroupHalted { cause, .. }) => is_of_one_log(cause),
            _ => false,
        }
    }

    /// What an operator does: a node that is down is started, and one of which a log is beyond repair is
    /// started again. A state that was given up is made anew.
    pub fn mend_node(&mut self, id: NodeId) {
        if self.is_beyond_repair(id) {
            self.kill(id);
        }
        self.start(id);
        let groups: Vec<GroupId> = self.nodes[&id].halted_groups.keys().copied().collect();
        for group in groups {
            if self.nodes[&id].machine.is_given_up(group) {
                // Where it cannot be done, the group stays halted.
                let _ = self.rebuild(id, group);
            }
        }
    }
}
