//! The commands that call the API once or twice; `run` and `logs -f` are in `run` and `follow`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use conduits::{DirectiveState, LogStream};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::CliError;
use super::args::{ApiToken, Command, EnrollToken, Facility, SigningKey, Territory};
use super::client::{Client, ClientError, segment};
use super::terminal::{line, note, output, remark, table};
use super::whole::{end_of, left_out};
use super::{follow, run};

pub(super) async fn run(client: &Client, command: Command) -> Result<u8, CliError> {
    match command {
        Command::EnrollToken(command) => enroll_token(client, command).await?,
        Command::ApiToken(command) => api_token(client, command).await?,
        Command::SigningKey(SigningKey::Rotate { drop_older }) => {
            let body = json!({ "drop_older": drop_older });
            let keys = client.post("/api/v1/signing-keys/rotate", &body).await?;
            line(&text(&keys, "signs"))?;
        }
        Command::Territory(command) => {
            let (id, what) = match command {
                Territory::Disable { id } => (id, "disable"),
                Territory::Enable { id } => (id, "enable"),
            };
            client.post(&format!("/api/v1/territories/{}/{what}", segment(&id)), &json!({})).await?;
        }
        Command::Facility(command) => facility(client, command).await?,
        Command::Run(args) => return run::run(client, args).await,
        Command::Logs { follow: true, id } => follow::follow_log(client, &id).await?,
        Command::Logs { follow: false, id } => logs(client, &id).await?,
        Command::Cancel { id } => {
            let path = format!("/api/v1/directives/{}/cancel", segment(&id));
            let directive = client.post(&path, &json!({})).await?;
            line(&text(&directive, "state"))?;
        }
        Command::Ls { state, limit, json } => ls(client, state.as_deref(), limit, json).await?,
        Command::Territories { json } => territories(client, json).await?,
        // Handled before there is a client.
        Command::Serve(_) | Command::Ca(_) | Command::Completions { .. } | Command::Man { .. } => {}
    }
    Ok(0)
}

async fn enroll_token(client: &Client, command: EnrollToken) -> Result<(), CliError> {
    match command {
        EnrollToken::Create { ttl, label, json } => {
            let labels: Map<String, Value> =
                label.into_iter().map(|(key, value)| (key, Value::String(value))).collect();
            let body = json!({ "ttl_seconds": ttl, "labels": labels });
            let created = client.post("/api/v1/enrollment-tokens", &body).await?;
            line(&if json { created.to_string() } else { text(&created, "token") })
        }
        EnrollToken::List { json } => {
            let items = all(client, "/api/v1/enrollment-tokens", "enrollment_tokens").await?;
            show(json, &items, &["id", "state", "expires_at", "used_by"])
        }
        EnrollToken::Revoke { id } => {
            let path = format!("/api/v1/enrollment-tokens/{}", segment(&id));
            client.call(Method::DELETE, &path, None).await?;
            Ok(())
        }
    }
}

async fn api_token(client: &Client, command: ApiToken) -> Result<(), CliError> {
    match command {
        ApiToken::Create { name, scope, ttl, json } => {
            let body = json!({ "name": name, "scope": scope, "ttl_seconds": ttl });
            let created = client.post("/api/v1/api-tokens", &body).await?;
            line(&if json { created.to_string() } else { text(&created, "token") })
        }
        ApiToken::List { json } => {
            let items = all(client, "/api/v1/api-tokens", "api_tokens").await?;
            show(json, &items, &["id", "name", "scope", "state", "expires_at"])
        }
        ApiToken::Revoke { id } => {
            let path = format!("/api/v1/api-tokens/{}", segment(&id));
            client.call(Method::DELETE, &path, None).await?;
            Ok(())
        }
    }
}

async fn facility(client: &Client, command: Facility) -> Result<(), CliError> {
    match command {
        Facility::Create { name, repo_url, territory, json } => {
            let body = json!({ "name": name, "repo_url": repo_url, "territory_id": territory });
            let created = client.post("/api/v1/facilities", &body).await?;
            line(&if json { created.to_string() } else { text(&created, "id") })
        }
        Facility::List { json } => {
            let items = all(client, "/api/v1/facilities", "facilities").await?;
            show(json, &items, &["id", "name", "territory_id", "locked_by"])
        }
        Facility::Delete { facility } => {
            let id = facility_id(client, &facility).await?;
            let path = format!("/api/v1/facilities/{}", segment(&id));
            client.call(Method::DELETE, &path, None).await?;
            Ok(())
        }
    }
}

