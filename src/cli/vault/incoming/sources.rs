//! Which files `keyferry vault import` reads, which format they have, and how a dotenv file's name becomes a secret's name.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::cli::vault::arguments::Format;

/// The longest file in bytes.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// The files of a folder.
#[derive(Debug, Default)]
pub struct Found {
    pub files: BTreeSet<PathBuf>,
    /// How many are not read.
    pub others: usize,
}

/// The files below a folder that have the format. Without a format: dotenv files, and exported Secrets.
pub fn below(root: &Path, format: Option<Format>) -> io::Result<Found> {
    let (mut found, mut folders) = (Found::default(), vec![root.to_owned()]);
    let is_wanted = |path: &Path| match format {
        Some(format) => is_named(path, format),
        None => is_named(path, Format::Dotenv) || is_named(path, Format::Kubernetes) && is_exported(path),
    };
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            // A link to a folder may lead back here.
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if path.is_file() && is_wanted(&path) {
                found.files.insert(path);
            } else if path.is_file() {
                found.others += 1;
            }
        }
    }
    Ok(found)
}

/// The start of a Secret that `export` wrote.
pub const MANIFEST: &str = "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: \"";

/// The mark of an export in JSON.
const EXPORT: &str = "\"keyferry-export-";

/// Whether `export --to` wrote the file. The start of the file shows it.
fn is_exported(path: &Path) -> bool {
    let mut start = Vec::with_capacity(64);
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut start));
    let start = String::from_utf8_lossy(&start);
    read.is_ok() && (start.contains(EXPORT) || start.starts_with(MANIFEST))
}

/// Recognizes the format of a file. An export has its mark at the start.
pub fn guess(path: &Path, text: &str) -> Format {
    if is_named(path, Format::Dotenv) {
        Format::Dotenv
    } else if text.find(EXPORT).is_some_and(|at| at < 64) {
        Format::Json
    } else {
        Format::Kubernetes
    }
}

/// The secret's name for a dotenv file: `shop/db.env` is `shop/db`, `shop/.env` is `shop`, `shop/.env.production` is `shop/production`. If the file
/// itself was named, and not its folder, only the file's name counts, or the folder's name if the file has none. Standard input has no name.
pub fn secret_name(root: Option<&Path>, file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str().filter(|name| *name != "-")?;
    let (before, after) = parts(name).unwrap_or_else(|| (file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default(), ""));
    let mut elements: Vec<&str> = match root.and_then(|root| file.parent()?.strip_prefix(root).ok()) {
        Some(folders) => folders.iter().map(|folder| folder.to_str()).collect::<Option<_>>()?,
        None => Vec::new(),
    };
    if elements.is_empty() && before.is_empty() {
        elements.push(root.or_else(|| file.parent()).and_then(|folder| folder.file_name()?.to_str())?);
    }
    elements.extend([before, after].into_iter().filter(|part| !part.is_empty()));
    Some(elements.join("/"))
}

/// What is before and after the `.env` of a dotenv file's name.
fn parts(name: &str) -> Option<(&str, &str)> {
    name.split_once(".env.").or_else(|| Some((name.strip_suffix(".env")?, "")))
}

fn is_named(path: &Path, format: Format) -> bool {
    let ends = |endings: &[&str]| path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| endings.contains(&ending));
    match format {
        Format::Dotenv => path.file_name().and_then(|name| name.to_str()).is_some_and(|name| parts(name).is_some()),
        Format::Json => ends(&["json"]),
        Format::Kubernetes => ends(&["json", "yaml", "yml"]),
    }
}

/// The buffer has its full size from the start: a growing buffer would leave copies in memory.
pub fn open(path: &Path, input: &mut dyn Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    if path == Path::new("-") {
        input.take(MAX_FILE).read_to_end(&mut bytes)?;
    } else {
        let file = File::open(path)?;
        bytes.reserve(usize::try_from(file.metadata()?.len().min(MAX_FILE)).unwrap_or_default() + 1);
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 == MAX_FILE { Err(io::Error::other(format!("has {MAX_FILE} bytes or more"))) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotenv_file_is_the_secret_that_it_is_called_after() {
        for (file, in_a_folder, by_itself) in [
            ("dir/db.env", Some("db"), Some("db")),
            ("dir/shop/db.env", Some("shop/db"), Some("db")),
            ("dir/shop/.env", Some("shop"), Some("shop")),
            ("dir/shop/.env.production", Some("shop/production"), Some("shop/production")),
            ("dir/shop/db.env.local", Some("shop/db/local"), Some("db/local")),
            ("dir/.env", Some("dir"), Some("dir")),
            ("dir/.env.local", Some("dir/local"), Some("dir/local")),
            ("dir/shop/a.b.env", Some("shop/a.b"), Some("a.b")),
        ] {
            assert_eq!(secret_name(Some(Path::new("dir")), Path::new(file)).as_deref(), in_a_folder, "{file}");
            assert_eq!(secret_name(None, Path::new(file)).as_deref(), by_itself, "{file}");
        }
        assert_eq!(secret_name(None, Path::new(".env")), None);
        assert_eq!(secret_name(None, Path::new("./.env")), None);
        assert_eq!(secret_name(None, Path::new("-")), None);
        assert_eq!(secret_name(None, Path::new("secrets.txt")).as_deref(), Some("secrets"));
    }

    #[test]
    fn dotenv_files_are_known_by_their_names() {
        for name in [".env", "x/.env", ".env.local", "db.env", "db.env.production", "a/b.env.x.y"] {
            assert_eq!(guess(Path::new(name), ""), Format::Dotenv, "{name}");
        }
        for name in ["env", "x.environment", "x.envrc", ".envrc", "x.yaml", "-", "x.env/y.yaml"] {
            assert_eq!(guess(Path::new(name), ""), Format::Kubernetes, "{name}");
        }
        assert_eq!(guess(Path::new("x"), "{\"format\":\"keyferry-export-1\""), Format::Json);
    }
}
