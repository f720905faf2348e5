//! Words as one shell command.

/// The script for the words that were typed: one word is a script already, several are quoted so that the shell
/// sees exactly them.
pub(super) fn script(words: &[String]) -> String {
    match words {
        [script] => script.clone(),
        words => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
    // A word with `=` first in line would be an assignment; quoting it does no harm anywhere.
    if !word.is_empty() && word.chars().all(plain) && !word.contains('=') {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> String {
        script(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_word_is_a_script_and_several_are_quoted() {
        assert_eq!(of(&["echo $HOME | wc"]), "echo $HOME | wc");
        assert_eq!(of(&["echo", "$HOME", "a b", ""]), "echo '$HOME' 'a b' ''");
        assert_eq!(of(&["ls", "-l", "/tmp/x"]), "ls -l /tmp/x");
        assert_eq!(of(&["echo", "it's"]), r"echo 'it'\''s'");
        assert_eq!(of(&["A=1", "x"]), "'A=1' x");
    }
}
