//! Text to values: durations, sizes, numbers, digests, names. Pure; each error is the end of a sentence
//! that begins with the value.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::settings::Sha256Digest;

/// `25s`, `500ms`, `1m30s`, `2h`, `1d`; units from large to small, each once. A bare `0` is zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let wrong = || "is not a duration: write 25s, 500ms, 1m30s or 2h".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut total, mut next_unit) = (text, 0_u64, 0_usize);
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        let (unit, tail) = after.split_at(letters);
        let index = UNITS.iter().position(|(name, _)| *name == unit).filter(|index| *index >= next_unit);
        let (index, number) = index.zip(number.parse::<u64>().ok()).ok_or_else(wrong)?;
        let (_, millis) = UNITS[index];
        total = number.checked_mul(millis).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        next_unit = index + 1;
        rest = tail;
    }
    if next_unit == 0 { Err(wrong()) } else { Ok(Duration::from_millis(total)) }
}

/// A duration as this module reads it: `1m30s`.
pub(super) fn show_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        // A whole number of hours reads better than a day and the rest: `24h`, `36h`.
        let reads_well = unit != "d" || millis.is_multiple_of(size) && millis > size;
        if millis >= size && reads_well {
            out.push_str(&format!("{}{unit}", millis / size));
            millis %= size;
        }
    }
    out
}

/// A whole number without sign, in decimal.
pub(super) fn integer(text: &str) -> Result<u64, String> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain {
        return Err("is not a whole number".to_owned());
    }
    text.parse().map_err(|_| format!("is too large: at most {}", u64::MAX))
}

/// Bytes: a whole number, or one with `KiB MiB GiB TiB` or `KB MB GB TB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number.trim_end(), *factor)))
        .unwrap_or((text, 1));
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("is not a size: write bytes as a whole number, or 512MiB, 1GiB".to_owned());
    }
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.ok_or_else(|| format!("is too large: at most {} bytes", u64::MAX))
}

