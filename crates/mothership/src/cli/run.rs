//! `mothership run`: a directive of its own, its output as it comes, its exit code, and what signals do.
//!
//! The first SIGINT or SIGTERM cancels the directive, whose end is then waited for as without; the second one leaves at once,
//! whatever is being waited for: an answer of the mothership, a connection to it, or a reader of the output. Before a
//! directive is asked for, the first one leaves. A reader that goes away, and an output that cannot be written, cancel it too:
//! nobody would see what it does. Its end is not waited for then.
//! What nobody takes is told once, on standard error.

use std::io::ErrorKind;
use std::pin::pin;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::CliError;
use super::args::Run;
use super::client::{Client, ClientError, segment};
use super::commands::{all, facility_id, text};
use super::follow::{Follower, RECONNECT, RECONNECT_PAUSE, tell_after};
use super::terminal::{in_background, line, note};
use super::{shell, takers};

/// What a run whose directive was canceled exits with where its territory gave no code (128 + SIGINT).
const CANCELED: u8 = 130;
/// What a run that timed out exits with where its territory gave no code, as timeout(1).
const TIMED_OUT: u8 = 124;
/// What the first signal is answered with.
const CANCELING: &str = "canceling; interrupt again to leave at once";
/// How long a directive may be queued before it is asked who could take it.
const TAKEN_SOON: Duration = Duration::from_secs(2);
/// The time for the cancel of a directive whose output nobody reads: the rest of the pipe waits for this one.
const ABANDON: Duration = Duration::from_secs(2);

pub(super) async fn run(client: &Client, args: Run) -> Result<u8, CliError> {
    let mut signals = Signals::new().map_err(CliError::Runtime)?;
    let facility = tokio::select! {
        facility = facility(client, &args) => facility?,
        code = signals.next() => return Ok(code),
    };
    let (created, interrupted) = match create(client, &facility.id, &args, &mut signals).await {
        Ok(Creation::Made(created)) => (created, false),
        Ok(Creation::MadeAfterSignal(created)) => (created, true),
        Ok(Creation::Left(code)) => return Ok(code),
        Err(error) => {
            if matches!(error, ClientError::Refused { .. }) && facility.made.is_some() {
                tokio::select! {
                    () = discard(client, &facility.id) => {}
                    _ = signals.next() => {}
                }
            }
            return Err(error.into());
        }
    };
    if let Some(name) = &facility.made {
        note(&format!("made facility {name} for this; --facility {name} runs in it again"));
    }
    let id = text(&created, "id");
    let followed = match announce(&created, args.json) {
        Ok(()) => follow(client, &id, args.json, &mut signals, interrupted).await,
        Err(error) => Err(error),
    };
    match followed {
        Err(CliError::Output(error)) => {
            // What it prints is lost (no reader, a full disk): the command has no reason to go on.
            let patience = if error.kind() == ErrorKind::BrokenPipe { ABANDON } else { RECONNECT };
            abandon(client, &id, patience, &mut signals).await;
            Err(CliError::Output(error))
        }
        Err(error) => Err(error),
        Ok(Followed::End(end)) => Ok(exit_code(&end)),
        Ok(Followed::Left(code)) => Ok(code),
    }
}

/// The first line for machines: which directive it is.
fn announce(created: &Value, json_lines: bool) -> Result<(), CliError> {
    if json_lines {
        line(&json!({ "event": "created", "directive": created }).to_string())?;
    }
    Ok(())
}

/// Cancels what nobody follows any more, as far as the mothership hears it in time.
async fn abandon(client: &Client, id: &str, patience: Duration, signals: &mut Signals) {
    tokio::select! {
        canceled = timeout(patience, cancel(client, id)) => {
            if canceled.is_err() {
                note(&format!("no answer to its cancel: directive {id} may run on; see `mothership cancel`"));
            }
        }
        _ = signals.next() => {}
    }
}

