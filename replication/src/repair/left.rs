//! What is left of a damaged log, and what a repair makes of it.

use palisade_wal::{Damage, GroupId, LogIndex, RecoveredGroup, WalError, WalReader, Write};

use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::log_store::term_of_stored;
use crate::register::Register;
use crate::wire::Want;

/// What a repair makes of the log beside fetching: decided once, when it begins.
pub(super) struct Plan {
    pub(super) register: Register,
    pub(super) writes: Vec<Write>,
    pub(super) want: Option<Want>,
}

/// What is left of a log. Nothing below `sound_below` can be older than what was lost.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) found: &'a RecoveredGroup,
    pub(super) sound_below: LogIndex,
    /// The state holds so much in flushed form.
    pub(super) flushed: LogIndex,
}

impl Left<'_> {
    /// Judges it by what the state holds.
    pub(super) fn plan(
        self,
        group: GroupId,
        reader: &WalReader,
        mut register: Register,
        damage: &Damage,
        applied: AppliedPosition,
    ) -> Result<Plan, NodeError> {
        let Left { found, sound_below, flushed } = self;
        let Damage { whole_from, .. } = *damage;
        let stored_term = |index: LogIndex| {
            let read = reader.read(group, index, index.next(), usize::MAX).ok()?;
            term_of_stored(&read.first()?.1)
        };
        let last = found.last;
        let mut writes = Vec::new();
        let based = register.base.index.next() == found.first;
        // What lies below may be older than what was lost, though it is known to be committed by its
        // index: who was a leader before may hold entries that were replaced in what is missing.
        let is_doubtful = whole_from.is_none_or(|whole| register.base.index.next() < whole);
        // What only the log holds stays: the state may lose it with power, and the register a change of
        // the membership.
        let knows_members = applied.members_index <= register.members_index;
        let is_sound = LogIndex::ZERO < sound_below && based && applied.index <= last;
        let is_needed = is_sound && (flushed < applied.index || !knows_members);
        // What the state holds is not needed in the log.
        if register.base.index < applied.index
            && !is_needed
            && (!based || is_doubtful || last < applied.index)
        {
            if !knows_members {
                // With an old membership it would be part of majorities that are none.
                return Err(NodeError::Damaged {
                    what: format!(
                        "group={group} lost a part of its log, and with it perhaps changes of its \
                         membership: replace this replica"
                    ),
                });
            }
            register.base = applied;
            writes.push(if applied.index <= last {
                Write::Trim { group, up_to: applied.index }
            } else {
                Write::Reset { group, up_to: applied.index }
            });
            register.commit = register.commit.max(applied.index);
        } else if found.first <= register.base.index {
            // The mark of the last trim is lost, the register that speaks of it is not.
            let up_to = register.base.index;
            writes.push(if up_to <= last {
                Write::Trim { group, up_to }
            } else {
                Write::Reset { group, up_to }
            });
        } else if !based {
            return Err(NodeError::Damaged {
                what: format!(
                    "the beginning of the log of group={group} is lost: replace this replica"
                ),
            });
        }
        let from = register.base.index.next().max(sound_below);
        let anchor = whole_from.filter(|whole| *whole <= last);
        let want = match anchor {
            Some(anchor) if anchor <= from => None,
            Some(anchor) => {
                let term = stored_term(anchor).ok_or_else(|| NodeError::Damaged {
                    what: format!("entry index={anchor} of group={group} cannot be read"),
                })?;
                // What is of the anchor's term was put there by its leader, and never replaced since:
                // the log that holds the anchor holds it.
                let mut first = from;
                while first < anchor && stored_term(first) == Some(term) {
                    first = first.next();
                }
                (first < anchor).then_some(Want { first, anchor, term })
            }
            None => {
                cut(&mut register, &mut writes, group, (from, last));
                None
            }
        };
        Ok(Plan { register, writes, want })
    }
}

/// What the state or the register knows of entries that the log does not have: it lost its end, in a
/// way that looked like a torn write to the wal. Whatever else was there may be lost with it.
pub(crate) fn lost_its_end(
    found: &RecoveredGroup,
    applied: AppliedPosition,
) -> Option<RecoveredGroup> {
    let register = Register::decode(found.state.as_ref()?).ok()?;
    let committed = register.commit.max(applied.index);
    let lost = found.damage.is_none() && found.last < committed;
    let damage = Damage { state_known: false, holes: Vec::new(), whole_from: None };
    lost.then(|| RecoveredGroup { damage: Some(damage), ..found.clone() })
}

/// True if it says that what was there when the log was opened cannot be read any more.
pub(crate) fn is_unreadable(error: &NodeError) -> bool {
    unreadable(error).is_some()
}

/// The entry that cannot be read, if that is what the error says.
pub(crate) fn unreadable(error: &NodeError) -> Option<LogIndex> {
    match error {
        NodeError::Wal(wal) => match **wal {
            WalError::Corrupt { index, .. } => Some(index),
            _ => None,
        },
        _ => None,
    }
}

/// The damage of a log of which entries cannot be read any more, and the first of them. Nothing was
/// replaced in it since: what lies around them is as it was.
pub(super) fn cannot_be_read(
    found: &RecoveredGroup,
    group: GroupId,
    reader: &WalReader,
) -> Result<(RecoveredGroup, LogIndex), NodeError> {
    let mut holes: Vec<(LogIndex, LogIndex)> = Vec::new();
    let mut index = found.first;
    while index <= found.last {
        match reader.read(group, index, index.next(), usize::MAX) {
            Ok(_) => {}
            Err(WalError::Corrupt { .. }) => match holes.last_mut() {
                Some((_, last)) if last.next() == index => *last = index,
                _ => holes.push((index, index)),
            },
            Err(error) => return Err(error.into()),
        }
        index = index.next();
    }
    // If it can be read again, there is nothing to fetch.
    let whole_from = holes.last().map_or(found.first, |(_, last)| last.next());
    let sound_below = holes.first().map_or(whole_from, |(first, _)| *first);
    let damage = Damage { state_known: true, holes, whole_from: Some(whole_from) };
    Ok((RecoveredGroup { damage: Some(damage), ..found.clone() }, sound_below))
}

/// Everything from here on goes, if there is any, and the replica is on probation.
pub(super) fn cut(
    register: &mut Register,
    writes: &mut Vec<Write>,
    group: GroupId,
    (from, last): (LogIndex, LogIndex),
) {
    let after = LogIndex::new(from.get() - 1).min(last).max(register.base.index);
    if after < last {
        writes.push(Write::Truncate { group, after });
    }
    register.commit = register.commit.min(after);
    register.probation = true;
}
