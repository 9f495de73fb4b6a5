//! The changes of a map, in their order, with what each key was before.

use palisade_replication::{LogTime, Offset};

use super::history::{Header, before};
use super::read::{BelowFloor, Found, When, visible};
use super::row::{CHANGE, Change, FEED_END, Version};
use crate::bounds::BATCH_OPS_MAX;
use crate::projection::{ProjectionFault, RowsRead};
use crate::projections::place::Place;
use crate::store::{Direction, Walk};

/// Most bytes of keys and values of a page of changes, but for its first record.
const FEED_BYTES_MAX: usize = 256 << 10;
/// Most changes of a page, but for its last record's.
const FEED_ROWS_MAX: usize = 4 * BATCH_OPS_MAX;

/// One key that a record has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) key: Vec<u8>,
    /// Nothing: it was removed.
    pub(crate) now: Option<Found>,
    /// Nothing: it was not there.
    pub(crate) before: Option<Found>,
    /// It was removed because its time was over.
    pub(crate) ended: bool,
}

/// Everything that one record has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangedAt {
    pub(crate) offset: Offset,
    pub(crate) log_time: LogTime,
    pub(crate) changes: Vec<Changed>,
}

/// Changes behind an offset, whole records only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FeedPage {
    pub(crate) records: Vec<ChangedAt>,
    /// Up to where the page tells everything there is, if it was ended by its bounds.
    pub(crate) next: Option<Offset>,
}

/// The changes behind `from`, of one moment's state: also the floor is of that moment, so none is missing.
pub(crate) fn changes(
    rows: &RowsRead<'_>,
    from: Offset,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Result<FeedPage, BelowFloor>, ProjectionFault> {
    let floor = Header::load(rows)?.floor;
    if from < floor {
        return Ok(Err(BelowFloor(floor)));
    }
    let offset = Offset::new(from.get().saturating_add(1));
    let first = Place { offset, index: 0 };
    let mut places = Vec::new();
    let mut broken = Ok(());
    let mut is_full = false;
    rows.walk(&first.row(CHANGE), Some(FEED_END), Direction::Forward, &mut |row, raw| {
        match (Place::of_row(CHANGE, row), Change::decode(raw)) {
            (Ok(place), Ok(change)) => {
                let last = places.last().map(|(place, _): &(Place, Change)| place.offset);
                is_full = places.len() >= FEED_ROWS_MAX && last != Some(place.offset);
                if is_full {
                    return Walk::Stop;
                }
                places.push((place, change));
                return Walk::Next;
            }
            (Err(fault), _) => broken = Err(fault),
            (_, Err(error)) => broken = Err(error.into()),
        }
        Walk::Stop
    })?;
    broken?;
    let mut page = FeedPage { records: Vec::new(), next: None };
    let (mut bytes, mut told) = (0, from);
    for (place, change) in places {
        if place.offset != told {
            if bytes >= FEED_BYTES_MAX {
                page.next = Some(told);
                return Ok(Ok(page));
            }
            told = place.offset;
        }
        if !wanted(&change.key) {
            continue;
        }
        let changed = changed(rows, place.offset, &change)?;
        let value = |found: &Option<Found>| found.as_ref().map_or(0, |found| found.value.len());
        bytes += changed.key.len() + value(&changed.now) + value(&changed.before);
        match page.records.last_mut() {
            Some(last) if last.offset == place.offset => last.changes.push(changed),
            _ => page.records.push(ChangedAt {
                offset: place.offset,
                log_time: change.log_time,
                changes: vec![changed],
            }),
        }
    }
    page.next = is_full.then_some(told);
    Ok(Ok(page))
}

fn changed(
    rows: &RowsRead<'_>,
    offset: Offset,
    change: &Change,
) -> Result<Changed, ProjectionFault> {
    let version = Version(offset);
    let found = |version, held: super::row::Held| {
        Some(Found { value: held.value?, version, ends_at: held.ends_at })
    };
    let now = visible(rows, &change.key, When::At(offset))?;
    let Some((at, now)) = now.filter(|(at, _)| *at == version) else {
        return Err(ProjectionFault::new(format!("the change at {offset} has no version")));
    };
    let before = before(rows, &change.key, version)?;
    Ok(Changed {
        key: change.key.to_vec(),
        now: found(at, now),
        before: before.and_then(|(version, held)| found(version, held)),
        ended: change.ended,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use palisade_replication::GroupId;

    use super::*;
    use crate::projection::{Applied, At, Projection, Rows};
    use crate::projections::map::{Map, MapOp};
    use crate::resource::ResourceId;
    use crate::store::{FamilyId, MemoryStore};
    use crate::view::View;

    const GROUP: GroupId = GroupId::new(1);
    const MAP: ResourceId = ResourceId(1);

    /// Of a page: each record and how many changes it has, and where it goes on.
    type Told = (Vec<(u64, usize)>, Option<u64>);

    /// Puts so many keys at each of so many offsets, and reads all pages: records and where each page ends.
    fn pages(records: u64, keys: u16, value_bytes: usize) -> Vec<Told> {
        let store = MemoryStore::default();
        let mut view = View::new(&store);
        for offset in 1..=records {
            for index in 0..keys {
                let (offset, log_time) = (Offset::new(offset), LogTime::new(offset));
                let at = At { group: GROUP, offset, log_time, index };
                let value = vec![0; value_bytes].into();
                let key = Bytes::copy_from_slice(&index.to_be_bytes());
                let put = MapOp::Put { guard: None, ttl_ms: None, key, value };
                let mut rows = Rows::new(&mut view, FamilyId::MAP, GROUP, MAP);
                assert!(matches!(Map.apply(at, put, &mut rows).unwrap(), Applied::Done(_)));
            }
        }
        let rows = RowsRead::new(&view, FamilyId::MAP, GROUP, MAP);
        let (mut pages, mut from) = (Vec::new(), Some(Offset::ZERO));
        while let Some(behind) = from {
            let page = changes(&rows, behind, |_| true).unwrap().unwrap();
            let told = page.records.iter().map(|r| (r.offset.get(), r.changes.len())).collect();
            from = page.next;
            pages.push((told, from.map(Offset::get)));
        }
        pages
    }

    /// G12: a page ends at its bounds, and never within a record.
    #[test]
    fn a_page_holds_whole_records_up_to_its_bounds() {
        let half = FEED_BYTES_MAX / 2;
        // The first has one value, those behind it the one before as well.
        let found = pages(4, 1, half);
        let wanted =
            [(vec![(1, 1), (2, 1)], Some(2)), (vec![(3, 1)], Some(3)), (vec![(4, 1)], None)];
        assert_eq!(found, wanted);
        assert_eq!(
            pages(1, 3, FEED_BYTES_MAX),
            [(vec![(1, 3)], None)],
            "one is told whatever it is"
        );

        let most = BATCH_OPS_MAX as u16;
        let all = |from: u64, to: u64| (from..=to).map(|n| (n, BATCH_OPS_MAX)).collect::<Vec<_>>();
        assert_eq!(pages(5, most, 0), [(all(1, 4), Some(4)), (all(5, 5), None)]);
        assert_eq!(pages(4, most, 0), [(all(1, 4), None)]);
        let odd = |from: u64, to: u64| (from..=to).map(|n| (n, 250)).collect::<Vec<_>>();
        assert_eq!(pages(6, 250, 0), [(odd(1, 5), Some(5)), (odd(6, 6), None)], "the fifth whole");
    }
}
