//! What the stub knows: directives, leases, chunks, requests.

use axum::http::HeaderMap;
use conduits::{
    ClaimId, DirectiveId, DirectiveState, DirectiveToken, FinishedRequest, LogStream, StartedRequest, finished_digest,
};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::fault::{Endpoint, Faults};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Which endpoint.
    pub endpoint: Endpoint,
    /// The path.
    pub path: String,
    /// The directive of the path, where it has one.
    pub directive: Option<String>,
    /// When its head had arrived.
    pub at: Instant,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body as JSON; `null` where it is none.
    pub body: Value,
    /// The number of its connection.
    pub connection: usize,
    /// The client certificate's fingerprint, where it showed one.
    pub fingerprint: Option<conduits::Fingerprint>,
    /// The status that was answered; `None` until then, and for ever where the connection was cut.
    pub status: Option<u16>,
}

/// One chunk as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its mark.
    pub truncated: bool,
    /// When it came first.
    pub at: Instant,
    /// How often it came.
    pub received: usize,
}

/// What is known of a directive.
#[derive(Debug, Clone)]
pub struct DirectiveView {
    /// Its state.
    pub state: DirectiveState,
    /// When it was given out last.
    pub leased_at: Option<Instant>,
    /// The report of its start, as it came first.
    pub started: Option<StartedRequest>,
    /// When that came.
    pub started_at: Option<Instant>,
    /// The report of its end, as it came first.
    pub finished: Option<FinishedRequest>,
    /// When that came.
    pub finished_at: Option<Instant>,
    /// The chunks of each stream ([`LogStream::index`]) by number.
    pub chunks: [BTreeMap<u64, Chunk>; 2],
    /// How many heartbeats were accepted.
    pub heartbeats: usize,
    /// Whether it is to be cancelled.
    pub cancel_requested: bool,
    /// How often it was given out.
    pub leases: u64,
}

impl DirectiveView {
    /// The stream as far as its chunks are there without a gap from 0.
    #[must_use]
    pub fn log(&self, stream: LogStream) -> Vec<u8> {
        let chunks = self.chunks[stream.index()].iter().zip(0u64..).take_while(|((seq, _), want)| *seq == want);
        chunks.flat_map(|((_, chunk), _)| chunk.bytes.clone()).collect()
    }

    /// One line for messages.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} after {} leases and {} heartbeats, {} + {} chunks, stderr {:?}",
            self.state,
            self.leases,
            self.heartbeats,
            self.chunks[0].len(),
            self.chunks[1].len(),
            String::from_utf8_lossy(&self.log(LogStream::Stderr))
        )
    }
}

/// A directive with what only the stub itself needs.
pub(crate) struct Held {
    pub(crate) view: DirectiveView,
    pub(crate) spec: Value,
    pub(crate) lease_lost: bool,
    pub(crate) tokens: Vec<DirectiveToken>,
    pub(crate) valid_tokens: Vec<DirectiveToken>,
}

