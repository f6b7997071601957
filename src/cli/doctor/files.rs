//! The files that the configuration names: they must exist, be readable and not empty, and not be open to other users.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::model::{Diagnosis, NamedFile};

/// Looks at each file.
pub fn examine(files: &[NamedFile]) -> Vec<Diagnosis> {
    files.iter().map(look).collect()
}

fn look(file: &NamedFile) -> Diagnosis {
    let (what, at) = (format!("file {}", file.key), file.path.display());
    let found = match fs::metadata(&file.path) {
        Ok(found) => found,
        Err(error) => return Diagnosis::fail(what, format!("{at}: {error}"), "is its volume mounted, and may this user read it?"),
    };
    // A folder of certificates is allowed too.
    if found.is_dir() && !file.secret {
        return Diagnosis::ok(what, format!("{at}: a folder"));
    }
    if !found.is_file() {
        return Diagnosis::fail(what, format!("{at}: is not a file"), "name a file");
    }
    let mode = found.mode() & 0o7777;
    match readable(&file.path) {
        Ok(0) => Diagnosis::fail(what, format!("{at}: is empty"), "write its content"),
        Err(error) => Diagnosis::fail(what, format!("{at}: {error}"), "may this user read it?"),
        Ok(_) => of_mode(file, &found, what, mode),
    }
}

fn of_mode(file: &NamedFile, found: &Metadata, what: String, mode: u32) -> Diagnosis {
    let at = file.path.display();
    match mode {
        mode if mode & 0o002 != 0 => {
            let why = format!("{at}: mode {mode:04o}: any user of the node can write it, and so decide what Pods get");
            Diagnosis::fail(what, why, format!("chmod o-w {at}"))
        }
        mode if file.secret && mode & 0o004 != 0 => {
            let why = format!("{at}: mode {mode:04o}: any user of the node can read it");
            Diagnosis::warn(what, why, format!("chmod 0400 {at}; in a volume of a Secret: defaultMode: 0400"))
        }
        mode => Diagnosis::ok(what, format!("{at}: mode {mode:04o}, {} bytes", found.size())),
    }
}

/// Tries to read the first byte. If the path is a pipe, opening must not wait for a writer.
fn readable(path: &Path) -> std::io::Result<usize> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    File::from(file).read(&mut [0])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::report::Report;
    use super::*;
    use crate::cli::Shown;

    #[test]
    fn each_trouble_of_a_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str, mode| {
            fs::write(at(name), text).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        write("good", "key", 0o400);
        write("empty", "", 0o400);
        write("open", "key", 0o644);
        write("loose", "key", 0o602);
        let secret = |name: &str| NamedFile::secret(name, &at(name));
        let public = |name: &str| NamedFile::public(name, &at(name));
        let files =
            [secret("good"), secret("empty"), secret("open"), secret("loose"), secret("gone"), public("open"), public("."), secret(".")];
        let shown = Report::of(examine(&files)).show(Shown::TEXT, false);
        insta::assert_snapshot!(shown.replace(folder.path().to_str().unwrap(), "DIR"), @"
        ok   file good: DIR/good: mode 0400, 3 bytes
        fail file empty: DIR/empty: is empty (write its content)
        warn file open: DIR/open: mode 0644: any user of the node can read it (chmod 0400 DIR/open; in a volume of a Secret: defaultMode: 0400)
        fail file loose: DIR/loose: mode 0602: any user of the node can write it, and so decide what Pods get (chmod o-w DIR/loose)
        fail file gone: DIR/gone: No such file or directory (os error 2) (is its volume mounted, and may this user read it?)
        ok   file open: DIR/open: mode 0644, 3 bytes
        ok   file .: DIR/.: a folder
        fail file .: DIR/.: is not a file (name a file)
        ");
    }
}
