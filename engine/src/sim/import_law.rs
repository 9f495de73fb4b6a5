//! The law of imports, tried on operations that an author chooses.

use bytes::Bytes;
use palisade_replication::sim::SimRandom;
use palisade_replication::{GroupId, LogTime, Offset};

use super::conduct::{Misconduct, broken};
use crate::projection::{
    AnyProjection, At, Erased, NewRows, Projection, ProjectionFault, RowWrites, Rows, RowsRead,
    Step, Stop,
};
use crate::resource::ResourceId;
use crate::store::{
    Direction, Families, FamilyId, MemoryStore, StateRead, StateStore, Walk, WriteSet,
};
use crate::stored::Stored;
use crate::view::View;

const GROUP: GroupId = GroupId::new(1);
const TRIED: ResourceId = ResourceId(1);
/// Ways of cutting that are tried.
const RUNS: u64 = 20;
/// Operations of one record, at most.
const OPS_OF_RECORD_MAX: u64 = 3;
/// Of a hundred records, after how many time asks for something.
const TIDIED_PERCENT: u64 = 20;

/// Tries what [`Projection::import`] makes of the rows of an older version, on these operations in this
/// order. `old` and `new` make the two, as an engine that starts does.
///
/// - Each operation of the older version is one of the newer, too.
/// - Each record that the one does the other does as well, and each that the one refuses.
/// - **It makes no difference when rows are imported**: rows of the older version after some records, imported,
///   and the rest of the records done by the newer version, are the rows of the older version after all of
///   them, imported; byte for byte.
///
/// The page of [`Projection::import`] shows a second version that keeps the law. One that leaves its rows behind
/// does not:
///
/// ```
/// use palisade::sim::{Misconduct, check_import};
/// use palisade::*;
/// # mod versions {
/// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/versions.rs"));
/// # }
/// # use versions::First;
/// # use std::convert::Infallible;
/// # struct Forgets;
/// # impl Projection for Forgets {
/// #     const NAME: &'static str = First::NAME;
/// #     const VERSION: u32 = 2;
/// #     type Op = u64;
/// #     type Outcome = u64;
/// #     type Refusal = Infallible;
/// #     type Guard = Infallible;
/// #     fn apply(&self, at: At, add: u64, rows: &mut Rows<'_, '_>)
/// #         -> Result<Applied<u64, Infallible>, ProjectionFault> {
/// #         First.apply(at, add, rows)
/// #     }
/// #     fn import(&self, _: u32, _: &RowsRead<'_>, _: &mut NewRows<'_>)
/// #         -> Result<Imported, ProjectionFault> {
/// #         Ok(Imported::All)
/// #     }
/// # }
///
/// let broken: Misconduct = check_import(|| First, || Forgets, &[1, 2, 3]).unwrap_err();
/// println!("{broken}");
/// ```
///
/// # Errors
/// The first of these that does not hold.
pub fn check_import<O: Projection, N: Projection>(
    old: impl Fn() -> O,
    new: impl Fn() -> N,
    ops: &[O::Op],
) -> Result<(), Misconduct> {
    if O::NAME != N::NAME || N::VERSION <= O::VERSION {
        return broken(format!("{} is superseded by its own newer version only", O::NAME));
    }
    let bodies: Vec<Bytes> = ops.iter().map(Stored::to_bytes).collect();
    for (number, body) in bodies.iter().enumerate() {
        if let Err(error) = N::Op::from_bytes(body) {
            return broken(format!("the newer version cannot read operation {number}: {error}"));
        }
    }
    for run in 0..RUNS {
        let mut random = SimRandom::from_seed(run);
        let records = records(&bodies, &mut random);
        let cut = random.below(records.len() as u64 + 1) as usize;
        let (before, after) = records.split_at(cut);
        let (old, new) = (|| Erased(old()), || Erased(new()));

        let early = Rowset::new(O::NAME);
        early.apply(&old(), before)?;
        let early = early.import(&new(), O::VERSION)?;
        let by_new = early.apply(&new(), after)?;

        let late = Rowset::new(O::NAME);
        late.apply(&old(), before)?;
        let by_old = late.apply(&old(), after)?;
        let late = late.import(&new(), O::VERSION)?;

        if let Some(at) = by_old.iter().zip(&by_new).position(|(old, new)| old != new) {
            let verb = |done| if done { "does" } else { "refuses" };
            return broken(format!(
                "run {run}: the older version {} record {}, and the newer one {} it",
                verb(by_old[at]),
                cut + at,
                verb(by_new[at])
            ));
        }
        let (early, late) = (early.rows(), late.rows());
        if let Some((early, late)) = early.iter().zip(&late).find(|(early, late)| early != late) {
            return broken(format!(
                "run {run}: imported before record {cut}, a row is {early:?}; imported after all, {late:?}"
            ));
        }
        if early.len() != late.len() {
            let (early, late) = (early.len(), late.len());
            return broken(format!(
                "run {run}: imported before record {cut}, there are {early} rows; imported after all, {late}"
            ));
        }
    }
    Ok(())
}

