//! HTTP/1.1 on a client connection: one tunnel, or absolute-form requests one after the other.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::{Attempt, Method};
use super::exchange::{self, After, Exchange, Failure, Origin};
use super::refuse::Told;
use super::session::{HEAD_TIMEOUT, HeadFailure, Session};
use super::tunnel::{self, Cut, guarded};
use crate::policy::reason::Reason;
use crate::wire::head::HeadError;
use crate::wire::host::Destination;
use crate::wire::request::{self, Forward, Request, RequestError};

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// How long a client connection without a request is kept for the next one.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

impl Session {
    pub(super) async fn http(&mut self) {
        let mut wait = HEAD_TIMEOUT;
        loop {
            // A TLS hello or other noise would never become a line: say so at once.
            if self.buffer.first().is_some_and(|byte| !byte.is_ascii_graphic() && *byte != b'\r') {
                return self.refuse_head(&RequestError::Syntax("not text")).await;
            }
            let block = match self.head(wait).await {
                Ok(length) => self.buffer.drain(..length).collect::<Vec<u8>>(),
                Err(HeadFailure::Gone) => return,
                Err(HeadFailure::CutOff) => return self.account_cut_off(Method::Http),
                Err(HeadFailure::TimedOut) => return self.refuse_slow_head().await,
                Err(HeadFailure::Malformed(error)) => return self.refuse_bad_head(error).await,
            };
            let keep = match request::parse(&block) {
                Err(error) => return self.refuse_head(&error).await,
                Ok(Request::Connect { to, credential }) => return self.connect(to, credential.as_deref()).await,
                // Boxed, as what dials is: a tunnel, which may stay for hours, has no room for it in its task.
                Ok(Request::Forward(request)) => Box::pin(self.forward(*request)).await,
            };
            if !keep {
                return;
            }
            wait = KEEP_ALIVE;
        }
    }

    async fn connect(&mut self, to: Destination, credential: Option<&[u8]>) {
        let shared = Arc::clone(&self.shared);
        if !self.is_admitted(credential) {
            return self.refuse_unauthenticated(Method::Connect, &to).await;
        }
        let mut attempt = Attempt::at(&shared, Method::Connect, &to);
        match Box::pin(self.open(&mut attempt, &to)).await {
            Err(told) => {
                drop(attempt);
                self.refuse(&told.response(&to.to_string())).await;
            }
            Ok(origin) => {
                if self.tell(ESTABLISHED).await {
                    let early = mem::take(&mut self.buffer);
                    tunnel::carry(&shared, &mut attempt, &to, (&self.client, early), &origin).await;
                }
            }
        }
    }

    /// Passes one request on; `true` if another may follow.
    async fn forward(&mut self, request: Forward) -> bool {
        let shared = Arc::clone(&self.shared);
        if !self.is_admitted(request.credential.as_deref()) {
            self.refuse_unauthenticated(Method::Http, &request.to).await;
            return false;
        }
        let mut attempt = Attempt::at(&shared, Method::Http, &request.to);
        let kept = self.origin.take().filter(|origin| origin.serves(&request.to));
        // A kept connection is as subject to the policy as a new one: the name is decided anew.
        let mut is_kept = kept.is_some();
        let mut origin = match kept {
            Some(origin) => match shared.policy.decide(&request.to, tokio::time::Instant::now()) {
                Ok(()) => {
                    attempt.connected_again(origin.address);
                    origin
                }
                Err(refusal) => {
                    attempt.deny(&refusal);
                    return self.give_up(attempt, &request.to, &Told::denied(refusal)).await;
                }
            },
            None => match self.open_origin(&mut attempt, &request.to).await {
                Ok(origin) => origin,
                Err(told) => return self.give_up(attempt, &request.to, &told).await,
            },
        };
        loop {
            let mut exchange = Exchange::new(&self.client, &mut self.buffer, &origin.stream, &request, &attempt.meter);
            let outcome = guarded(&shared, &attempt.meter, exchange.run()).await;
            let progress = exchange.progress();
            match outcome {
                Ok(Ok(After { client_stays, origin_stays })) => {
                    if origin_stays {
                        self.origin = Some(origin);
                    }
                    return client_stays;
                }
                // A kept connection may have been closed by the origin in the meantime.
                Ok(Err(Failure::Origin(_))) if is_kept && progress.may_retry(&request) => {
                    is_kept = false;
                    origin = match self.open_origin(&mut attempt, &request.to).await {
                        Ok(origin) => origin,
                        Err(told) => return self.give_up(attempt, &request.to, &told).await,
                    };
                }
                failed => return self.account_failure(attempt, &request, progress, failed).await,
            }
        }
    }

