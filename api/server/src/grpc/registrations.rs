//! How many clients one caller registers: a group keeps so many of them, and forgets those first that were used
//! longest ago, whoever registered them. Who could register without end would push out those of everybody.
//!
//! A caller has so many registrations in a group at once, and gets them back over an hour, one after the other.
//! That is counted by each node for itself and is in no log: a caller of all nodes has as many times that.

use std::collections::BTreeMap;
use std::time::Duration;

use palisade::GroupId;
use tokio::time::Instant;

/// Registrations of a caller in a group at once, and in an hour.
pub(super) const AT_ONCE: u32 = 1_024;
/// One is there again after this.
const ONE_EVERY: Duration = Duration::from_millis(3_600_000 / AT_ONCE as u64);
/// Callers and groups that are counted. With more of them there is no room for another for as long as none has all
/// of its registrations again.
const COUNTED_MAX: usize = 4_096;

/// Registrations of each caller in each group.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    /// When all of them are there again. Who is not counted has them all.
    full_at: BTreeMap<(String, GroupId), Instant>,
}

impl Registrations {
    /// Takes one, or says how long it is until there is one.
    pub(super) fn take(
        &mut self,
        principal: &str,
        group: GroupId,
        now: Instant,
    ) -> Result<(), Duration> {
        let of = (principal.to_owned(), group);
        if self.full_at.len() >= COUNTED_MAX && !self.full_at.contains_key(&of) {
            self.full_at.retain(|_, full_at| now < *full_at);
            if let (true, Some(first)) =
                (self.full_at.len() >= COUNTED_MAX, self.full_at.values().min())
            {
                return Err(*first - now);
            }
        }
        let full_at = self.full_at.get(&of).map_or(now, |full_at| (*full_at).max(now)) + ONE_EVERY;
        let empty = now + ONE_EVERY * AT_ONCE;
        if empty < full_at {
            return Err(full_at - empty);
        }
        self.full_at.insert(of, full_at);
        Ok(())
    }

    /// Gives one back that came to nothing.
    pub(super) fn give_back(&mut self, principal: &str, group: GroupId) {
        if let Some(full_at) = self.full_at.get_mut(&(principal.to_owned(), group)) {
            *full_at -= ONE_EVERY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: GroupId = GroupId::new(1);

    /// G12: so many at once, then one at a time; others, and other groups, have their own.
    #[test]
    fn a_caller_has_so_many_and_gets_them_back() {
        let mut counted = Registrations::default();
        let now = Instant::now();
        for _ in 0..AT_ONCE {
            counted.take("mallory", ONE, now).unwrap();
        }
        assert_eq!(counted.take("mallory", ONE, now), Err(ONE_EVERY));
        counted.take("mallory", GroupId::new(2), now).unwrap();
        counted.take("reports", ONE, now).unwrap();
        let soon = now + ONE_EVERY / 2;
        assert_eq!(counted.take("mallory", ONE, soon), Err(ONE_EVERY / 2));
        let later = now + ONE_EVERY;
        counted.take("mallory", ONE, later).unwrap();
        counted.take("mallory", ONE, later).unwrap_err();
        counted.give_back("mallory", ONE);
        counted.take("mallory", ONE, later).unwrap();
        let next_day = now + Duration::from_secs(24 * 3600);
        let had = (0..).take_while(|_| counted.take("mallory", ONE, next_day).is_ok()).count();
        assert_eq!(had, AT_ONCE as usize, "what was not used is not saved up");
    }

    /// G12: what is counted is bounded, too, and nobody is counted anew for it.
    #[test]
    fn so_many_are_counted() {
        let mut counted = Registrations::default();
        let now = Instant::now();
        for number in 0..COUNTED_MAX {
            counted.take(&number.to_string(), ONE, now).unwrap();
        }
        assert_eq!(counted.take("one more", ONE, now), Err(ONE_EVERY));
        counted.take("7", ONE, now).unwrap();
        counted.take("one more", ONE, now + ONE_EVERY).unwrap();
        assert_eq!(counted.full_at.len(), 2, "those that have all of theirs are not counted");
    }
}
