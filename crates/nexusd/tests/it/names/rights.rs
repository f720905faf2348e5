//! Whose daemon can do it: an ordinary user's, and one that is root with the rights of its unit alone.

use std::os::unix::fs::PermissionsExt as _;

use testkit::require;

use super::{Bed, FOUR};

/// As in `nexusd-as-root.conf`.
const UNIT_RIGHTS: &str = "-all,+sys_admin,+sys_chroot,+setuid,+setgid,+chown,+dac_override,+fowner,+kill";

const SCRIPT: &str = r#"print(talk("db.example", 443), talk("db.example", 5432), talk("db.example", 22))"#;

fn reached_by(before: &[&str]) {
    let bed = Bed::new();
    std::fs::set_permissions(bed.dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    bed.net.dns().host("db.example", &[FOUR]);
    let _origins = [bed.hello(443), bed.hello(5432)];
    // Below 1024, and above.
    let flags = ["--allow", "db.example:443", "--allow", "db.example:5432"];
    let (lines, stderr) = bed.python_by(before, &flags, SCRIPT);
    assert_eq!(lines, ["hello 443 hello 5432 refused"], "{stderr}");
}

#[test]
fn an_ordinary_user_s() {
    require!(Bwrap, NetBed, Python, Userns);
    reached_by(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
}

#[test]
fn root_with_the_rights_of_its_unit() {
    require!(Root, Bwrap, NetBed, Python);
    reached_by(&["setpriv", "--bounding-set", UNIT_RIGHTS, "--inh-caps", "-all"]);
}
