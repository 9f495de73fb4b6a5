//! The directory: which resources there are, and what they are.

use palisade_proto::MESSAGE_BYTES_MAX;
use palisade_proto::common::v1 as common;
use palisade_proto::directory::v1 as proto;
use palisade_proto::directory::v1::directory_client::DirectoryClient;
use tonic::transport::Channel;

use crate::client::{Call, Client};
use crate::error::Error;
use crate::resource::{Consistency, receipt};
use crate::retry::Kind;
use crate::route::Target;

/// The resources of a cluster: see [`Client::directory`].
#[derive(Clone)]
pub struct Directory {
    client: Client,
}

/// A part of the directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// In the order of their names.
    pub described: Vec<proto::Described>,
    /// Behind which name to go on, or `None` if there was nothing more.
    pub next: Option<String>,
}

fn service(channel: Channel) -> DirectoryClient<Channel> {
    DirectoryClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn described(described: Option<proto::Described>) -> Result<proto::Described, Error> {
    described.ok_or_else(|| Error::unexpected("nothing was described"))
}

impl Directory {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes a resource.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` if it is there, perhaps by an earlier attempt of this call.
    pub async fn create(&self, spec: proto::Spec) -> Result<proto::Described, Error> {
        let call = Call { kind: Kind::Write, target: Target::Any, ..Call::read() };
        let asked = proto::CreateRequest { spec: Some(spec) };
        let made = self
            .client
            .call(call, asked, |channel, request| async { service(channel).create(request).await });
        described(made.await?.described)
    }

    /// Opens a resource for writing, making it if it is not there: a higher epoch fences every older writer.
    ///
    /// # Errors
    /// What the node says, as `FENCED` or `INCOMPATIBLE`.
    pub async fn open(&self, spec: proto::Spec) -> Result<proto::Described, Error> {
        // Opened twice with one epoch, it is open.
        let call = Call { kind: Kind::Once, target: Target::Any, ..Call::read() };
        let asked = proto::OpenRequest { spec: Some(spec) };
        let opened = self
            .client
            .call(call, asked, |channel, request| async { service(channel).open(request).await });
        described(opened.await?.described)
    }

    /// What a resource is.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is none of that name.
    pub async fn describe(
        &self,
        name: &str,
        consistency: Consistency,
    ) -> Result<proto::Described, Error> {
        let options = Some(consistency.options());
        let asked = proto::DescribeRequest { name: name.to_owned(), options };
        let read = self.client.call(Call::read(), asked, |channel, request| async {
            service(channel).describe(request).await
        });
        described(read.await?.described)
    }

    /// Resources whose names begin with this, behind a name.
    ///
    /// # Errors
    /// What the node says, or `DISCONNECTED` if nobody has answered in time.
    pub async fn list(
        &self,
        prefix: &str,
        after: &str,
        consistency: Consistency,
    ) -> Result<Listed, Error> {
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        let asked = proto::ListRequest { prefix, after, options: Some(consistency.options()) };
        let read = self.client.call(Call::read(), asked, |channel, request| async {
            service(channel).list(request).await
        });
        let read = read.await?;
        let next = Some(read.next).filter(|next| !next.is_empty());
        Ok(Listed { described: read.described, next })
    }

    /// Changes what a resource is, if its revision is the one that was seen. The reason is kept.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` if it is another revision.
    pub async fn alter(
        &self,
        name: &str,
        revision: u64,
        reason: &str,
        alteration: proto::alteration::Alteration,
    ) -> Result<(common::Receipt, u64), Error> {
        let asked = proto::AlterRequest {
            name: name.to_owned(),
            revision,
            reason: reason.to_owned(),
            alteration: Some(proto::Alteration { alteration: Some(alteration) }),
        };
        // A second one meets another revision; whether that is its own, nobody could say.
        let call = Call { kind: Kind::Write, target: Target::Any, ..Call::read() };
        let done = self
            .client
            .call(call, asked, |channel, request| async { service(channel).alter(request).await });
        let done = done.await?;
        Ok((receipt(done.receipt)?, done.revision))
    }

    /// The newest alterations of a resource.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is none of that name.
    pub async fn alterations(
        &self,
        name: &str,
        consistency: Consistency,
    ) -> Result<Vec<proto::Altered>, Error> {
        let options = Some(consistency.options());
        let asked = proto::ListAlterationsRequest { name: name.to_owned(), options };
        let read = self.client.call(Call::read(), asked, |channel, request| async {
            service(channel).list_alterations(request).await
        });
        Ok(read.await?.alterations)
    }
}
