//! The manual pages, rendered from the command line's own declaration and the configuration's own table.

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{NEXUS_DATE, NEXUS_VERSION, command};
use crate::config::configuration_page;

/// What stands at the foot of every page. An empty day would be lost on the way, and the version stand in its place.
const DATE: &str = match NEXUS_DATE {
    Some(date) => date,
    None => "undated",
};

/// Every page: the name of its file, and its text.
#[must_use]
pub fn manual_pages() -> Vec<(String, String)> {
    let mut top = command().disable_help_subcommand(true);
    top.build();
    let source = format!("nexusd {NEXUS_VERSION}");
    let mut pages = Vec::new();
    render(&top, &source, &mut pages);
    if let Some((_, page)) = pages.first_mut() {
        page.push_str(&see_also());
    }
    pages.push(("nexusd.yaml.5".to_owned(), configuration_page(DATE, &source)));
    pages
}

fn render(command: &clap::Command, source: &str, pages: &mut Vec<(String, String)>) {
    let page = Man::new(command.clone()).date(DATE).source(source).manual("Nexus");
    let mut text = Vec::new();
    // Nothing fails to be written into memory.
    if page.render(&mut text).is_ok() {
        let text = String::from_utf8_lossy(&text).replace(".SH EXTRA\n", ".SH NOTES\n");
        pages.push((page.get_filename(), text));
    }
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        render(inner, source, pages);
    }
}

fn see_also() -> String {
    let mut page = Roff::new();
    page.control("SH", ["FILES"]);
    page.control("TP", []).text([bold("/etc/nexusd/config.yaml")]);
    page.text([roman("The configuration of the system's service; nexusd config example prints one.")]);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("nexusd.yaml"), roman("(5), "), bold("mothership"), roman("(1), "), bold("bwrap"), roman("(1)")]);
    page.to_roff()
}
