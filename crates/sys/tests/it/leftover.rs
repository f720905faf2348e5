use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command};

use sys::leftover::end_those_of;

fn named(name: &Path) -> Child {
    Command::new("sleep").arg0(name).arg("60").spawn().unwrap()
}

#[test]
fn those_that_are_named_by_the_folder_are_killed_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, longer) = (dir.path().join("drivers-1"), dir.path().join("drivers-12"));
    let mut left = named(&folder.join("bwrap"));
    let mut others = [named(&longer.join("bwrap")), named(&folder), named(dir.path())];
    end_those_of(&folder);
    assert_eq!(left.wait().unwrap().signal(), Some(9));
    for other in &mut others {
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
