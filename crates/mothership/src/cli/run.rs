//! `mothership run` and `logs -f`: a directive's output as it comes, and its exit code.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use super::CliError;
use super::args::Run;
use super::client::{Client, ClientError, segment, transport};
use super::commands::{decoded, facility_id, text};
use super::shell;
use super::sse::{Event, Parser};
use super::terminal::{line, note, output};

/// How long the rest of the log may take after the end: nexusd ships for 60 s at most.
const REST: Duration = Duration::from_secs(75);
/// How long a lost connection is tried again.
const RECONNECT: Duration = Duration::from_secs(60);
/// Between two tries.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// What a run that was interrupted exits with, as a shell would (128 + SIGINT).
const INTERRUPTED: u8 = 130;
/// What a run that timed out exits with where its territory gave no code, as timeout(1).
const TIMED_OUT: u8 = 124;

pub(super) async fn run(client: &Client, args: Run) -> Result<u8, CliError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Runtime)?;
    let json_lines = args.json;
    let facility = match &args.facility {
        Some(facility) => facility_id(client, facility).await?,
        None => text(&client.post("/api/v1/facilities", &json!({})).await?, "id"),
    };
    let created = client.post("/api/v1/directives", &body(&facility, &args)).await?;
    let id = text(&created, "id");
    if json_lines {
        line(&json!({ "event": "created", "directive": created }).to_string())?;
    }
    let mut follower = Follower::new(client, &id, json_lines);
    let end = match follower.follow(Some(&mut interrupt)).await {
        Err(CliError::Output(error)) => {
            // Nobody reads the output any more: as with a pipe, the command has no reason to go on.
            cancel(client, &id).await;
            return Err(CliError::Output(error));
        }
        followed => followed?,
    };
    match end {
        Followed::Ended(end) => Ok(exit_code(&end)),
        Followed::Interrupted => Ok(INTERRUPTED),
    }
}

/// Follows a log to its end.
pub(super) async fn follow_log(client: &Client, id: &str) -> Result<(), CliError> {
    Follower::new(client, id, false).follow(None).await.map(drop)
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
        "canceled" => INTERRUPTED,
        "timed_out" => TIMED_OUT,
        _ => 1,
    }
}

enum Followed {
    Ended(Value),
    Interrupted,
}

/// One live log, across lost connections.
struct Follower<'c> {
    client: &'c Client,
    id: String,
    json_lines: bool,
    after: Option<String>,
    terminal: Option<Instant>,
    canceled: bool,
}

impl<'c> Follower<'c> {
    fn new(client: &'c Client, id: &str, json_lines: bool) -> Self {
        Self { client, id: id.to_owned(), json_lines, after: None, terminal: None, canceled: false }
    }

    /// Prints until the end. With `interrupt`, the first one cancels the directive, the second one gives up.
    async fn follow(&mut self, mut interrupt: Option<&mut Signal>) -> Result<Followed, CliError> {
        let mut lost: Option<Instant> = None;
        loop {
            match self.connection(&mut interrupt, &mut lost).await {
                Ok(Some(Followed::Ended(_))) if self.canceled => return Ok(Followed::Interrupted),
                Ok(Some(followed)) => return Ok(followed),
                Ok(None) => {}
                // Only what may pass is tried again.
                Err(CliError::Client(error @ ClientError::Transport { .. })) => {
                    let since = *lost.get_or_insert_with(Instant::now);
                    if since.elapsed() > RECONNECT {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error),
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }

    /// One connection: the end, or none when it broke off and may be resumed.
    async fn connection(
        &mut self,
        interrupt: &mut Option<&mut Signal>,
        lost: &mut Option<Instant>,
    ) -> Result<Option<Followed>, CliError> {
        let mut response = self.client.live(&self.id, self.after.as_deref()).await?;
        *lost = None;
        let mut parser = Parser::default();
        loop {
            let rest = self.terminal.map(|at| at + REST);
            let piece = tokio::select! {
                piece = response.chunk() => piece,
                () = interrupted(interrupt) => {
                    if self.canceled {
                        return Ok(Some(Followed::Interrupted));
                    }
                    self.canceled = true;
                    note("canceling; interrupt again to leave at once");
                    cancel(self.client, &self.id).await;
                    continue;
                }
                () = until(rest) => {
                    note("the directive has ended, but a part of its log never came");
                    let path = format!("/api/v1/directives/{}", segment(&self.id));
                    let directive = self.client.get(&path).await?;
                    return Ok(Some(Followed::Ended(end_of(&directive))));
                }
            };
            let piece = piece.map_err(|error| transport(&self.id, &error))?;
            let Some(piece) = piece else {
                return Ok(None);
            };
            for event in parser.feed(&piece) {
                if let Some(end) = self.take(event)? {
                    return Ok(Some(Followed::Ended(end)));
                }
            }
        }
    }

    /// Prints an event; gives the end's data when it is that.
    fn take(&mut self, event: Event) -> Result<Option<Value>, CliError> {
        let data: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
        if event.id.is_some() {
            self.after = event.id;
        }
        if self.json_lines {
            line(&json!({ "event": event.name, "data": data }).to_string())?;
        }
        match event.name.as_str() {
            "log" if !self.json_lines => {
                let (stream, bytes) = decoded(&data);
                output(stream, &bytes)?;
            }
            "state" => {
                let ended = data["state"]
                    .as_str()
                    .and_then(|state| state.parse::<conduits::DirectiveState>().ok())
                    .is_some_and(conduits::DirectiveState::is_terminal);
                if ended {
                    self.terminal.get_or_insert_with(Instant::now);
                }
            }
            "end" => return Ok(Some(data)),
            "deleted" => return Err(CliError::Deleted(self.id.clone())),
            _ => {}
        }
        Ok(None)
    }
}

/// The end event's data, from the directive itself.
fn end_of(directive: &Value) -> Value {
    json!({
        "state": directive["state"],
        "reason": directive["reason"],
        "exit_code": directive["result"]["exit_code"],
    })
}

async fn cancel(client: &Client, id: &str) {
    let path = format!("/api/v1/directives/{}/cancel", segment(id));
    if let Err(error) = client.post(&path, &json!({})).await {
        note(&format!("cannot cancel: {error}"));
    }
}

async fn interrupted(interrupt: &mut Option<&mut Signal>) {
    match interrupt {
        Some(interrupt) => {
            if interrupt.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
