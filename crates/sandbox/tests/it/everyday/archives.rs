//! What keeps things: git, archives, keys, databases, and the language that ties them together.

use testkit::require;

use super::Everyday;

#[tokio::test]
async fn git_commits_merges_and_clones() {
    require!(Bwrap, Git);
    let script = r"
        git config --global init.defaultBranch main
        git config --global user.name nexus
        git config --global user.email nexus@example.invalid
        git init --quiet repo && cd repo
        echo one > file && git add file && git commit --quiet -m first
        git checkout --quiet -b side && echo two >> file && git commit --quiet -a -m second
        git checkout --quiet main && echo other > other && git add other && git commit --quiet -m third
        git merge --quiet --no-edit side
        git log --format=%s | sort | tr '\n' ';' && echo
        printf '#!/bin/sh\necho the hook ran\n' > .git/hooks/post-commit && chmod +x .git/hooks/post-commit
        git commit --quiet --allow-empty -m fourth
        git stash list && echo x >> file && git stash --quiet && git stash pop --quiet && git diff --stat | tail -n 1
        git checkout --quiet file
        cd .. && git clone --quiet repo copy && git clone --quiet --depth 1 file:///workspace/repo shallow
        git -C copy log --oneline | wc -l
        git -C shallow log --oneline | wc -l
        cat copy/file && git -C copy status --short
        git -C copy gc --quiet && git -C copy fsck --no-progress --no-dangling
        git clone --quiet --bare repo bare.git && git -C copy push --quiet ../bare.git HEAD:refs/heads/pushed
        git -C bare.git rev-parse --verify --quiet pushed | wc -c";
    // What a hook prints is on standard error, as git has it.
    let outcome = Everyday::new().outcome(script).await;
    let said = "Merge branch 'side';first;second;third;\n 1 file changed, 1 insertion(+)\n5\n1\none\ntwo\n41\n";
    assert_eq!((outcome.exit.code, outcome.stdout.as_str()), (0, said), "{}", outcome.stderr);
    assert_eq!(outcome.stderr, "the hook ran\n");
}

#[tokio::test]
async fn tar_keeps_modes_links_and_times_through_gzip_and_xz() {
    require!(Bwrap, Archivers);
    let script = r"
        mkdir -p tree/deep && echo text > tree/deep/file && chmod 640 tree/deep/file && chmod 751 tree
        ln -s deep/file tree/link && ln tree/deep/file tree/hard
        touch -d '2001-02-03 04:05:06 UTC' tree/deep/file
        head -c 3000000 /dev/urandom > tree/noise
        for kind in gz xz; do
            tar --create --auto-compress --file tree.tar.$kind tree
            mkdir $kind && tar --extract --file tree.tar.$kind --directory $kind
            stat --format '%a %h %Y' $kind/tree/deep/file
            readlink $kind/tree/link
            cmp tree/noise $kind/tree/noise && echo same
        done
        xz --threads 2 --stdout tree/noise | xz --decompress | cmp - tree/noise
        gzip --test tree.tar.gz && stat --format %a gz/tree";
    let one = "640 2 981173106\ndeep/file\nsame\n";
    assert_eq!(Everyday::new().work(script).await, format!("{one}{one}751\n"));
}

#[tokio::test]
async fn ssh_keygen_makes_keys_and_an_agent_holds_them() {
    require!(Bwrap, Ssh);
    let script = r"
        mkdir -m 700 .ssh
        ssh-keygen -q -t ed25519 -N '' -C somebody -f .ssh/id_ed25519
        ssh-keygen -q -t rsa -b 2048 -N '' -C somebody -f .ssh/id_rsa
        stat --format %a .ssh/id_ed25519
        ssh-keygen -y -f .ssh/id_ed25519 | cut -d' ' -f1,2 | cmp - <(cut -d' ' -f1,2 .ssh/id_ed25519.pub) && echo one pair
        echo text > message && ssh-keygen -q -Y sign -f .ssh/id_ed25519 -n file message 2>/dev/null
        (echo -n 'me '; cat .ssh/id_ed25519.pub) > signers
        ssh-keygen -Y verify -f signers -I me -n file -s message.sig < message | cut -d' ' -f1,2
        eval $(ssh-agent) >/dev/null && ssh-add -q .ssh/id_rsa && ssh-add -l | grep -c 2048
        kill $SSH_AGENT_PID";
    assert_eq!(Everyday::new().work(script).await, "600\none pair\nGood \"file\"\n1\n");
}

#[tokio::test]
async fn sqlite3_writes_in_transactions_and_beside_a_reader() {
    require!(Bwrap, Sqlite);
    let script = r"
        sqlite3 data.db <<'END'
pragma journal_mode=wal;
create table t(a integer primary key, b text);
begin; insert into t(b) values('x'),('y'),('z'); commit;
begin; delete from t; rollback;
END
        for n in 1 2 3 4; do sqlite3 -cmd '.timeout 20000' data.db 'insert into t(b) select b from t limit 3' & done
        wait
        sqlite3 data.db 'select count(*), max(a) from t; pragma integrity_check'";
    assert_eq!(Everyday::new().work(script).await, "wal\n15|15\nok\n");
}

#[tokio::test]
async fn perl_runs_with_its_modules_files_and_children() {
    require!(Bwrap, Perl);
    let script = r#"
        cat > work.pl <<'END'
use strict; use warnings;
use File::Temp qw(tempfile); use IO::Socket::INET; use POSIX qw(strftime); use Digest::SHA qw(sha256_hex);
my ($out, $name) = tempfile(); print $out "b\na\n"; close $out;
open(my $sorted, '-|', 'sort', $name) or die; print join(',', map { chomp; $_ } <$sorted>), "\n";
print strftime('%Y-%m-%d', gmtime(0)), ' ', substr(sha256_hex('x'), 0, 8), "\n";
my $server = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die $!;
if (!fork) { my $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $server->sockport); print $client "over a socket\n"; exit }
my $heard = $server->accept; print scalar <$heard>; wait;
print "unlinked\n" if unlink $name;
END
        perl work.pl"#;
    let said = "a,b\n1970-01-01 2d711642\nover a socket\nunlinked\n";
    assert_eq!(Everyday::new().work(script).await, said);
}
