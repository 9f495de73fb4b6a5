//! A session that numbers its commands.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palisade_replication::Disposition;
use tokio::sync::Notify;

use super::{CLIENT_COMMANDS_MAX, ClientId};
use crate::backend::race;
use crate::command::{BatchCommand, Command, Number};
use crate::error::Error;
use crate::group::Group;
use crate::outcome::Outcome;
use crate::receipt::Receipt;

/// Between two attempts of a command.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);

/// The client of a session, and the numbers of its commands; clones of the session share it.
pub(crate) struct ClientNumbers {
    ttl: Duration,
    state: Mutex<State>,
    /// A number was answered or given up, or the client is another one.
    freed: Notify,
    /// One at a time registers.
    registering: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    client: Option<ClientId>,
    /// How many numbers were given.
    given: u64,
    /// Those that were given, and neither answered nor given up.
    under_way: BTreeSet<u64>,
}

impl State {
    fn acked_up_to(&self) -> u64 {
        self.under_way.first().map_or(self.given, |lowest| lowest - 1)
    }
}

/// What becomes of a command after an attempt that failed.
#[derive(Debug)]
enum Next {
    /// Nobody knows whether it had an effect: the same again finds out.
    Again,
    /// The group does not know the client any more.
    Evicted(Error),
    /// No attempt had any effect, and the number was not used.
    NothingHappened(Error),
    /// That is the answer.
    Told(Error),
}

/// What becomes of a command after an attempt. `unknown` says that one before may have had an effect.
fn after(error: Error, unknown: bool) -> Next {
    match (&error, error.disposition()) {
        (Error::ClientEvicted { .. }, _) => Next::Evicted(error),
        (_, Disposition::Indeterminate) => Next::Again,
        // This attempt had no effect; one before may have had.
        (_, Disposition::Retry) if unknown => Next::Again,
        (_, Disposition::Halt) if unknown => {
            Next::Told(Error::Disconnected { outcome_unknown: true })
        }
        (_, Disposition::Retry) => Next::NothingHappened(error),
        _ => Next::Told(error),
    }
}

/// A number that is under way as long as this is there.
struct Ticket<'a> {
    numbers: &'a ClientNumbers,
    client: ClientId,
    number: Number,
    /// It was given back, and may be another's by now.
    is_back: bool,
}

impl ClientNumbers {
    /// Goes on with a client that has given so many numbers, or begins without one.
    pub(crate) fn new(ttl: Duration, client: Option<(ClientId, u64)>) -> Self {
        let (client, given) = client.unzip();
        let state = State { client, given: given.unwrap_or(0), under_way: BTreeSet::new() };
        let (state, registering) = (Mutex::new(state), tokio::sync::Mutex::new(()));
        Self { ttl, state, freed: Notify::new(), registering }
    }

    /// The client, if there is one, and how many numbers it has given.
    pub(crate) fn client(&self) -> Option<(ClientId, u64)> {
        let state = self.state();
        state.client.map(|client| (client, state.given))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a client if there is none.
    pub(crate) async fn register(&self, group: &Group) -> Result<(), Error> {
        let _alone = self.registering.lock().await;
        if self.state().client.is_none() {
            let client = group.register_client(self.ttl).await?;
            *self.state() = State { client: Some(client), ..State::default() };
            self.freed.notify_waiters();
        }
        Ok(())
    }

    /// Commits a batch under the next number, and again while it is not known what became of it, until the
    /// deadline of the request.
    pub(super) async fn submit(
        &self,
        group: &Group,
        batch: BatchCommand,
    ) -> Result<(Receipt, Outcome), Error> {
        let at_deadline = Mutex::new(Error::Disconnected { outcome_unknown: false });
        let work = self.attempts(group, batch, &at_deadline);
        let done = race(work, group.engine.backend().sleep(group.engine.request_timeout())).await;
        done.unwrap_or_else(|| {
            Err(at_deadline.into_inner().unwrap_or_else(PoisonError::into_inner))
        })
    }

    /// The same without a deadline: it says what a caller is to be told who waits no longer.
    async fn attempts(
        &self,
        group: &Group,
        batch: BatchCommand,
        at_deadline: &Mutex<Error>,
    ) -> Result<(Receipt, Outcome), Error> {
        let tell = |error| *at_deadline.lock().unwrap_or_else(PoisonError::into_inner) = error;
        let mut ticket = self.ticket(group).await?;
        tell(Error::Disconnected { outcome_unknown: true });
        let command = Command::Batch(BatchCommand { number: Some(ticket.number), ..batch });
        let mut unknown = false;
        loop {
            let error = match group.submit_numbered(&command).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            match after(error, unknown) {
                Next::Again => {}
                Next::Evicted(error) => {
                    tell(error.clone());
                    self.forget(ticket.client);
                    // Later calls try again, if this does not come about.
                    let _ = self.register(group).await;
                    return Err(error);
                }
                Next::NothingHappened(error) => {
                    ticket.give_back();
                    return Err(error);
                }
                Next::Told(error) => return Err(error),
            }
            unknown = true;
            group.engine.backend().sleep(ATTEMPT_PAUSE).await;
        }
    }

    /// The next number, once there is room for it.
    async fn ticket(&self, group: &Group) -> Result<Ticket<'_>, Error> {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            match self.take() {
                Some(Ok(ticket)) => return Ok(ticket),
                Some(Err(())) => freed.await,
                None => self.register(group).await.map_err(not_sent)?,
            }
        }
    }

    /// The next number, or that there is no room. Nothing without a client.
    fn take(&self) -> Option<Result<Ticket<'_>, ()>> {
        let mut state = self.state();
        let client = state.client?;
        let acked_up_to = state.acked_up_to();
        let seq = state.given + 1;
        if acked_up_to + (CLIENT_COMMANDS_MAX as u64) < seq {
            return Some(Err(()));
        }
        state.given = seq;
        state.under_way.insert(seq);
        let number = Number { client: client.offset, seq, acked_up_to, registrant: None };
        Some(Ok(Ticket { numbers: self, client, number, is_back: false }))
    }

    /// The group does not know the client any more.
    fn forget(&self, client: ClientId) {
        let mut state = self.state();
        if state.client == Some(client) {
            *state = State::default();
        }
    }
}

