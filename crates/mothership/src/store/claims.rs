//! Claims and leases: who may run what, for how long, and what happens when he does not come back.

use std::time::Duration;

use conduits::{DirectiveState, SandboxProfile};
use rusqlite::{OptionalExtension as _, params};
use serde_json::Value;

use super::directives::{self, DirectiveRow};
use super::territories::Territory;
use super::{StoreError, Tx};
use crate::hub::Effect;
use crate::tickets::Ticket;
use crate::transition::{Event, Step, step};

/// The reason recorded when a territory's daemon went away from what it ran.
pub const TERRITORY_LOST: &str = "territory_lost";

/// A lease just given, or given again.
#[derive(Debug, Clone)]
pub struct Leased {
    /// The directive.
    pub id: String,
    /// Its whole spec.
    pub spec: Value,
    /// The lease's number, for the token.
    pub lease_number: i64,
}

/// What a poll asks for.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The profiles that the daemon offers.
    pub profiles: Vec<SandboxProfile>,
    /// Directives at most.
    pub max: u32,
    /// The poll's own id, the same again after a lost answer.
    pub claim_id: Option<String>,
    /// How long the lease lives without a heartbeat.
    pub lease_ttl: Duration,
    /// The poll's right to claim; one without an id has it always.
    pub ticket: Option<Ticket>,
    /// The daemon that asked, as it was known when the poll came: a poll of one that was replaced since takes nothing.
    pub instance: Option<Option<String>>,
}

impl Claim {
    /// Whether whoever asked is still there to take an answer, as far as is known.
    fn is_good(&self, territory: &Territory) -> bool {
        self.ticket.as_ref().is_none_or(Ticket::is_good)
            && self.instance.as_ref().is_none_or(|asked| *asked == territory.instance_id)
    }
}

/// Gives `territory` the oldest directives that it may have: of its account and its profiles, in facilities that are
/// free and bound to it or to none, and no more than it runs at once.
///
/// # Errors
/// The store fails.
pub fn claim(tx: &Tx<'_>, territory: &Territory, claim: &Claim) -> Result<Vec<Leased>, StoreError> {
    if let Some(claim_id) = &claim.claim_id
        && let Some(again) = replay(tx, territory, claim_id)?
    {
        return Ok(again);
    }
    if !claim.is_good(territory) {
        return Ok(Vec::new());
    }
    let held: u32 = tx
        .conn()
        .prepare_cached("SELECT count(*) FROM directives WHERE territory_id = ?1 AND state IN ('leased', 'running')")?
        .query_row([&territory.id], |row| row.get(0))?;
    let room = territory.max_concurrent.saturating_sub(held).min(claim.max);
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    if room == 0 || claim.profiles.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = candidates(tx, territory, Some(&territory.id), claim, room)?;
    found.extend(candidates(tx, territory, None, claim, room)?);
    found.sort_by_key(|candidate| candidate.seq);
    found.truncate(room);
    found.into_iter().map(|candidate| lease(tx, territory, claim, candidate)).collect()
}

/// The leases of an earlier poll with this id that have not started yet; none when there was no such poll.
fn replay(tx: &Tx<'_>, territory: &Territory, claim_id: &str) -> Result<Option<Vec<Leased>>, StoreError> {
    let mut query = tx.conn().prepare_cached(
        "SELECT id, spec, lease_number, state = 'leased' FROM directives
         WHERE territory_id = ?1 AND claim_id = ?2 ORDER BY seq",
    )?;
    let rows = query.query_map([territory.id.as_str(), claim_id], |row| {
        let spec: String = row.get(1)?;
        Ok((row.get(0)?, spec, row.get(2)?, row.get::<_, bool>(3)?))
    })?;
    let mut any = false;
    let mut leases = Vec::new();
    for row in rows {
        let (id, spec, lease_number, leased) = row?;
        any = true;
        if leased {
            leases.push(Leased { id, spec: parse(&spec)?, lease_number });
        }
    }
    Ok(any.then_some(leases))
}

struct Candidate {
    seq: i64,
    id: String,
    spec: String,
    facility_id: String,
}

/// The oldest directives that may be leased, at most `room`, from free facilities that are bound to `bound`; one of each
/// facility, oldest first.
///
/// Walks the index of facilities with work in the order of their heads. A facility's first directive of the offered
/// profiles may be younger than its head, but never older: the walk is over once the next head is younger than all that is
/// wanted. So its cost grows neither with the length of the queues nor, while the profiles in them are offered, with the
/// number of facilities.
fn candidates(
    tx: &Tx<'_>,
    territory: &Territory,
    bound: Option<&str>,
    claim: &Claim,
    room: usize,
) -> Result<Vec<Candidate>, StoreError> {
    let mut profiles = String::from(",");
    for profile in &claim.profiles {
        profiles.push_str(profile.as_str());
        profiles.push(',');
    }
    let mut query = tx.conn().prepare_cached(
        "SELECT f.head_seq, d.seq, d.id, d.spec, d.facility_id
         FROM facilities f CROSS JOIN directives d ON d.seq =
            (SELECT q.seq FROM directives q WHERE q.facility_id = f.id AND q.state = 'queued'
                AND instr(?3, ',' || q.profile || ',') > 0 ORDER BY q.seq LIMIT 1)
         WHERE f.account_id = ?1 AND f.territory_id IS ?2
            AND f.locked_by IS NULL AND f.head_seq IS NOT NULL
         ORDER BY f.head_seq",
    )?;
    let mut rows = query.query(params![territory.account_id, bound, profiles])?;
    let mut found: Vec<Candidate> = Vec::new();
    while let Some(row) = rows.next()? {
        let head: i64 = row.get(0)?;
        if found.len() == room && found.last().is_none_or(|youngest| head > youngest.seq) {
            break;
        }
        let seq: i64 = row.get(1)?;
        let place = found.partition_point(|candidate| candidate.seq < seq);
        if place < room {
            found.insert(place, Candidate { seq, id: row.get(2)?, spec: row.get(3)?, facility_id: row.get(4)? });
            found.truncate(room);
        }
    }
    Ok(found)
}