/// Operations that are done together, and whether time asks for something afterwards.
struct Tried {
    offset: Offset,
    ops: Vec<Bytes>,
    is_tidied: bool,
}

fn records(bodies: &[Bytes], random: &mut SimRandom) -> Vec<Tried> {
    let (mut records, mut rest) = (Vec::new(), bodies);
    while !rest.is_empty() {
        let count = (1 + random.below(OPS_OF_RECORD_MAX) as usize).min(rest.len());
        let (ops, later) = rest.split_at(count);
        let offset = Offset::new(2 * records.len() as u64 + 1);
        let is_tidied = random.below(100) < TIDIED_PERCENT;
        records.push(Tried { offset, ops: ops.to_vec(), is_tidied });
        rest = later;
    }
    records
}

fn faulty(fault: ProjectionFault) -> Misconduct {
    Misconduct::new(fault.to_string())
}

/// The rows of one resource.
struct Rowset {
    store: MemoryStore,
    family: FamilyId,
}

type Row = (Vec<u8>, Bytes);

impl Rowset {
    fn new(name: &'static str) -> Self {
        let families = Families::new(&[name]).expect("it is the name of a projection");
        let family = families.find(name.as_bytes()).expect("it has just been made");
        Self { store: MemoryStore::new(families), family }
    }

    /// Applies records, all of each or nothing, and says of each whether it was done.
    fn apply(
        &self,
        projection: &dyn AnyProjection,
        records: &[Tried],
    ) -> Result<Vec<bool>, Misconduct> {
        records.iter().map(|record| self.record(projection, record)).collect()
    }

    fn record(&self, projection: &dyn AnyProjection, record: &Tried) -> Result<bool, Misconduct> {
        let mut view = View::new(&self.store);
        let at = |offset: Offset, index| At {
            group: GROUP,
            offset,
            log_time: LogTime::new(1_000 * offset.get()),
            index,
        };
        let mut done = true;
        for (index, op) in record.ops.iter().enumerate() {
            let mut rows = Rows::new(&mut view, self.family, GROUP, TRIED);
            let step = projection.apply(at(record.offset, index as u16), op.clone(), &mut rows);
            done &= matches!(step.map_err(faulty)?, Step::Done(_));
            if !done {
                break;
            }
        }
        if done {
            view.keep_record();
        } else {
            view.drop_record();
        }
        if record.is_tidied {
            let mut rows = Rows::new(&mut view, self.family, GROUP, TRIED);
            let most = crate::batch_apply::TIDIED_MAX;
            projection.tidy(at(record.offset.next(), 0), &mut rows, most).map_err(faulty)?;
            view.keep_record();
        }
        self.store.commit(view.into_writes()).expect("memory can be written");
        Ok(done)
    }

    /// The rows that a newer version makes of them.
    fn import(&self, newer: &dyn AnyProjection, from: u32) -> Result<Self, Misconduct> {
        let made = Self::new(newer.name());
        let mut commit =
            |writes: RowWrites| made.store.commit(WriteSet::rows(writes)).map_err(Stop::from);
        let old = RowsRead::new(&self.store, self.family, GROUP, TRIED).of_version(from);
        let mut rows = NewRows::new(made.family, GROUP, TRIED, &mut commit);
        let imported = newer.import(from, &old, &mut rows);
        match rows.end(imported) {
            Ok(()) => Ok(made),
            Err(Stop::Unable) => broken(format!("it imports nothing from version {from}")),
            Err(stop) => broken(format!("it cannot import: {stop:?}")),
        }
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut take = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), Bytes::copy_from_slice(value)));
            Walk::Next
        };
        let all = self.store.walk(self.family, &[], &[0xff; 16], Direction::Forward, &mut take);
        all.expect("memory can be read");
        rows
    }
}
