//! nexusd.yaml(5), printed from the table of keys.

use clap_mangen::roff::{Roff, bold, italic, roman};

use super::Platform;
use super::keys::{Default, KEYS, Key};

/// The manual page of the configuration, of this day and version.
#[must_use]
pub fn configuration_page(date: &str, source: &str) -> String {
    let mut page = Roff::new();
    page.control("TH", ["nexusd.yaml", "5", date, source, "Nexus"]);
    page.control("SH", ["NAME"]).text([roman("nexusd.yaml - configuration of nexusd")]);
    page.control("SH", ["DESCRIPTION"]);
    let paragraphs: [&[_]; 4] = [
        &[
            roman("One YAML file, named by "),
            bold("nexusd --config"),
            roman(
                ", config.yaml of the working directory otherwise. Every key has a default. An unknown key is an error; ",
            ),
            bold("nexusd config check"),
            roman(" says all that is wrong with a file, "),
            bold("nexusd config example"),
            roman(
                " prints one with every key. A key is written here with its sections before it: poll.retry_backoff is ",
            ),
            roman("retry_backoff beneath poll."),
        ],
        &[roman(
            "Durations are written 500ms, 25s, 1m30s, 2h; sizes in bytes, or 512MiB, 1GiB. A relative path starts from the \
             folder of the file, ~ is the home of the user that nexusd runs as.",
        )],
        &[
            bold("${VAR}"),
            roman(" and "),
            bold("${VAR:-default}"),
            roman(
                " in a value are replaced from the environment after the file was read; undefined without a default is an \
                   error.",
            ),
        ],
        &[roman("On SIGHUP log_level, labels and the files beneath tls are read again.")],
    ];
    for paragraph in paragraphs {
        page.control("PP", []).text(paragraph.to_vec());
    }
    page.control("SH", ["KEYS"]);
    for key in KEYS {
        describe(&mut page, key);
    }
    page.control("SH", ["FILES"]);
    page.control("TP", []).text([bold("/etc/nexusd/config.yaml")]);
    page.text([roman("Of the system's service.")]);
    page.control("SH", ["SEE ALSO"]).text([bold("nexusd"), roman("(1)")]);
    page.render()
}

fn describe(page: &mut Roff, key: &Key) {
    page.control("TP", []);
    page.text([bold(key.path), roman(": "), italic(key.kind.words())]);
    page.text([roman(key.about)]);
    let mut facts = String::new();
    if let Some(range) = key.kind.range() {
        facts = format!("{range}. ");
    }
    let default = match key.default {
        Default::Yaml(text) => text.to_owned(),
        Default::Computed(words) => words.to_owned(),
        per_platform @ Default::PerPlatform(..) => {
            let on = |platform| per_platform.yaml(platform).unwrap_or_default();
            format!("{}, on macOS {}", on(Platform::Linux), on(Platform::Macos))
        }
    };
    facts.push_str(&format!("Default: {default}"));
    // As it stands: the address of an archive is longer than a line.
    page.control("nf", []).text([roman(facts)]).control("fi", []);
}
