//! What a handler leaves of a request's body unread, over HTTP/2.
//!
//! An answer that goes out before the body has come makes the server reset the stream. That is within the protocol
//! (RFC 9113, section 8.1), but widespread clients, curl 7.88 among them, then show a framing error in the place of the
//! answer. So what is left of a small body is read before the answer goes out. HTTP/1.1 needs none of this, and a body that a
//! client only sends once it is asked to (`Expect: 100-continue`) must not be asked for.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Version, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Frame, SizeHint};

/// Bytes that are read at most.
const MOST: usize = 64 * 1024;
/// The time for them.
const TIME: Duration = Duration::from_secs(1);

/// A body that its handler reads, or leaves.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<Body>>);

/// Takes hold of the request's body where an answer before its end would be a reset.
pub(super) fn hold(request: Request<Body>) -> (Request<Body>, Option<Shared>) {
    let plain = request.version() != Version::HTTP_2 || request.headers().contains_key(header::EXPECT);
    if plain || request.body().is_end_stream() {
        return (request, None);
    }
    let (parts, body) = request.into_parts();
    let shared = Shared(Arc::new(Mutex::new(body)));
    (Request::from_parts(parts, Body::new(shared.clone())), Some(shared))
}

impl Shared {
    /// Reads what is left, within the bounds; what is more, or comes later, is left to the reset.
    pub(super) async fn drain(self) {
        let rest = Limited::new(self, MOST);
        match tokio::time::timeout(TIME, rest.collect()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a body is not read to its end"),
            Err(_) => tracing::debug!("a body does not come to its end in time"),
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Body) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}
