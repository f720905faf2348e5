//! What a command says of itself in its facility, read from outside: the judge that shares nothing with what is judged.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The command line of a directive that prints `parts` times so many random bytes on both streams, with a pause after each,
/// and keeps its own account. `mark` is in the command line of each of its processes.
pub(crate) fn command(mark: &str, parts: usize, out: usize, err: usize, pause: &str) -> String {
    format!(
        r#": {mark}; n=oracle.$CYBROS_DIRECTIVE_ID
echo "start $$ $(date +%s.%N)" >> $n
: > $n.out; : > $n.err
i=0; while [ $i -lt {parts} ]; do
  head -c {out} /dev/urandom > $n.part; cat $n.part >> $n.out; cat $n.part
  head -c {err} /dev/urandom > $n.part; cat $n.part >> $n.err; cat $n.part >&2
  i=$((i+1)); sh -c 'sleep {pause} # {mark}'
done
echo "out $(wc -c < $n.out) $(sha256sum < $n.out)" >> $n
echo "err $(wc -c < $n.err) $(sha256sum < $n.err)" >> $n
rm -f $n.part
echo "end $(date +%s.%N)" >> $n"#
    )
}

/// What a directive said of itself.
#[derive(Debug)]
pub(crate) struct Account {
    /// When it began, each time that it did.
    pub(crate) starts: Vec<f64>,
    pub(crate) ends: Vec<f64>,
    /// Bytes and digest of each stream, where it came to its end.
    pub(crate) printed: [Option<(usize, String)>; 2],
    path: PathBuf,
}

impl Account {
    pub(crate) fn read(facility: &Path, directive: &str) -> Self {
        let path = facility.join(format!("oracle.{directive}"));
        let mut account = Self { starts: Vec::new(), ends: Vec::new(), printed: [None, None], path };
        for line in std::fs::read_to_string(&account.path).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["start", _, at] => account.starts.push(at.parse().unwrap()),
                ["end", at] => account.ends.push(at.parse().unwrap()),
                [stream @ ("out" | "err"), len, digest, ..] => {
                    account.printed[usize::from(stream == "err")] = Some((len.parse().unwrap(), digest.to_owned()));
                }
                _ => panic!("{}: {line:?}", account.path.display()),
            }
        }
        account
    }

    /// All that a stream was given before the command was cut off; more than arrived, perhaps.
    pub(crate) fn given(&self, stream: usize) -> Vec<u8> {
        let name = format!("{}.{}", self.path.display(), ["out", "err"][stream]);
        std::fs::read(name).unwrap_or_default()
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Command lines on this machine that hold the mark.
pub(crate) fn processes(mark: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(mark)).collect()
}
