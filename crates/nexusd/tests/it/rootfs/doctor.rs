//! What the doctor says of the pinned root: what is true of this machine now.

use serde_json::Value;
use testkit::TarBytes;
use testkit::archive::sha256_hex;

use super::server::{Reply, Server};
use super::{Bed, packed};

impl Bed {
    /// The doctor's row of this name: state, detail and mend.
    fn row(&self, name: &str) -> (String, String, String) {
        let output = self.nexusd(&["doctor", "--json"]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = report["checks"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        (text("state"), text("detail"), text("mend"))
    }
}

#[test]
fn the_row_tells_the_truth() {
    let (bed, file) = (Bed::new(), packed());
    let server = Server::honest(&file);
    bed.configure(&server.url(), &file, "");
    let (state, detail, mend) = bed.row("rootfs");
    let expected = format!("not fetched yet: {}, 1 MiB", server.url());
    assert_eq!((state.as_str(), detail.as_str()), ("warn", expected.as_str()));
    assert!(mend.starts_with("nexusd rootfs ensure"), "{mend}");
    // Looking fetches nothing: one byte is asked for.
    assert_eq!(server.asked()[0].field("range"), Some("bytes=0-0"));
    assert!(!bed.cache().exists());
    assert_eq!(bed.row("bwrap_functional").1, "sandbox invocation succeeded, over the host's /usr (see rootfs)");

    assert!(bed.nexusd(&["rootfs", "ensure"]).output().unwrap().status.success());
    drop(server);
    let (state, detail, _) = bed.row("rootfs");
    let place = bed.cache().join(sha256_hex(&file)).join("root");
    assert_eq!((state.as_str(), detail), ("pass", format!("{} (rootfs.auto)", place.display())));

    // Half of it is gone: it would be fetched again, and now it could not be.
    std::fs::remove_file(place.parent().unwrap().join("made-of")).unwrap();
    let (state, detail, mend) = bed.row("rootfs");
    assert!(state == "fail" && detail.starts_with("not fetched yet, and out of reach: http://"), "{detail}");
    assert!(detail.contains("Connection refused") && mend.contains("proxy_url"), "{detail} {mend}");
}

#[test]
fn a_server_without_the_file_and_a_folder_of_others_fail() {
    use std::os::unix::fs::PermissionsExt;
    let (bed, file) = (Bed::new(), packed());
    let server = Server::start(|_, _| Reply::status(404));
    bed.configure(&server.url(), &file, "");
    let (state, detail, _) = bed.row("rootfs");
    assert!(state == "fail" && detail.ends_with(": the server answers 404"), "{detail}");
    std::fs::create_dir(bed.cache()).unwrap();
    std::fs::set_permissions(bed.cache(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let (state, detail, _) = bed.row("rootfs");
    assert!(state == "fail" && detail.contains("may be written by others: chmod go-w it"), "{detail}");
}

#[test]
fn a_local_file_is_looked_for_and_a_root_that_nobody_needs_is_not() {
    let bed = Bed::new();
    let archive = TarBytes::new().file("x", 0o644, b"").tar_xz();
    let path = bed.dir.join("root.tar.xz");
    let url = format!("file://{}", path.display());
    bed.configure(&url, &archive, "");
    assert_eq!(bed.row("rootfs").0, "fail");
    std::fs::write(&path, &archive).unwrap();
    assert_eq!(bed.row("rootfs").0, "warn");
    bed.configure(&url, &archive, "supported_sandbox_profiles: [host]\n");
    assert_eq!(bed.row("rootfs").0, "skip");
    bed.configure(&url, &archive, "bwrap: {rootfs_path: /nonexistent}\n");
    let (state, detail, _) = bed.row("rootfs");
    assert_eq!((state.as_str(), detail.as_str()), ("fail", "/nonexistent is no root directory: no usr in it"));
}
