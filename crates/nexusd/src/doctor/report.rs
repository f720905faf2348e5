//! Rows, and how they look.

use serde::Serialize;

/// Width of the name's column, and of the rules.
const NAME_WIDTH: usize = 26;
pub(super) const RULE: &str = "──────────────────────────────────────────────────";

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// ✓
    Pass,
    /// ⚠: works, but less well than it could.
    Warn,
    /// ✗
    Fail,
    /// ─: not needed, or not applicable.
    Skip,
}

impl State {
    const fn icon(self) -> char {
        match self {
            Self::Pass => '✓',
            Self::Warn => '⚠',
            Self::Fail => '✗',
            Self::Skip => '─',
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// As in the guide.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// What was found, one line.
    pub detail: String,
    /// The command or change that mends it; always there for a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Row {
    pub(super) fn pass(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, State::Pass, detail, None)
    }

    pub(super) fn skip(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, State::Skip, detail, None)
    }

    pub(super) fn warn(name: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(name, State::Warn, detail, Some(mend.into()))
    }

    pub(super) fn fail(name: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(name, State::Fail, detail, Some(mend.into()))
    }

    /// The guide's look. A mend stands beneath its row, in the column of the details.
    pub(super) fn render(&self, text: &mut String) {
        text.push_str(&format!("  {} {:<NAME_WIDTH$}{}\n", self.state.icon(), self.name, self.detail));
        if let Some(mend) = &self.mend {
            text.push_str(&format!("    {:<NAME_WIDTH$}→ {mend}\n", ""));
        }
    }

    /// What programs and servers say goes to a terminal: one line, no control characters.
    fn new(name: &'static str, state: State, detail: impl Into<String>, mend: Option<String>) -> Self {
        let clean = |text: String| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        Self { name, state, detail: clean(detail.into()), mend: mend.map(clean) }
    }
}

/// All checks, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The guide's rows first.
    pub rows: Vec<Row>,
}

impl Report {
    /// Whether any check failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.rows.iter().any(|row| row.state == State::Fail)
    }

    /// The guide's look.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("nexusd doctor\n{RULE}\n");
        self.rows.iter().for_each(|row| row.render(&mut text));
        let end = if self.failed() { "Some checks failed. See details above." } else { "All checks passed." };
        text.push_str(&format!("{RULE}\n  {end}\n"));
        text
    }

    /// The same for programs: `{"passed": …, "checks": [{name, state, detail, mend?}]}`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "passed": !self.failed(), "checks": self.rows })
    }
}