/// The signals that ask for an end, one after the other.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next one, as the code of a program that it ended.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            Some(()) = self.interrupt.recv() => 130,
            Some(()) = self.terminate.recv() => 143,
            else => std::future::pending().await,
        }
    }
}

/// What became of the request for the directive.
enum Creation {
    Made(Value),
    MadeAfterSignal(Value),
    Left(u8),
}

/// Queues the directive. Interrupted, it still waits for the answer: only that says what there is to cancel.
async fn create(client: &Client, facility: &str, args: &Run, signals: &mut Signals) -> Result<Creation, ClientError> {
    let body = body(facility, args);
    let mut created = pin!(client.post("/api/v1/directives", &body));
    tokio::select! {
        created = &mut created => return Ok(Creation::Made(created?)),
        _ = signals.next() => note(CANCELING),
    }
    tokio::select! {
        created = &mut created => Ok(Creation::MadeAfterSignal(created?)),
        code = signals.next() => {
            note("left before the mothership answered; `mothership ls` shows whether the directive was queued");
            Ok(Creation::Left(code))
        }
    }
}

/// How following a directive ended.
enum Followed {
    /// With what its end says.
    End(Value),
    /// By a second signal.
    Left(u8),
}

/// Follows the directive to its end, or to the second signal.
async fn follow(
    client: &Client,
    id: &str,
    json_lines: bool,
    signals: &mut Signals,
    interrupted: bool,
) -> Result<Followed, CliError> {
    let mut end = pin!(async {
        let (end, lines) = Follower::new(client, id, json_lines).until_end().await?;
        tell_after(&end, &lines).await?;
        Ok(end)
    });
    if !interrupted {
        let mut untaken = pin!(tell_if_untaken(client, id));
        let mut told = false;
        loop {
            tokio::select! {
                end = &mut end => return end.map(Followed::End),
                said = &mut untaken, if !told => {
                    told = true;
                    said?;
                }
                _ = signals.next() => break,
            }
        }
    }
    // Said beside the call: whoever does not read the output may not read this either.
    let mut canceled = pin!(async {
        let (said, ()) = tokio::join!(say(CANCELING.to_owned()), cancel(client, id));
        said
    });
    let mut told = false;
    loop {
        tokio::select! {
            end = &mut end => return end.map(Followed::End),
            said = &mut canceled, if !told => {
                told = true;
                said?;
            }
            code = signals.next() => return Ok(Followed::Left(code)),
        }
    }
}

async fn say(words: String) -> Result<(), CliError> {
    in_background(move || {
        note(&words);
        Ok(())
    })
    .await
}

/// Says, where the directive is still queued after a moment and no territory takes its like, who there is and what to do.
async fn tell_if_untaken(client: &Client, id: &str) -> Result<(), CliError> {
    sleep(TAKEN_SOON).await;
    match untaken(client, id).await {
        Ok(Some(words)) => say(words).await,
        Ok(None) => Ok(()),
        // The one that follows the log meets the same, and says it.
        Err(error) => {
            tracing::debug!(%error, "cannot find out who could take the directive");
            Ok(())
        }
    }
}

async fn untaken(client: &Client, id: &str) -> Result<Option<String>, ClientError> {
    let directive = client.get(&format!("/api/v1/directives/{}", segment(id))).await?;
    if directive["state"] != "queued" {
        return Ok(None);
    }
    let path = format!("/api/v1/facilities/{}", segment(&text(&directive, "facility_id")));
    let facility = client.get(&path).await?;
    let territories = all(client, "/api/v1/territories", "territories").await?;
    Ok(takers::nobody(&text(&directive, "sandbox_profile"), &facility, &territories))
}

/// Asks for a cancel until the mothership has heard it, as long as a lost connection is tried.
async fn cancel(client: &Client, id: &str) {
    let path = format!("/api/v1/directives/{}/cancel", segment(id));
    let began = Instant::now();
    loop {
        match client.post(&path, &json!({})).await {
            Ok(_) => return,
            Err(ClientError::Transport { .. }) if began.elapsed() < RECONNECT => sleep(RECONNECT_PAUSE).await,
            Err(error) => return note(&format!("cannot cancel: {error}")),
        }
    }
}

