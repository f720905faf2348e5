//! One fault of the network a test.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nexusd::client::ProxyChoice;
use nexusd::rootfs::progress::Stage;
use nexusd::rootfs::{Progress, RootfsError, Wanted, ensure};
use testkit::TarBytes;
use testkit::archive::{sha256_hex, xz};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::server::{Reply, Server};
use super::{Bed, assert_installed, packed};

const TAG: &str = "\"one\"";

#[tokio::test]
async fn it_is_fetched_once_and_used_again_without_a_network() {
    let (bed, file) = (Bed::new(), packed());
    let server = Server::honest(&file);
    let wanted = bed.wanted(&server.url(), &file);
    let root = bed.ensure(&wanted).await.unwrap();
    assert_installed(&root);
    assert_eq!(bed.left(), [sha256_hex(&file)]);
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].line, "GET /root.tar.xz HTTP/1.1");
    assert!(asked[0].field("user-agent").unwrap().starts_with("nexusd/"), "{asked:?}");
    assert_eq!(asked[0].field("accept-encoding"), Some("identity"));
    drop(server);
    assert_eq!(bed.ensure(&wanted).await.unwrap(), root);
    assert_eq!(wanted.find().unwrap(), Some(root));
}

#[tokio::test]
async fn a_cut_connection_is_continued_where_it_was_cut() {
    let (bed, file) = (Bed::new(), packed());
    let served = file.clone();
    let server = Server::start(move |number, asked| {
        let reply = Reply::of(&served, TAG, asked);
        if number < 3 { reply.cut(100_000) } else { reply }
    });
    assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
    assert_eq!(server.ranges(), [None, Some(100_000), Some(200_000), Some(300_000)]);
    assert!(server.asked()[1..].iter().all(|asked| asked.field("if-range") == Some(TAG)));
}

/// A date of the last change serves as well as a tag.
#[tokio::test]
async fn a_date_continues_too() {
    let (bed, file) = (Bed::new(), packed());
    let served = file.clone();
    let date = "Wed, 21 Oct 2015 07:28:00 GMT";
    let server = Server::start(move |number, asked| match asked.from() {
        Some(from) if asked.field("if-range") == Some(date) => Reply::rest(&served, from),
        _ => Reply::whole(&served).with("last-modified", date).cut(if number == 0 { 1000 } else { usize::MAX }),
    });
    assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
    assert_eq!(server.ranges(), [None, Some(1000)]);
}

/// Nothing says that the second half belongs to the first: it is begun again.
#[tokio::test]
async fn without_a_tag_or_date_it_is_begun_again() {
    let (bed, file) = (Bed::new(), packed());
    let served = file.clone();
    let server = Server::start(move |number, _| Reply::whole(&served).cut(if number == 0 { 1000 } else { usize::MAX }));
    assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
    assert_eq!(server.ranges(), [None, None]);
}

#[tokio::test]
async fn a_server_that_ignores_ranges_sends_it_whole() {
    let (bed, file) = (Bed::new(), packed());
    let served = file.clone();
    let server = Server::start(move |number, _| {
        let reply = Reply::whole(&served).with("etag", TAG);
        if number == 0 { reply.cut(100_000) } else { reply }
    });
    assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
    assert_eq!(server.ranges(), [None, Some(100_000)]);
}

/// The first half of an old file, and then the whole of the new one.
#[tokio::test]
async fn a_file_that_changed_in_between_is_begun_again() {
    let (bed, file) = (Bed::new(), packed());
    let (old, new) = (vec![b'o'; file.len()], file.clone());
    let server = Server::start(move |number, asked| match number {
        0 => Reply::of(&old, "\"old\"", asked).cut(100_000),
        _ => Reply::of(&new, "\"new\"", asked),
    });
    assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
    assert_eq!(server.ranges(), [None, Some(100_000)]);
}

/// A server that sends the rest of the new file although it was asked for the rest of the old one.
#[tokio::test]
async fn a_rest_of_another_file_is_not_appended() {
    let (bed, file) = (Bed::new(), packed());
    let (old, new) = (vec![b'o'; file.len()], file.clone());
    let server = Server::start(move |number, asked| match (number, asked.from()) {
        (0, _) => Reply::of(&old, "\"old\"", asked).cut(100_000),
        (_, Some(from)) => Reply::rest(&new, from).with("etag", "\"new\""),
        _ => Reply::of(&new, "\"new\"", asked),
    });
    assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
    assert_eq!(server.ranges(), [None, Some(100_000), None]);
}

