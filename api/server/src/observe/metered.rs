//! What stands around every call: it is counted, and runs in the span of its trace.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::{Request as AxumRequest, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response as AxumResponse;
use bytes::Bytes;
use palisade::TraceContext;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Body as HttpBody, BoxFuture, Service};
use tower_layer::Layer;
use tracing::Instrument;

use super::calls::{Calls, Does, Going};
use super::trace;

/// Counts the calls of a gRPC server.
#[derive(Clone, Debug)]
pub(crate) struct Metered(pub(crate) Arc<Calls>);

impl<S> Layer<S> for Metered {
    type Service = MeteredService<S>;

    fn layer(&self, inner: S) -> MeteredService<S> {
        MeteredService { inner, calls: Arc::clone(&self.0) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct MeteredService<S> {
    inner: S,
    calls: Arc<Calls>,
}

impl<S> Service<Request<Body>> for MeteredService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<MeteredBody>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let span = trace::span(request.headers(), path);
        let mut going = self.calls.begin(path, span.clone());
        let trace = trace::context(request.headers());
        let answer = self.inner.call(request);
        let counted = async move {
            let (parts, body) = answer.await?.into_parts();
            // One that is refused has its status in front, and nothing behind.
            if let Some(status) = Status::from_header_map(&parts.headers) {
                going.end(&status);
            }
            Ok(Response::from_parts(parts, MeteredBody { body, going, trace }))
        };
        match trace {
            None => Box::pin(counted.instrument(span)),
            Some(trace) => Box::pin(trace::serve(trace, counted).instrument(span)),
        }
    }
}

/// The messages of an answer, and behind them how it has ended.
#[derive(Debug)]
pub(crate) struct MeteredBody {
    body: Body,
    going: Going,
    trace: Option<TraceContext>,
}

impl HttpBody for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let Self { body, going, trace } = &mut *self;
        let frame = {
            let _in_span = going.span().enter();
            ready!(trace::go_on(*trace, || Pin::new(body).poll_frame(context)))
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    going.end(&status);
                }
            }
            Some(Err(status)) => going.end(status),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Counts a request of the report service.
pub(crate) async fn metered_reports(
    State(calls): State<Arc<Calls>>,
    request: AxumRequest,
    next: Next,
) -> AxumResponse {
    let does = if request.method() == Method::POST { Does::Writes } else { Does::Reads };
    let begun = Instant::now();
    let response = next.run(request).await;
    calls.note_report(does, response.status().as_u16(), begun);
    response
}
