//! A resource as a client names it, and what all kinds of them have in common.

use std::sync::atomic::{AtomicU64, Ordering};

use palisade_proto::common::v1 as common;
use palisade_proto::directory::v1 as directory;

use crate::client::{Call, Client};
use crate::error::Error;
use crate::numbers::{Number, Numbers};
use crate::retry::{CLIENT_EVICTED, CLIENT_OF_ANOTHER, Kind};

/// How fresh a read must be. Whatever is asked for, nothing is read that is older than what the client has
/// written or read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Everything that was acknowledged to anyone before the read began.
    #[default]
    Linearizable,
    /// Every record up to this one.
    AtLeastOffset(u64),
    /// Whatever the node has that is asked, if it is no less than what the client has seen.
    Local,
}

impl Consistency {
    pub(crate) fn options(self) -> common::ReadOptions {
        use common::read_options::Consistency as Of;
        let consistency = match self {
            Self::Linearizable => Of::Linearizable(common::Linearizable {}),
            Self::AtLeastOffset(offset) => Of::AtLeastOffset(offset),
            Self::Local => Of::Local(common::Local {}),
        };
        common::ReadOptions { consistency: Some(consistency), ..Default::default() }
    }
}

/// A resource by its name.
pub(crate) struct Named {
    pub(crate) client: Client,
    name: String,
    schema: String,
    epoch: AtomicU64,
}

impl Named {
    pub(crate) fn new(client: Client, name: &str, schema: &str) -> Self {
        let (name, schema) = (name.to_owned(), schema.to_owned());
        Self { client, name, schema, epoch: AtomicU64::new(1) }
    }

    pub(crate) fn resource(&self) -> common::Resource {
        common::Resource {
            name: self.name.clone(),
            schema: self.schema.clone(),
            epoch: self.epoch.load(Ordering::Acquire),
            caller: None,
        }
    }

    /// Opens it for writing, and makes it if it is not there.
    pub(crate) async fn open(&self, spec: directory::Spec) -> Result<directory::Described, Error> {
        let epoch = spec.epoch.max(1);
        let spec = directory::Spec { name: self.name.clone(), schema: self.schema.clone(), ..spec };
        let described = self.client.directory().open(spec).await?;
        self.epoch.store(epoch, Ordering::Release);
        Ok(described)
    }

    /// Writes from now on as the writer of this epoch.
    pub(crate) fn write_as(&self, epoch: u64) {
        self.epoch.store(epoch.max(1), Ordering::Release);
    }

    /// A receipt, which the client has seen now.
    pub(crate) fn noted(&self, told: Option<common::Receipt>) -> Result<common::Receipt, Error> {
        let told = receipt(told)?;
        self.client.seen().note_receipt(&told);
        Ok(told)
    }

    /// The group that it lies in.
    pub(crate) async fn group(&self) -> Result<u64, Error> {
        self.client.group_of(&self.name).await
    }

    /// A number for a write to it.
    pub(crate) async fn number(&self) -> Result<Numbered, Error> {
        self.client.numbered(&self.name).await
    }
}

/// A write that takes effect once.
pub(crate) struct Numbered {
    pub(crate) client: Client,
    pub(crate) group: u64,
    pub(crate) numbers: Numbers,
    pub(crate) number: Number,
}

impl Numbered {
    pub(crate) fn told(&self) -> common::CommandNumber {
        self.number.told()
    }

    pub(crate) fn call(&self, bytes: usize) -> Call {
        Call::write(self.group, Kind::Once, bytes)
    }

    /// What became of it.
    pub(crate) fn settle<T>(
        self,
        done: Result<T, Error>,
        receipt: impl Fn(&T) -> Option<&common::Receipt>,
    ) -> Result<T, Error> {
        match &done {
            Ok(answer) => {
                receipt(answer).into_iter().for_each(|it| self.client.seen().note_receipt(it));
            }
            Err(error) if error.is(CLIENT_EVICTED) || error.is(CLIENT_OF_ANOTHER) => {
                self.client.evicted(self.group, &self.numbers);
            }
            Err(_) => {}
        }
        done
    }
}

pub(crate) fn receipt(receipt: Option<common::Receipt>) -> Result<common::Receipt, Error> {
    receipt.ok_or_else(|| Error::unexpected("a write was answered without a receipt"))
}
