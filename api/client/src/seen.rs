//! What a client has written and read, of each group.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use palisade_proto::common::v1::{Receipt, Reflected};
use tonic::metadata::{MetadataMap, MetadataValue};

const FRESHNESS: &str = "palisade-freshness-bin";

/// For each group, the newest offset and its token.
#[derive(Default)]
pub(crate) struct Seen(Mutex<BTreeMap<u64, (u64, Bytes)>>);

impl Seen {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (u64, Bytes)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, group: u64, offset: u64, token: &Bytes) {
        let mut seen = self.lock();
        let newest = seen.entry(group).or_default();
        if newest.0 < offset {
            *newest = (offset, token.clone());
        }
    }

    pub(crate) fn note_receipt(&self, receipt: &Receipt) {
        self.note(receipt.group, receipt.offset, &receipt.freshness);
    }

    pub(crate) fn note_reflected(&self, reflected: &Reflected) {
        self.note(reflected.group, reflected.offset, &reflected.freshness);
    }

    /// Says it of a call.
    pub(crate) fn tell(&self, metadata: &mut MetadataMap) {
        for (_, token) in self.lock().values() {
            metadata.append_bin(FRESHNESS, MetadataValue::from_bytes(token));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F1: what was seen never becomes less.
    #[test]
    fn the_newest_of_each_group_is_told() {
        let seen = Seen::default();
        let token = |text: &'static str| Bytes::from_static(text.as_bytes());
        seen.note(1, 5, &token("5"));
        seen.note(1, 3, &token("3"));
        seen.note(2, 1, &token("1"));
        let mut metadata = MetadataMap::new();
        seen.tell(&mut metadata);
        let told = metadata.get_all_bin(FRESHNESS).iter();
        let told: Vec<_> = told.map(|token| token.to_bytes().unwrap()).collect();
        assert_eq!(told, [token("5"), token("1")]);
    }
}
