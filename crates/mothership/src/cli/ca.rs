//! `mothership ca`: one authority after the other, on the files of the data directory.

use std::path::Path;

use super::CliError;
use super::args::Ca;
use super::terminal::{line, note};
use crate::ca::CaError;
use crate::ca::rollover::{self, Stage};
use crate::clock::Clock;
use crate::serve::directory;
use crate::store::{StoreError, authorities, look_beside};

/// Territories that are named; of more, the number is told.
const NAMED: usize = 10;

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub enum CaFailed {
    /// The files.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Some territories would be locked out.
    #[error(
        "{0} territories have not been given the next authority, and would have to enrol anew: {1}; wait until they have renewed (each does within 20 days; the mothership must have been restarted after `ca prepare`), disable them, or switch all the same with --force"
    )]
    Strangers(usize, String),
    /// Some territories would be locked out.
    #[error(
        "{0} territories have no certificate of the authority that signs now, and would have to enrol anew: {1}; wait until they have renewed (each does within 20 days; the mothership must have been restarted after `ca switch`), disable them, or retire it all the same with --force"
    )]
    LeftBehind(usize, String),
}

pub(super) fn run(dir: &Path, command: Ca) -> Result<u8, CliError> {
    let next = match command {
        Ca::Status => status(dir)?,
        Ca::Prepare => {
            rollover::prepare(dir).map_err(CaFailed::from)?;
            "the next authority is made; restart the mothership, and `mothership ca status` says who knows it"
        }
        Ca::Switch { force } => {
            switch(dir, force)?;
            "the next authority signs; restart the mothership, wait for 30 days, then `mothership ca retire`"
        }
        Ca::Retire { force } => {
            retire(dir, force)?;
            "the authority before this one is trusted no more; restart the mothership"
        }
    };
    note(next);
    Ok(0)
}

fn status(dir: &Path) -> Result<&'static str, CliError> {
    let stage = rollover::stage(dir);
    line(match stage {
        Stage::Settled => "settled",
        Stage::Prepared => "prepared",
        Stage::Switched => "switched",
    })?;
    let unready = match stage {
        Stage::Settled => Vec::new(),
        Stage::Prepared => strangers(dir)?,
        Stage::Switched => left_behind(dir)?,
    };
    for (name, id) in unready {
        line(&format!("{id} {name}"))?;
    }
    Ok(match stage {
        Stage::Settled => "one authority is trusted; `mothership ca prepare` makes the next one",
        Stage::Prepared => "two are trusted; the territories above do not know the next one yet",
        Stage::Switched => {
            "two are trusted; the territories above have no certificate of the one that signs; `mothership ca retire` ends that, 30 days after the switch"
        }
    })
}

fn switch(dir: &Path, force: bool) -> Result<(), CliError> {
    if rollover::stage(dir) == Stage::Prepared && !force {
        let strangers = strangers(dir)?;
        if !strangers.is_empty() {
            return Err(CaFailed::Strangers(strangers.len(), named(&strangers)).into());
        }
    }
    rollover::switch(dir).map_err(CaFailed::from)?;
    Ok(())
}

fn retire(dir: &Path, force: bool) -> Result<(), CliError> {
    if rollover::stage(dir) == Stage::Switched && !force {
        let left_behind = left_behind(dir)?;
        if !left_behind.is_empty() {
            return Err(CaFailed::LeftBehind(left_behind.len(), named(&left_behind)).into());
        }
    }
    rollover::retire(dir).map_err(CaFailed::from)?;
    Ok(())
}

fn named(territories: &[(String, String)]) -> String {
    let named: Vec<String> = territories.iter().take(NAMED).map(|(name, id)| format!("{name:?} ({id})")).collect();
    named.join(", ")
}

fn strangers(dir: &Path) -> Result<Vec<(String, String)>, CaFailed> {
    let next = rollover::next_key(dir)?;
    match look_beside(&dir.join(directory::DATABASE))? {
        Some(conn) => Ok(authorities::strangers(&conn, &next, Clock::start().now())?),
        None => Ok(Vec::new()),
    }
}

fn left_behind(dir: &Path) -> Result<Vec<(String, String)>, CaFailed> {
    let present = rollover::present_key(dir)?;
    match look_beside(&dir.join(directory::DATABASE))? {
        Some(conn) => Ok(authorities::left_behind(&conn, &present, Clock::start().now())?),
        None => Ok(Vec::new()),
    }
}