fn lease(tx: &Tx<'_>, territory: &Territory, claim: &Claim, candidate: Candidate) -> Result<Leased, StoreError> {
    let lease_number = tx
        .conn()
        .prepare_cached(
            "UPDATE directives SET state = 'leased', territory_id = ?2, instance_id = ?3, claim_id = ?4,
                lease_number = lease_number + 1, lease_expires_at = ?5, leased_at = ?6, reason = NULL
             WHERE seq = ?1 RETURNING lease_number",
        )?
        .query_row(
            params![
                candidate.seq,
                territory.id,
                territory.instance_id,
                claim.claim_id,
                tx.now().plus(claim.lease_ttl).0,
                tx.now().0
            ],
            |row| row.get(0),
        )?;
    tx.conn()
        .prepare_cached(
            "UPDATE facilities SET locked_by = ?2, territory_id = ?3,
                head_seq = (SELECT min(seq) FROM directives WHERE facility_id = ?1 AND state = 'queued')
             WHERE id = ?1",
        )?
        .execute([&candidate.facility_id, &candidate.id, &territory.id])?;
    tx.publish(Effect::Directive(candidate.id.clone()));
    Ok(Leased { spec: parse(&candidate.spec)?, id: candidate.id, lease_number })
}

fn parse(spec: &str) -> Result<Value, StoreError> {
    serde_json::from_str(spec)
        .map_err(|error| StoreError::Corrupt { what: "directives.spec", detail: error.to_string() })
}

/// How long a lease lives at least after a restart: territories ask every half minute while the mothership is away, and may
/// have an end to tell.
const AFTER_A_RESTART: Duration = Duration::from_secs(35);

/// The leases of before a restart, by the clock of this one: nobody could renew them meanwhile, and the wall clock may have
/// been set. None is over at once, and none lives longer than a new one.
///
/// # Errors
/// The store fails.
pub fn after_a_restart(tx: &Tx<'_>, lease_ttl: Duration) -> Result<(), StoreError> {
    let (least, most) = (tx.now().plus(AFTER_A_RESTART.min(lease_ttl)), tx.now().plus(lease_ttl));
    tx.conn().execute(
        "UPDATE directives SET lease_expires_at = max(?1, min(lease_expires_at, ?2)) WHERE state IN ('leased', 'running')",
        params![least.0, most.0],
    )?;
    Ok(())
}

/// Takes back what the lease of which is over: queued again where it had not started, failed where it ran.
///
/// # Errors
/// The store fails.
pub fn reap(tx: &Tx<'_>) -> Result<usize, StoreError> {
    let expired = directives::pick(
        tx.conn(),
        "state IN ('leased', 'running') AND lease_expires_at <= ?1 ORDER BY seq LIMIT 500",
        [tx.now().0],
    )?;
    for directive in &expired {
        take_back(tx, directive, "lease_expired")?;
    }
    Ok(expired.len())
}

/// When the next lease ends, if there is one.
///
/// # Errors
/// The store fails.
pub fn next_expiry(conn: &rusqlite::Connection) -> Result<Option<i64>, StoreError> {
    Ok(conn
        .prepare_cached("SELECT min(lease_expires_at) FROM directives WHERE state IN ('leased', 'running')")?
        .query_row([], |row| row.get(0))
        .optional()?
        .flatten())
}

/// Takes back what an older instance of the territory's daemon held and the present one does not list.
///
/// # Errors
/// The store fails.
pub fn replaced(tx: &Tx<'_>, territory: &Territory, instance_id: &str, listed: &[String]) -> Result<usize, StoreError> {
    let older = directives::pick(
        tx.conn(),
        "state IN ('leased', 'running') AND territory_id = ?1 AND instance_id IS NOT ?2 ORDER BY seq",
        [&territory.id, instance_id],
    )?;
    let mut taken = 0;
    for directive in older.iter().filter(|d| !listed.contains(&d.id)) {
        take_back(tx, directive, "instance_replaced")?;
        taken += 1;
    }
    // What the new instance lists is its own from now on: a third instance may lose it.
    tx.conn()
        .prepare_cached(
            "UPDATE directives SET instance_id = ?2
             WHERE territory_id = ?1 AND state IN ('leased', 'running') AND instance_id IS NOT ?2",
        )?
        .execute([&territory.id, instance_id])?;
    Ok(taken)
}

/// Ends a lease whose holder is gone.
fn take_back(tx: &Tx<'_>, directive: &DirectiveRow, why: &str) -> Result<(), StoreError> {
    let event = match directive.state {
        DirectiveState::Running => Event::Lost,
        _ => Event::Requeue { cancel_requested: directive.cancel_requested },
    };
    match step(directive.state, event) {
        Step::To(DirectiveState::Queued) => directives::requeue(tx, directive, why),
        Step::To(DirectiveState::Canceled) => directives::end(tx, directive, DirectiveState::Canceled, Some(why)),
        Step::To(state) => directives::end(tx, directive, state, Some(TERRITORY_LOST)),
        Step::Signal | Step::Same | Step::Refused => Ok(()),
    }
}
