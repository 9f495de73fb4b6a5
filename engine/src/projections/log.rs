//! Log: payloads by offset.

use bytes::Bytes;

use super::{At, Step};
use crate::keys;
use crate::resource::ResourceId;
use crate::store::{Family, StoreError};
use crate::view::View;

/// A record holds at most one payload of a log: the offset is its place.
pub(crate) fn append(
    view: &mut View<'_>,
    at: At,
    resource: ResourceId,
    payload: Bytes,
) -> Result<Step, StoreError> {
    view.put(Family::Log, keys::log(at.group, resource, at.offset), payload);
    Ok(Step::Done)
}
