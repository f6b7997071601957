//! Who else can connect to a socket with the mode 0660: users of its group that Keyferry refuses, but that can connect.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The most bytes of `/etc/group` and of `/etc/passwd` that are read.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The most names in a message.
const SHOWN: usize = 5;

/// A warning about the group `gid` of a socket that the group may use; `None`: only root and `allowed` users are in it. Users in other
/// places than these files, such as a directory server, are not seen.
pub fn doubts(gid: u32, allowed: &[u32]) -> Option<String> {
    doubts_by(gid, allowed, Path::new("/etc/group"), Path::new("/etc/passwd"))
}

fn doubts_by(gid: u32, allowed: &[u32], groups: &Path, users: &Path) -> Option<String> {
    let read = |path: &Path| read(path).map_err(|error| format!("{}: {error}", path.display()));
    let (groups, users) = match (read(groups), read(users)) {
        (Ok(groups), Ok(users)) => (groups, users),
        (Err(problem), _) | (_, Err(problem)) => {
            return Some(format!(
                "socketMode 0660 lets the group {gid} connect, and Keyferry cannot tell who is in it: {problem} (use \"0600\", or make sure that \
                 only users of allowedPeers are in the group)"
            ));
        }
    };
    let (name, members) = group(&groups, gid);
    let strangers = users.lines().filter_map(user).filter(|user| {
        let is_member = user.gid == gid || members.contains(&user.name);
        is_member && user.uid != 0 && !allowed.contains(&user.uid)
    });
    let strangers: Vec<String> = strangers.map(|user| format!("{} ({})", user.name, user.uid)).collect();
    if strangers.is_empty() {
        return None;
    }
    let (shown, more) = (strangers.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", "), strangers.len().saturating_sub(SHOWN));
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "socketMode 0660 lets the group {name} ({gid}) connect, and users in it are not in allowedPeers: {shown}{more}. Each of their calls is \
         refused, but they can open connections (remove them from the group, add them to allowedPeers, or use \"0600\")"
    ))
}

struct User<'t> {
    name: &'t str,
    uid: u32,
    gid: u32,
}

/// A line `name:password:uid:gid:...` of passwd(5).
fn user(line: &str) -> Option<User<'_>> {
    let mut parts = line.split(':');
    let (name, _, uid, gid) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(User { name, uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

/// A group's name and members by group(5): lines `name:password:gid:user,user`. Several lines may have the same number.
fn group(text: &str, gid: u32) -> (&str, Vec<&str>) {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(':').collect()).collect();
    let lines = lines.iter().filter(|line| line.get(2).and_then(|number| number.parse().ok()) == Some(gid));
    let lines: Vec<_> = lines.collect();
    let name = lines.first().and_then(|line| line.first()).map_or("without a name", |name| *name);
    (name, lines.iter().filter_map(|line| line.get(3)).flat_map(|members| members.split(',')).map(str::trim).collect())
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_those_whose_own_group_it_is_are_told() {
        let temp = tempfile::tempdir().unwrap();
        let (groups, users) = (temp.path().join("group"), temp.path().join("passwd"));
        std::fs::write(&groups, "root:x:0:\ncsi:x:500:driver, eve\n# a remark\ncsi2:x:500:mallory\nempty:x:501:\n").unwrap();
        let lines =
            ["root:x:0:0::/:/", "driver:x:1000:1000::/:/", "eve:x:1001:1001::/:/", "mallory:x:1002:1002::/:/", "own:x:1003:500::/:/"];
        std::fs::write(&users, lines.join("\n") + "\nbroken\nodd:x:y:500\n").unwrap();
        let told = |gid, allowed: &[u32]| doubts_by(gid, allowed, &groups, &users);
        insta::assert_snapshot!(told(500, &[0, 1000]).unwrap(), @r#"socketMode 0660 lets the group csi (500) connect, and users in it are not in allowedPeers: eve (1001), mallory (1002), own (1003). Each of their calls is refused, but they can open connections (remove them from the group, add them to allowedPeers, or use "0600")"#);
        assert_eq!(told(500, &[1000, 1001, 1002, 1003]), None);
        assert_eq!(told(0, &[0]), None, "root needs no right of a group");
        assert_eq!(told(501, &[0]), None);
        assert_eq!(told(777, &[0]), None, "nobody is known to be in it");
        std::fs::remove_file(&users).unwrap();
        insta::assert_snapshot!(told(500, &[0]).unwrap().replace(temp.path().to_str().unwrap(), "DIR"), @r#"socketMode 0660 lets the group 500 connect, and Keyferry cannot tell who is in it: DIR/passwd: No such file or directory (os error 2) (use "0600", or make sure that only users of allowedPeers are in the group)"#);
    }

    #[test]
    fn many_strangers_are_counted() {
        let temp = tempfile::tempdir().unwrap();
        let (groups, users) = (temp.path().join("group"), temp.path().join("passwd"));
        std::fs::write(&groups, "").unwrap();
        std::fs::write(&users, (0..9).map(|n| format!("u{n}:x:{}:7:::\n", 2000 + n)).collect::<String>()).unwrap();
        insta::assert_snapshot!(doubts_by(7, &[0], &groups, &users).unwrap(), @r#"socketMode 0660 lets the group without a name (7) connect, and users in it are not in allowedPeers: u0 (2000), u1 (2001), u2 (2002), u3 (2003), u4 (2004) and 4 more. Each of their calls is refused, but they can open connections (remove them from the group, add them to allowedPeers, or use "0600")"#);
    }
}
