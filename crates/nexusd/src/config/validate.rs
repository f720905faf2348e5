//! The whole file to a [`Config`]: every key once, in the order of the table, then the rules across keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conduits::{AllowEntry, DriverKind, NetMode, SandboxProfile, TerritoryId};
use ipnet::IpNet;

use super::address::{ListenAddr, ProxyUrl, ServerUrl, archive_url};
use super::problem::{Problems, bare, nearest, quoted};
use super::read::Reader;
use super::settings::{
    BwrapSettings, Config, ContainerSettings, DebugTapeSettings, EgressSettings, FacilitySettings, FirecrackerSettings,
    HeartbeatSettings, Jailer, LimitSettings, LogOverflowSettings, LogSettings, ObservabilitySettings,
    OperatorSettings, Origin, PollSettings, RetentionSettings, RootfsArchive, RootfsSettings, Sha256Digest, Sourced,
    TerritoryHeartbeatSettings, TlsSettings,
};
use super::words::{
    Bridge, ContainerNetwork, ContainerProxyMode, ContainerRuntime, LogFormat, LogLevel, PullPolicy, SniPolicy,
};
use super::{Surroundings, document, keys, rules, scalar};

/// Labels of a territory, and bytes of one label's value.
const MAX_LABELS: usize = 64;
const MAX_LABEL_BYTES: usize = 256;

/// Stands in for a value whose default cannot be read. The table's own test proves that there is none.
const UNREADABLE: &str = "the table of keys has an unreadable default";

impl Config {
    /// Reads and validates the text of a configuration. `file` is its name in messages.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn from_text(file: &str, text: &str, surroundings: &Surroundings<'_>) -> Result<Self, Problems> {
        let (root, problems) = document::parse(text);
        let mut reader = Reader::new(&root, surroundings, problems);
        reader.check_names();
        let config = read(&mut reader, surroundings);
        let mut warnings = Vec::new();
        if let Some(config) = &config {
            rules::check(config, &mut reader, surroundings, &mut warnings);
        }
        let mut problems = reader.finish();
        match config {
            Some(config) if problems.is_empty() => Ok(Self { warnings, ..config }),
            _ => {
                if problems.is_empty() {
                    let place = super::Place::START;
                    problems.push(super::Problem { place, key: String::new(), text: UNREADABLE.to_owned() });
                }
                Err(Problems::new(file, problems))
            }
        }
    }
}

