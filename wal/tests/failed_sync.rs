//! After a sync that failed, what was written is still read as if it had been stored, and the next
//! sync says that all is well (Rebello et al., "Can Applications Recover from fsync Failures?",
//! 2020). Whoever starts again on it must not take it for stored.

use std::sync::Arc;

use bytes::Bytes;
use palisade_wal::sim::{SimDisk, SimFaults};
use palisade_wal::{GroupId, LogIndex, Wal, WalIdentity, WalOptions, Write};

const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
const GROUP: GroupId = GroupId::new(1);

fn open(disk: &SimDisk) -> (Wal, LogIndex) {
    let options = WalOptions {
        segment_bytes: 16 << 10,
        batch_bytes_max: 8 << 10,
        queued_bytes_max: 64 << 10,
        ..WalOptions::default()
    };
    let (wal, recovered) = Wal::open(Arc::new(disk.clone()), IDENTITY, options).unwrap();
    let last = recovered.groups.get(&GROUP).map_or(LogIndex::ZERO, |group| group.last);
    (wal, last)
}

fn append(wal: &mut Wal, index: u64) -> Result<(), palisade_wal::WalError> {
    let payload = Bytes::from(vec![index as u8; 700]);
    wal.submit(&[Write::Append { group: GROUP, index: LogIndex::new(index), payload }])?;
    wal.write_queued()?;
    wal.sync()?;
    wal.maintain()
}

#[test]
fn what_a_start_finds_after_a_failed_sync_outlives_a_loss_of_power() {
    let mut found_more = 0;
    for seed in 0..100 {
        let disk = SimDisk::from_seed(seed);
        let (mut wal, _) = open(&disk);
        let failing_sync = Some(disk.counts().syncs + 3 + seed % 40);
        disk.set_faults(SimFaults { failing_sync, ..SimFaults::default() });
        let mut synced = 0;
        while append(&mut wal, synced + 1).is_ok() {
            synced += 1;
        }
        drop(wal);
        let (wal, found) = open(&disk);
        assert!(synced <= found.get(), "seed={seed}: synced={synced} found={found}");
        found_more += u64::from(synced < found.get());
        drop(wal);
        disk.crash();
        let (_, kept) = open(&disk);
        assert!(found <= kept, "seed={seed}: found={found} and kept only {kept}");
    }
    assert!(found_more > 0, "nothing was ever found that had not been synced");
}
