//! Histories of registers: keys of a map that clients set, swap and read with no regard for each
//! other.

use std::collections::BTreeMap;

use palisade::sim::SimRandom;

use crate::linear::{Action, OPS_MAX, Op, Value, Verdict, check};

/// Registers in use at a time, in each group.
const REGISTERS: u64 = 3;
/// Operations without an answer make the search long: a register with so many is left for another.
const UNKNOWN_MAX: usize = 8;

/// A register by its number.
pub(super) type Register = u64;

/// The registers of one group.
#[derive(Debug, Default)]
pub(super) struct Registers {
    histories: BTreeMap<Register, Vec<Op>>,
    /// Which register stands at each place now.
    now: BTreeMap<u64, Register>,
    next: Register,
}

/// An operation that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) register: Register,
    at: usize,
}

impl Registers {
    pub(super) fn key(register: Register) -> Vec<u8> {
        format!("register {register}").into_bytes()
    }

    /// One that still takes operations.
    pub(super) fn pick(&mut self, random: &mut SimRandom) -> Register {
        let place = random.below(REGISTERS);
        let next = self.next;
        let register = *self.now.entry(place).or_insert(next);
        let history = self.histories.entry(register).or_default();
        let unknown = history.iter().filter(|op| op.answered.is_none()).count();
        if register == next {
            self.next += 1;
        }
        // Operations on their way are without an answer too; each may stay so.
        if history.len() < OPS_MAX && unknown < UNKNOWN_MAX {
            return register;
        }
        self.now.insert(place, self.next);
        self.histories.insert(self.next, Vec::new());
        self.next += 1;
        self.next - 1
    }

    pub(super) fn ask(&mut self, register: Register, action: Action, clock: u64) -> Asked {
        let history = self.histories.entry(register).or_default();
        history.push(Op { action, asked: clock, answered: None });
        Asked { register, at: history.len() - 1 }
    }

    pub(super) fn action(&self, asked: Asked) -> Action {
        self.histories[&asked.register][asked.at].action
    }

    /// It was answered, so.
    pub(super) fn answer(&mut self, asked: Asked, action: Action, clock: u64) {
        let history = self.histories.get_mut(&asked.register).expect("it was asked");
        let op = &mut history[asked.at];
        (op.action, op.answered) = (action, Some(clock));
    }

    /// It had no effect and said nothing about the register.
    pub(super) fn retract(&mut self, asked: Asked) {
        let history = self.histories.get_mut(&asked.register).expect("it was asked");
        // The places of others stay: a read without an answer counts for nothing.
        history[asked.at].action = Action::Read(0);
    }

    /// What a map's row says of a register's value.
    pub(super) fn value(row: Option<&[u8]>) -> Value {
        let Some(row) = row else { return 0 };
        let text = String::from_utf8_lossy(row);
        let number = text.split(' ').nth(1).and_then(|raw| raw.parse().ok());
        number.unwrap_or_else(|| panic!("G10: a register holds {text:?}, which nobody wrote"))
    }

    /// How many operations were answered, and how many histories the search gave up on.
    pub(super) fn check(&self, group: u64) -> (usize, usize) {
        let (mut answered, mut undecided) = (0, 0);
        for (register, history) in &self.histories {
            answered += history.iter().filter(|op| op.answered.is_some()).count();
            match check(history) {
                Verdict::Linearizable => {}
                Verdict::Undecided => undecided += 1,
                Verdict::Not => {
                    panic!(
                        "G5: group={group} register={register} is not linearizable: {history:#?}"
                    )
                }
            }
        }
        (answered, undecided)
    }
}