    async fn open_origin(&self, attempt: &mut Attempt, to: &Destination) -> Result<Origin, Told> {
        let stream = self.open(attempt, to).await?;
        Ok(Origin { stream, to: to.clone(), address: attempt.resolved() })
    }

    async fn account_failure(
        &mut self,
        mut attempt: Attempt,
        request: &Forward,
        progress: exchange::Progress,
        failed: Result<Result<After, Failure>, Cut>,
    ) -> bool {
        let told = match failed {
            Ok(Ok(_)) => return true,
            Err(Cut::Idle) => Told::upstream(504, "the origin did not answer in time"),
            Err(Cut::Expired) => Told::denied(self.shared.policy.expired()),
            Ok(Err(Failure::ClientGone)) => {
                attempt.ended(Reason::Other);
                return false;
            }
            Ok(Err(Failure::ClientBody(error))) => {
                Told::malformed(Reason::Other, format!("the request body cannot be passed on: {error}"))
            }
            Ok(Err(Failure::Origin(why))) => Told::upstream(502, why),
        };
        match told.status {
            400 => attempt.deny(&told.refusal),
            _ => attempt.ended(told.refusal.reason),
        }
        if progress.answer_begun {
            // The client has part of an answer: only a cut connection tells it that there is no more.
            return false;
        }
        self.give_up(attempt, &request.to, &told).await
    }

    async fn give_up(&mut self, attempt: Attempt, to: &Destination, told: &Told) -> bool {
        drop(attempt);
        self.refuse(&told.response(&to.to_string())).await;
        false
    }

    fn is_admitted(&self, credential: Option<&[u8]>) -> bool {
        match &self.shared.credential {
            None => true,
            Some(known) => credential.is_some_and(|value| known.admits_basic(value)),
        }
    }

    async fn refuse_unauthenticated(&mut self, method: Method, to: &Destination) {
        let told = Told::unauthenticated();
        Attempt::at(&self.shared, method, to).deny(&told.refusal);
        self.refuse(&told.response(&to.to_string())).await;
    }

    async fn refuse_head(&mut self, error: &RequestError) {
        let (asked, reason) = match error {
            RequestError::Destination { asked, .. } => (asked.as_str(), Reason::InvalidDestination),
            RequestError::NotAProxyRequest => ("", Reason::ProxyRequired),
            RequestError::Scheme(scheme) => (scheme.as_str(), Reason::InvalidDestination),
            RequestError::Syntax(_) | RequestError::Framing(_) => ("", Reason::Other),
        };
        self.refuse_as(asked, &Told::malformed(reason, error.to_string())).await;
    }

    async fn refuse_bad_head(&mut self, error: HeadError) {
        self.refuse_as("", &Told::malformed(Reason::Other, error.to_string())).await;
    }

    async fn refuse_slow_head(&mut self) {
        let mut told =
            Told::malformed(Reason::Other, format!("the header block took more than {} s", HEAD_TIMEOUT.as_secs()));
        told.status = 408;
        self.refuse_as("", &told).await;
    }

    async fn refuse_as(&mut self, asked: &str, told: &Told) {
        drop(Attempt::unreadable(&self.shared, Method::Http, asked, told.refusal.reason));
        self.refuse(&told.response(asked)).await;
    }
}
