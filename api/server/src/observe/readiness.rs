//! Whether a node is ready: what is seen of its groups, judged by rules that know no clock and no engine.
//!
//! ```text
//! starting --> catching_up --> ready <--> degraded
//!     |             |            |           |
//!     +-------------+--- halted -+-----------+      by one group of it, until that is rebuilt
//!     any of them --> stopping                      and never back
//! ```

use palisade::{Error, GroupId, Role};

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// What is on disk is read.
    Opening,
    /// It serves.
    Open,
    /// It was told to stop.
    Stopping,
}

/// How a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// It has not been ready yet, and waits for a leader, or for its own disk.
    #[default]
    Starting,
    /// It lacks what others have.
    CatchingUp,
    /// Every group takes writes here.
    Ready,
    /// It was ready, and a group takes no writes now.
    Degraded,
    /// A group has stopped here, and stays so until somebody acts.
    Halted,
    /// It ends.
    Stopping,
}

impl State {
    pub(crate) const ALL: [Self; 6] = [
        Self::Starting,
        Self::CatchingUp,
        Self::Ready,
        Self::Degraded,
        Self::Halted,
        Self::Stopping,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::CatchingUp => "catching_up",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Halted => "halted",
            Self::Stopping => "stopping",
        }
    }
}

/// What is seen of a group.
#[derive(Clone, Debug)]
pub(crate) struct GroupSeen {
    pub(crate) group: GroupId,
    /// None if it could not say.
    pub(crate) role: Option<Role>,
    /// Why it has stopped here, if it has.
    pub(crate) halted: Option<String>,
    /// Records that are committed and not applied here yet.
    pub(crate) records_behind: u64,
    /// What became of the last write that tried it; none if none has.
    pub(crate) writes: Option<Result<(), Error>>,
}

/// How a group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupReadiness {
    pub(crate) group: GroupId,
    /// [`State::Ready`], [`State::CatchingUp`], [`State::Degraded`] or [`State::Halted`].
    pub(crate) state: State,
    /// Why it is not ready.
    pub(crate) reason: Option<String>,
}

/// How a node is, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) state: State,
    pub(crate) groups: Vec<GroupReadiness>,
}

/// Remembers whether the node was ready before.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    state: State,
    was_ready: bool,
}

impl Machine {
    pub(crate) fn step(&mut self, phase: Phase, groups: Vec<GroupSeen>) -> Readiness {
        let groups: Vec<GroupReadiness> = groups.into_iter().map(judge).collect();
        let any = |state| groups.iter().any(|group| group.state == state);
        self.state = match phase {
            _ if self.state == State::Stopping => State::Stopping,
            Phase::Stopping => State::Stopping,
            Phase::Opening => State::Starting,
            Phase::Open if any(State::Halted) => State::Halted,
            Phase::Open if any(State::CatchingUp) => State::CatchingUp,
            Phase::Open if !groups.is_empty() && !any(State::Degraded) => State::Ready,
            Phase::Open if self.was_ready => State::Degraded,
            Phase::Open => State::Starting,
        };
        self.was_ready |= self.state == State::Ready;
        Readiness { state: self.state, groups }
    }
}

fn judge(seen: GroupSeen) -> GroupReadiness {
    let GroupSeen { group, role, halted, records_behind, writes } = seen;
    let is = |state, reason: Option<String>| GroupReadiness { group, state, reason };
    if let Some(cause) = halted {
        return is(State::Halted, Some(cause));
    }
    match (role, writes) {
        (Some(Role::Halted), _) => is(State::Halted, Some("it has stopped here".to_owned())),
        (Some(Role::Repairing), _) => {
            let reason = "its log is damaged here, and is filled again from the other nodes";
            is(State::CatchingUp, Some(reason.to_owned()))
        }
        (Some(Role::Outsider), _) => {
            let reason = "those who are members have not added this node yet";
            is(State::CatchingUp, Some(reason.to_owned()))
        }
        (_, Some(Ok(()))) => is(State::Ready, None),
        (_, Some(Err(_))) if records_behind > 0 => {
            let reason =
                format!("records_behind={records_behind} are committed, and applied later");
            is(State::CatchingUp, Some(reason))
        }
        (_, Some(Err(error))) => is(State::Degraded, Some(error.to_string())),
        (_, None) => is(State::Degraded, Some("no write has tried it yet".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u64, writes: Option<Result<(), Error>>) -> GroupSeen {
        let (role, halted) = (Some(Role::Follower), None);
        GroupSeen { group: GroupId::new(number), role, halted, records_behind: 0, writes }
    }

    fn well() -> GroupSeen {
        group(1, Some(Ok(())))
    }

    fn cut_off() -> GroupSeen {
        group(1, Some(Err(Error::Disconnected { outcome_unknown: true })))
    }

    fn states(machine: &mut Machine, steps: &[(Phase, Vec<GroupSeen>)]) -> Vec<State> {
        steps.iter().map(|(phase, groups)| machine.step(*phase, groups.clone()).state).collect()
    }

    #[test]
    fn a_node_is_degraded_only_after_it_was_ready() {
        let mut machine = Machine::default();
        let steps = [
            (Phase::Opening, vec![]),
            (Phase::Open, vec![cut_off()]),
            (Phase::Open, vec![well()]),
            (Phase::Open, vec![well(), cut_off()]),
            (Phase::Open, vec![well()]),
        ];
        let expected =
            [State::Starting, State::Starting, State::Ready, State::Degraded, State::Ready];
        assert_eq!(states(&mut machine, &steps), expected);
    }

    #[test]
    fn the_gravest_of_its_groups_counts() {
        let halted = GroupSeen { halted: Some("its state differs".to_owned()), ..well() };
        let behind = GroupSeen { records_behind: 9, ..cut_off() };
        let outsider = GroupSeen { role: Some(Role::Outsider), ..well() };
        let mut machine = Machine::default();
        let steps = [
            (Phase::Open, vec![well(), behind.clone(), halted.clone()]),
            (Phase::Open, vec![well(), outsider]),
            (Phase::Open, vec![cut_off(), behind]),
            (Phase::Open, vec![well()]),
            (Phase::Open, vec![halted]),
        ];
        let behind = State::CatchingUp;
        let expected = [State::Halted, behind, behind, State::Ready, State::Halted];
        assert_eq!(states(&mut machine, &steps), expected);
    }

    #[test]
    fn whoever_stops_does_not_come_back() {
        let mut machine = Machine::default();
        let steps =
            [(Phase::Open, vec![well()]), (Phase::Stopping, vec![]), (Phase::Open, vec![well()])];
        let expected = [State::Ready, State::Stopping, State::Stopping];
        assert_eq!(states(&mut machine, &steps), expected);
    }

    /// A node of which nothing is known is not ready, and one that lags behind while it takes writes is.
    #[test]
    fn only_a_write_makes_a_group_ready() {
        let mut machine = Machine::default();
        assert_eq!(machine.step(Phase::Open, vec![]).state, State::Starting);
        assert_eq!(machine.step(Phase::Open, vec![group(1, None)]).state, State::Starting);
        let busy = GroupSeen { records_behind: 100, ..well() };
        let ready = machine.step(Phase::Open, vec![busy]);
        assert_eq!((ready.state, ready.groups[0].reason.clone()), (State::Ready, None));
    }
}