/// The same, and the server does not even admit it: the digest shows it, and it is fetched once more, whole.
#[tokio::test]
async fn two_halves_that_do_not_belong_together_are_fetched_again() {
    let (bed, file) = (Bed::new(), packed());
    let (old, new) = (vec![b'o'; file.len()], file.clone());
    let server = Server::start(move |number, asked| match number {
        0 => Reply::of(&old, TAG, asked).cut(100_000),
        _ => Reply::of(&new, TAG, asked),
    });
    assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
    assert_eq!(server.ranges(), [None, Some(100_000), None]);
}

#[tokio::test]
async fn a_server_that_stalls_is_left_and_asked_again() {
    let (bed, file) = (Bed::new(), packed());
    let served = file.clone();
    let server = Server::start(move |number, asked| {
        let reply = Reply::of(&served, TAG, asked);
        if number == 0 { reply.stalled(100_000) } else { reply }
    });
    assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
    assert_eq!(server.ranges(), [None, Some(100_000)]);
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let (bed, file) = (Bed::new(), packed());
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let said = bed.refused(&bed.wanted(&url, &file)).await;
    assert!(said.starts_with(&format!("cannot fetch the sandboxes' root from {url}: ")), "{said}");
    assert!(said.contains("check this host's network and proxy_url"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_one_clear_error() {
    let (bed, file) = (Bed::new(), packed());
    let error = bed.ensure(&bed.wanted("http://127.0.0.1:1/root.tar.xz", &file)).await.unwrap_err();
    assert!(error.may_pass());
    let said = error.to_string();
    assert!(said.contains("Connection refused") && said.contains("rootfs.amd64.url"), "{said}");
    assert_eq!(said.lines().count(), 1);
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_one_clear_error() {
    let (bed, file) = (Bed::new(), packed());
    let said = bed.refused(&bed.wanted("http://no-such-host.invalid/root.tar.xz", &file)).await;
    assert!(
        said.starts_with("cannot fetch the sandboxes' root from http://no-such-host.invalid/root.tar.xz: "),
        "{said}"
    );
    assert!(said.contains("dns") || said.contains("resolve") || said.contains("lookup"), "{said}");
}

#[tokio::test]
async fn a_refusal_is_final_and_names_the_keys() {
    let (bed, file) = (Bed::new(), packed());
    for status in [401, 403, 404, 410] {
        let server = Server::start(move |_, _| Reply::status(status));
        let error = bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap_err();
        assert!(!error.may_pass());
        let said = error.to_string();
        assert!(said.ends_with(&format!(
            "the server answers {status}; set rootfs.amd64.url to where the archive is, and rootfs.amd64.sha256 if it is \
             another one"
        )), "{said}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again_and_then_given_up() {
    let (bed, file) = (Bed::new(), packed());
    let server = Server::start(|_, _| Reply::status(500));
    let error = bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap_err();
    assert!(error.may_pass() && error.to_string().contains("the server answers 500"), "{error}");
    assert_eq!(server.asked().len(), 3);
    let served = file.clone();
    let server = Server::start(move |number, asked| match number {
        0 | 1 => Reply::status(503).with("retry-after", "0"),
        _ => Reply::of(&served, TAG, asked),
    });
    assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
}

#[tokio::test]
async fn redirects_are_followed_and_end() {
    let (bed, file) = (Bed::new(), packed());
    let mirror = Server::honest(&file);
    let target = mirror.url();
    let server = Server::start(move |_, _| Reply::status(302).with("location", &target));
    assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
    let bed = Bed::new();
    let round = Server::start(|_, _| Reply::status(307).with("location", "/root.tar.xz"));
    let said = bed.refused(&bed.wanted(&round.url(), &file)).await;
    assert!(said.contains("the server sends on and on"), "{said}");
}

#[tokio::test]
async fn a_file_that_ends_too_early_without_a_length_has_another_digest() {
    let (bed, file) = (Bed::new(), packed());
    let torn = file[..file.len() / 2].to_vec();
    let served = torn.clone();
    let server = Server::start(move |_, _| Reply::without_length(&served));
    let said = bed.refused(&bed.wanted(&server.url(), &file)).await;
    assert!(said.contains(&sha256_hex(&torn)) && said.contains(&sha256_hex(&file)), "{said}");
    assert_eq!(bed.left(), Vec::<String>::new());
    // The control: the same without a length, and whole.
    let whole = file.clone();
    let server = Server::start(move |_, _| Reply::without_length(&whole));
    assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
}

#[tokio::test]
async fn another_file_names_both_digests_and_both_keys_and_leaves_nothing() {
    let (bed, file) = (Bed::new(), packed());
    let other = TarBytes::new().file("other", 0o644, b"").tar_xz();
    let server = Server::honest(&other);
    let error = bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap_err();
    assert!(matches!(error, RootfsError::Digest { .. }) && !error.may_pass());
    assert_eq!(
        error.to_string(),
        format!(
            "the file at {url} has sha256 {found}, and rootfs.amd64.sha256 says {expected} ({bytes} bytes): it has moved \
             on, or is not what it was. Nothing of it is kept. Set rootfs.amd64.url and rootfs.amd64.sha256 to an \
             archive that you trust",
            url = server.url(),
            found = sha256_hex(&other),
            expected = sha256_hex(&file),
            bytes = other.len(),
        )
    );
    assert_eq!(bed.left(), Vec::<String>::new());
    // It was the file's digest, not a torn download's: once is enough.
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_hostile_archive_is_refused_and_leaves_nothing() {
    let bed = Bed::new();
    let hostile = TarBytes::new().dir("usr", 0o755).file("../planted", 0o644, b"x").tar_xz();
    let server = Server::honest(&hostile);
    let error = bed.ensure(&bed.wanted(&server.url(), &hostile)).await.unwrap_err();
    assert!(!error.may_pass());
    let said = error.to_string();
    assert!(said.contains("is not unpacked: ../planted: a path with .. in it"), "{said}");
    assert_eq!(bed.left(), Vec::<String>::new());
    assert!(!bed.cache().join("planted").exists() && !bed.dir.join("planted").exists());
}

#[tokio::test]
async fn a_file_larger_than_any_root_is_not_begun() {
    let (bed, file) = (Bed::new(), packed());
    let server = Server::start(|_, _| {
        let head = Reply::without_length(b"");
        head.with("content-length", "3000000000").stalled(0)
    });
    let said = bed.refused(&bed.wanted(&server.url(), &file)).await;
    assert!(said.contains("it is larger than 2147483648 bytes"), "{said}");
}

/// What may be written is what `min_free_bytes` leaves: too little for the archive, and then for what is in it.
#[tokio::test]
async fn a_disk_without_room_is_said() {
    let bed = Bed::new();
    let archive = xz(&TarBytes::new().header(b'0', "huge", "", 0o644, 100 << 30).unfinished());
    let server = Server::honest(&archive);
    // Others write to this disk too: far from either bound.
    for room in [0, 1 << 30] {
        let free = sys::disk::space(bed.dir.path()).unwrap().free;
        let wanted = bed.wanted(&server.url(), &archive);
        let error = bed.ensure(&Wanted { min_free_bytes: free - room, ..wanted }).await.unwrap_err();
        assert!(!error.may_pass());
        let said = error.to_string();
        assert!(said.contains("does not fit into") && said.contains("free some space"), "{said}");
        assert!(!bed.left().iter().any(|name| name.ends_with(".new")), "{:?}", bed.left());
    }
}

#[tokio::test]
async fn a_file_that_never_comes_to_its_end_is_given_up() {
    let (bed, file) = (Bed::new(), packed());
    let served = file.clone();
    let server = Server::start(move |_, _| Reply::whole(&served).cut(1000));
    let said = bed.refused(&bed.wanted(&server.url(), &file)).await;
    assert!(said.contains("it was begun 4 times and never came to its end"), "{said}");
}

/// What one process has fetched the next one uses.
#[tokio::test]
async fn an_interrupted_download_is_continued_by_the_next_process() {
    let (bed, file) = (Bed::new(), packed());
    let served = file.clone();
    let server = Server::start(move |number, asked| {
        let reply = Reply::of(&served, TAG, asked);
        if number == 0 { reply.stalled(123_456) } else { reply }
    });
    let mut wanted = bed.wanted(&server.url(), &file);
    wanted.pace.stall = Duration::from_secs(30);
    let (sender, mut receiver) = watch::channel(Progress::default());
    let cancel = CancellationToken::new();
    let (done, ()) = tokio::join!(ensure(&wanted, sender, &cancel), async {
        let some = |progress: &Progress| matches!(progress.stage, Stage::Fetching { done: 123_456, .. });
        receiver.wait_for(some).await.unwrap();
        cancel.cancel();
    });
    assert!(matches!(done, Err(RootfsError::Canceled)), "{done:?}");
    let digest = sha256_hex(&file);
    assert_eq!(bed.left(), [format!("{digest}.from"), format!("{digest}.part")]);
    assert_installed(&bed.ensure(&wanted).await.unwrap());
    assert_eq!(server.ranges(), [None, Some(123_456)]);
    assert_eq!(bed.left(), [digest]);
}

/// A process that died between the download and its use: nothing is asked for again.
#[tokio::test]
async fn a_download_that_was_whole_is_not_fetched_again() {
    let (bed, file) = (Bed::new(), packed());
    let server = Server::honest(&file);
    let wanted = bed.wanted(&server.url(), &file);
    let digest = sha256_hex(&file);
    std::fs::create_dir(bed.cache()).unwrap();
    std::fs::write(bed.cache().join(format!("{digest}.part")), &file).unwrap();
    let note = format!("{}\nvalidator {TAG}\ntotal {}\n", server.url(), file.len());
    std::fs::write(bed.cache().join(format!("{digest}.from")), note).unwrap();
    assert_installed(&bed.ensure(&wanted).await.unwrap());
    assert_eq!(server.asked().len(), 0);
}

/// A part whose note is torn, or that is longer than the file, is begun again.
#[tokio::test]
async fn a_part_that_makes_no_sense_is_begun_again() {
    for (part, note) in [(1000, "torn"), (600_000, "\nvalidator \"one\"\ntotal 500000\n")] {
        let (bed, file) = (Bed::new(), packed());
        let server = Server::honest(&file);
        let digest = sha256_hex(&file);
        std::fs::create_dir(bed.cache()).unwrap();
        std::fs::write(bed.cache().join(format!("{digest}.part")), vec![b'p'; part]).unwrap();
        std::fs::write(bed.cache().join(format!("{digest}.from")), format!("{}{note}", server.url())).unwrap();
        assert_installed(&bed.ensure(&bed.wanted(&server.url(), &file)).await.unwrap());
        assert_eq!(server.ranges(), [None]);
    }
}

#[tokio::test]
async fn a_proxy_is_asked_for_other_hosts_and_never_for_loopback() {
    let (bed, file) = (Bed::new(), packed());
    let proxy = Server::honest(&file);
    let through = ProxyChoice::Url(format!("http://user:secret@{}", proxy.address()));
    let wanted = bed.wanted("http://archives.invalid/root.tar.xz", &file);
    assert_installed(&bed.ensure(&Wanted { proxy: through.clone(), ..wanted }).await.unwrap());
    let asked = proxy.asked();
    assert_eq!(asked[0].line, "GET http://archives.invalid/root.tar.xz HTTP/1.1");
    assert_eq!(asked[0].field("proxy-authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
    let (bed, server) = (Bed::new(), Server::honest(&file));
    let wanted = bed.wanted(&server.url(), &file);
    bed.ensure(&Wanted { proxy: through, ..wanted }).await.unwrap();
    assert_eq!((server.asked().len(), proxy.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_proxy_that_is_away_is_an_error_without_its_password() {
    let (bed, file) = (Bed::new(), packed());
    let wanted = bed.wanted("http://archives.invalid/root.tar.xz", &file);
    let proxy = ProxyChoice::Url("http://user:secret@127.0.0.1:1".to_owned());
    let said = bed.refused(&Wanted { proxy, ..wanted }).await;
    assert!(said.contains("Connection refused") && !said.contains("secret"), "{said}");
}

#[tokio::test]
async fn a_local_file_serves_machines_without_a_network() {
    let (bed, file) = (Bed::new(), packed());
    let path = bed.dir.join("with space.tar.xz");
    std::fs::write(&path, &file).unwrap();
    let url = format!("file://{}", path.display().to_string().replace(' ', "%20"));
    assert_installed(&bed.ensure(&bed.wanted(&url, &file)).await.unwrap());
    assert!(path.exists(), "the operator's file stays");

    let bed = Bed::new();
    let said = bed.refused(&bed.wanted("file:///nonexistent/root.tar.xz", &file)).await;
    assert!(
        said.contains("No such file") && said.contains("set rootfs.amd64.url to a file that can be read"),
        "{said}"
    );
    let said = bed.refused(&bed.wanted("file:///usr", &file)).await;
    assert!(said.contains("it is no regular file"), "{said}");
    let pipe = bed.dir.join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let said = bed.refused(&bed.wanted(&format!("file://{}", pipe.display()), &file)).await;
    assert!(said.contains("it is no regular file"), "{said}");
    let said = bed.refused(&bed.wanted("file:///dev/null", &file)).await;
    assert!(said.contains("it is no regular file"), "{said}");
    let other = bed.dir.write("other.tar.xz", "something else");
    let said = bed.refused(&bed.wanted(&format!("file://{}", other.display()), &file)).await;
    assert!(said.contains(&sha256_hex(b"something else")), "{said}");
    assert_eq!(bed.left(), Vec::<String>::new());
}

/// Two at once in one process are like two processes: one fetches, the other waits and uses what is there.
#[tokio::test]
async fn the_second_waits_for_the_first() {
    let (bed, file) = (Bed::new(), packed());
    let served = file.clone();
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_, asked| {
        // Long enough that the second one must wait.
        std::thread::sleep(Duration::from_millis(300));
        count.fetch_add(1, Ordering::SeqCst);
        Reply::of(&served, TAG, asked)
    });
    let wanted = bed.wanted(&server.url(), &file);
    let wanted = Wanted { pace: nexusd::rootfs::FetchPace::default(), ..wanted };
    let (first, second) = tokio::join!(bed.ensure(&wanted), bed.ensure(&wanted));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(server.asked().len(), 1);
}
