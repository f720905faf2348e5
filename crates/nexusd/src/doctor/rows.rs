//! Facts to rows: pure. The guide's rows come first, in its order and words.

use conduits::SandboxProfile;
use sandbox::CgroupLayer;

use super::facts::{Container, Facts, PinnedRoot};
use super::mac;
use super::mothership::Contact;
use super::report::Row;
use crate::config::{Bridge, Config, ContainerRuntime, Platform};
use crate::credentials::Credentials;
use crate::engine::built;

/// A certificate that ends within this many seconds is worth a warning: renewal should have replaced it.
const EXPIRES_SOON: i64 = 5 * 86_400;

/// Seconds of clock skew that are worth a warning, and that break five-minute tokens.
const SKEW_WARN: i64 = 30;
const SKEW_FAIL: i64 = 240;

/// Every row for the facts' platform.
pub(super) fn rows(facts: &Facts) -> Vec<Row> {
    if facts.platform == Platform::Macos {
        return vec![
            git(facts),
            mac::osascript(facts),
            mac::shortcuts(facts),
            Row::skip("bwrap", "not applicable on macOS"),
            Row::skip("socat", "not applicable on macOS"),
        ];
    }
    vec![
        git(facts),
        bwrap(facts),
        socat(facts),
        engine(facts),
        user_namespaces(facts),
        apparmor(facts),
        bwrap_functional(facts),
        container_functional(facts),
        cgroups(facts),
        seccomp(facts),
        landlock(facts),
        rootfs(facts),
        disk(facts),
        disk_limit(facts),
        config(facts),
        tls(facts),
        mothership(facts),
    ]
}

fn git(facts: &Facts) -> Row {
    let mend = match facts.platform {
        Platform::Linux => "sudo apt install -y git",
        Platform::Macos => "xcode-select --install",
    };
    match facts.git.line("git version") {
        Some(line) => Row::pass("git", line),
        None => Row::fail("git", facts.git.complaint(), mend),
    }
}

fn bwrap(facts: &Facts) -> Row {
    if !facts.needs_bwrap() {
        return Row::skip("bwrap", unneeded(facts));
    }
    match facts.bwrap.line("bubblewrap") {
        Some(line) => Row::pass("bwrap", line),
        None => Row::fail("bwrap", facts.bwrap.complaint(), "sudo apt install -y bubblewrap"),
    }
}

fn unneeded(facts: &Facts) -> &'static str {
    if facts.offers(SandboxProfile::Untrusted) {
        "not needed (untrusted_driver: firecracker)"
    } else {
        "not needed (untrusted is not offered)"
    }
}

fn socat(facts: &Facts) -> Row {
    let needed =
        facts.needs_bwrap() && facts.config.as_ref().is_some_and(|config| config.bwrap.bridge == Bridge::Socat);
    match facts.socat.line("socat version") {
        // The line goes on with the date of the build.
        Some(line) => Row::pass("socat", line.split(" on ").next().unwrap_or(line)),
        None if needed => {
            Row::fail("socat", facts.socat.complaint(), "sudo apt install -y socat, or bwrap.bridge: builtin")
        }
        None => Row::skip("socat", "not needed (built-in bridge)"),
    }
}

fn engine(facts: &Facts) -> Row {
    let name = facts.engine_name();
    if !facts.needs_container() {
        return Row::skip(name, "not needed (trusted is not offered)");
    }
    let (start, mend) = match facts.engine_kind() {
        ContainerRuntime::Docker => ("Docker version", "sudo apt install -y docker.io"),
        ContainerRuntime::Podman => ("podman version", "sudo apt install -y podman"),
    };
    match facts.engine.line(start) {
        Some(line) => Row::pass(name, line),
        // Nothing was asked for.
        None if facts.config.is_none() => {
            Row::skip(name, format!("{}; profile trusted needs it: {mend}", facts.engine.complaint()))
        }
        None => Row::fail(name, facts.engine.complaint(), mend),
    }
}