impl Ticket<'_> {
    /// The number was never used: the next command has it, if none has come in between.
    fn give_back(&mut self) {
        let mut state = self.numbers.state();
        if state.client == Some(self.client) && state.given == self.number.seq {
            state.given -= 1;
            state.under_way.remove(&self.number.seq);
            self.is_back = true;
        }
    }
}

/// Answered, or given up: a later command says so, and then no attempt has any effect that comes too late.
impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.numbers.state();
        if state.client == Some(self.client) && !self.is_back {
            state.under_way.remove(&self.number.seq);
        }
        self.numbers.freed.notify_waiters();
    }
}

/// What was to be committed has not been tried.
fn not_sent(error: Error) -> Error {
    match error {
        Error::Disconnected { .. } => Error::Disconnected { outcome_unknown: false },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use palisade_replication::{ClusterId, GroupId, Offset};

    use super::*;

    /// A caller is never told that nothing has happened where something may have.
    #[test]
    fn what_an_attempt_before_may_have_done_is_not_forgotten() {
        let full = || Error::RateLimited { retry_after_ms: 5 };
        let lost = || Error::Disconnected { outcome_unknown: true };
        let halted = || Error::InternalError { what: "the group has halted".to_owned() };
        let refused = || Error::InvalidArgument { what: "too long".to_owned() };
        assert!(matches!(after(full(), false), Next::NothingHappened(Error::RateLimited { .. })));
        assert!(matches!(after(full(), true), Next::Again));
        for unknown in [false, true] {
            assert!(matches!(after(lost(), unknown), Next::Again));
            let told = after(refused(), unknown);
            assert!(matches!(told, Next::Told(Error::InvalidArgument { .. })), "{told:?}");
        }
        assert!(matches!(after(halted(), false), Next::Told(Error::InternalError { .. })));
        let told = after(halted(), true);
        assert!(
            matches!(told, Next::Told(Error::Disconnected { outcome_unknown: true })),
            "{told:?}"
        );
    }

    fn client(offset: u64) -> ClientId {
        let (cluster, group) = (ClusterId::new(7), GroupId::new(1));
        ClientId { cluster, group, offset: Offset::new(offset) }
    }

    fn take(numbers: &ClientNumbers) -> Option<Ticket<'_>> {
        numbers.take().expect("it has a client").ok()
    }

    /// The window of the group is never left, however answers come.
    #[test]
    fn sixty_four_are_under_way_and_the_next_waits_for_the_lowest() {
        let numbers = ClientNumbers::new(Duration::from_secs(1), Some((client(5), 9)));
        let mut tickets: Vec<_> = (0..64).map(|_| take(&numbers).unwrap()).collect();
        let number = |ticket: &Ticket<'_>| (ticket.number.seq, ticket.number.acked_up_to);
        assert_eq!((number(&tickets[0]), number(&tickets[63])), ((10, 9), (73, 9)));
        assert!(take(&numbers).is_none());
        tickets.truncate(1);
        assert!(take(&numbers).is_none(), "the lowest is still under way");
        tickets.clear();
        let next = take(&numbers).unwrap();
        assert_eq!(number(&next), (74, 73));
        assert_eq!(numbers.client(), Some((client(5), 74)));
    }

    #[test]
    fn a_number_that_was_never_used_is_given_again_unless_there_is_a_later_one() {
        let numbers = ClientNumbers::new(Duration::from_secs(1), Some((client(5), 0)));
        let mut unused = take(&numbers).unwrap();
        unused.give_back();
        drop(unused);
        let [mut first, second] = [(); 2].map(|()| take(&numbers).unwrap());
        assert_eq!((first.number.seq, second.number.seq), (1, 2));
        first.give_back();
        drop(first);
        assert_eq!(take(&numbers).unwrap().number.seq, 3);
    }

    /// Whoever has the number next keeps it, whenever it is that the first lets go of it.
    #[test]
    fn a_number_that_is_given_again_is_under_way_until_it_is_answered() {
        let numbers = ClientNumbers::new(Duration::from_secs(1), Some((client(5), 0)));
        let mut unused = take(&numbers).unwrap();
        unused.give_back();
        let _again = take(&numbers).unwrap();
        drop(unused);
        let later = take(&numbers).unwrap();
        assert_eq!((later.number.seq, later.number.acked_up_to), (2, 0));
    }

    #[test]
    fn a_client_that_is_forgotten_takes_its_numbers_with_it_and_no_other() {
        let numbers = ClientNumbers::new(Duration::from_secs(1), Some((client(5), 0)));
        let ticket = take(&numbers).unwrap();
        numbers.forget(client(4));
        assert_eq!(numbers.client(), Some((client(5), 1)));
        numbers.forget(client(5));
        assert_eq!(numbers.client(), None);
        assert!(numbers.take().is_none());
        *numbers.state() = State { client: Some(client(8)), ..State::default() };
        let next = take(&numbers).unwrap();
        assert_eq!((next.number.seq, next.number.client), (1, Offset::new(8)));
        // The old client's number 1 ends, the new one's does not.
        drop(ticket);
        assert_eq!(take(&numbers).unwrap().number.acked_up_to, 0);
    }
}