/// Bytes as this module reads them: the largest unit that divides them.
pub(super) fn show_bytes(bytes: u64) -> String {
    for (unit, factor) in [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// `true` or `false`; YAML 1.1's yes and on are refused rather than guessed at.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

/// 64 hexadecimal digits.
pub(super) fn sha256(text: &str) -> Result<Sha256Digest, String> {
    let wrong = || "is not a SHA-256 digest: 64 hexadecimal digits".to_owned();
    let mut digest = [0_u8; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(Sha256Digest(digest))
}

/// A name for people: 1 to 128 characters, no control characters, no white space around it.
pub(super) fn display_name(text: &str) -> Result<String, String> {
    let count = text.chars().count();
    if count == 0 || count > 128 || text.trim() != text || text.chars().any(char::is_control) {
        return Err("is not a name: 1 to 128 characters, no control characters, no space around it".to_owned());
    }
    Ok(text.to_owned())
}

/// A user name, or a numeric id above 0. Root would make the sandbox's user the daemon's own.
pub(super) fn unprivileged_user(text: &str) -> Result<String, String> {
    let name = text.len() <= 32
        && text.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'));
    let id = text.parse::<u32>().is_ok_and(|id| id > 0 && id < u32::MAX);
    if text == "root" || !(name || id) {
        return Err("is not an unprivileged user: a user's name, or a numeric id above 0".to_owned());
    }
    Ok(text.to_owned())
}

/// A container image reference: no white space, nothing an engine would read as an option.
pub(super) fn image(text: &str) -> Result<String, String> {
    let bad = text.is_empty()
        || text.len() > 512
        || text.starts_with('-')
        || text.chars().any(|c| c.is_whitespace() || c.is_control());
    if bad { Err("is not an image, such as ubuntu:24.04".to_owned()) } else { Ok(text.to_owned()) }
}

/// Flags of an engine that nexusd gives itself. A second one would win, and what is told of the run would not hold.
const NEXUSDS_FLAGS: [&str; 44] = [
    "annotation",
    "attach",
    "cgroupns",
    "cgroups",
    "cpu-period",
    "cpu-quota",
    "cpus",
    "detach",
    "entrypoint",
    "gidmap",
    "hostname",
    "http-proxy",
    "image-volume",
    "init",
    "interactive",
    "ipc",
    "log-driver",
    "memory",
    "memory-swap",
    "name",
    "net",
    "network",
    "no-hosts",
    "pid",
    "pids-limit",
    "pod",
    "preserve-fds",
    "privileged",
    "pull",
    "read-only",
    "read-only-tmpfs",
    "replace",
    "restart",
    "rm",
    "rootfs",
    "sdnotify",
    "subuidname",
    "systemd",
    "tty",
    "uidmap",
    "user",
    "userns",
    "uts",
    "workdir",
];

/// Values of `--security-opt` that would undo what is told of every run.
const UNDOING: [&str; 5] = [
    "no-new-privileges=false",
    "no-new-privileges:false",
    "seccomp=unconfined",
    "seccomp:unconfined",
    "systempaths=unconfined",
];

/// One flag for an engine, with its value: whatever the operator likes, but for what nexusd itself decides and tells.
pub(super) fn engine_flag(text: &str) -> Result<String, String> {
    if text.contains('\0') {
        return Err("is not an argument: it has a NUL".to_owned());
    }
    let Some(flag) = text.strip_prefix("--").filter(|flag| !flag.is_empty() && !flag.starts_with(['-', '='])) else {
        return Err("is not a long flag with its value in one word, such as --device=/dev/fuse".to_owned());
    };
    let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
    if NEXUSDS_FLAGS.contains(&name) {
        return Err(format!("is refused: --{name} is nexusd's to give (container.*, limits.*, sandbox_user)"));
    }
    if name == "security-opt" && UNDOING.contains(&value) {
        return Err("is refused: it would undo what every report says of the container".to_owned());
    }
    Ok(text.to_owned())
}

/// A folder beneath the facility: relative, normal components only.
pub(super) fn beneath(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let normal = path.components().all(|part| matches!(part, Component::Normal(_)));
    if text.is_empty() || text.contains('\0') || !normal {
        return Err("must lie in the facility: a relative path without . or ..".to_owned());
    }
    Ok(path.to_path_buf())
}

/// An absolute path, lexically normalised: no `.`, no `..`, no trailing slash. `..` is refused, because what
/// it means depends on links.
pub(super) fn absolute_folder(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let normal = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !normal || text.contains('\0') {
        return Err("is not an absolute path without . or ..".to_owned());
    }
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        let ms = Duration::from_millis;
        let table = [
            ("25s", Some(ms(25_000))),
            ("500ms", Some(ms(500))),
            ("1m30s", Some(ms(90_000))),
            ("2h", Some(ms(7_200_000))),
            ("1d", Some(ms(86_400_000))),
            ("1h1m1s1ms", Some(ms(3_661_001))),
            ("0", Some(ms(0))),
            ("0s", Some(ms(0))),
            ("", None),
            ("25", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("1s1m", None),
            ("1s1s", None),
            ("1 s", None),
            ("1S", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ];
        for (text, expected) in table {
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        let table = [
            ("2000000", Some(2_000_000)),
            ("512MiB", Some(512 << 20)),
            ("512 MiB", Some(512 << 20)),
            ("1GiB", Some(1 << 30)),
            ("3MB", Some(3_000_000)),
            ("7B", Some(7)),
            ("", None),
            ("MiB", None),
            ("-1", None),
            ("+1", None),
            ("1.5GiB", None),
            ("1_000", None),
            ("99999999TiB", None),
        ];
        for (text, expected) in table {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_number_that_is_too_large_is_said_to_be_that() {
        for text in ["18446744073709551616", "99999999TiB"] {
            assert!(bytes(text).unwrap_err().starts_with("is too large"), "{text}");
        }
        assert!(integer("18446744073709551616").unwrap_err().starts_with("is too large"));
        assert_eq!(integer("1x"), Err("is not a whole number".to_owned()));
    }

    #[test]
    fn users_that_would_be_root_are_refused() {
        for text in ["root", "0", "-1", "", "Nexus", "a b", "4294967295", "x/../y"] {
            assert!(unprivileged_user(text).is_err(), "{text}");
        }
        for text in ["nexus-sandbox", "_apt", "65533"] {
            assert_eq!(unprivileged_user(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn flags_for_an_engine_are_whole_and_contradict_nothing() {
        let refused = [
            "",
            "-",
            "--",
            "---x",
            "--=x",
            "-v",
            "-it",
            "ubuntu",
            "--a\0",
            "--network=host",
            "--net=host",
            "--privileged",
            "--user=0",
            "--userns=auto",
            "--pid=host",
            "--entrypoint",
            "--memory=1g",
            "--detach",
            "--rm=false",
            "--name=x",
            "--pull=always",
            "--security-opt=seccomp=unconfined",
            "--security-opt=no-new-privileges:false",
        ];
        for text in refused {
            assert!(engine_flag(text).is_err(), "{text:?}");
        }
        for text in
            ["--device=/dev/fuse", "--security-opt=label=disable", "--dns=10.0.0.1", "--volume=/opt/cache:/cache:ro"]
        {
            assert_eq!(engine_flag(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn folders_stay_where_they_are_said_to_be() {
        for text in ["", "/abs", "../x", "a/../b", "./a", "a\0b"] {
            assert!(beneath(text).is_err(), "{text:?}");
        }
        assert_eq!(beneath(".nexus/overflow"), Ok(PathBuf::from(".nexus/overflow")));
        for text in ["", "rel", "/a/../b", "/a\0"] {
            assert!(absolute_folder(text).is_err(), "{text:?}");
        }
        assert_eq!(absolute_folder("/opt//tools/"), Ok(PathBuf::from("/opt/tools")));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in 0_u64..u64::from(u32::MAX) * 1000, size in any::<u64>()) {
            let shown = show_duration(Duration::from_millis(millis));
            prop_assert_eq!(duration(&shown), Ok(Duration::from_millis(millis)));
            prop_assert_eq!(bytes(&show_bytes(size)), Ok(size));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,40}") {
            drop((duration(&text), bytes(&text), integer(&text), flag(&text), sha256(&text)));
            drop((beneath(&text), absolute_folder(&text), unprivileged_user(&text), image(&text)));
        }
    }
}
