//! Whether the history of a register is linearizable (G5): whether there is one order of its
//! operations that agrees with what everybody was told, in which each operation takes effect between
//! its question and its answer.
//!
//! The search is that of Wing and Gong (1993), with Lowe's memory of the places it has been at
//! (2017): the same operations done and the same value left need not be tried twice. It knows
//! nothing of offsets, so a mistake in them cannot hide one here.

#![expect(clippy::disallowed_types, reason = "the places that were seen are never iterated")]

use std::collections::HashSet;

/// What a register holds. Every write of a history has a value of its own; 0 is nothing.
pub type Value = u64;

/// The most operations that one history may have.
pub const OPS_MAX: usize = 128;
/// Places that are looked at before a history is given up as undecided.
const PLACES_MAX: usize = 1 << 20;

/// What was done to a register, and what its answer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was set.
    Write(Value),
    /// It was set if it held what was expected; with what the answer said, if there was one.
    Swap {
        /// What it was expected to hold.
        expected: Value,
        /// What it was to hold then.
        to: Value,
        /// Whether it was set.
        took: bool,
    },
    /// It held this.
    Read(Value),
}

/// An operation of a history.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// What was done.
    pub action: Action,
    /// When it was asked for, by a clock that counts questions and answers.
    pub asked: u64,
    /// When it was answered, by the same clock. Without an answer it may have had its effect at any
    /// time since, or none at all.
    pub answered: Option<u64>,
}

/// What the search has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Not,
    /// The search was given up.
    Undecided,
}

/// Looks for an order of a register's operations that explains all answers. It held nothing first.
///
/// # Panics
/// With more than [`OPS_MAX`] operations.
#[must_use]
pub fn check(history: &[Op]) -> Verdict {
    assert!(history.len() <= OPS_MAX, "a history has at most {OPS_MAX} operations");
    // A read without an answer says nothing.
    let ops: Vec<Op> = history
        .iter()
        .filter(|op| op.answered.is_some() || !matches!(op.action, Action::Read(_)))
        .copied()
        .collect();
    let answered = (0..ops.len()).filter(|at| ops[*at].answered.is_some());
    let all = answered.fold(0_u128, |all, at| all | 1 << at);
    let mut seen = HashSet::new();
    let mut open = vec![(0_u128, 0)];
    while let Some((done, value)) = open.pop() {
        if done & all == all {
            return Verdict::Linearizable;
        }
        if !seen.insert((done, value)) {
            continue;
        }
        if seen.len() > PLACES_MAX {
            return Verdict::Undecided;
        }
        let left = || (0..ops.len()).filter(|at| done >> at & 1 == 0);
        // Whatever was answered before another was asked for comes first.
        let end = left().filter_map(|at| ops[at].answered).min().unwrap_or(u64::MAX);
        for at in left().filter(|at| ops[*at].asked < end) {
            if let Some(value) = after(&ops[at], value) {
                open.push((done | 1 << at, value));
            }
        }
    }
    Verdict::Not
}

