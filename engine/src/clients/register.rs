//! How a client comes to be, and how its commands are answered.

use std::time::Duration;

use super::{CLIENT_TTL_MAX, ClientId, CommandNumber, Registrant};
use crate::command::{BatchCommand, Command, Number};
use crate::engine::{Engine, unexpected};
use crate::error::Error;
use crate::group::Group;
use crate::outcome::Outcome;
use crate::receipt::Receipt;

impl Group {
    /// Makes a client: somebody who numbers his commands ([`crate::Batch::numbered`]), each of which takes effect
    /// at most once, however often and by whichever node it is sent. For who counts himself, like a client on the
    /// far side of a network; [`crate::Engine::client_session`] counts for its user.
    ///
    /// The group knows a client for at least `ttl` without a command, by log time, unless it needs the room for
    /// more than 65,536 of them that were used later. Then it says [`Error::ClientEvicted`].
    ///
    /// ```
    /// # use palisade::*;
    /// # use palisade::sim::SimFabric;
    /// # use std::time::Duration;
    /// # let mut fabric = SimFabric::new(3);
    /// # let [here, there] = [1, 2].map(|number| fabric.engine(fabric.node(number)));
    /// # let spec = ResourceSpec::new("orders", "order.v1")?.replicas(ReplicaPolicy::majority(3));
    /// # fabric.block_on(async {
    /// let client = here.group(GroupId::new(1))?.register_client(Duration::from_secs(3600)).await?;
    /// let first = CommandNumber { client, seq: 1, acked_up_to: 0 };
    ///
    /// let orders: ReplicatedLog<String> = ReplicatedLog::open(&here, spec.clone()).await?;
    /// let order = "an apple".to_owned();
    /// let done = here.batch().numbered(first).append(&orders, &order).commit().await?;
    ///
    /// // The answer was lost on its way: the client asks another node.
    /// let orders: ReplicatedLog<String> = ReplicatedLog::open(&there, spec).await?;
    /// let again = there.batch().numbered(first).append(&orders, &order).commit().await?;
    /// assert!(again.receipt.duplicate);
    /// assert_eq!(again.receipt.offset, done.receipt.offset);
    /// assert_eq!(again.outcomes, done.outcomes);
    /// # Ok::<(), Error>(())
    /// # })?;
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a time of less than a millisecond or more than [`CLIENT_TTL_MAX`], and as any
    /// write. One whose outcome is unknown may leave a client that nobody uses, until its time is over.
    pub async fn register_client(&self, ttl: Duration) -> Result<ClientId, Error> {
        self.register(ttl, None).await
    }

    /// The same for one of several who do not trust each other: the client's numbers are for this one alone.
    /// A batch that is numbered with them says [`crate::Batch::registrant`], or is refused with
    /// [`Error::ClientOfAnother`]: it has no effect, and is told nothing of what the client has done.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// let group = engine.group(GroupId::new(1))?;
    /// let hour = std::time::Duration::from_secs(3600);
    /// let ClientId { group: known_to, .. } =
    ///     group.register_client_as(Registrant::of("alice"), hour).await?;
    /// assert_eq!(known_to, group.id());
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Group::register_client`].
    pub async fn register_client_as(
        &self,
        registrant: Registrant,
        ttl: Duration,
    ) -> Result<ClientId, Error> {
        self.register(ttl, Some(registrant)).await
    }

    async fn register(
        &self,
        ttl: Duration,
        registrant: Option<Registrant>,
    ) -> Result<ClientId, Error> {
        let command = Command::Register { ttl_ms: ttl_ms(ttl)?, registrant };
        match self.propose(&command).await? {
            (receipt, Outcome::Registered { client }) => {
                Ok(ClientId { cluster: receipt.cluster, group: receipt.group, offset: client })
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Commits a batch: under a number of the session's, if it has a client and the batch no number.
    pub(crate) async fn submit(&self, batch: BatchCommand) -> Result<(Receipt, Outcome), Error> {
        match self.engine.clients() {
            Some(clients) if batch.number.is_none() => {
                // Large, and callers without a client need no room for it.
                Box::pin(async { clients.of(self.id()).submit(self, batch).await }).await
            }
            _ => self.submit_numbered(&Command::Batch(batch)).await,
        }
    }

    /// Commits a batch as it is. A repetition is answered as the first time.
    pub(super) async fn submit_numbered(
        &self,
        command: &Command,
    ) -> Result<(Receipt, Outcome), Error> {
        let (receipt, outcome) = self.propose(command).await?;
        match outcome {
            Outcome::Repeated { first, outcome } => {
                let (offset, log_time) = (first.offset, first.log_time);
                Ok((Receipt { offset, log_time, duplicate: true, ..receipt }, *outcome))
            }
            Outcome::Unnumbered(refusal) => Err(refusal.into()),
            outcome => Ok((receipt, outcome)),
        }
    }
}

/// A time that a client may ask for, as the log has it.
fn ttl_ms(ttl: Duration) -> Result<u64, Error> {
    match u64::try_from(ttl.as_millis()) {
        Ok(ms) if ms > 0 && ttl <= CLIENT_TTL_MAX => Ok(ms),
        _ => Err(Error::InvalidArgument {
            what: format!(
                "a client is known for a millisecond to {} s without a command, ttl={ttl:?}",
                CLIENT_TTL_MAX.as_secs()
            ),
        }),
    }
}

impl CommandNumber {
    /// As the log has it, if it is for this group.
    pub(crate) fn of(self, group: &Group, registrant: Option<Registrant>) -> Result<Number, Error> {
        let CommandNumber { client, seq, acked_up_to } = self;
        client.check(&group.engine)?;
        if client.group != group.id() {
            return Err(Error::InvalidArgument {
                what: format!("client={client} numbers nothing in group={group}"),
            });
        }
        if seq <= acked_up_to {
            return Err(Error::InvalidArgument {
                what: format!("command number {seq} is not above acked_up_to={acked_up_to}"),
            });
        }
        Ok(Number { client: client.offset, seq, acked_up_to, registrant })
    }
}

impl ClientId {
    /// Refuses one of another cluster or group, and what is no record.
    pub(super) fn check(self, engine: &Engine) -> Result<(), Error> {
        let Self { cluster, group, offset } = self;
        let own = engine.cluster();
        if cluster != own {
            return Err(Error::Incompatible {
                expected: format!("a client of cluster={own}"),
                found: format!("client={self}"),
            });
        }
        let data = 1..=engine.data_groups();
        if !data.contains(&group.get()) || offset.get() == 0 {
            return Err(Error::InvalidArgument {
                what: format!("client={self} is of no group of this engine"),
            });
        }
        Ok(())
    }
}
