//! How long a connection has nothing under way: no request that is answered, no answer that is still sent.
//!
//! The HTTP library bounds the head of a request of HTTP/1.1, and neither the time before a connection's first byte nor a
//! silence over HTTP/2. Without a bound whoever opens connections and says nothing keeps their places for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Response;
use hyper::body::{Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::Instant;

/// What is under way on a connection.
#[derive(Debug, Clone)]
pub(super) struct Quiet(Arc<watch::Sender<State>>);

#[derive(Debug, Clone, Copy)]
struct State {
    requests: usize,
    since: Instant,
}

/// A request that is under way until this is dropped.
#[derive(Debug)]
pub(super) struct Request(Quiet);

impl Quiet {
    /// Of a connection that begins now.
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State { requests: 0, since: Instant::now() })))
    }

    /// A request has come.
    pub(super) fn request(&self) -> Request {
        self.0.send_modify(|state| state.requests += 1);
        Request(self.clone())
    }

    /// Ends once nothing was under way for `most`.
    pub(super) async fn lasts(&self, most: Duration) {
        let mut changes = self.0.subscribe();
        loop {
            let state = *changes.borrow_and_update();
            // The sender is held by this very connection, so that a change is all that can come.
            let changed = changes.changed();
            if state.requests > 0 {
                changed.await.ok();
            } else if tokio::time::timeout_at(state.since + most, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Request {
    /// The request is under way until its answer's last byte was taken, or given up.
    pub(super) fn until_sent(self, answer: Response<Body>) -> Response<Body> {
        answer.map(|body| Body::new(Sent { body, _request: self }))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0
            .0
            .send_modify(|state| *state = State { requests: state.requests.saturating_sub(1), since: Instant::now() });
    }
}

/// An answer's body, and the request that it answers.
struct Sent {
    body: Body,
    _request: Request,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
