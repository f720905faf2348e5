//! Faults on request: what an endpoint does instead of, before or after its work.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Every endpoint, and everything else that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /territories/enroll`
    Enroll,
    /// `POST /territories/renew`
    Renew,
    /// `POST /territories/heartbeat`
    TerritoryHeartbeat,
    /// `POST /polls`
    Poll,
    /// `POST /directives/{id}/started`
    Started,
    /// `POST /directives/{id}/heartbeat`
    Heartbeat,
    /// `POST /directives/{id}/log_chunks`
    LogChunk,
    /// `POST /directives/{id}/finished`
    Finished,
    /// `POST /directives/{id}/token`
    Token,
    /// `POST /directives/{id}/release`
    Release,
    /// Any other path or method.
    Other,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// This status instead of the work, with `Retry-After` where given.
    Status(u16, Option<u64>),
    /// The connection is cut before the work: the request had no effect.
    DropBefore,
    /// The connection is cut after the work: the request had its effect, the answer is lost.
    DropAfter,
    /// The work begins only after this time.
    Delay(Duration),
    /// The work is done, and only after this time the answer is given.
    DelayAnswer(Duration),
    /// 200 with a body that is not JSON, instead of the work.
    Garbage,
    /// 200 with a page of HTML, as a captive portal or a wrong address gives it.
    Html,
    /// 502 with a page of HTML, as a proxy in between gives it.
    BadGateway,
    /// 200 with a well-formed JSON body of this many bytes.
    Oversized(usize),
    /// No answer at all; the connection stays open.
    Hang,
}

/// A fault and how often it strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// For how many requests.
    pub times: usize,
}

impl Fault {
    /// For the next request only.
    #[must_use]
    pub const fn once(kind: FaultKind) -> Self {
        Self { kind, times: 1 }
    }

    /// For the next `times` requests.
    #[must_use]
    pub const fn times(times: usize, kind: FaultKind) -> Self {
        Self { kind, times }
    }

    /// Until it is mended.
    #[must_use]
    pub const fn always(kind: FaultKind) -> Self {
        Self { kind, times: usize::MAX }
    }
}

/// The faults that wait, by endpoint.
#[derive(Default)]
pub(crate) struct Faults {
    waiting: HashMap<Endpoint, VecDeque<Fault>>,
}

impl Faults {
    pub(crate) fn push(&mut self, endpoint: Endpoint, fault: Fault) {
        self.waiting.entry(endpoint).or_default().push_back(fault);
    }

    pub(crate) fn clear(&mut self, endpoint: Endpoint) {
        self.waiting.remove(&endpoint);
    }

    /// What strikes the next request of the endpoint.
    pub(crate) fn next(&mut self, endpoint: Endpoint) -> Option<FaultKind> {
        let queue = self.waiting.get_mut(&endpoint)?;
        let fault = queue.front_mut()?;
        let kind = fault.kind.clone();
        fault.times = fault.times.saturating_sub(1);
        if fault.times == 0 {
            queue.pop_front();
        }
        Some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_in_order_and_as_often_as_asked() {
        let mut faults = Faults::default();
        faults.push(Endpoint::Poll, Fault::times(2, FaultKind::Garbage));
        faults.push(Endpoint::Poll, Fault::once(FaultKind::Html));
        let struck: Vec<_> = (0..4).map(|_| faults.next(Endpoint::Poll)).collect();
        assert_eq!(struck, [Some(FaultKind::Garbage), Some(FaultKind::Garbage), Some(FaultKind::Html), None]);
        faults.push(Endpoint::Poll, Fault::always(FaultKind::Hang));
        assert_eq!(faults.next(Endpoint::Started), None);
        faults.clear(Endpoint::Poll);
        assert_eq!(faults.next(Endpoint::Poll), None);
    }
}