/// What the register holds after the operation, if its answer is what it would say now.
fn after(op: &Op, value: Value) -> Option<Value> {
    match op.action {
        Action::Write(to) => Some(to),
        Action::Read(read) => (read == value).then_some(value),
        Action::Swap { expected, to, took } => match (op.answered.is_some(), expected == value) {
            (true, fits) if fits != took => None,
            (_, true) => Some(to),
            // Nobody was told: it is as if it had not been asked for.
            (false, false) => None,
            (true, false) => Some(value),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn op(action: Action, asked: u64, answered: u64) -> Op {
        Op { action, asked, answered: Some(answered) }
    }

    fn unknown(action: Action, asked: u64) -> Op {
        Op { action, asked, answered: None }
    }

    fn swap(expected: Value, to: Value, took: bool) -> Action {
        Action::Swap { expected, to, took }
    }

    #[test]
    fn a_read_after_a_write_sees_it() {
        let write = op(Action::Write(1), 1, 2);
        assert_eq!(check(&[write, op(Action::Read(1), 3, 4)]), Verdict::Linearizable);
        assert_eq!(check(&[write, op(Action::Read(0), 3, 4)]), Verdict::Not);
    }

    #[test]
    fn a_read_beside_a_write_sees_either() {
        let write = op(Action::Write(1), 1, 4);
        for seen in [0, 1] {
            assert_eq!(check(&[write, op(Action::Read(seen), 2, 3)]), Verdict::Linearizable);
        }
        assert_eq!(check(&[write, op(Action::Read(2), 2, 3)]), Verdict::Not);
    }

    #[test]
    fn two_reads_never_see_the_past() {
        let write = op(Action::Write(1), 1, 9);
        let reads =
            |first, second| [write, op(Action::Read(first), 2, 3), op(Action::Read(second), 4, 5)];
        assert_eq!(check(&reads(0, 1)), Verdict::Linearizable);
        assert_eq!(check(&reads(1, 0)), Verdict::Not);
    }

    #[test]
    fn a_write_without_an_answer_may_come_late_or_never() {
        let write = unknown(Action::Write(1), 1);
        let read = |seen, asked| op(Action::Read(seen), asked, asked + 1);
        assert_eq!(check(&[write, read(0, 2), read(0, 4)]), Verdict::Linearizable);
        assert_eq!(check(&[write, read(0, 2), read(1, 4)]), Verdict::Linearizable);
        assert_eq!(check(&[write, read(1, 2), read(0, 4)]), Verdict::Not);
    }

    #[test]
    fn of_two_swaps_from_one_value_one_takes_effect() {
        let both = |first, second| [op(swap(0, 1, first), 1, 4), op(swap(0, 2, second), 2, 3)];
        assert_eq!(check(&both(true, false)), Verdict::Linearizable);
        assert_eq!(check(&both(true, true)), Verdict::Not);
        assert_eq!(check(&both(false, false)), Verdict::Not);
    }

    #[test]
    fn a_refused_swap_needs_a_reason() {
        let refused = op(swap(0, 2, false), 3, 4);
        assert_eq!(check(&[refused]), Verdict::Not);
        assert_eq!(check(&[unknown(Action::Write(1), 1), refused]), Verdict::Linearizable);
        assert_eq!(check(&[unknown(swap(7, 1, false), 1), refused]), Verdict::Not);
    }

    #[test]
    fn what_is_too_long_a_search_is_said() {
        // Nothing explains the last read, and every subset of the writes is a place.
        let mut history: Vec<Op> = (1..60).map(|to| unknown(Action::Write(to), to)).collect();
        history.push(op(Action::Read(99), 100, 101));
        assert_eq!(check(&history), Verdict::Undecided);
    }

    proptest! {
        /// Whatever a real register said is linearizable; a read that is told something else, which
        /// only an earlier moment could have said, is not.
        #[test]
        fn a_real_register_passes_and_a_changed_answer_does_not(
            steps in prop::collection::vec((0_u8..3, 0_u64..4, 0_u64..6, prop::bool::weighted(0.1)), 1..40),
        ) {
            let mut held = 0;
            let mut history = Vec::new();
            for (number, (kind, back, length, lost)) in steps.into_iter().enumerate() {
                // It takes effect at `now`; the question came a little before, the answer after.
                let now = 100 + 10 * number as u64;
                let value = number as u64 + 1;
                let action = match kind {
                    0 => Action::Write(value),
                    1 => swap(if back < 3 { held } else { value + 1000 }, value, back < 3),
                    _ => Action::Read(held),
                };
                if let Some(left) = after(&op(action, 0, 1), held) {
                    held = left;
                }
                let answered = (!lost).then_some(now + length * 7 + 1);
                history.push(Op { action, asked: now - back * 7 - 1, answered });
            }
            prop_assert_eq!(check(&history), Verdict::Linearizable);
            let end = history.len() as u64 * 10 + 1000;
            history.push(op(Action::Read(held + 5000), end, end + 1));
            prop_assert_eq!(check(&history), Verdict::Not);
        }
    }
}