/// The id of the facility that the text is the id of, else of the one with this name, else the text itself.
pub(super) async fn facility_id(client: &Client, id_or_name: &str) -> Result<String, ClientError> {
    match client.get(&format!("/api/v1/facilities/{}", segment(id_or_name))).await {
        Ok(found) if found["id"] == id_or_name => return Ok(id_or_name.to_owned()),
        Ok(_) => {}
        Err(ClientError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => {}
        Err(error) => return Err(error),
    }
    let path = format!("/api/v1/facilities?name={}", segment(id_or_name));
    let found = client.get(&path).await?;
    Ok(found.pointer("/facilities/0/id").and_then(Value::as_str).unwrap_or(id_or_name).to_owned())
}

async fn logs(client: &Client, id: &str) -> Result<(), CliError> {
    let mut after = "0".to_owned();
    loop {
        let path = format!("/api/v1/directives/{}/logs?after={}", segment(id), segment(&after));
        let page = client.get(&path).await?;
        for chunk in page["chunks"].as_array().into_iter().flatten() {
            if let Some(told) = missing(chunk) {
                note(&told);
            }
            let (stream, bytes) = decoded(chunk);
            output(stream, &bytes)?;
        }
        if let Some(next) = page["next_after"].as_str() {
            next.clone_into(&mut after);
            continue;
        }
        let ended =
            page["state"].as_str().and_then(|state| state.parse().ok()).is_some_and(DirectiveState::is_terminal);
        if ended && page["whole"] == false {
            note("the directive has ended, but a part of its log has not come yet; `mothership logs -f` waits for it");
        }
        if ended {
            let directive = client.get(&format!("/api/v1/directives/{}", segment(id))).await?;
            if let Some(text) = left_out(&end_of(&directive)) {
                remark(&text);
            }
        }
        return Ok(());
    }
}

/// What to say where chunks never came.
pub(super) fn missing(chunk: &Value) -> Option<String> {
    let lacking = chunk["missing"].as_u64().filter(|lacking| *lacking > 0)?;
    let chunks = if lacking == 1 { "chunk" } else { "chunks" };
    Some(format!("{lacking} {chunks} of {} never came: a part of the log is missing here", text(chunk, "stream")))
}

/// A chunk's stream and bytes.
pub(super) fn decoded(chunk: &Value) -> (LogStream, Vec<u8>) {
    let stream = if chunk["stream"] == "stderr" { LogStream::Stderr } else { LogStream::Stdout };
    let bytes = STANDARD.decode(chunk["bytes"].as_str().unwrap_or_default()).unwrap_or_default();
    (stream, bytes)
}

async fn ls(client: &Client, state: Option<&str>, limit: u32, json: bool) -> Result<(), CliError> {
    let mut path = format!("/api/v1/directives?limit={limit}");
    if let Some(state) = state {
        path.push_str("&state=");
        path.push_str(&segment(state));
    }
    let found = client.get(&path).await?;
    if json {
        return line(&found["directives"].to_string());
    }
    let rows: Vec<Vec<String>> = found["directives"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|directive| {
            let code =
                directive["result"]["exit_code"].as_i64().map_or_else(|| "-".to_owned(), |code| code.to_string());
            vec![
                text(directive, "id"),
                text(directive, "state"),
                code,
                text(directive, "sandbox_profile"),
                text(directive, "queued_at"),
                first_line(&text(&directive["spec"], "command")),
            ]
        })
        .collect();
    table(&["ID", "STATE", "EXIT", "PROFILE", "QUEUED", "COMMAND"], &rows)
}

/// The beginning of a command, printable: a log of directives must not drive the terminal.
fn first_line(command: &str) -> String {
    let line = command.lines().next().unwrap_or_default();
    line.chars().map(|c| if c.is_control() { '?' } else { c }).take(60).collect()
}

async fn territories(client: &Client, json: bool) -> Result<(), CliError> {
    let items = all(client, "/api/v1/territories", "territories").await?;
    let columns = ["id", "name", "kind", "nexus_version", "last_seen_at", "disabled_at"];
    show(json, &items, &columns)
}

/// Every page of a list.
pub(super) async fn all(client: &Client, path: &str, key: &str) -> Result<Vec<Value>, ClientError> {
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let mut page = client.get(&format!("{path}?limit=500{cursor}")).await?;
        if let Value::Array(found) = page[key].take() {
            items.extend(found);
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", segment(next)),
            None => return Ok(items),
        }
    }
}

fn show(json: bool, items: &[Value], columns: &[&str]) -> Result<(), CliError> {
    if json {
        return line(&Value::from(items).to_string());
    }
    let rows: Vec<Vec<String>> =
        items.iter().map(|item| columns.iter().map(|column| first_line(&text(item, column))).collect()).collect();
    let heads: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    table(&heads.iter().map(String::as_str).collect::<Vec<_>>(), &rows)
}

/// A field as text; `-` where there is none.
pub(super) fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
