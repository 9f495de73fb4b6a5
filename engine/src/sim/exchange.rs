//! Takes what handles ask to a simulated cluster, and brings them its answers.

use std::collections::BTreeMap;

use palisade_replication::{ChangeRefusal, Committed, GroupId, LogTime, NodeError, Offset};

use super::desk::{Answer, Desk, End, Life, Question, tell};
use super::{OpId, RecordOutcome, SimCluster, SimCompletion, SimEngine};
use crate::error::Error;
use crate::machine::{read_position, stopped};

/// Who waits for what in the cluster.
pub(super) struct Exchange {
    desk: Desk,
    waiting: BTreeMap<OpId, (Life, Waiting)>,
    /// Those who wait for a replica to come so far.
    behind: Vec<(Life, GroupId, Offset, Answer<()>)>,
    /// Those who wait for a state to be made anew.
    rebuilding: Vec<(Life, GroupId, Answer<()>)>,
}

enum Waiting {
    Commit(Answer<Committed<RecordOutcome>>),
    Barrier(Answer<Offset>),
    Change(Answer<Result<(), ChangeRefusal>>),
}

impl Waiting {
    fn is_given_up(&self) -> bool {
        match self {
            Self::Commit(answer) => answer.is_closed(),
            Self::Barrier(answer) => answer.is_closed(),
            Self::Change(answer) => answer.is_closed(),
        }
    }

    /// What the caller of a running node would be told. `end` says why it runs no more, if so.
    fn answer(self, completion: SimCompletion<RecordOutcome>, end: Option<End>) {
        use SimCompletion::{Changed, Committed, Readable, Refused};
        match (self, completion) {
            (Self::Commit(answer), Committed(done)) => tell(answer, Ok(done)),
            (Self::Barrier(answer), Readable(offset)) => tell(answer, Ok(offset)),
            (Self::Change(answer), Changed) => tell(answer, Ok(Ok(()))),
            (Self::Change(answer), Refused(NodeError::Change(refusal))) => {
                tell(answer, Ok(Err(refusal)));
            }
            (waiting, Refused(refusal)) => waiting.fail(refusal.into()),
            // A record is on its way and may be committed without its node; nothing else is.
            (Self::Commit(answer), _) => tell(answer, Err(NodeError::Indeterminate.into())),
            (waiting, _) => {
                waiting.fail(end.map_or_else(|| NodeError::Indeterminate.into(), Error::from));
            }
        }
    }

    fn fail(self, error: Error) {
        match self {
            Self::Commit(answer) => tell(answer, Err(error)),
            Self::Barrier(answer) => tell(answer, Err(error)),
            Self::Change(answer) => tell(answer, Err(error)),
        }
    }
}

impl Exchange {
    pub(super) fn new(desk: Desk) -> Self {
        Self { desk, waiting: BTreeMap::new(), behind: Vec::new(), rebuilding: Vec::new() }
    }

    /// True if somebody waits for something that time may bring.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
            || !self.behind.is_empty()
            || !self.rebuilding.is_empty()
            || self.desk.is_waited_for()
    }

    /// Gives the cluster what was asked since the last time.
    pub(super) fn take_up(&mut self, cluster: &mut SimCluster<SimEngine>) {
        for (life, question) in self.desk.take_questions() {
            if let Some(end) = self.desk.ended(life) {
                question.refuse(end.into());
                continue;
            }
            let node = life.node;
            match question {
                Question::Propose { group, payload, answer } => {
                    let op = cluster.propose(node, group, payload);
                    self.waiting.insert(op, (life, Waiting::Commit(answer)));
                }
                Question::Barrier { group, answer } => {
                    let op = cluster.read(node, group);
                    self.waiting.insert(op, (life, Waiting::Barrier(answer)));
                }
                Question::Change { group, change, answer } => {
                    let op = cluster.change(node, group, change);
                    self.waiting.insert(op, (life, Waiting::Change(answer)));
                }
                Question::Status { group, answer } => {
                    let status = cluster.status(node, group);
                    tell(answer, status.ok_or_else(|| NodeError::Closed.into()));
                }
                Question::Applied { group, at_least, answer } => {
                    self.behind.push((life, group, at_least, answer));
                }
                Question::Records { group, from, bytes_max, answer } => {
                    let records = match cluster.records(node, group, from, bytes_max) {
                        Ok(runs) => Ok(Ok(runs)),
                        Err(NodeError::RecordsTrimmed { first }) => Ok(Err(first)),
                        Err(error) => Err(error.into()),
                    };
                    tell(answer, records);
                }
                Question::Transfer { group, to } => cluster.transfer(node, group, to),
                Question::Rebuild { group, answer } => match cluster.rebuild(node, group) {
                    Ok(()) => self.rebuilding.push((life, group, answer)),
                    Err(refusal) => tell(answer, Err(refusal.into())),
                },
                Question::Halt { group, what } => cluster.halt_group(node, group, what),
                Question::Close { answer } => {
                    cluster.kill(node);
                    self.desk.end(node, End::Closed);
                    tell(answer, Ok(()));
                }
            }
        }
    }

    /// Answers what the cluster has come to.
    pub(super) fn answer(&mut self, cluster: &mut SimCluster<SimEngine>) {
        for node in cluster.node_ids() {
            if let Some(cause) = cluster.halted(node) {
                self.desk.end(node, End::Halted(cause.clone()));
            }
            self.desk.note_clock(node, LogTime::new(cluster.clock_ms(node)));
            let halted = |group| Some((group, cluster.halted_group(node, group)?.clone()));
            self.desk.note_groups(node, cluster.groups().filter_map(halted).collect());
        }
        while let Some((op, completion)) = cluster.completion() {
            // Answers that come after their operation was given up are nobody's.
            if let Some((life, waiting)) = self.waiting.remove(&op) {
                waiting.answer(completion, self.desk.ended(life));
            }
        }
        // As a node does: what nobody waits for is not waiting.
        for (op, (life, _)) in self.waiting.extract_if(.., |_, (_, waiting)| waiting.is_given_up())
        {
            cluster.abandon(life.node, op);
        }
        for (life, group, at_least, answer) in std::mem::take(&mut self.behind) {
            match self.reaches(life, group, at_least) {
                _ if answer.is_closed() => {}
                Ok(false) => self.behind.push((life, group, at_least, answer)),
                Ok(true) => tell(answer, Ok(())),
                Err(cause) => tell(answer, Err(cause)),
            }
        }
        for (life, group, answer) in std::mem::take(&mut self.rebuilding) {
            let halted = cluster.halted_group(life.node, group);
            match (self.desk.ended(life), halted) {
                _ if answer.is_closed() => {}
                (Some(end), _) => tell(answer, Err(end.into())),
                (None, None) => tell(answer, Ok(())),
                (None, Some(_)) if cluster.is_rebuilding(life.node, group) => {
                    self.rebuilding.push((life, group, answer));
                }
                (None, Some(cause)) => tell(answer, Err(cause.clone().into())),
            }
        }
        for sleeper in self.desk.advance(cluster.now_us()) {
            let _ = sleeper.wake.send(());
        }
    }

    fn reaches(&self, life: Life, group: GroupId, at_least: Offset) -> Result<bool, Error> {
        let store = self.desk.store(life)?;
        let (position, _) = read_position(&store, group).map_err(|error| stopped(&error))?;
        Ok(at_least <= position.offset)
    }
}
