use super::*;
use proptest::prelude::*;

fn url(text: &str) -> RepoUrl {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn locations_pass() {
    let cases = [
        ("https://github.com/a/b.git", RepoScheme::Https, "github.com", 443),
        ("https://github.com:8443/a", RepoScheme::Https, "github.com", 8443),
        ("http://10.0.0.1/a", RepoScheme::Http, "10.0.0.1", 80),
        ("https://u:p@host/a?x=y#z", RepoScheme::Https, "host", 443),
        ("https://u@p@host/a", RepoScheme::Https, "host", 443),
        ("ssh://git@host:2222/~/a", RepoScheme::Ssh, "host", 2222),
        ("ssh://host/a", RepoScheme::Ssh, "host", 22),
        ("git://host/a", RepoScheme::Git, "host", 9418),
        ("https://[2001:db8::1]:443/a", RepoScheme::Https, "[2001:db8::1]", 443),
        ("git@github.com:a/b.git", RepoScheme::Ssh, "github.com", 22),
        ("host:a", RepoScheme::Ssh, "host", 22),
        ("host:/srv/a", RepoScheme::Ssh, "host", 22),
        ("https://host/a%20b", RepoScheme::Https, "host", 443),
        ("https://host/päth", RepoScheme::Https, "host", 443),
    ];
    for (text, scheme, host, port) in cases {
        let url = url(text);
        assert_eq!((url.scheme(), url.host(), url.port(), url.expose()), (scheme, host, port, text));
    }
}

const REFUSED: &[&str] = &[
    "",
    "-",
    "-u",
    "--upload-pack=x",
    "a",
    "/srv/repo",
    "./repo",
    "../repo",
    "repo.git",
    "file:///etc",
    "file:/etc",
    "file:etc",
    "FILE:///etc",
    "ext::sh -c id",
    "ext::sh",
    "fd::7",
    "EXT::sh",
    "git-remote-x::y",
    "https::x",
    "ext:sh",
    "a@ext::sh",
    "ext://x/y",
    "ftp://h/a",
    "HTTPS://h/a",
    "javascript://h/a",
    "git+ssh://h/a",
    "://h/a",
    "https://",
    "https:///a",
    "https://h",
    "https://h/",
    "https://h//",
    "https://h?x",
    "https://h#x",
    "https:h/a",
    "https:/h/a",
    "https://h:0/a",
    "https://h:/a",
    "https://h:65536/a",
    "https://h:+1/a",
    "https://h:1:2/a",
    "https://-h/a",
    "https://-u@h/a",
    "https://-u:p@h/a",
    "ssh://-oProxyCommand=id/a",
    "ssh://-oProxyCommand=id@h/a",
    "ssh://h/-a",
    "-oProxyCommand=id:a",
    "u@-oProxyCommand=id:a",
    "h:-a",
    "h:",
    "h:://a",
    "@h:a",
    ":a",
    "u@:a",
    "a/b:c",
    "C:\\repo",
    "https://h/a b",
    "https://h/a\nb",
    "https://h/a\tb",
    "https://h/a\0",
    "https://h/a\u{85}b",
    "https://h/a\u{a0}b",
    "https://h/a%0ab",
    "https://u%0d%0ahost=evil@h/a",
    "https://h%00/a",
    "https://h/%7f",
    "https://h/%1Bx",
    "https://h\\@evil/a",
    "https://[::1/a",
    "https://[::1]x/a",
    "https://[v1.x]/a",
    "https://[1.2.3.4]/a",
    "https://.h/a",
    "https://h ost/a",
    "https://bücher.de/a",
    "https://h%41/a",
    "[::1]:a",
    "u@[::1]:a",
    "h$x:a",
    "h`id`:a",
];

#[test]
fn everything_else_is_refused() {
    for text in REFUSED {
        let error = text.parse::<RepoUrl>().expect_err(text).to_string();
        assert!(!error.contains('\n'), "{error}");
    }
    assert!(format!("https://h/{}", "a".repeat(4096)).parse::<RepoUrl>().is_err());
}

#[test]
fn the_reason_fits() {
    let cases = [
        ("ext::sh -c id", "the URL contains ' '; remove it or percent-encode it"),
        ("ext::sh", "\"ext\" repositories are not taken; use https://, http://, ssh://, git:// or user@host:path"),
        ("file:///etc", "\"file\" repositories are not taken; use https://, http://, ssh://, git:// or user@host:path"),
        ("ssh://-oX/a", "the host begins with '-', which a program could take for an option"),
        ("https://h", "the URL names no repository; write its path after the host"),
    ];
    for (text, why) in cases {
        assert_eq!(text.parse::<RepoUrl>().unwrap_err().to_string(), why, "{text}");
    }
}

#[test]
fn credentials_are_handed_over_and_never_shown() {
    let cases = [
        ("https://user:s3cr%40t@host/a", Some(("user", Some("s3cr@t"))), "https://***@host/a", "https://host/a"),
        ("https://s3crt@host/a", Some(("s3crt", None)), "https://***@host/a", "https://host/a"),
        ("https://user:s3cr@@t@host/a", Some(("user", Some("s3cr@@t"))), "https://***@host/a", "https://host/a"),
        ("https://host/a@b", None, "https://host/a@b", "https://host/a@b"),
        ("https://@host/a", None, "https://***@host/a", "https://host/a"),
        ("git://s3crt@host/a", None, "git://***@host/a", "git://host/a"),
        ("ssh://git:s3crt@host/a", None, "ssh://git:***@host/a", "ssh://git@host/a"),
        ("git@host:a/b", None, "git@host:a/b", "git@host:a/b"),
    ];
    for (text, credentials, shown, bare) in cases {
        let url = url(text);
        let want = credentials.map(|(name, password)| (name.to_owned(), password.map(str::to_owned)));
        assert_eq!(url.credentials(), want, "{text}");
        assert_eq!(url.to_string(), shown);
        assert_eq!(url.without_credentials(), bare);
        assert!(!format!("{url:?}").contains("s3cr"), "{url:?}");
        assert_eq!(bare.parse::<RepoUrl>().unwrap().host(), url.host());
    }
}

#[test]
fn secrets_for_redaction_are_listed_in_both_spellings() {
    assert_eq!(url("https://user:s%40t@h/a").secrets(), ["s%40t", "s@t"]);
    assert_eq!(url("https://ghp_x@h/a").secrets(), ["ghp_x"]);
    assert_eq!(url("https://ghp_x:@h/a").secrets(), ["ghp_x"]);
    assert_eq!(url("https://h/a").secrets(), Vec::<String>::new());
    assert_eq!(url("git@h:a").secrets(), Vec::<String>::new());
    assert_eq!(url("ssh://git:pw@h/a").secrets(), ["pw"]);
}

#[test]
fn percent_decoding_leaves_what_is_no_escape() {
    for (text, want) in
        [("a%41b", "aAb"), ("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("%e2%82%ac", "€"), ("%ff", "\u{fffd}")]
    {
        assert_eq!(percent_decode(text), want);
    }
}

proptest! {
    #[test]
    fn never_panics_and_what_passes_is_harmless(text in "(https?|ssh|git|file|ext)(://|::?)[ -~é]{0,40}|[ -~é]{0,40}") {
        if let Ok(url) = text.parse::<RepoUrl>() {
            prop_assert_eq!(url.expose(), text.as_str());
            prop_assert!(!text.starts_with('-') && !url.host().starts_with('-') && !url.host().is_empty());
            prop_assert!(!url.without_credentials().is_empty());
            let shown = url.to_string();
            for secret in url.secrets().iter().filter(|s| s.len() > 3) {
                let rest = text.replacen(&format!("{}@", url.userinfo().unwrap_or_default()), "", 1);
                prop_assert!(rest.contains(secret.as_str()) || !shown.contains(secret.as_str()), "{} shows {}", shown, secret);
            }
        }
    }
}
