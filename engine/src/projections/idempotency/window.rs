//! Which requests a store keeps: the newest, for a while, and not too many.

use palisade_replication::LogTime;

use super::request::{AGES_END, WINDOW_ROW, ages_from, request_row, split_age_row};
use super::{REQUESTS_MAX, RETENTION_MS};
use crate::codec::{DecodeError, Reader, put_number};
use crate::projection::{At, ProjectionFault, Rows};

/// How many old requests a new one pushes out at most. More than one, so that a backlog shrinks.
const EVICTIONS_PER_RESERVE: usize = 4;

/// Which requests are kept: how many, and that none was reserved before `since`. It spares each new
/// request the look at the oldest one, and who looks for that the walk over all that are gone.
pub(super) struct Window {
    count: u64,
    since: LogTime,
}

impl Window {
    pub(super) fn load(rows: &Rows<'_, '_>, at: At) -> Result<Self, ProjectionFault> {
        let Some(raw) = rows.get(WINDOW_ROW)? else {
            return Ok(Self { count: 0, since: at.log_time });
        };
        let decode = || -> Result<Self, DecodeError> {
            let mut reader = Reader::new(raw);
            let count = reader.number("request count")?;
            let since = LogTime::new(reader.number("oldest request")?);
            reader.end("request window")?;
            Ok(Self { count, since })
        };
        Ok(decode()?)
    }

    pub(super) fn store(&self, rows: &mut Rows<'_, '_>) -> Result<(), ProjectionFault> {
        let mut out = Vec::with_capacity(16);
        put_number(&mut out, self.count);
        put_number(&mut out, self.since.get());
        rows.put(WINDOW_ROW, out)
    }

    pub(super) fn admit(&mut self, at: At) {
        if self.count == 0 {
            self.since = at.log_time;
        }
        self.count += 1;
    }

    /// Pushes out what is too old, or too much: the oldest first.
    pub(super) fn evict(&mut self, rows: &mut Rows<'_, '_>, at: At) -> Result<(), ProjectionFault> {
        let too_old = |since: LogTime| at.log_time.get().saturating_sub(since.get()) > RETENTION_MS;
        for _ in 0..EVICTIONS_PER_RESERVE {
            if self.count <= REQUESTS_MAX && !too_old(self.since) {
                break;
            }
            let Some((age, _)) = rows.read().first(&ages_from(self.since), Some(AGES_END))? else {
                // Only the request that is being admitted is left, and it is of now.
                self.since = at.log_time;
                break;
            };
            let (since, key) = split_age_row(&age)?;
            self.since = since;
            if self.count <= REQUESTS_MAX && !too_old(since) {
                break;
            }
            rows.remove(&request_row(&key));
            rows.remove(&age);
            self.count -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bytes::Bytes;
    use palisade_replication::{GroupId, Offset};

    use super::*;
    use crate::projection::{Applied, Projection, RowsRead};
    use crate::projections::idempotency::{Fingerprint, Idempotency, RequestOp, find};
    use crate::resource::{FenceEpoch, ResourceId};
    use crate::store::{
        Direction, EachRow, Families, FamilyId, MemoryStore, StateRead, StateStore, StoreError,
        WriteSet,
    };
    use crate::view::View;

    const GROUP: GroupId = GroupId::new(1);

    const STORE: ResourceId = ResourceId(1);

    /// Counts the rows that walks come by.
    struct Counted<'a> {
        store: &'a MemoryStore,
        rows: Cell<usize>,
    }

    impl StateRead for Counted<'_> {
        fn families(&self) -> &Families {
            self.store.families()
        }

        fn get(&self, family: FamilyId, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            self.store.get(family, key)
        }

        fn walk(
            &self,
            family: FamilyId,
            from: &[u8],
            end: &[u8],
            direction: Direction,
            each: &mut EachRow<'_>,
        ) -> Result<(), StoreError> {
            self.store.walk(family, from, end, direction, &mut |key, value| {
                self.rows.set(self.rows.get() + 1);
                each(key, value)
            })
        }
    }

    /// Old requests are pushed out in a time that depends on how many they are, not on its square:
    /// each look at the oldest begins where the last one ended.
    #[test]
    fn old_requests_are_pushed_out_without_walking_over_those_that_are_gone() {
        const COUNT: u64 = 1_000;
        let at = |offset: u64, log_time: u64| At {
            group: GROUP,
            offset: Offset::new(offset),
            log_time: LogTime::new(log_time),
            index: 0,
        };
        let request = |view: &mut View<'_>, at: At| {
            let (owner, fingerprint) = (FenceEpoch::new(1), Fingerprint([0; 32]));
            let key = Bytes::copy_from_slice(&at.offset.get().to_be_bytes());
            let op = RequestOp::Reserve { owner, fingerprint, key };
            let mut rows = Rows::new(view, FamilyId::IDEMPOTENCY, GROUP, STORE);
            let done = Idempotency.apply(at, op, &mut rows).unwrap();
            assert_eq!(done, Applied::Done(()));
            view.keep_record();
        };
        let store = MemoryStore::default();
        let mut view = View::new(&store);
        (1..=COUNT).for_each(|n| request(&mut view, at(n, n)));
        store.commit(view.into_writes()).unwrap();

        let counted = Counted { store: &store, rows: Cell::new(0) };
        let mut view = View::new(&counted);
        let later = COUNT + RETENTION_MS + 1;
        // Each pushes out several.
        (1..=COUNT / 2).for_each(|n| request(&mut view, at(COUNT + n, later)));
        let writes: WriteSet = view.into_writes();
        store.commit(writes).unwrap();
        let known = |n: u64| {
            let rows = RowsRead::new(&store, FamilyId::IDEMPOTENCY, GROUP, STORE);
            find(&rows, &n.to_be_bytes()).unwrap().is_some()
        };
        assert!((1..=COUNT).all(|n| !known(n)) && known(COUNT + 1));
        let rows = counted.rows.get();
        assert!(rows <= 3 * COUNT as usize, "rows={rows}");
    }
}