fn user_namespaces(facts: &Facts) -> Row {
    let name = "user_namespaces";
    if !facts.needs_bwrap() {
        return Row::skip(name, unneeded(facts));
    }
    if facts.kernel.userns_clone.as_deref() == Some("0") {
        return Row::fail(
            name,
            "disabled (kernel.unprivileged_userns_clone is 0)",
            "sudo sysctl kernel.unprivileged_userns_clone=1",
        );
    }
    if facts.kernel.max_user_namespaces.as_deref() == Some("0") {
        return Row::fail(
            name,
            "disabled (user.max_user_namespaces is 0)",
            "sudo sysctl user.max_user_namespaces=15000",
        );
    }
    Row::pass(name, "enabled")
}

fn apparmor(facts: &Facts) -> Row {
    let name = "apparmor_userns";
    if !facts.needs_bwrap() {
        return Row::skip(name, unneeded(facts));
    }
    let mend = "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0";
    let works = matches!(&facts.bwrap_health, Some(Ok(health)) if health.healthy);
    match facts.kernel.apparmor_restrict.as_deref() {
        // An AppArmor profile for bwrap lifts the restriction where it matters.
        Some(value) if value != "0" && works => Row::warn(name, "restricted, but not for bwrap", mend),
        Some(value) if value != "0" => {
            Row::fail(name, "restricted (kernel.apparmor_restrict_unprivileged_userns is 1)", mend)
        }
        _ => Row::pass(name, "unrestricted"),
    }
}

fn bwrap_functional(facts: &Facts) -> Row {
    let name = "bwrap_functional";
    match &facts.bwrap_health {
        None => Row::skip(name, unneeded(facts)),
        Some(Ok(health)) if health.healthy => {
            let detail = match facts.pinned_root {
                None | Some(PinnedRoot::There(_)) => "sandbox invocation succeeded",
                Some(_) => "sandbox invocation succeeded, over the host's /usr (see rootfs)",
            };
            Row::pass(name, detail)
        }
        Some(Ok(health)) => {
            let reason = health.reason.as_deref().unwrap_or("the sandbox did not start");
            Row::fail(
                name,
                reason,
                "mend the failed rows above; then nexusd run -- true (with this --config) shows the whole error",
            )
        }
        Some(Err(why)) => {
            Row::fail(name, why.as_str(), "nexusd run -- true (with this --config) shows the whole error")
        }
    }
}

fn container_functional(facts: &Facts) -> Row {
    let name = "container_functional";
    if !facts.needs_container() {
        return Row::skip(name, "not needed (trusted is not offered)");
    }
    let (engine, image) = (facts.engine_name(), facts.image());
    match &facts.container {
        Container::Works => Row::pass(name, "container invocation succeeded"),
        // Nothing was asked for.
        Container::NoImage if facts.config.is_none() => {
            Row::skip(name, format!("image {image} is not there; profile trusted needs one: {engine} pull {image}"))
        }
        Container::NotAsked if facts.config.is_none() => Row::skip(name, format!("{engine} is not there")),
        Container::NoImage => Row::fail(name, format!("image {image} is not there"), format!("{engine} pull {image}")),
        Container::NotAsked => Row::fail(name, format!("{engine} is not there"), "mend the row above"),
        Container::Broken(why) if why.contains("subuid") || why.contains("subgid") || why.contains("newuidmap") => {
            Row::fail(
                name,
                why.as_str(),
                "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER; podman system migrate",
            )
        }
        Container::Broken(why) => match with_mend(why) {
            Some((why, mend)) => Row::fail(name, why, mend),
            None => Row::fail(name, why.as_str(), format!("{engine} run --rm {image} true shows the whole error")),
        },
    }
}

/// The driver's complaint and its mend, which stands behind it in parentheses, where it knows one.
fn with_mend(why: &str) -> Option<(&str, &str)> {
    let (why, mend) = why.strip_suffix(')')?.rsplit_once(" (")?;
    (!mend.starts_with("os error")).then_some((why, mend))
}

