//! Looks at rows again, whether they are what was written: a span at a time, all of them in turn.
//!
//! What lies on a disk for long may be another thing than what was laid there, and nobody compares what
//! nobody reads. A span is read in one moment with its sum, so rows that are being changed are no matter.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palisade_replication::GroupId;

use super::latch::Latch;
use super::spans::{Fault, Looked, look, next_summed};
use super::table::range_text;
use crate::error::Error;
use crate::group::Group;
use crate::read::ReadConsistency;
use crate::resource::ResourceId;
use crate::resource_row;
use crate::store::{FamilyId, StateRead, StoreError};

/// Bytes that are looked at in a second if nothing else is said.
pub(crate) const SCRUB_BYTES_PER_SECOND: u64 = 4 << 20;
/// From the beginning of one pass over everything to the next: less often would be no harm, more often only
/// load.
const PASS_EVERY: Duration = Duration::from_secs(60);

/// Faults that are listed of one group.
#[cfg(feature = "rocksdb")]
const FAULTS_MAX: usize = 100;

/// How far a node has looked; clones share it.
#[derive(Clone)]
pub(crate) struct Scrub {
    bytes_per_second: u64,
    passes: Arc<Mutex<BTreeMap<GroupId, Pass>>>,
}

/// One pass over the rows of a group.
#[derive(Clone, Default)]
struct Pass {
    /// When the next one may begin.
    next: Duration,
    /// What is to be looked at next, if a pass is under way.
    at: Option<Place>,
}

/// A family, and a key without its group: where a span begins, or the family does.
type Place = (FamilyId, Vec<u8>);

impl Scrub {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, passes: Arc::default() }
    }

    fn passes(&self) -> MutexGuard<'_, BTreeMap<GroupId, Pass>> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at as much of a group as its part of a second is for. What is found to be wrong halts the group.
///
/// # Errors
/// As any read; what was not looked at is looked at in a later round.
pub(super) async fn round(group: &Group) -> Result<(), Error> {
    let (scrub, backend) = (group.engine.scrub(), group.engine.backend());
    let bytes_max = scrub.bytes_per_second / group.engine.groups().len().max(1) as u64;
    let mut pass = scrub.passes().get(&group.id()).cloned().unwrap_or_default();
    let (mut bytes, now) = (0, backend.now());
    if pass.at.is_none() {
        if now < pass.next {
            return Ok(());
        }
        pass.next = now + PASS_EVERY;
    }
    while bytes <= bytes_max {
        let at = pass.at.take();
        let step = move |read: &dyn StateRead, group| Ok(step(read, group, at)?);
        let stepped = group.read(ReadConsistency::Local.into(), step).await?.value;
        if let Some(fault) = stepped.fault {
            return backend.halt(group.id(), fault).await;
        }
        bytes += stepped.bytes;
        pass.at = stepped.next;
        if pass.at.is_none() {
            break;
        }
    }
    scrub.passes().insert(group.id(), pass);
    Ok(())
}

/// Looks at all rows of a group in one go. Says how many bytes they are, and what is wrong with them, of the
/// first places that are.
#[cfg(feature = "rocksdb")]
pub(crate) fn look_at_all(
    read: &dyn StateRead,
    group: GroupId,
) -> Result<(u64, Vec<String>), StoreError> {
    let (mut bytes, mut faults, mut at) = (0, Vec::new(), None);
    loop {
        let stepped = step(read, group, at)?;
        bytes += stepped.bytes;
        faults.extend(stepped.fault.map(|fault| fault.cause()));
        at = stepped.next;
        if at.is_none() || FAULTS_MAX <= faults.len() {
            return Ok((bytes, faults));
        }
    }
}

struct Stepped {
    bytes: u64,
    fault: Option<Latch>,
    next: Option<Place>,
}

/// Looks at one span.
fn step(read: &dyn StateRead, group: GroupId, at: Option<Place>) -> Result<Stepped, StoreError> {
    let family = |after| next_summed(read, group, after).map(|family| (family, Vec::new()));
    let Some((of, from)) = at.or_else(|| family(None)) else {
        return Ok(Stepped { bytes: 0, fault: None, next: None });
    };
    let Looked { end, bytes, fault } = look(read, group, of, &from);
    let fault = fault.map(|fault| {
        let (projection, range) = (read.families().name(of), range_text(&from, end.as_deref()));
        let id = from.first_chunk::<4>().filter(|_| of.is_of_resources());
        let id = id.map(|raw| ResourceId(u32::from_be_bytes(*raw)));
        let resource = id.and_then(|id| resource_row::stored(read, group, id).ok()?);
        let resource = resource.map_or("?".to_owned(), |found| found.spec.name.to_string());
        let damaged =
            format!("the state is damaged, projection={projection} resource={resource} {range}");
        match fault {
            Fault::Others => Latch::Wrong(format!("{damaged}: its rows are not what was written")),
            Fault::Unreadable(error) => {
                Latch::Unreadable(format!("{damaged}: it cannot be read, {error}"))
            }
        }
    });
    let next = end.map(|end| (of, end)).or_else(|| family(Some(of)));
    Ok(Stepped { bytes, fault, next })
}
