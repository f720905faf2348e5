//! Where a configuration comes from: the file, and what surrounds it.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::problem::{Place, Problem, Problems};
use super::{Config, Platform};

/// Largest configuration file. A full one with every comment is under 16 KiB.
pub const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// Which file, and whether the operator named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSource {
    /// The file.
    pub path: PathBuf,
    /// Whether `-config` was given: a file that was named must exist.
    pub named: bool,
}

/// What a configuration may depend on besides its own text. `main` fills it in.
pub struct Surroundings<'a> {
    /// Whose rules apply.
    pub platform: Platform,
    /// Answers for one environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// The folder that relative paths start from: the file's own.
    pub folder: PathBuf,
    /// The daemon user's home, for `~`; `None` where there is none.
    pub home: Option<PathBuf>,
}

impl Surroundings<'_> {
    /// A path of the file as the daemon will use it.
    pub(super) fn resolve(&self, text: &str) -> Result<PathBuf, String> {
        if text.contains('\0') {
            return Err("holds a NUL".to_owned());
        }
        let beneath_home = match text.strip_prefix('~') {
            Some("") => Some(""),
            Some(rest) => match rest.strip_prefix('/') {
                Some(rest) => Some(rest),
                None => return Err("names another user's home: write its absolute path".to_owned()),
            },
            None => None,
        };
        let joined = match (beneath_home, &self.home) {
            (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
            (Some(_), None) => return Err("needs a home directory, and HOME is not set".to_owned()),
            (None, _) => self.folder.join(text),
        };
        // `./x` and `a//b` lose their decoration; `..` stays, since what it means is the file system's to say.
        Ok(joined.components().collect())
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not there.
    #[error("{}: no such file: write one (config.example.yaml has every key) or name it by -config PATH", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no configuration.
    #[error("{}: larger than {MAX_CONFIG_BYTES} bytes: this is no configuration", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is wrong; every problem at once.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

impl Config {
    /// Reads and validates a file. Relative paths start from the file's folder.
    ///
    /// # Errors
    /// When it cannot be read, or with all its problems.
    pub fn load(
        path: &Path,
        platform: Platform,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let bytes = read_bounded(path)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        let surroundings = Surroundings { platform, environment, folder, home: home(environment) };
        let shown = path.display().to_string();
        let text = std::str::from_utf8(&bytes).map_err(|error| not_utf8(&shown, &bytes, error.valid_up_to()))?;
        Ok(Self::from_text(&shown, text, &surroundings)?)
    }

    /// Reads the file that the command line names; `None` where it was not named and is not there.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_if_there(
        source: &ConfigSource,
        platform: Platform,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, ConfigError> {
        match Self::load(&source.path, platform, environment) {
            Err(ConfigError::Missing { .. }) if !source.named => Ok(None),
            loaded => loaded.map(Some),
        }
    }

    /// The configuration of a file that says nothing. Its relative paths start at `/`: who has no file names the folders
    /// that he works in himself.
    ///
    /// # Errors
    /// None that could be met: the defaults are valid.
    pub fn built_in(platform: Platform, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let folder = PathBuf::from("/");
        let surroundings = Surroundings { platform, environment, folder, home: home(environment) };
        Ok(Self::from_text("(built-in configuration)", "", &surroundings)?)
    }
}

fn home(environment: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    environment("HOME").filter(|home| home.starts_with('/')).map(PathBuf::from)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => ConfigError::Missing { path: path.to_path_buf() },
        _ => ConfigError::Unreadable { path: path.to_path_buf(), source },
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= MAX_CONFIG_BYTES => Ok(bytes),
        _ => Err(ConfigError::TooLarge { path: path.to_path_buf() }),
    }
}

fn not_utf8(file: &str, bytes: &[u8], valid: usize) -> Problems {
    let before = bytes.get(..valid).unwrap_or_default();
    let line = before.split(|byte| *byte == b'\n').count();
    let last = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let column = String::from_utf8_lossy(last).chars().count() + 1;
    let text = "not UTF-8 from here on: save the file as UTF-8".to_owned();
    Problems::new(file, vec![Problem { place: Place { line, column }, key: String::new(), text }])
}