/// Limits hold by cgroups; without them only the rlimits beneath do. Never a failure by itself: a limit that the
/// operator or a directive names is refused at admission where it cannot be enforced.
fn cgroups(facts: &Facts) -> Row {
    let name = "cgroups";
    let wanted = ["cpu", "memory", "pids"];
    let (version, have) = match &facts.cgroups {
        Ok(CgroupLayer::V2(list)) => ("v2", list),
        Ok(CgroupLayer::V1(list)) => ("v1", list),
        Ok(CgroupLayer::None(why)) => {
            let detail = format!("none, default limits are best effort: {why}");
            return Row::warn(name, detail, "run nexusd as a systemd service with Delegate=yes");
        }
        Err(why) => return Row::warn(name, format!("not examined: {why}"), "mend the failed rows first"),
    };
    let missing: Vec<&str> = wanted.into_iter().filter(|name| !have.iter().any(|given| given == name)).collect();
    if missing.is_empty() {
        return Row::pass(name, format!("{version}: {}", wanted.join(", ")));
    }
    let detail = format!("{version}, without {}: default limits are best effort", missing.join(", "));
    Row::warn(name, detail, "boot with these cgroup controllers enabled, and delegate them to nexusd's unit")
}

fn seccomp(facts: &Facts) -> Row {
    let name = "seccomp";
    if !facts.needs_bwrap() {
        return Row::skip(name, unneeded(facts));
    }
    match &facts.kernel.seccomp_actions {
        Some(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Row::pass(name, "filters available")
        }
        _ => Row::fail(name, "the kernel has no seccomp filters", "boot a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

fn landlock(facts: &Facts) -> Row {
    let name = "landlock";
    if !facts.needs_bwrap() {
        return Row::skip(name, unneeded(facts));
    }
    match facts.kernel.landlock_abi {
        Some(abi) => Row::pass(name, format!("ABI {abi}")),
        None => Row::warn(
            name,
            "not found: namespaces and seccomp hold alone",
            "boot a kernel with CONFIG_SECURITY_LANDLOCK and lsm=landlock,…",
        ),
    }
}

fn rootfs(facts: &Facts) -> Row {
    let name = "rootfs";
    if !facts.needs_bwrap() {
        return Row::skip(name, unneeded(facts));
    }
    let Some(config) = &facts.config else { return Row::pass(name, "the host's /usr, read-only") };
    match &config.bwrap.rootfs_path {
        Some(path) if facts.root_is_there => Row::pass(name, path.display().to_string()),
        Some(path) => Row::fail(
            name,
            format!("{} is no root directory: no usr in it", path.display()),
            "correct bwrap.rootfs_path, or leave it out",
        ),
        None => match &facts.pinned_root {
            Some(root) => pinned_root(name, root),
            None => Row::pass(name, "the host's /usr, read-only"),
        },
    }
}

fn pinned_root(name: &'static str, root: &PinnedRoot) -> Row {
    let keys = Config::rootfs_keys();
    match root {
        PinnedRoot::There(path) => Row::pass(name, format!("{} (rootfs.auto)", path.display())),
        PinnedRoot::ToBeFetched { url, bytes } => {
            let size = bytes.map(|bytes| format!(", {} MiB", bytes.div_ceil(1 << 20))).unwrap_or_default();
            let detail = format!("not fetched yet: {url}{size}");
            Row::warn(name, detail, "nexusd rootfs ensure fetches it now; the daemon does it when it starts")
        }
        PinnedRoot::OutOfReach { url, why } => Row::fail(
            name,
            format!("not fetched yet, and out of reach: {url}: {why}"),
            format!("let this host reach it (proxy_url), or set {} to a mirror or to a file:///", keys.url),
        ),
        PinnedRoot::Unusable(why) => {
            Row::fail(name, format!("rootfs.cache_dir: {why}"), "correct rootfs.cache_dir or its owner and mode")
        }
    }
}

fn disk(facts: &Facts) -> Row {
    let least = facts.config.as_ref().map_or(1 << 30, |config| config.min_free_bytes);
    match &facts.disk {
        Ok((path, free)) if *free >= least => Row::pass("disk", format!("{} free in {}", gib(*free), path.display())),
        Ok((path, free)) => {
            let detail = format!("{} free in {}, min_free_bytes is {}", gib(*free), path.display(), gib(least));
            Row::fail("disk", detail, "free some space, or set work_dir to a larger disk")
        }
        Err(why) => Row::fail("disk", why.as_str(), "correct work_dir"),
    }
}

/// What keeps `limits.disk_mb`. Both ways do, so neither is a complaint.
fn disk_limit(facts: &Facts) -> Row {
    match (&facts.disk, &facts.disk_limit) {
        (Err(_), _) => Row::skip("disk_limit", "not examined"),
        (_, Ok(())) => Row::pass("disk_limit", "kept by project quotas"),
        (_, Err(why)) => Row::skip("disk_limit", format!("watched, not kept by project quotas: {why}")),
    }
}

/// Bytes in GiB with one digit after the point.
fn gib(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / (1 << 30);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

fn config(facts: &Facts) -> Row {
    let path = facts.config_path.display().to_string();
    if let Some(error) = &facts.config_error {
        let count = error.lines().count();
        let first = error.lines().next().unwrap_or_default();
        let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        return Row::fail("config", format!("{first}{more}"), format!("nexusd config check --config {path} shows all"));
    }
    let Some(config) = &facts.config else {
        return Row::skip("config", format!("no {path}: all profiles of {} are checked", facts.platform.title()));
    };
    if let Some(profile) = config.supported_sandbox_profiles.iter().find(|profile| !built(config.driver_of(**profile)))
    {
        let driver = config.driver_of(*profile);
        let detail = format!("profile {profile}: the driver {driver} is not available in this build");
        return Row::fail("config", detail, "change supported_sandbox_profiles or untrusted_driver");
    }
    if let Some(warning) = config.warnings.first() {
        return Row::warn("config", warning.to_string(), format!("change it in {path} unless it is meant"));
    }
    if config.observability.enabled && config.observability.listen_addr.is_open_to_the_network() {
        let addr = config.observability.listen_addr;
        let detail = format!("observability.listen_addr {addr}: metrics are open to the network");
        return Row::warn("config", detail, "listen on 127.0.0.1, or let a firewall decide");
    }
    Row::pass("config", path)
}

fn tls(facts: &Facts) -> Row {
    let enrol = "enrol this host anew: nexusd -enroll-token TOKEN --force";
    match &facts.credentials {
        Credentials::None if facts.config.is_none() => Row::skip("tls", "no configuration"),
        Credentials::None => Row::skip("tls", "no client certificate configured"),
        Credentials::Wrong { what, mend } => Row::fail("tls", what.as_str(), mend.as_str()),
        Credentials::Pair { not_before, .. } if *not_before > facts.now => Row::fail(
            "tls",
            format!("the certificate is valid only from {}", day(*not_before)),
            "correct this host's clock",
        ),
        Credentials::Pair { not_after, .. } if *not_after <= facts.now => {
            Row::fail("tls", format!("the certificate ended on {}", day(*not_after)), enrol)
        }
        Credentials::Pair { not_after, .. } if not_after - facts.now < EXPIRES_SOON => {
            Row::warn("tls", format!("the certificate ends on {}", day(*not_after)), enrol)
        }
        Credentials::Pair { not_after, .. } => {
            Row::pass("tls", format!("certificate and key match, valid until {}", day(*not_after)))
        }
    }
}

fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |time| time.strftime("%Y-%m-%d").to_string())
}

fn mothership(facts: &Facts) -> Row {
    let name = "mothership";
    let server = facts.config.as_ref().map(|config| config.server_url.to_string()).unwrap_or_default();
    match &facts.contact {
        Contact::NotAsked(why) => Row::skip(name, why.as_str()),
        Contact::Failed(why) => Row::fail(
            name,
            format!("{server}: {why}"),
            "correct server_url, tls.* or proxy_url, or start the mothership",
        ),
        Contact::Answered { ahead_seconds: None } => Row::pass(name, format!("{server} answers")),
        Contact::Answered { ahead_seconds: Some(ahead) } => {
            let (size, way) = (ahead.abs(), if *ahead > 0 { "behind" } else { "ahead of" });
            let detail = format!("{server} answers; this clock is {size} s {way} its clock");
            match size {
                SKEW_FAIL.. => Row::fail(name, detail, "set the clocks: timedatectl set-ntp true"),
                SKEW_WARN.. => Row::warn(name, detail, "set the clocks: timedatectl set-ntp true"),
                _ => Row::pass(name, format!("{server} answers, clocks agree")),
            }
        }
    }
}
