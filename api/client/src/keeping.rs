//! What a log keeps: its bounds, its retention, its beginning, and where its consumers are.

use palisade_proto::MESSAGE_BYTES_MAX;
use palisade_proto::common::v1 as common;
use palisade_proto::log::v1 as proto;
use palisade_proto::log::v1::log_client::LogClient;
use palisade_proto::log::v1::set_consumer_request::Change;
use tonic::transport::Channel;

use crate::client::Call;
use crate::error::Error;
use crate::log::Log;
use crate::resource::Consistency;
use crate::retry::Kind;
use crate::stored::Stored;

fn service(channel: Channel) -> LogClient<Channel> {
    LogClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

impl<T: Stored> Log<T> {
    /// How far it goes, and what it keeps.
    ///
    /// # Errors
    /// What the node says, or `DISCONNECTED` if nobody has answered in time.
    pub async fn bounds(
        &self,
        consistency: Consistency,
    ) -> Result<proto::GetBoundsResponse, Error> {
        let options = Some(consistency.options());
        let asked = proto::GetBoundsRequest { log: Some(self.named().resource()), options };
        let read = self.named().client.call(Call::read(), asked, |channel, request| async {
            service(channel).get_bounds(request).await
        });
        let read = read.await?;
        read.reflected.iter().for_each(|it| self.named().client.seen().note_reflected(it));
        Ok(read)
    }

    /// Sets how long entries are kept. What is beyond is removed by the appends that follow.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub async fn set_retention(
        &self,
        retention: proto::Retention,
    ) -> Result<common::Receipt, Error> {
        let log = Some(self.named().resource());
        let asked = proto::SetRetentionRequest { log, retention: Some(retention) };
        let call = Call::write(self.named().group().await?, Kind::Write, 0);
        let done = self.named().client.call(call, asked, |channel, request| async {
            service(channel).set_retention(request).await
        });
        self.named().noted(done.await?.receipt)
    }

    /// Removes the entries before a position, and gives what is the first then.
    ///
    /// # Errors
    /// As [`Log::append`]; some may be removed then.
    pub async fn trim(&self, before: common::Position) -> Result<common::Position, Error> {
        loop {
            let asked =
                proto::TrimRequest { log: Some(self.named().resource()), before: Some(before) };
            let call = Call::write(self.named().group().await?, Kind::Once, 0);
            let done = self.named().client.call(call, asked, |channel, request| async {
                service(channel).trim(request).await
            });
            let done = done.await?;
            self.named().noted(done.receipt)?;
            if done.complete {
                return Ok(done.first.unwrap_or_default());
            }
        }
    }

    /// Where a named consumer is.
    ///
    /// # Errors
    /// What the node says, or `DISCONNECTED` if nobody has answered in time.
    pub async fn consumer(
        &self,
        consumer: &str,
        consistency: Consistency,
    ) -> Result<common::Position, Error> {
        let asked = proto::GetConsumerRequest {
            log: Some(self.named().resource()),
            consumer: consumer.to_owned(),
            options: Some(consistency.options()),
        };
        let read = self.named().client.call(Call::read(), asked, |channel, request| async {
            service(channel).get_consumer(request).await
        });
        let read = read.await?;
        read.reflected.iter().for_each(|it| self.named().client.seen().note_reflected(it));
        Ok(read.position.unwrap_or_default())
    }

    /// Moves a named consumer, or forgets it.
    ///
    /// # Errors
    /// `FENCED` if an owner of a higher epoch has it, and as [`Log::append`].
    pub async fn set_consumer(
        &self,
        consumer: &str,
        change: Change,
    ) -> Result<common::Receipt, Error> {
        let kind = match change {
            // It never goes back.
            Change::Commit(_) => Kind::Once,
            Change::Reset(_) | Change::Forget(_) => Kind::Write,
        };
        let asked = proto::SetConsumerRequest {
            log: Some(self.named().resource()),
            consumer: consumer.to_owned(),
            change: Some(change),
            owner_epoch: None,
        };
        let call = Call::write(self.named().group().await?, kind, consumer.len());
        let done = self.named().client.call(call, asked, |channel, request| async {
            service(channel).set_consumer(request).await
        });
        self.named().noted(done.await?.receipt)
    }
}