/// `None` only where a default in the table cannot be read.
fn read(r: &mut Reader<'_>, surroundings: &Surroundings<'_>) -> Option<Config> {
    let work_dir = r.path("work_dir").unwrap_or_else(|| empty_path(r, "work_dir"));
    let poll = PollSettings {
        long_poll_timeout: r.duration("poll.long_poll_timeout"),
        retry_backoff: r.duration("poll.retry_backoff"),
        max_directives_to_claim: u8::try_from(r.number("poll.max_directives_to_claim")?).ok()?,
    };
    let slots = r.number("max_concurrent_directives").unwrap_or_else(|| poll.max_directives_to_claim.into());
    Some(Config {
        server_url: r.text("server_url", ServerUrl::parse)?,
        territory_id: r.optional_text("territory_id", territory_id),
        name: r.text("name", scalar::display_name)?,
        labels: labels(r),
        supported_sandbox_profiles: profiles(r, surroundings),
        max_concurrent_directives: usize::try_from(slots).ok()?,
        tls: TlsSettings {
            ca_file: r.path("tls.ca_file"),
            client_cert_file: r.path("tls.client_cert_file"),
            client_key_file: r.path("tls.client_key_file"),
            insecure_skip_verify: r.flag("tls.insecure_skip_verify"),
        },
        proxy_url: r.optional_secret("proxy_url", ProxyUrl::parse),
        poll,
        log: LogSettings {
            max_output_bytes: r.number("log.max_output_bytes")?,
            chunk_bytes: usize::try_from(r.number("log.chunk_bytes")?).ok()?,
            flush_interval: r.duration("log.flush_interval"),
        },
        log_overflow: LogOverflowSettings {
            enabled: r.flag("log_overflow.enabled"),
            dir: r.text("log_overflow.dir", scalar::beneath)?,
            max_bytes_per_stream: r.number("log_overflow.max_bytes_per_stream")?,
        },
        heartbeat: HeartbeatSettings { interval: r.duration("heartbeat.interval") },
        territory_heartbeat: TerritoryHeartbeatSettings { interval: r.duration("territory_heartbeat.interval") },
        observability: ObservabilitySettings {
            enabled: r.flag("observability.enabled"),
            listen_addr: r.text("observability.listen_addr", ListenAddr::parse)?,
        },
        min_free_bytes: r.number("min_free_bytes")?,
        sandbox_user: r.text("sandbox_user", scalar::unprivileged_user)?,
        operator: OperatorSettings {
            net_ceiling: r.word("operator.net_ceiling", |word| word.parse::<NetMode>().ok())?,
            net_deny: unique(r, "operator.net_deny", |text| text.parse::<AllowEntry>().map_err(|e| e.to_string())),
        },
        facility: FacilitySettings { allow_privilege_mix: r.flag("facility.allow_privilege_mix") },
        log_level: r.word("log_level", LogLevel::from_word)?,
        log_format: r.word("log_format", LogFormat::from_word)?,
        shutdown_timeout: non_zero(r.duration("shutdown_timeout")),
        untrusted_driver: r.word("untrusted_driver", |word| word.parse::<DriverKind>().ok())?,
        bwrap: bwrap(r, &work_dir)?,
        rootfs: rootfs(r)?,
        container: container(r)?,
        firecracker: firecracker(r)?,
        egress: egress(r)?,
        limits: limits(r)?,
        retention: RetentionSettings {
            facility_ttl: non_zero(r.duration("retention.facility_ttl")),
            max_total_bytes: r.number("retention.max_total_bytes").filter(|bytes| *bytes > 0),
        },
        debug_tape: DebugTapeSettings {
            enabled: r.flag("debug_tape.enabled"),
            path: r.path("debug_tape.path").unwrap_or_else(|| empty_path(r, "debug_tape.path")),
            max_bytes: r.number("debug_tape.max_bytes")?,
        },
        work_dir,
        warnings: Vec::new(),
    })
}

fn bwrap(r: &mut Reader<'_>, work_dir: &Path) -> Option<BwrapSettings> {
    let named_dir = r.path("bwrap.proxy_socket_dir");
    Some(BwrapSettings {
        bwrap_path: r.program("bwrap.bwrap_path"),
        socat_path: r.program("bwrap.socat_path"),
        bridge: r.word("bwrap.bridge", Bridge::from_word)?,
        rootfs_path: r.path("bwrap.rootfs_path"),
        proxy_socket_dir: named_dir.unwrap_or_else(|| work_dir.join(".proxy-sockets")),
        extra_ro_paths: unique(r, "bwrap.extra_ro_paths", |text| sentence(text, scalar::absolute_folder(text))),
        tmp_bytes: r.number("bwrap.tmp_bytes")?,
    })
}

fn rootfs(r: &mut Reader<'_>) -> Option<RootfsSettings> {
    Some(RootfsSettings {
        auto: r.flag("rootfs.auto"),
        cache_dir: r.path("rootfs.cache_dir").unwrap_or_else(|| empty_path(r, "rootfs.cache_dir")),
        amd64: archive(r, "rootfs.amd64.url", "rootfs.amd64.sha256")?,
        arm64: archive(r, "rootfs.arm64.url", "rootfs.arm64.sha256")?,
    })
}

