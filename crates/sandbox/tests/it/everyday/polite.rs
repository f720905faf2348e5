//! A tool that wants a person says so and ends, at once: there is no terminal, and standard input is at its end.

use std::fmt::Write as _;

use testkit::require;

use super::Everyday;

/// How long such a tool may take, in seconds; none waits, but the machine may be busy.
const AT_ONCE: u32 = 10;

/// A command, its exit codes, and what it says (or shows) in passing.
type Case = (&'static str, &'static [u8], &'static str);

/// Runs each command with a bound and checks how it ended; 124 would be the bound.
async fn check(cases: &[Case]) {
    let mut script = "set +e\n".to_owned();
    for (command, _, _) in cases {
        let quoted = command.replace('\'', r"'\''");
        writeln!(script, "said=$(timeout {AT_ONCE} bash -c '{quoted}' 2>&1); echo \"@@$? $said\"").unwrap();
    }
    let outcome = Everyday::new().outcome(&script).await;
    let answers: Vec<&str> = outcome.stdout.split("@@").skip(1).collect();
    assert_eq!(answers.len(), cases.len(), "{}", outcome.stdout);
    for ((command, codes, words), answer) in cases.iter().zip(answers) {
        let (code, said) = answer.split_once(' ').unwrap();
        assert!(codes.iter().any(|allowed| allowed.to_string() == code), "{command}: ended with {code}: {said}");
        assert!(said.contains(words), "{command}: {words:?} is not in {said:?}");
    }
}

#[tokio::test]
async fn shells_and_interpreters_find_the_end_of_their_input() {
    require!(Bwrap, Venv);
    check(&[
        ("python3 -i", &[0], ">>>"),
        ("python3 -c 'input(\"name? \")'", &[1], "EOFError"),
        ("read -r answer", &[1], ""),
        ("read -r answer </dev/tty", &[1], "No such device or address"),
        ("select x in a b; do echo $x; done", &[1], "1) a"),
        ("bash -i", &[0], "no job control"),
        ("cat", &[0], ""),
        ("tty", &[1], "not a tty"),
        ("stty size", &[1], "Inappropriate ioctl"),
    ])
    .await;
}

#[tokio::test]
async fn whoever_asks_for_a_password_is_told_that_nobody_is_there() {
    require!(Bwrap, Git, Ssh);
    check(&[
        (
            "printf 'protocol=https\nhost=x.invalid\n' | git -c credential.helper= credential fill",
            &[128],
            "could not read",
        ),
        ("ssh-keygen -q -N secret -f key </dev/null && ssh-keygen -y -f key", &[255], "incorrect passphrase"),
        ("ssh-keygen", &[1], "Enter file in which to save the key"),
        // Nothing listens there; a name would be for the proxy to look up, and there is none.
        ("ssh -o ProxyCommand=none -p 9 nobody@127.0.0.1 true", &[255], "Connection refused"),
        ("ssh somebody@example.invalid true", &[255], "nexus: connect to example.invalid:22"),
        // Absent, or without effect: a setuid program gets no rights here.
        ("sudo -n true", &[1, 127], "sudo"),
        ("su -c id", &[1, 126, 127], "su"),
        ("python3 -c 'import getpass; getpass.getpass()' || exit 1", &[1], ""),
    ])
    .await;
}

#[tokio::test]
async fn pagers_and_editors_pass_the_text_on_or_give_up() {
    require!(Bwrap, Git, Pager);
    check(&[
        ("less /etc/hostname", &[0], "nexus"),
        ("man -P less no-such-page-here", &[1, 16, 127], ""),
        (
            "git init -q r; cd r; git -c user.name=n -c user.email=e commit --allow-empty -q -m one; git log --format=%s",
            &[0],
            "one",
        ),
        // With no editor to be had in a dumb terminal, git says how to do without.
        ("cd r; git -c user.name=n -c user.email=e commit --allow-empty", &[1], "Terminal is dumb, but EDITOR unset"),
        ("cd r; git -c user.name=n -c user.email=e rebase -i --root", &[1], "Terminal is dumb, but EDITOR unset"),
        ("top", &[1], "top: failed tty get"),
    ])
    .await;
}