/// Why a call about a directive is refused: status and code.
pub(crate) type Refused = (u16, &'static str);

impl Held {
    fn fresh_token(&mut self, id: &DirectiveId) -> DirectiveToken {
        let token = DirectiveToken::new(format!("stub-token-{id}-{}-{}", self.view.leases, self.tokens.len()));
        self.tokens.push(token.clone());
        self.valid_tokens.push(token.clone());
        token
    }
}

#[derive(Default)]
pub(crate) struct Ledger {
    order: Vec<DirectiveId>,
    directives: HashMap<DirectiveId, Held>,
    claims: HashMap<ClaimId, Vec<(DirectiveId, DirectiveToken)>>,
    pub(crate) requests: Vec<Recorded>,
    pub(crate) violations: Vec<String>,
    pub(crate) faults: Faults,
}

impl Ledger {
    pub(crate) fn queue(&mut self, id: DirectiveId, spec: Value) {
        let view = DirectiveView {
            state: DirectiveState::Queued,
            leased_at: None,
            started: None,
            started_at: None,
            finished: None,
            finished_at: None,
            chunks: [BTreeMap::new(), BTreeMap::new()],
            heartbeats: 0,
            cancel_requested: false,
            leases: 0,
        };
        let held = Held { view, spec, lease_lost: false, tokens: Vec::new(), valid_tokens: Vec::new() };
        assert!(self.directives.insert(id.clone(), held).is_none(), "{id} is queued twice");
        self.order.push(id);
    }

    pub(crate) fn directive_mut(&mut self, id: &DirectiveId) -> &mut Held {
        self.directives.get_mut(id).unwrap_or_else(|| panic!("{id} was never queued"))
    }

    pub(crate) fn view(&self, id: &DirectiveId) -> &DirectiveView {
        &self.directives.get(id).unwrap_or_else(|| panic!("{id} was never queued")).view
    }

    pub(crate) fn cancel(&mut self, id: &DirectiveId) {
        let held = self.directive_mut(id);
        held.view.cancel_requested = true;
        if held.view.state == DirectiveState::Queued {
            held.view.state = DirectiveState::Canceled;
        }
    }

    pub(crate) fn requeue(&mut self, id: &DirectiveId) {
        let held = self.directive_mut(id);
        held.view.state = DirectiveState::Queued;
        held.lease_lost = false;
        held.valid_tokens.clear();
    }

    pub(crate) fn has_queued(&self) -> bool {
        self.directives.values().any(|held| held.view.state == DirectiveState::Queued)
    }

    /// Gives out up to `most` leases, or those of the same claim again.
    pub(crate) fn claim(&mut self, most: u8, claim: Option<&ClaimId>) -> Vec<(DirectiveId, DirectiveToken, Value)> {
        if let Some(again) = claim.and_then(|claim| self.claims.get(claim)) {
            let spec = |id: &DirectiveId| self.directives[id].spec.clone();
            return again.iter().map(|(id, token)| (id.clone(), token.clone(), spec(id))).collect();
        }
        let queued = |id: &&DirectiveId| self.directives[*id].view.state == DirectiveState::Queued;
        let ids: Vec<DirectiveId> = self.order.iter().filter(queued).take(usize::from(most)).cloned().collect();
        let mut leases = Vec::new();
        for id in ids {
            let held = self.directive_mut(&id);
            held.view.state = DirectiveState::Leased;
            held.view.leases += 1;
            held.view.leased_at = Some(Instant::now());
            let token = held.fresh_token(&id);
            leases.push((id.clone(), token, held.spec.clone()));
        }
        if let (Some(claim), false) = (claim, leases.is_empty()) {
            let kept = leases.iter().map(|(id, token, _)| (id.clone(), token.clone())).collect();
            self.claims.insert(claim.clone(), kept);
        }
        leases
    }

    /// The directive that a call is about, once its token and lease are in order.
    pub(crate) fn authorised(&mut self, id: &str, token: Option<&str>) -> Result<&mut Held, Refused> {
        let held =
            id.parse().ok().and_then(|id: DirectiveId| self.directives.get_mut(&id)).ok_or((404, "not_found"))?;
        let token = token.ok_or((401, "token_invalid"))?;
        if !held.tokens.iter().any(|t| t.expose() == token) {
            return Err((401, "token_invalid"));
        }
        if held.lease_lost {
            return Err((409, "lease_lost"));
        }
        if !held.valid_tokens.iter().any(|t| t.expose() == token) {
            return Err((401, "token_expired"));
        }
        Ok(held)
    }

    pub(crate) fn started(
        &mut self,
        id: &str,
        token: Option<&str>,
        report: StartedRequest,
    ) -> Result<(DirectiveState, bool, bool), Refused> {
        let view = &mut self.authorised(id, token)?.view;
        match (view.state, &view.started) {
            (DirectiveState::Leased, _) => {
                view.state = DirectiveState::Running;
                view.started = Some(report);
                view.started_at = Some(Instant::now());
                Ok((view.state, false, view.cancel_requested))
            }
            (_, Some(first))
                if first.nexus_version == report.nexus_version && first.sandbox_version == report.sandbox_version =>
            {
                Ok((view.state, true, view.cancel_requested))
            }
            _ => Err((409, "state_conflict")),
        }
    }

    /// Renews the lease and, where asked, the token.
    pub(crate) fn heartbeat(
        &mut self,
        id: &str,
        token: Option<&str>,
        rotate: bool,
    ) -> Result<(bool, Option<DirectiveToken>), Refused> {
        let held = self.authorised(id, token)?;
        if held.view.state != DirectiveState::Running {
            return Err((409, "state_conflict"));
        }
        held.view.heartbeats += 1;
        let cancel = held.view.cancel_requested;
        let id: DirectiveId = id.parse().map_err(|_| (404, "not_found"))?;
        Ok((cancel, rotate.then(|| held.fresh_token(&id))))
    }

    pub(crate) fn chunk(
        &mut self,
        id: &str,
        token: Option<&str>,
        chunk: conduits::LogChunkRequest,
    ) -> Result<bool, Refused> {
        if chunk.bytes.len() > conduits::directive::MAX_CHUNK_BYTES {
            return Err((422, "chunk_too_large"));
        }
        let view = &mut self.authorised(id, token)?.view;
        if matches!(view.state, DirectiveState::Queued | DirectiveState::Leased) {
            return Err((409, "state_conflict"));
        }
        let mut violation = None;
        let chunks = &mut view.chunks[chunk.stream.index()];
        let duplicate = if let Some(first) = chunks.get_mut(&chunk.seq) {
            first.received += 1;
            if first.bytes != chunk.bytes || first.truncated != chunk.truncated {
                violation =
                    Some(format!("{id}: chunk {} of {} came again with another content", chunk.seq, chunk.stream));
            }
            true
        } else {
            let stored = Chunk { bytes: chunk.bytes, truncated: chunk.truncated, at: Instant::now(), received: 1 };
            chunks.insert(chunk.seq, stored);
            false
        };
        self.violations.extend(violation);
        Ok(duplicate)
    }

    pub(crate) fn finished(
        &mut self,
        id: &str,
        token: Option<&str>,
        report: FinishedRequest,
    ) -> Result<(DirectiveState, bool), Refused> {
        let view = &mut self.authorised(id, token)?.view;
        if let Some(first) = &view.finished {
            let same = finished_digest(first) == finished_digest(&report);
            return if same { Ok((view.state, true)) } else { Err((409, "payload_conflict")) };
        }
        if !matches!(view.state, DirectiveState::Leased | DirectiveState::Running) {
            return Err((409, "state_conflict"));
        }
        let gap = LogStream::ALL.iter().find(|stream| {
            let chunks = &view.chunks[stream.index()];
            chunks.keys().zip(0u64..).any(|(seq, want)| *seq != want)
        });
        let gap = gap.map(|stream| format!("{id}: finished while {stream} has a gap in its chunks"));
        view.state = report.status.into();
        view.finished = Some(report);
        view.finished_at = Some(Instant::now());
        let state = view.state;
        self.violations.extend(gap);
        Ok((state, false))
    }

    /// A fresh token for one that was once given out for the newest lease.
    pub(crate) fn recover(&mut self, id: &str, token: Option<&str>) -> Result<DirectiveToken, Refused> {
        let parsed: DirectiveId = id.parse().map_err(|_| (404, "not_found"))?;
        let held = self.directives.get_mut(&parsed).ok_or((404, "not_found"))?;
        let lease = format!("stub-token-{id}-{}-", held.view.leases);
        let known = token.filter(|token| held.tokens.iter().any(|t| t.expose() == *token)).ok_or((403, "forbidden"))?;
        if held.lease_lost || !known.starts_with(&lease) {
            return Err((409, "lease_lost"));
        }
        Ok(held.fresh_token(&parsed))
    }

    pub(crate) fn release(&mut self, id: &str, token: Option<&str>) -> Result<(), Refused> {
        let held = self.authorised(id, token)?;
        if held.view.state != DirectiveState::Leased {
            return Err((409, "state_conflict"));
        }
        held.view.state = DirectiveState::Queued;
        held.valid_tokens.clear();
        Ok(())
    }
}