fn archive(r: &mut Reader<'_>, url: &'static str, sha256: &'static str) -> Option<RootfsArchive> {
    let sha256: Sha256Digest = r.text(sha256, scalar::sha256)?;
    Some(RootfsArchive { url: r.text(url, archive_url)?, sha256 })
}

fn container(r: &mut Reader<'_>) -> Option<ContainerSettings> {
    Some(ContainerSettings {
        runtime: r.word("container.runtime", ContainerRuntime::from_word)?,
        image: r.text("container.image", scalar::image)?,
        proxy_mode: r.word("container.proxy_mode", ContainerProxyMode::from_word)?,
        network: r.word("container.network", ContainerNetwork::from_word)?,
        pull: r.word("container.pull", PullPolicy::from_word)?,
        run_args: r
            .list("container.run_args", |text| sentence(text, scalar::engine_flag(text)))
            .into_iter()
            .map(|item| item.value)
            .collect(),
    })
}

fn firecracker(r: &mut Reader<'_>) -> Option<FirecrackerSettings> {
    let jailer = match r.text("firecracker.jailer_path", |text| Ok(text.to_owned()))?.as_str() {
        "auto" => Jailer::Auto,
        "off" => Jailer::Off,
        _ => Jailer::Path(r.program("firecracker.jailer_path")),
    };
    Some(FirecrackerSettings {
        firecracker_path: r.program("firecracker.firecracker_path"),
        jailer_path: jailer,
        kernel_path: r.path("firecracker.kernel_path").unwrap_or_default(),
        rootfs_image_path: r.path("firecracker.rootfs_image_path").unwrap_or_default(),
        vcpus: u8::try_from(r.number("firecracker.vcpus")?).ok()?,
        mem_size_mib: u32::try_from(r.number("firecracker.mem_size_mib")?).ok()?,
        workspace_size_mib: r.number("firecracker.workspace_size_mib")?,
        snapshot: r.flag("firecracker.snapshot"),
    })
}

/// What the egress proxy asks by `CONNECT` is spoken to as it is, without TLS.
fn upstream_proxy(text: &str) -> Result<ProxyUrl, String> {
    let url = ProxyUrl::parse(text)?;
    match url.expose().scheme() {
        "http" => Ok(url),
        _ => Err("must begin with http://: a proxy that wants to be spoken to in TLS is not supported here".to_owned()),
    }
}

fn egress(r: &mut Reader<'_>) -> Option<EgressSettings> {
    Some(EgressSettings {
        allow_private: unique(r, "egress.allow_private", |text| sentence(text, network(text))),
        sni_policy: r.word("egress.sni_policy", SniPolicy::from_word)?,
        sni_check_ports: unique(r, "egress.sni_check_ports", |text| sentence(text, port(text))),
        max_connections: usize::try_from(r.number("egress.max_connections")?).ok()?,
        idle_timeout: r.duration("egress.idle_timeout"),
        upstream_proxy: r.optional_secret("egress.upstream_proxy", upstream_proxy),
        ca_bundle: r.path("egress.ca_bundle"),
    })
}

fn limits(r: &mut Reader<'_>) -> Option<LimitSettings> {
    Some(LimitSettings {
        default_timeout: r.duration("limits.default_timeout"),
        max_timeout: r.duration("limits.max_timeout"),
        memory_mb: r.number("limits.memory_mb"),
        cpu: r.number("limits.cpu"),
        pids: sourced(r, "limits.pids")?,
        disk_mb: r.number("limits.disk_mb"),
        nofile: sourced(r, "limits.nofile")?,
        fsize_mb: r.number("limits.fsize_mb"),
    })
}

fn sourced(r: &mut Reader<'_>, path: &'static str) -> Option<Sourced<u64>> {
    let origin = if r.is_named(path) { Origin::Named } else { Origin::Default };
    Some(Sourced { value: r.number(path)?, origin })
}