/// The facility to run in.
struct Facility {
    id: String,
    /// Its name, where this run made it.
    made: Option<String>,
}

async fn facility(client: &Client, args: &Run) -> Result<Facility, ClientError> {
    if let Some(named) = &args.facility {
        return Ok(Facility { id: facility_id(client, named).await?, made: None });
    }
    let name = fresh_name();
    let made = client.post("/api/v1/facilities", &json!({ "name": name })).await?;
    Ok(Facility { id: text(&made, "id"), made: Some(name) })
}

/// A name that says when it was for, and that can be read out and typed: no letter looks like a digit.
fn fresh_name() -> String {
    const LETTERS: &[u8] = b"bcdfghjkmnpqrstvwxz";
    let tail: String = rand::random::<[u8; 4]>()
        .iter()
        .filter_map(|n| LETTERS.get(usize::from(*n) % LETTERS.len()))
        .map(|l| char::from(*l))
        .collect();
    format!("run-{}-{tail}", jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S"))
}

/// Removes a facility that was made for a directive which is not to be.
async fn discard(client: &Client, facility: &str) {
    let path = format!("/api/v1/facilities/{}", segment(facility));
    if let Err(error) = client.call(Method::DELETE, &path, None).await {
        note(&format!("facility {facility} was made for this and cannot be removed: {error}"));
    }
}

fn body(facility: &str, args: &Run) -> Value {
    let mut body = json!({
        "facility_id": facility,
        "sandbox_profile": args.profile,
        "command": shell::script(&args.command),
    });
    if let Some(timeout) = args.timeout {
        body["timeout_seconds"] = json!(timeout);
    }
    if let Some(cwd) = &args.cwd {
        body["cwd"] = json!(cwd);
    }
    if !args.env.is_empty() {
        let env: Map<String, Value> = args.env.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        body["env"] = Value::Object(env);
    }
    let implied = (!args.allow.is_empty()).then_some("allowlist");
    if let Some(mode) = args.net.as_deref().or(implied) {
        let mut net = json!({ "mode": mode });
        if !args.allow.is_empty() {
            net["allow"] = json!(args.allow);
        }
        body["capabilities"] = json!({ "net": net });
    }
    body
}

/// The command's own code, else one that says how it ended.
fn exit_code(end: &Value) -> u8 {
    let state = text(end, "state");
    if let Some(code) = end["exit_code"].as_i64() {
        // A code of 0 beside a failure (a diff that could not be taken, say) must not look like success.
        let code = u8::try_from(code).unwrap_or(1);
        return if code == 0 && state != "succeeded" { 1 } else { code };
    }
    let reason = text(end, "reason");
    if state != "succeeded" {
        note(&format!("the directive ended {state} ({reason})"));
    }
    match state.as_str() {
        "succeeded" => 0,
        "canceled" => CANCELED,
        "timed_out" => TIMED_OUT,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_name_reads_well_and_is_fresh() {
        let names: std::collections::BTreeSet<String> = (0..50).map(|_| fresh_name()).collect();
        assert!(names.len() > 45, "{names:?}");
        for name in names {
            let parts: Vec<&str> = name.split('-').collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [3, 8, 6, 4], "{name}");
        }
    }

    #[test]
    fn the_exit_code_is_the_command_s_or_says_how_it_ended() {
        let of = |state: &str, code: Option<i64>| exit_code(&json!({ "state": state, "exit_code": code }));
        assert_eq!(of("succeeded", Some(0)), 0);
        assert_eq!(of("failed", Some(3)), 3);
        assert_eq!(of("failed", Some(0)), 1);
        assert_eq!(of("failed", None), 1);
        assert_eq!(of("canceled", None), 130);
        assert_eq!(of("timed_out", Some(124)), 124);
        assert_eq!(of("failed", Some(-1)), 1);
    }
}
