//! The calls about one directive: its id, its lease's token, and what happens when the token is no longer accepted.
//!
//! The token lives in one cell that all calls of the directive share: a heartbeat's answer replaces it for the uploads and
//! reports that run beside. A 401 starts one recovery for all who met it (`POST …/token`); a server that does not know that
//! addition, or refuses, ends the matter loudly: the calls then fail at once until a heartbeat brings another token.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use conduits::{
    DirectiveHeartbeatAnswer, DirectiveHeartbeatRequest, DirectiveId, DirectiveToken, FinishedAnswer, FinishedRequest,
    LogChunkAnswer, LogChunkRequest, LogStream, ReleaseAnswer, StartedAnswer, StartedRequest, TokenAnswer,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{CallError, Said};
use super::{Call, Held, Mothership, encode, token};

/// Calls about one directive. Cheap to clone; clones share the token.
#[derive(Debug, Clone)]
pub struct DirectiveCalls {
    mothership: Mothership,
    id: DirectiveId,
    cell: Arc<TokenCell>,
}

#[derive(Debug)]
struct TokenCell {
    state: RwLock<TokenState>,
    /// One recovery at a time.
    recovery: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct TokenState {
    token: DirectiveToken,
    /// Counts replacements: two equal texts are still two tokens.
    generation: u64,
    /// What the mothership said when it refused to recover this token.
    given_up: Option<Said>,
}

/// A chunk made ready for sending: encoded once, sent as often as needed.
#[derive(Debug, Clone)]
pub struct EncodedChunk {
    stream: LogStream,
    seq: u64,
    body: Bytes,
}

impl EncodedChunk {
    /// Encodes the request; its bytes are not needed afterwards.
    ///
    /// # Errors
    /// Never in practice: the request is plain data.
    pub fn new(request: &LogChunkRequest) -> Result<Self, CallError> {
        // Base64 is four thirds; the rest is the field names. One allocation instead of a growing buffer.
        let mut body = Vec::with_capacity(request.bytes.len() / 3 * 4 + 128);
        serde_json::to_writer(&mut body, request).map_err(CallError::not_sent)?;
        Ok(Self { stream: request.stream, seq: request.seq, body: Bytes::from(body) })
    }
}

/// An answer that says something of the report. Any JSON object would pass for one, and what it acknowledges is deleted here,
/// or let go.
fn acknowledged<A: DeserializeOwned>(said: serde_json::Map<String, Value>, of_it: &[&str]) -> Result<A, CallError> {
    let is_one = said.keys().any(|key| ["ok", "directive_id"].contains(&key.as_str()) || of_it.contains(&key.as_str()));
    if !is_one || said.get("ok") == Some(&Value::Bool(false)) {
        return Err(CallError::nonsense("it does not say that the report was taken"));
    }
    serde_json::from_value(Value::Object(said)).map_err(|error| CallError::nonsense(error.to_string()))
}

impl DirectiveCalls {
    pub(super) fn new(mothership: Mothership, id: DirectiveId, token: DirectiveToken) -> Self {
        let state = RwLock::new(TokenState { token, generation: 0, given_up: None });
        let cell = Arc::new(TokenCell { state, recovery: tokio::sync::Mutex::new(()) });
        Self { mothership, id, cell }
    }

    /// The directive.
    #[must_use]
    pub fn id(&self) -> &DirectiveId {
        &self.id
    }

    /// The mothership that holds it.
    #[must_use]
    pub fn mothership(&self) -> &Mothership {
        &self.mothership
    }

    /// The token as it is now (to be kept with what must outlive this process).
    #[must_use]
    pub fn current_token(&self) -> DirectiveToken {
        self.token_state().token
    }

    /// Counts how often the token was replaced.
    #[must_use]
    pub fn token_generation(&self) -> u64 {
        self.cell.state.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// `POST …/started`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn started(&self, request: &StartedRequest) -> Result<StartedAnswer, CallError> {
        let answer: StartedAnswer =
            acknowledged(self.post(&conduits::paths::started(&self.id), request).await?, &["state", "duplicate"])?;
        self.about_us(answer.directive_id.as_ref())?;
        Ok(answer)
    }

    /// `POST …/heartbeat`, held for up to `wait` where the server knows how. A token in the answer is the one in use from
    /// then on, everywhere.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn heartbeat(
        &self,
        request: &DirectiveHeartbeatRequest,
        wait: Option<Duration>,
    ) -> Result<Held<DirectiveHeartbeatAnswer>, CallError> {
        let path = conduits::paths::heartbeat(&self.id);
        let Held { answer, wait_applied } = self.send(&path, wait, encode(request)?).await?;
        // Of an answer that says nothing a lease does not live on: the directive may be another's by then.
        let answer: DirectiveHeartbeatAnswer =
            acknowledged(answer, &["cancel_requested", "lease_renewed", "directive_token"])?;
        let held = Held { answer, wait_applied };
        if let Some(token) = held.answer.directive_token.clone() {
            match token::check(&token) {
                Ok(()) => self.replace(token),
                // The one in use still is one.
                Err(why) => {
                    tracing::error!(directive_id = %self.id, %why, "a heartbeat's token cannot be used: the old one stays");
                }
            }
        }
        Ok(held)
    }

