//! The paths of the endpoints. Ids consist of characters that stand in a path as they are, so nothing is escaped.

use crate::ids::DirectiveId;

/// What all paths begin with.
pub const BASE: &str = "/conduits/v1";
/// `POST`: a machine enrols as a territory.
pub const ENROLL: &str = "/conduits/v1/territories/enroll";
/// `POST`: a territory renews its certificate.
pub const RENEW: &str = "/conduits/v1/territories/renew";
/// `POST`: a territory says how it is.
pub const TERRITORY_HEARTBEAT: &str = "/conduits/v1/territories/heartbeat";
/// `POST`: a territory asks for work.
pub const POLLS: &str = "/conduits/v1/polls";

/// The paths about one directive as a router's patterns, `{id}` standing for the directive id.
pub mod route {
    /// [`super::started`]
    pub const STARTED: &str = "/conduits/v1/directives/{id}/started";
    /// [`super::heartbeat`]
    pub const HEARTBEAT: &str = "/conduits/v1/directives/{id}/heartbeat";
    /// [`super::log_chunks`]
    pub const LOG_CHUNKS: &str = "/conduits/v1/directives/{id}/log_chunks";
    /// [`super::finished`]
    pub const FINISHED: &str = "/conduits/v1/directives/{id}/finished";
    /// [`super::token`]
    pub const TOKEN: &str = "/conduits/v1/directives/{id}/token";
    /// [`super::release`]
    pub const RELEASE: &str = "/conduits/v1/directives/{id}/release";
}

fn of(route: &str, id: &DirectiveId) -> String {
    route.replace("{id}", id.as_str())
}

/// `POST`: the command is about to run.
#[must_use]
pub fn started(id: &DirectiveId) -> String {
    of(route::STARTED, id)
}

/// `POST`: renews lease and token, brings a cancel.
#[must_use]
pub fn heartbeat(id: &DirectiveId) -> String {
    of(route::HEARTBEAT, id)
}

/// `POST`: one chunk of output.
#[must_use]
pub fn log_chunks(id: &DirectiveId) -> String {
    of(route::LOG_CHUNKS, id)
}

/// `POST`: how it ended.
#[must_use]
pub fn finished(id: &DirectiveId) -> String {
    of(route::FINISHED, id)
}

/// `POST`: a fresh token for the same lease.
#[must_use]
pub fn token(id: &DirectiveId) -> String {
    of(route::TOKEN, id)
}

/// `POST`: gives back a lease that cannot be started.
#[must_use]
pub fn release(id: &DirectiveId) -> String {
    of(route::RELEASE, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_routes_with_the_id() {
        let id: DirectiveId = "d.1".parse().unwrap();
        let paths = [started(&id), heartbeat(&id), log_chunks(&id), finished(&id), token(&id), release(&id)];
        let ends = ["started", "heartbeat", "log_chunks", "finished", "token", "release"];
        for (path, end) in paths.iter().zip(ends) {
            assert_eq!(path, &format!("/conduits/v1/directives/d.1/{end}"));
        }
        assert!([ENROLL, RENEW, TERRITORY_HEARTBEAT, POLLS].iter().all(|path| path.starts_with(BASE)));
    }
}
