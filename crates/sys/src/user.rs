//! Users and groups, read from the files themselves.
//!
//! Never by libc's look-ups: they load modules of the running system, which a static binary must not do.

use std::io;
use std::path::{Path, PathBuf};

/// A line of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of the login group.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
}

/// A line of /etc/group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Group id.
    pub gid: u32,
}

/// The users of a passwd(5) text. Lines that are not understood are left out.
pub fn parse_passwd(text: &str) -> impl Iterator<Item = User> + '_ {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = PathBuf::from(fields.nth(1)?);
        Some(User { name, uid, gid, home })
    })
}

/// The groups of a group(5) text. Lines that are not understood are left out.
pub fn parse_group(text: &str) -> impl Iterator<Item = Group> + '_ {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))?.to_owned();
        Some(Group { name, gid: fields.nth(1)?.parse().ok()? })
    })
}

/// The user of this name on this host, if there is one.
///
/// # Errors
/// /etc/passwd cannot be read.
pub fn by_name(name: &str) -> io::Result<Option<User>> {
    Ok(parse_passwd(&read_lossy(Path::new("/etc/passwd"))?).find(|user| user.name == name))
}

/// The user of this id on this host, if there is one.
///
/// # Errors
/// /etc/passwd cannot be read.
pub fn by_uid(uid: u32) -> io::Result<Option<User>> {
    Ok(parse_passwd(&read_lossy(Path::new("/etc/passwd"))?).find(|user| user.uid == uid))
}

/// The group of this name on this host, if there is one.
///
/// # Errors
/// /etc/group cannot be read.
pub fn group_by_name(name: &str) -> io::Result<Option<Group>> {
    Ok(parse_group(&read_lossy(Path::new("/etc/group"))?).find(|group| group.name == name))
}

/// The effective user id of this process.
#[must_use]
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The effective group id of this process.
#[must_use]
pub fn effective_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

fn read_lossy(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines() {
        let text =
            "root:x:0:0:root:/root:/bin/bash\n#c:x:1:1::/:/\n+nis\nbad:x:y:1::/:/\n\nu:x:7:8:Some, One:/home/u:\n";
        let users: Vec<User> = parse_passwd(text).collect();
        assert_eq!(
            users,
            [
                User { name: "root".into(), uid: 0, gid: 0, home: "/root".into() },
                User { name: "u".into(), uid: 7, gid: 8, home: "/home/u".into() },
            ]
        );
    }

    #[test]
    fn group_lines() {
        let groups: Vec<Group> = parse_group("root:x:0:\nkvm:x:104:a,b\n:x:1:\nbad\n").collect();
        assert_eq!(groups, [Group { name: "root".into(), gid: 0 }, Group { name: "kvm".into(), gid: 104 }]);
    }

    #[test]
    fn this_host_has_root() {
        assert_eq!(by_name("root").unwrap().unwrap().uid, 0);
        assert_eq!(by_uid(0).unwrap().unwrap().name, "root");
        assert_eq!(by_name("no such user").unwrap(), None);
    }
}
