//! What stands around every call: it is one of so many, and so is what it is answered with.

use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tower_layer::Layer;

use super::body::BoundedBody;
use super::{Answers, Room};
use crate::grpc::connections::Peer;

/// Bounds what the calls of a gRPC server take.
#[derive(Clone, Debug)]
pub(crate) struct Bounded(pub(crate) Arc<Answers>);

impl<S> Layer<S> for Bounded {
    type Service = BoundedService<S>;

    fn layer(&self, inner: S) -> BoundedService<S> {
        BoundedService { inner, answers: Arc::clone(&self.0) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct BoundedService<S> {
    inner: S,
    answers: Arc<Answers>,
}

impl<S> Service<Request<Body>> for BoundedService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let answer = match self.answers.begin(request.extensions().get::<Peer>()) {
            Ok(answer) => answer,
            Err(failure) => {
                let refused = Status::from(failure).into_http();
                return Box::pin(async { Ok(refused) });
            }
        };
        request.extensions_mut().insert(Room::of(&answer));
        let answered = self.inner.call(request);
        Box::pin(async move {
            let answered = answered.await?;
            Ok(answered.map(|body| Body::new(BoundedBody::new(body, answer))))
        })
    }
}