fn labels(r: &mut Reader<'_>) -> BTreeMap<String, String> {
    let pairs = r.pairs("labels");
    if let Some((first_too_many, _)) = pairs.get(MAX_LABELS) {
        r.complain_at(first_too_many.place, "labels", format!("more than {MAX_LABELS} labels"));
    }
    let mut labels = BTreeMap::new();
    for (key, value) in pairs.into_iter().take(MAX_LABELS) {
        let fits = |text: &str| text.len() <= MAX_LABEL_BYTES && !text.chars().any(char::is_control);
        if key.value.is_empty() || !fits(&key.value) || !fits(&value.value) {
            let text = format!(
                "{} is not a label: at most {MAX_LABEL_BYTES} bytes each, no control characters",
                quoted(&key.value)
            );
            r.complain_at(key.place, "labels", text);
        } else {
            labels.insert(key.value, value.value);
        }
    }
    labels
}

fn profiles(r: &mut Reader<'_>, surroundings: &Surroundings<'_>) -> Vec<SandboxProfile> {
    let here = surroundings.platform.profiles();
    let words: Vec<&str> = here.iter().map(|profile| profile.as_str()).collect();
    let before = r.count();
    let list = unique(r, "supported_sandbox_profiles", |text| match text.parse::<SandboxProfile>() {
        Ok(profile) if here.contains(&profile) => Ok(profile),
        Ok(profile) => Err(format!("{}: {}", surroundings.platform.lacks(profile), words.join(", "))),
        Err(_) => {
            let hint = nearest(text, words.iter().copied()).map(|w| format!(", did you mean {w}?")).unwrap_or_default();
            Err(format!("{} is none of {}{hint}", quoted(text), words.join(", ")))
        }
    });
    if list.is_empty() && r.count() == before {
        r.complain("supported_sandbox_profiles", format!("names no profile: at least one of {}", words.join(", ")));
    }
    list
}

/// A list in which nothing stands twice, after normalisation.
fn unique<T: PartialEq>(r: &mut Reader<'_>, path: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
    let mut values: Vec<T> = Vec::new();
    let mut lines: Vec<usize> = Vec::new();
    for item in r.list(path, parse) {
        match values.iter().position(|value| *value == item.value) {
            Some(first) => {
                r.complain_at(item.place, path, format!("stands twice, first on line {}: keep one", lines[first]));
            }
            None => {
                lines.push(item.place.line);
                values.push(item.value);
            }
        }
    }
    values
}

/// Makes a whole sentence of a parser's error.
fn sentence<T>(text: &str, parsed: Result<T, String>) -> Result<T, String> {
    parsed.map_err(|why| format!("{} {why}", quoted(text)))
}

fn territory_id(text: &str) -> Result<TerritoryId, String> {
    text.parse().map_err(|error: conduits::IdError| format!("is not a territory id: {}", error.why))
}

fn network(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| "is not an address range, such as 10.1.0.0/16".to_owned())?;
    if net.trunc() != net {
        return Err(format!("has bits beyond its prefix: {} is the range", net.trunc()));
    }
    if net.prefix_len() == 0 {
        return Err("would open every address".to_owned());
    }
    Ok(net)
}

fn port(text: &str) -> Result<u16, String> {
    let number = scalar::integer(text).ok().and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    number.ok_or_else(|| "is not a port: 1 to 65535".to_owned())
}

/// A path that must not be empty: says so where the file has an empty one, and reads as nothing.
fn empty_path(r: &mut Reader<'_>, path: &'static str) -> PathBuf {
    if r.is_named(path) && r.count_of(path) == 0 {
        r.complain(path, format!("must not be empty{}", default_hint(path)));
    }
    PathBuf::new()
}

fn default_hint(path: &str) -> String {
    let default = keys::find(path).and_then(|key| key.default.yaml(super::Platform::Linux));
    default.map(|text| format!(": leave it out for {}", bare(text).replace("\\\"", ""))).unwrap_or_default()
}

fn non_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}