    /// `POST …/log_chunks`.
    ///
    /// # Errors
    /// See [`CallError`]; an acknowledgement of another chunk is nonsense.
    pub async fn log_chunk(&self, chunk: &EncodedChunk) -> Result<LogChunkAnswer, CallError> {
        let _slot = self
            .mothership
            .inner
            .uploads
            .acquire()
            .await
            .map_err(|_| CallError::Unavailable { retry_after: None, why: "the client is closing".to_owned() })?;
        let path = conduits::paths::log_chunks(&self.id);
        let answer: LogChunkAnswer = self.send(&path, None, chunk.body.clone()).await?.answer;
        self.about_us(answer.directive_id.as_ref())?;
        let (stream, seq) = (answer.stream.unwrap_or(chunk.stream), answer.seq.unwrap_or(chunk.seq));
        if (stream, seq) != (chunk.stream, chunk.seq) {
            return Err(CallError::nonsense(format!(
                "chunk {} {} was acknowledged as {} {seq}",
                chunk.stream.as_str(),
                chunk.seq,
                stream.as_str(),
            )));
        }
        if !answer.ok || (answer.seq.is_none() && !answer.stored && !answer.duplicate) {
            // Any JSON object parses as an answer; only one that says so acknowledges, for the chunk is then deleted here.
            return Err(CallError::nonsense("it says neither which chunk it is about nor that it was stored"));
        }
        Ok(answer)
    }

    /// `POST …/finished`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn finished(&self, request: &FinishedRequest) -> Result<FinishedAnswer, CallError> {
        let answer: FinishedAnswer = acknowledged(
            self.post(&conduits::paths::finished(&self.id), request).await?,
            &["final_state", "duplicate"],
        )?;
        self.about_us(answer.directive_id.as_ref())?;
        Ok(answer)
    }

    /// `POST …/release`: gives a claim back that cannot be started.
    ///
    /// # Errors
    /// See [`CallError`]; `NotFound` from a server that does not know this addition.
    pub async fn release(&self) -> Result<ReleaseAnswer, CallError> {
        let said = self.post(&conduits::paths::release(&self.id), &serde_json::json!({})).await?;
        acknowledged(said, &["state"])
    }

    /// `POST …/token`: another token for the same lease, in use from then on. Calls do this by themselves after a 401.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn token(&self) -> Result<(), CallError> {
        let state = self.token_state();
        self.recover(state.generation).await
    }

    async fn post<Q: Serialize, A: DeserializeOwned>(&self, path: &str, request: &Q) -> Result<A, CallError> {
        Ok(self.send(path, None, encode(request)?).await?.answer)
    }

    /// One call; after a 401 one recovery of the token and, when that worked, the call once more.
    async fn send<A: DeserializeOwned>(
        &self,
        path: &str,
        wait: Option<Duration>,
        body: Bytes,
    ) -> Result<Held<A>, CallError> {
        let state = self.token_state();
        if let Some(said) = state.given_up {
            return Err(CallError::Unauthorized(said));
        }
        let first = Call { path, token: Some(state.token.expose()), wait, body: body.clone() };
        match self.mothership.call(first).await {
            Err(CallError::Unauthorized(_)) => self.recover(state.generation).await?,
            other => return other,
        }
        let state = self.token_state();
        self.mothership.call(Call { path, token: Some(state.token.expose()), wait, body }).await
    }

    /// Another token instead of the one of `generation`; nothing when somebody else already brought one.
    async fn recover(&self, generation: u64) -> Result<(), CallError> {
        let _one_at_a_time = self.cell.recovery.lock().await;
        let state = self.token_state();
        if state.generation != generation {
            return Ok(());
        }
        if let Some(said) = state.given_up {
            return Err(CallError::Unauthorized(said));
        }
        let path = conduits::paths::token(&self.id);
        let body = Bytes::from_static(b"{}");
        let call = Call { path: &path, token: Some(state.token.expose()), wait: None, body };
        let recovered = self.mothership.call::<TokenAnswer>(call).await;
        let recovered = recovered.and_then(|held| match token::check(&held.answer.directive_token) {
            Ok(()) => Ok(held),
            Err(why) => Err(CallError::not_sent(why)),
        });
        match recovered {
            Ok(held) => {
                tracing::info!(directive_id = %self.id, "the directive token was renewed after a 401");
                self.replace(held.answer.directive_token);
                Ok(())
            }
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                tracing::error!(
                    directive_id = %self.id,
                    %error,
                    "the mothership accepts neither the directive token nor its recovery: reports on this directive are given up"
                );
                let said = Said::new("token_not_recovered", &error.to_string());
                self.with_state(|state| state.given_up = Some(said.clone()));
                Err(CallError::Unauthorized(said))
            }
        }
    }

    fn replace(&self, token: DirectiveToken) {
        self.with_state(|state| {
            state.token = token;
            state.generation += 1;
            state.given_up = None;
        });
    }

    /// An answer that names a directive must name this one.
    fn about_us(&self, id: Option<&DirectiveId>) -> Result<(), CallError> {
        match id {
            Some(other) if *other != self.id => {
                Err(CallError::nonsense(format!("it is about directive {other}, asked was {}", self.id)))
            }
            _ => Ok(()),
        }
    }

    fn token_state(&self) -> TokenState {
        self.cell.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn with_state(&self, change: impl FnOnce(&mut TokenState)) {
        change(&mut self.cell.state.write().unwrap_or_else(PoisonError::into_inner));
    }
}
