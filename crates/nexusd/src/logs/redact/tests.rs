use super::*;
use proptest::prelude::*;

const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\n\
    b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n\
    QyNTUxOQAAACDmQ2xhc3NpZmllZCBtYXRlcmlhbCwgbm90IHJlYWxseSBhIGtleSAuLi4=\n\
    -----END OPENSSH PRIVATE KEY-----\n";

fn whole(secrets: &[&str], input: &[u8]) -> Vec<u8> {
    pieces(secrets, &[input])
}

fn pieces(secrets: &[&str], input: &[&[u8]]) -> Vec<u8> {
    let secrets: Vec<String> = secrets.iter().map(|s| (*s).to_owned()).collect();
    let mut redactor = Redactor::new(&secrets);
    let mut out = Vec::new();
    for piece in input {
        let (passes, before) = (redactor.passes(piece), out.len());
        redactor.push(piece, &mut out);
        assert!(!passes || out[before..] == **piece, "what passes is not changed");
    }
    redactor.finish(&mut out);
    out
}

fn text(secrets: &[&str], input: &str) -> String {
    String::from_utf8(whole(secrets, input.as_bytes())).unwrap()
}

#[test]
fn secrets_are_replaced_and_the_rest_passes() {
    assert_eq!(text(&["hunter2hunter2"], "a hunter2hunter2 b hunter2hunter2"), "a [REDACTED] b [REDACTED]");
    assert_eq!(text(&["short"], "short is too short"), "short is too short");
    assert_eq!(text(&["aaaaaa"], "aaaaaaaaaaaaa"), "[REDACTED][REDACTED]a");
    assert_eq!(text(&["secret", "secret-long"], "secret-long secret-lo"), "[REDACTED] [REDACTED]-lo");
    assert_eq!(text(&["xsecrety", "secret"], "xsecretz xsecrety"), "x[REDACTED]z [REDACTED]");
    let bytes = [0xff, 0x00, 0xfe, b'-', b'-'];
    assert_eq!(whole(&["hunter2hunter2"], &bytes), bytes);
}

#[test]
fn private_keys_are_replaced_in_their_usual_dresses() {
    let with = |key: &str| text(&[], &format!("before\n{key}after"));
    assert_eq!(with(KEY), "before\n[REDACTED PRIVATE KEY]\nafter");
    assert_eq!(with(&KEY.replace("OPENSSH ", "")), "before\n[REDACTED PRIVATE KEY]\nafter");
    assert_eq!(with(&KEY.replace('\n', "\r\n")), "before\n[REDACTED PRIVATE KEY]\r\nafter");
    assert_eq!(with(&KEY.replace('\n', "\\n")), "before\n[REDACTED PRIVATE KEY]\\nafter");
    assert_eq!(with(&KEY.replace('\n', "\n     3\t")), "before\n[REDACTED PRIVATE KEY]\n     3\tafter");
    let old = KEY.replacen('\n', "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0123456789ABCDEF\n\n", 1);
    assert_eq!(with(&old), "before\n[REDACTED PRIVATE KEY]\nafter");
    assert_eq!(with(&format!("{KEY}{KEY}")), "before\n[REDACTED PRIVATE KEY]\n[REDACTED PRIVATE KEY]\nafter");
}

#[test]
fn an_unfinished_key_is_not_shown() {
    let half = &KEY[..150];
    assert_eq!(text(&[], half), "[REDACTED PRIVATE KEY]");
}

#[test]
fn what_only_mentions_a_key_passes() {
    for prose in [
        "grep -r '-----BEGIN PRIVATE KEY-----' .",
        "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUe2vYx0H0m3nq1CkZl5b7YzQ\n-----END CERTIFICATE-----\n",
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY--",
        "-----BEGIN -----BEGIN -----",
        "--------------------",
    ] {
        assert_eq!(text(&[], prose), prose);
    }
    let long = format!("the marker -----BEGIN PRIVATE KEY----- begins one; {}", "some words of text, ".repeat(100));
    assert_eq!(text(&[], &long), long);
    let marker_then_key = format!("-----BEGIN {KEY}");
    assert_eq!(text(&[], &marker_then_key), "-----BEGIN [REDACTED PRIVATE KEY]\n");
    let mention_then_secret = "-----BEGIN PRIVATE KEY----- hunter2hunter2";
    assert_eq!(text(&["hunter2hunter2"], mention_then_secret), "-----BEGIN PRIVATE KEY----- [REDACTED]");
}

#[test]
fn after_a_broken_off_key_the_output_goes_on() {
    let words = "plain words follow. ".repeat(40);
    let shown = text(&[], &format!("{}\n{words}", &KEY[..150]));
    assert!(shown.starts_with("[REDACTED PRIVATE KEY]"), "{shown}");
    assert!(shown.ends_with(&words), "nothing of what follows is lost");
    let endless = format!("-----BEGIN PRIVATE KEY-----\n{}", "A".repeat(200_000));
    assert!(text(&[], &endless).len() > 130_000, "no key is that long");
}

#[test]
fn the_oldest_secret_is_forgotten_first_and_the_marker_never() {
    let mut redactor = Redactor::new(&[]);
    (0..MAX_SECRETS + 5).for_each(|n| redactor.hide(&format!("secret-number-{n:03}")));
    let mut out = Vec::new();
    redactor.push(format!("secret-number-000 secret-number-036 {KEY}").as_bytes(), &mut out);
    redactor.finish(&mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "secret-number-000 [REDACTED] [REDACTED PRIVATE KEY]\n");
}

/// Texts of pieces that make trouble together.
fn troublesome() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..20),
        2 => Just(b"hunter2hunter2".to_vec()),
        2 => Just(b"hunter2hunter".to_vec()),
        2 => Just(b"hunter".to_vec()),
        2 => Just(b"ababababc".to_vec()),
        1 => Just(b"abab".to_vec()),
        2 => Just(KEY.as_bytes().to_vec()),
        1 => Just(KEY.as_bytes()[..120].to_vec()),
        1 => Just(b"-----BEGIN ".to_vec()),
        1 => Just(b"-----BEGIN PRIVATE KEY-----".to_vec()),
        1 => Just(b"-----END PRIVATE KEY-----".to_vec()),
        1 => Just(b"words of no meaning ".repeat(15)),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_split_gives_the_same_result(input in troublesome(), cuts in proptest::collection::vec(any::<usize>(), 0..20)) {
        let secrets = ["hunter2hunter2", "hunter2hunter2-and-more", "ababababc", "bababa", "2hunter2-x"];
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect();
        prop_assert_eq!(pieces(&secrets, &parts), whole(&secrets, &input));
        let single: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(pieces(&secrets, &single), whole(&secrets, &input));
    }

    #[test]
    fn no_secret_survives(input in troublesome()) {
        let shown = whole(&["hunter2hunter2", "ababababc"], &input);
        for secret in ["hunter2hunter2", "ababababc", "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9u"] {
            prop_assert!(memchr::memmem::find(&shown, secret.as_bytes()).is_none());
        }
    }

    #[test]
    fn bytes_without_secrets_pass_untouched(input in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(whole(&["hunter2hunter2"], &input), input);
    }
}
