//! The program: reads the environment and the command line, does what they say, and ends with 0, 1 or 2.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use nexusd::cli::{self, EnrollArgs, Invocation, RunArgs};
use nexusd::client::{ClientSettings, Mothership, ProxyChoice, TlsSettings};
use nexusd::config::{Config, ConfigError, ConfigSource, Identity, IdentityError, LogFormat, LogLevel, Platform};
use nexusd::credentials::{self, UnusableFiles};
use nexusd::daemon::{self, Reloaded, Start};
use nexusd::doctor::Subject;
use nexusd::engine::{self, Surroundings};
use nexusd::observe::log::LogHandle;
use nexusd::observe::tape;
use nexusd::rootfs::{self, Wanted};
use nexusd::run::{RunError, Scratch};
use nexusd::signals::Signals;
use nexusd::{VERSION, control, doctor, enroll, run};
use sandbox::{DarwinSettings, HostHelper, Starts, supervisor};

/// Usage or configuration.
const USAGE: u8 = 2;

/// Nobody reads standard output any more: as a program ends that SIGPIPE ended.
const READER_GONE: u8 = 128 + 13;

/// What a container engine is given of nexusd's own environment: where its files are, and how it reaches registries. The
/// container gets none of it.
const CONTAINER_VARIABLES: [&str; 24] = [
    "CONTAINERS_CONF",
    "CONTAINERS_REGISTRIES_CONF",
    "CONTAINERS_STORAGE_CONF",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "DOCKER_TLS_VERIFY",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PATH",
    "REGISTRY_AUTH_FILE",
    "TMPDIR",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

fn main() -> ExitCode {
    if supervisor::is_asked_for(std::env::args_os()) {
        return ExitCode::from(supervisor::run().unwrap_or(1));
    }
    let invocation = match cli::parse(std::env::args_os(), Platform::current()) {
        Ok(invocation) => invocation,
        Err(usage) => {
            // Help that nobody reads any more is no failure.
            let written = match usage.code {
                0 => std::io::stdout().write_all(usage.text.as_bytes()),
                _ => std::io::stderr().write_all(usage.text.as_bytes()),
            };
            return ExitCode::from(if written.is_err() && usage.code == 0 { 0 } else { usage.code });
        }
    };
    match dispatch(invocation) {
        Ok(code) => code,
        Err(error) => {
            let configuration = error.is::<ConfigError>() || error.is::<IdentityError>() || error.is::<UnusableFiles>();
            complain(&sentence(&error));
            ExitCode::from(if configuration { USAGE } else { 1 })
        }
    }
}

fn dispatch(invocation: Invocation) -> Result<ExitCode> {
    match invocation {
        Invocation::Daemon { config } => {
            let runtime = daemons_runtime()?;
            let ended = runtime.block_on(start(&config));
            // Whatever still waits for a disk that does not answer waits for ever.
            runtime.shutdown_timeout(DISK_ANSWERS_WITHIN);
            ended
        }
        Invocation::Version => say(&cli::version_line()),
        Invocation::Doctor { config, json, prove: false } => runtime()?.block_on(examine(&config, json)),
        Invocation::Doctor { config, json, prove: true } => runtime()?.block_on(prove(&config, json)),
        Invocation::Status { config, json } => runtime()?.block_on(async {
            let status = control::ask(&load(&config)?, control::Request::Status).await?;
            if json { say(&format!("{:#}", serde_json::to_value(&status)?)) } else { print(status.render().as_bytes()) }
        }),
        Invocation::Drain { config, wait } => runtime()?.block_on(async {
            let config = load(&config)?;
            let mut status = control::ask(&config, control::Request::Drain).await?;
            if let Some(within) = wait {
                status = control::until_idle(&config, within).await?;
            }
            say(&format!("drained; {} directives are left", status.directives.len()))
        }),
        Invocation::Undrain { config } => runtime()?.block_on(async {
            control::ask(&load(&config)?, control::Request::Undrain).await?;
            say("taking on directives")
        }),
        Invocation::Enroll(args) => runtime()?.block_on(enroll_here(&args)),
        Invocation::Run(args) => {
            let runtime = runtime()?;
            let ran = runtime.block_on(run_here(args));
            // All that the run started has ended: what is left are threads that wait for work, and nobody waits for them.
            runtime.shutdown_background();
            ran
        }
        Invocation::RootfsEnsure { config } => {
            let root = runtime()?.block_on(rootfs::command::run(&Wanted::of(&load(&config)?)))?;
            say(&root.display().to_string())
        }
        Invocation::ConfigCheck { config } => {
            let loaded = load(&config)?;
            for warning in &loaded.warnings {
                complain(warning);
            }
            // What matters only when running: enrolment comes after the file is written.
            if let Err(error) = loaded.identity() {
                complain(&format!("before it can run: {error}"));
            } else if let Err(error) = tls_of(&loaded, &loaded) {
                complain(&format!("before it can run: {error}"));
            }
            if let Some(beyond) = nexusd::engine::beyond_this_machine(&loaded) {
                complain(&format!("before it can run here: {beyond}"));
            }
            say(&format!("{}: ok", config.path.display()))
        }
        Invocation::ConfigExample { platform } => print(nexusd::config::example_config(platform).as_bytes()),
        Invocation::Completions { shell } => print(&cli::completions(shell)),
        Invocation::Manual { dir } => {
            for (name, text) in cli::manual_pages() {
                let path = dir.join(name);
                std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn start(source: &ConfigSource) -> Result<ExitCode> {
    let config = load(source)?;
    let log = init_log(config.log_level, config.log_format)?;
    for warning in &config.warnings {
        tracing::warn!(key = warning.key, "{}", warning.text);
    }
    let identity = config.identity()?;
    let territory = identity.territory_id().map(ToString::to_string).unwrap_or_default();
    let tape = tape::open(&config.debug_tape).await;
    let tape = tape.with_context(|| format!("cannot open debug_tape.path {}", config.debug_tape.path.display()))?;
    let (tape, tape_writer) = tape.unzip();
    let settings = ClientSettings { tape, ..client_settings(&config, &identity)? };
    let mothership = Mothership::new(&settings)?;
    if let Some(end) = mothership.presented().and_then(|present| credentials::renewal::ended(&present, now())) {
        tracing::error!("{end}");
    }
    let around = surroundings(territory, Starts::Many);
    let signals = Signals::new().context("cannot listen to signals")?;
    let began_with = config.clone();
    let reload = |mothership: &Mothership| reload(source, &began_with, &log, mothership);
    daemon::run(Start { config, around, mothership, tape_writer }, signals, reload).await?;
    Ok(ExitCode::SUCCESS)
}

/// What SIGHUP takes over: the log level, the TLS files and the labels. What needs a restart is named.
fn reload(source: &ConfigSource, began_with: &Config, log: &LogHandle, mothership: &Mothership) -> Reloaded {
    let reloaded = || -> Result<Config> {
        let config = load(source)?;
        config.identity()?;
        mothership.reload_tls(&tls_of(&config, began_with)?)?;
        log.set_level(config.log_level)?;
        Ok(config)
    };
    match reloaded() {
        Ok(config) => {
            tracing::info!("reloaded: log_level, labels and tls.*");
            let waiting = began_with.waiting_for_a_restart(&config);
            if !waiting.is_empty() {
                tracing::warn!(keys = waiting.join(", "), "changed, and in force only after a restart");
            }
            Some(config.labels)
        }
        Err(error) => {
            tracing::error!(error = sentence(&error), "nothing was reloaded");
            None
        }
    }
}

fn client_settings(config: &Config, identity: &Identity) -> Result<ClientSettings> {
    let mut settings = ClientSettings::new(config.server_url.to_string());
    settings.user_agent = format!("nexusd/{VERSION}");
    settings.tls = tls_of(config, config)?;
    if let Identity::Header { territory_id } = identity {
        settings.territory_header = Some(territory_id.clone());
    }
    if let Some(proxy) = &config.proxy_url {
        settings.proxy = ProxyChoice::Url(proxy.expose().to_string());
    }
    Ok(settings)
}

/// The TLS files of `config`, where the daemon keeps its own state as `began_with` says.
fn tls_of(config: &Config, began_with: &Config) -> Result<TlsSettings, UnusableFiles> {
    credentials::load(config, &began_with.state_dir(), now())
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

async fn enroll_here(args: &EnrollArgs) -> Result<ExitCode> {
    let config = load_or_built_in(&args.config)?.0;
    let token = enroll::read_token(&args.token, &mut std::io::stdin().lock())?;
    let enrolled = enroll::enroll(args, &config, token, jiff::Timestamp::now()).await?;
    let snippet = enrolled.snippet();
    if let Err(error) = std::io::stderr().write_all(snippet.as_bytes()) {
        tracing::debug!(%error, "nobody reads the configuration snippet");
    }
    say(&enrolled.json_line())
}

async fn run_here(args: RunArgs) -> Result<ExitCode> {
    let (config, file) = load_or_built_in(&args.config)?;
    init_log(LogLevel::Warn, LogFormat::Text)?;
    let json = args.json;
    let ran = run::run(args, config, file, surroundings(String::new(), Starts::Few), &std::env::temp_dir()).await;
    let ran = ran.map_err(anyhow::Error::from);
    if json {
        let line = match &ran {
            Ok(end) => serde_json::to_string(&end.report)?,
            Err(error) => {
                serde_json::json!({ "status": "failed", "exit_code": 1, "error": sentence(error) }).to_string()
            }
        };
        if let Err(error) = say(&line) {
            return if is_broken_pipe(&error) { Ok(ExitCode::from(READER_GONE)) } else { Err(error) };
        }
    }
    match ran {
        Ok(end) => Ok(ExitCode::from(u8::try_from(end.code).unwrap_or(1))),
        Err(error) if matches!(error.downcast_ref(), Some(RunError::ReaderGone)) => Ok(ExitCode::from(READER_GONE)),
        Err(error) => Err(error),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.root_cause().downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

async fn examine(source: &ConfigSource, json: bool) -> Result<ExitCode> {
    let subject = Subject {
        platform: Platform::current(),
        config: Config::load_if_there(source, Platform::current(), &environment),
        config_path: source.path.clone(),
    };
    let scratch = Scratch::in_memory(&std::env::temp_dir())?;
    let drivers = match &subject.config {
        Ok(config) => {
            engine::doctors_drivers(config.as_ref(), &surroundings(String::new(), Starts::Many), scratch.path())
        }
        Err(_) => Err("the configuration cannot be read".to_owned()),
    };
    let report = doctor::examine(&subject, drivers.as_ref().map_err(Clone::clone)).await;
    drop(scratch);
    let text = if json { format!("{:#}\n", report.to_json()) } else { report.render() };
    print(text.as_bytes())?;
    Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn prove(source: &ConfigSource, json: bool) -> Result<ExitCode> {
    let (config, _) = load_or_built_in(source)?;
    init_log(LogLevel::Warn, LogFormat::Text)?;
    let around = surroundings(String::new(), Starts::Few);
    let proof = doctor::prove(&config, &around, &std::env::temp_dir()).await.map_err(anyhow::Error::msg)?;
    let text = if json { format!("{:#}\n", proof.to_json()) } else { proof.render() };
    print(text.as_bytes())?;
    Ok(if proof.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn load(source: &ConfigSource) -> Result<Config> {
    Ok(Config::load(&source.path, Platform::current(), &environment)?)
}

/// The configuration, and whether it was read from a file.
fn load_or_built_in(source: &ConfigSource) -> Result<(Config, bool)> {
    match Config::load_if_there(source, Platform::current(), &environment)? {
        Some(config) => Ok((config, true)),
        None => Ok((Config::built_in(Platform::current(), &environment)?, false)),
    }
}

/// The two threads are for the daemon's own work; commands are processes.
/// How long what is being written may take when all else is over.
const DISK_ANSWERS_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

fn daemons_runtime() -> Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.context("cannot start the runtime")
}

/// What does one thing and ends has the thread that it began with: others take time to start.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

fn init_log(level: LogLevel, format: LogFormat) -> Result<LogHandle> {
    let no_color = environment("NO_COLOR").is_some_and(|value| !value.is_empty()) || !std::io::stderr().is_terminal();
    Ok(nexusd::observe::log::init(level, format, no_color)?)
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn surroundings(territory: String, starts: Starts) -> Surroundings {
    let search_path = environment("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    let home = environment("HOME").unwrap_or_else(|| "/".to_owned());
    let variables = CONTAINER_VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), environment(name)?)));
    let container_environment = variables.collect();
    let darwin = DarwinSettings::of_this_machine();
    let host_helper = host_helper();
    Surroundings { search_path, home, territory, container_environment, starts, darwin, host_helper }
}

/// The embedded helper is Linux's; elsewhere this program is its own.
fn host_helper() -> HostHelper {
    match std::env::current_exe() {
        Ok(program) if cfg!(not(target_os = "linux")) => HostHelper::Program(program),
        _ => HostHelper::Embedded,
    }
}

fn say(line: &str) -> Result<ExitCode> {
    print(format!("{line}\n").as_bytes())
}

fn print(bytes: &[u8]) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// An error with its causes, each said once: many name their cause in their own text.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// On standard error, for a person. A standard error that is closed leaves nobody to tell.
fn complain(what: &dyn std::fmt::Display) {
    let line = format!("nexusd: {what:#}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap_or_default();
}
