//! Streams that go on: whoever began one is asked again and again whether he still may.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use tonic::Status;

use super::endpoint::{Call, Endpoint};
use crate::security::grants::Right;

/// What a call is answered with, message by message.
pub(crate) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Endpoint {
    /// The messages for as long as the call may do this with the resource. Then one more: why not.
    pub(crate) fn while_allowed<T: Send + 'static>(
        &self,
        call: Call,
        right: Right,
        resource: String,
        messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Messages<T> {
        let endpoint = self.clone();
        let refused = async move { endpoint.refused(&call, right, &resource).await };
        let going = (Box::pin(messages), Box::pin(refused));
        Box::pin(stream::unfold(Some(going), |going| async {
            let (mut messages, mut refused) = going?;
            tokio::select! {
                // Nothing is told to who may not be told any more.
                biased;
                status = &mut refused => Some((Err(status), None)),
                message = messages.next() => match message? {
                    Ok(message) => Some((Ok(message), Some((messages, refused)))),
                    Err(status) => Some((Err(status), None)),
                },
            }
        }))
    }
}
