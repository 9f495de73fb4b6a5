//! Which requests a store keeps: the newest, for a while, and not too many.

use palisade_replication::LogTime;

use super::request::{AGES_END, WINDOW_ROW, ages_from, request_row, split_age_row};
use crate::codec::{DecodeError, Reader, put_number};
use crate::projection::{At, ProjectionFault, Rows, RowsRead};

/// How many old requests a new one pushes out at most. More than one, so that a backlog shrinks.
pub(super) const EVICTIONS_PER_RESERVE: usize = 4;

/// How long an idempotency store knows its requests: so long from their reservation, by log time, and no
/// more than so many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestWindow {
    /// How long a request is known, in milliseconds of log time.
    pub retention_ms: u64,
    /// How many requests are known at most; at least one is.
    pub requests_max: u64,
}

/// A day, and a million requests.
impl Default for RequestWindow {
    fn default() -> Self {
        Self { retention_ms: 24 * 60 * 60 * 1000, requests_max: 1_000_000 }
    }
}

impl RequestWindow {
    pub(super) fn put(self, out: &mut Vec<u8>) {
        put_number(out, self.retention_ms);
        put_number(out, self.requests_max);
    }

    pub(super) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        let retention_ms = reader.number("retention")?;
        Ok(Self { retention_ms, requests_max: reader.number("requests")? })
    }
}

/// Which requests are kept: how many, and that none was reserved before `since`. It spares each new
/// request the look at the oldest one, and who looks for that the walk over all that are gone.
pub(crate) struct Window {
    count: u64,
    since: LogTime,
    /// When the youngest request was reserved that was pushed out.
    pub(crate) floor: LogTime,
    pub(super) keeps: RequestWindow,
}

impl Window {
    pub(crate) fn load(rows: &RowsRead<'_>) -> Result<Self, ProjectionFault> {
        let Some(raw) = rows.get(WINDOW_ROW)? else {
            let (never, keeps) = (LogTime::new(0), RequestWindow::default());
            return Ok(Self { count: 0, since: never, floor: never, keeps });
        };
        let decode = || -> Result<Self, DecodeError> {
            let mut reader = Reader::new(raw);
            let count = reader.number("request count")?;
            let since = LogTime::new(reader.number("oldest request")?);
            let floor = LogTime::new(reader.number("window floor")?);
            let keeps = RequestWindow::take(&mut reader)?;
            reader.end("request window")?;
            Ok(Self { count, since, floor, keeps })
        };
        Ok(decode()?)
    }

    pub(super) fn store(&self, rows: &mut Rows<'_, '_>) -> Result<(), ProjectionFault> {
        let mut out = Vec::with_capacity(16);
        put_number(&mut out, self.count);
        put_number(&mut out, self.since.get());
        put_number(&mut out, self.floor.get());
        self.keeps.put(&mut out);
        rows.put(WINDOW_ROW, out)
    }

    pub(super) fn admit(&mut self, at: At) {
        if self.count == 0 {
            self.since = at.log_time;
        }
        self.count += 1;
    }

    /// From which log time on the oldest request is too old.
    pub(super) fn due(&self, rows: &RowsRead<'_>) -> Result<Option<LogTime>, ProjectionFault> {
        let Some((age, _)) = rows.first(&ages_from(self.since), Some(AGES_END))? else {
            return Ok(None);
        };
        let until = split_age_row(&age)?.0.get().saturating_add(self.keeps.retention_ms);
        Ok(Some(LogTime::new(until.saturating_add(1))))
    }

    /// Pushes out what is too old, or too much: the oldest first, up to so many.
    pub(super) fn evict(
        &mut self,
        rows: &mut Rows<'_, '_>,
        at: At,
        most: usize,
    ) -> Result<(), ProjectionFault> {
        let RequestWindow { retention_ms, requests_max } = self.keeps;
        let requests_max = requests_max.max(1);
        let too_old = |since: LogTime| at.log_time.get().saturating_sub(since.get()) > retention_ms;
        for _ in 0..most {
            if self.count <= requests_max && !too_old(self.since) {
                break;
            }
            let Some((age, _)) = rows.read().first(&ages_from(self.since), Some(AGES_END))? else {
                // Only the request that is being admitted is left, and it is of now.
                self.since = at.log_time;
                break;
            };
            let (since, key) = split_age_row(&age)?;
            self.since = since;
            if self.count <= requests_max && !too_old(since) {
                break;
            }
            rows.remove(&request_row(&key));
            rows.remove(&age);
            self.count -= 1;
            self.floor = since;
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
    use crate::projection::{Applied, Projection};
    use crate::projections::idempotency::{
        Fingerprint, Idempotency, RequestOp, RequestOutcome, find,
    };
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
            let op = RequestOp::Reserve { owner, issued: None, fingerprint, key };
            let mut rows = Rows::new(view, FamilyId::IDEMPOTENCY, GROUP, STORE);
            let done = Idempotency.apply(at, op, &mut rows).unwrap();
            assert_eq!(done, Applied::Done(RequestOutcome::Reserved));
            view.keep_record();
        };
        let store = MemoryStore::default();
        let mut view = View::new(&store);
        (1..=COUNT).for_each(|n| request(&mut view, at(n, n)));
        store.commit(view.into_writes()).unwrap();

        let counted = Counted { store: &store, rows: Cell::new(0) };
        let mut view = View::new(&counted);
        let later = COUNT + RequestWindow::default().retention_ms + 1;
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
