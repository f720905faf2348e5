//! A directive's live log, printed as it comes, across lost connections.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::CliError;
use super::client::{Client, ClientError, segment, transport};
use super::commands::{decoded, missing};
use super::sse::{Event, Parser};
use super::terminal::{in_background, line, note, output, remark};
use super::whole::{OwnLines, end_of, ended_by, left_out};

/// How long nothing of the rest of the log may come after the end: longer than the mothership waits for it.
const REST: Duration = Duration::from_secs(120);
/// How long a lost connection is tried again.
pub(super) const RECONNECT: Duration = Duration::from_secs(60);
/// Between two tries.
pub(super) const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// A connection that brings nothing for this long is lost: the mothership says something every 15 s.
const SILENCE: Duration = Duration::from_secs(60);

/// Follows a log to its end.
pub(super) async fn follow_log(client: &Client, id: &str) -> Result<(), CliError> {
    let (end, _) = Follower::new(client, id, false).until_end().await?;
    tell(left_out(&end).into_iter().collect()).await
}

/// Says what the log of a run does not: that it is not whole, and, where no line of its territory's in there says so, what
/// ended the command.
pub(super) async fn tell_after(end: &Value, lines: &OwnLines) -> Result<(), CliError> {
    let cause = ended_by(end).filter(|_| !lines.seen());
    tell(left_out(end).into_iter().chain(cause).collect()).await
}

async fn tell(remarks: Vec<String>) -> Result<(), CliError> {
    in_background(move || {
        remarks.iter().for_each(|text| remark(text));
        Ok(())
    })
    .await
}

/// One live log.
pub(super) struct Follower<'c> {
    client: &'c Client,
    id: String,
    json_lines: bool,
    after: Option<String>,
    terminal: Option<Instant>,
    own_lines: OwnLines,
}

impl<'c> Follower<'c> {
    pub(super) fn new(client: &'c Client, id: &str, json_lines: bool) -> Self {
        Self { client, id: id.to_owned(), json_lines, after: None, terminal: None, own_lines: OwnLines::default() }
    }

    /// Prints until the end, and gives what the end says and whether the territory said something of its own. May be dropped
    /// at any moment.
    pub(super) async fn until_end(mut self) -> Result<(Value, OwnLines), CliError> {
        let mut lost: Option<Instant> = None;
        loop {
            match self.connection(&mut lost).await {
                Ok(Some(end)) => return Ok((end, self.own_lines)),
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
    async fn connection(&mut self, lost: &mut Option<Instant>) -> Result<Option<Value>, CliError> {
        let mut response = self.client.live(&self.id, self.after.as_deref()).await?;
        *lost = None;
        let mut parser = Parser::default();
        loop {
            let rest = self.terminal.map(|at| at + REST);
            let piece = tokio::select! {
                piece = response.chunk() => piece,
                () = sleep(SILENCE) => return Ok(None),
                () = until(rest) => {
                    note("the directive has ended, but a part of its log never came");
                    let path = format!("/api/v1/directives/{}", segment(&self.id));
                    return Ok(Some(end_of(&self.client.get(&path).await?)));
                }
            };
            let piece = piece.map_err(|error| transport(&self.id, &error))?;
            let Some(piece) = piece else {
                return Ok(None);
            };
            for event in parser.feed(&piece) {
                if let Some(end) = self.take(event).await? {
                    return Ok(Some(end));
                }
            }
        }
    }

    /// Prints an event; gives the end's data when it is that.
    async fn take(&mut self, event: Event) -> Result<Option<Value>, CliError> {
        let data: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
        if event.id.is_some() {
            self.after = event.id;
        }
        if self.json_lines {
            let text = json!({ "event": event.name, "data": data }).to_string();
            in_background(move || line(&text)).await?;
        }
        match event.name.as_str() {
            "log" => {
                self.terminal = self.terminal.map(|_| Instant::now());
                self.print(&data).await?;
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

    async fn print(&mut self, chunk: &Value) -> Result<(), CliError> {
        let told = missing(chunk);
        let (stream, bytes) = decoded(chunk);
        self.own_lines.feed(stream, &bytes);
        if self.json_lines {
            return Ok(());
        }
        in_background(move || {
            if let Some(told) = told {
                note(&told);
            }
            output(stream, &bytes)
        })
        .await
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
