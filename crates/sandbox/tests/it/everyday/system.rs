//! What a command asks about where it is.

use std::path::Path;
use std::process::Command;

use testkit::require;

use super::Everyday;

#[tokio::test]
async fn the_usual_questions_have_answers() {
    require!(Bwrap, Procps);
    let script = r#"
        id && whoami && groups && hostname && getent passwd nexus && getent hosts localhost | tr -s ' '
        uname -s && nproc && pwd && echo ~
        ps -e -o comm= > running && sort running | tr '\n' ' ' && echo
        ps -o pid=,ppid=,user= -p $$ | tr -s ' '
        df --output=fstype /tmp | tail -n 1
        df --portability /workspace >/dev/null && free -m >/dev/null && uptime >/dev/null && ldd /bin/sh >/dev/null
        pgrep bash && pkill -0 bash && ulimit -n && mktemp -d >/dev/null && ls -d ~/.. && tty || true"#;
    let cores = std::thread::available_parallelism().unwrap();
    let said = Everyday::new().work(script).await;
    let expected = format!(
        "uid=1000(nexus) gid=1000(nexus) groups=1000(nexus)\nnexus\nnexus\nnexus\n\
         nexus:x:1000:1000:nexus:/workspace:/bin/sh\n::1 localhost ip6-localhost ip6-loopback\n\
         Linux\n{cores}\n/workspace\n/workspace\n\
         6 bash ps \n 2 1 nexus\ntmpfs\n2\n4096\n/workspace/..\nnot a tty\n"
    );
    assert_eq!(said, expected);
}

#[tokio::test]
async fn text_and_time_are_as_on_the_host() {
    require!(Bwrap, Venv);
    let host = Command::new("date").args(["-d", "@86400", "+%Z %z"]).env_remove("TZ").output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let script = r#"
        date -d @86400 '+%Z %z'
        TZ=JST-9 date -d @0 '+%H:%M %z'
        locale charmap && printf 'ä' | wc -m && python3 -c 'import sys; print(sys.stdout.encoding, "ä".upper())'
        [ $(($(date +%s) - $(date -d "$(date -Is)" +%s))) -le 1 ] && echo the clock goes
        printf 'b\nA\na\n' | sort | tr -d '\n' && echo"#;
    assert_eq!(
        Everyday::new().work(script).await,
        format!("{host}09:00 +0900\nUTF-8\n1\nutf-8 Ä\nthe clock goes\nAab\n")
    );
}

/// What programs read of `/etc`, on hosts that have it.
const READ_BY_PROGRAMS: [&str; 14] = [
    "alternatives",
    "fonts/fonts.conf",
    "groff",
    "ld.so.cache",
    "localtime",
    "manpath.config",
    "maven/m2.conf",
    "mime.types",
    "os-release",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
];

#[tokio::test]
async fn etc_has_what_programs_read_there() {
    require!(Bwrap);
    let on_host: Vec<&str> =
        READ_BY_PROGRAMS.into_iter().filter(|name| Path::new("/etc").join(name).exists()).collect();
    assert!(on_host.contains(&"ld.so.cache") && on_host.contains(&"os-release"), "{on_host:?}");
    let script = format!("cd /etc && for name in {}; do [ -r $name ] && echo $name; done", on_host.join(" "));
    assert_eq!(Everyday::new().work(&script).await.lines().collect::<Vec<_>>(), on_host);
}

#[test]
fn a_daemon_that_keeps_its_files_to_itself_has_working_sandboxes() {
    require!(Bwrap);
    let work = std::thread::spawn(|| {
        // The mask of this thread and of those that it starts.
        #[allow(deprecated, reason = "the call is unsound for FILES alone, which is not asked for")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::FS).unwrap();
        rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let script = "umask; touch made; mkdir dir; stat --format %a made dir; find /etc -type d ! -executable";
        runtime.block_on(async { Everyday::new().work(script).await })
    });
    let said = work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert_eq!(said, "0022\n644\n755\n");
}
