//! The body of an answer: what is written goes to the transport part by part.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use palisade_proto::failure::Failure;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Body as HttpBody;
use tonic::codegen::http::HeaderMap;

use super::room::Answer;

pub(super) struct BoundedBody {
    /// Until it has ended.
    inner: Option<Body>,
    answer: Arc<Answer>,
}

impl BoundedBody {
    pub(super) fn new(inner: Body, answer: Arc<Answer>) -> Self {
        Self { inner: Some(inner), answer }
    }

    /// The last frame: why there are no more.
    fn end(&mut self, failure: Failure) -> Option<Result<Frame<Bytes>, Status>> {
        self.inner.take()?;
        self.answer.close();
        let mut trailers = HeaderMap::new();
        Some(Status::from(failure).add_header(&mut trailers).map(|()| Frame::trailers(trailers)))
    }
}

impl HttpBody for BoundedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match ready!(self.answer.give(context)) {
                Some(Ok(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Err(failure)) => return Poll::Ready(self.end(failure)),
                None => {}
            }
            let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
            let Some(frame) = ready!(Pin::new(inner).poll_frame(context)?) else {
                self.inner = None;
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(written) => {
                    if let Err(failure) = self.answer.put(written) {
                        return Poll::Ready(self.end(failure));
                    }
                }
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_over = self.inner.as_ref().is_none_or(HttpBody::is_end_stream);
        is_over && self.answer.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) if self.answer.is_empty() => inner.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for BoundedBody {
    fn drop(&mut self) {
        self.answer.close();
    }
}
