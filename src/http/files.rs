//! The files of a client (the CA, its own certificate and key), and how Keyferry sees that they have changed.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{HttpConfig, HttpError};
use crate::files::{MAX_FILE, Named, Stamp, Unreadable};
use crate::text;

/// The most entries of a folder of certificates.
const MAX_ENTRIES: usize = 4096;

/// The most bytes of all certificates in a folder together: several times what a system trusts.
const MAX_FOLDER: usize = 4 * 1024 * 1024;

/// The files as they were when they were read. Each file changes this: Kubernetes replaces a link, others write into the file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Files(Vec<(Named, Stamp)>);

/// A file with certificates that are trusted.
pub(super) struct CaFile {
    pub(super) path: PathBuf,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// The files of a CA.
#[derive(Default)]
pub(super) struct Ca {
    pub(super) files: Vec<CaFile>,
    /// Why a file of a folder is left out.
    pub(super) left_out: Option<String>,
    /// For a folder: the files whose names are not names of certificates.
    pub(super) ignored: Option<Vec<String>>,
}

/// What a file is for, in messages.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Ca,
    Client,
}

impl Files {
    pub(super) fn of(config: &HttpConfig) -> Result<Self, HttpError> {
        let mut files = Vec::new();
        let mut add = |of: Of, file: Named| {
            let stamp = file.stamp().map_err(|error| fault(config, of, file.path(), error.to_string()))?;
            files.push((file, stamp));
            Ok::<_, HttpError>(())
        };
        if let Some(ca) = &config.ca {
            ca_files(config, ca)?.0.into_iter().try_for_each(|file| add(Of::Ca, file))?;
        }
        if let Some(certificate) = &config.certificate {
            [&certificate.chain, &certificate.key].into_iter().try_for_each(|path| add(Of::Client, named(config, path)))?;
        }
        Ok(Self(files))
    }

    /// How many bytes they have together.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, stamp)| usize::try_from(stamp.size).unwrap_or(usize::MAX)).fold(0, usize::saturating_add)
    }
}

/// The content of a file.
pub(super) fn read(config: &HttpConfig, of: Of, path: &Path) -> Result<Zeroizing<Vec<u8>>, HttpError> {
    let whole = named(config, path).read(MAX_FILE).map_err(|error| fault(config, of, path, problem(error)))?;
    text::owned_without_mark(whole.bytes).map_err(|error| fault(config, of, path, error.to_string()))
}

/// The files of the CA: a file, or the certificates of a folder. An entry with such a name that is not a file (a folder, a broken link) is
/// skipped.
pub(super) fn read_ca(config: &HttpConfig, ca: &Path) -> Result<Ca, HttpError> {
    let ((files, ignored), mut left) = (ca_files(config, ca)?, MAX_FOLDER);
    let of_folder = ignored.is_some();
    let (mut contents, mut left_out) = (Vec::new(), None);
    // A bad file does not stop the use of the others.
    let mut leave_out = |file: &Named, problem: String| {
        tracing::warn!(file = %file.path().display(), "a CA file is left out: it {problem}");
        left_out.get_or_insert_with(|| format!("{} {problem}", file.path().display()));
    };
    for file in files {
        match file.read(MAX_FILE) {
            Ok(whole) => {
                let too_much = || fault(config, Of::Ca, ca, format!("its certificates have more than {MAX_FOLDER} bytes together"));
                left = left.checked_sub(whole.bytes.len()).ok_or_else(too_much)?;
                match text::owned_without_mark(whole.bytes) {
                    Ok(bytes) => contents.push(CaFile { path: file.path().to_owned(), bytes }),
                    Err(error) if of_folder => leave_out(&file, error.to_string()),
                    Err(error) => return Err(fault(config, Of::Ca, file.path(), error.to_string())),
                }
            }
            Err(Unreadable::Absent | Unreadable::NotAFile) if of_folder => {}
            Err(error) if of_folder => leave_out(&file, error.to_string()),
            Err(error) => return Err(fault(config, Of::Ca, file.path(), problem(error))),
        }
    }
    Ok(Ca { files: contents, left_out, ignored })
}

/// The files; and for a folder, the names of the files that are not read.
fn ca_files(config: &HttpConfig, ca: &Path) -> Result<(Vec<Named>, Option<Vec<String>>), HttpError> {
    let (file, fault) = (named(config, ca), |problem| fault(config, Of::Ca, ca, problem));
    if !file.is_folder().map_err(|error| fault(error.to_string()))? {
        return Ok((vec![file], None));
    }
    let entries = file.entries(MAX_ENTRIES).map_err(|error| fault(problem(error)))?;
    let (files, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|file| is_certificate(file.path()));
    let name = |file: &Named| file.path().file_name().map(|name| name.to_string_lossy().into_owned());
    // kubelet's own entries begin with two dots.
    let ignored = others.iter().filter_map(name).filter(|name| !name.starts_with("..")).collect();
    Ok((files.into_iter().filter(|file| file.stamp().is_ok()).collect(), Some(ignored)))
}

fn named(config: &HttpConfig, path: &Path) -> Named {
    match &config.files_below {
        Some(folder) => Named::below(folder, path),
        None => Named::anywhere(path),
    }
}

/// In the system's words if there are some.
fn problem(error: Unreadable) -> String {
    match error {
        Unreadable::Absent => "No such file or directory (os error 2)".to_owned(),
        Unreadable::Io(error) => error.to_string(),
        Unreadable::NotAFile | Unreadable::TooLarge { .. } | Unreadable::TooMany(_) | Unreadable::Unstable => error.to_string(),
    }
}

pub(super) fn fault(config: &HttpConfig, of: Of, path: &Path, problem: String) -> HttpError {
    let path = path.to_owned();
    match (&config.files_below, of) {
        (Some(_), _) => HttpError::ClassFiles(format!("{}: {problem}", path.display())),
        (None, Of::Ca) => HttpError::Ca { path, problem },
        (None, Of::Client) => HttpError::ClientCertificate { path, problem },
    }
}

/// What [`is_certificate`] takes, for messages.
pub(super) const NAMES: &str = "*.crt, *.cer and *.pem are read, and what c_rehash makes (0a1b2c3d.0)";

/// Decides by the name. `openssl rehash` gives each certificate a link whose name is the hash of its subject and a number.
fn is_certificate(file: &Path) -> bool {
    let (stem, kind) = (file.file_stem(), file.extension());
    let (Some(stem), Some(kind)) = (stem.and_then(|stem| stem.to_str()), kind.and_then(|kind| kind.to_str())) else { return false };
    let is_hash = stem.len() == 8 && stem.bytes().all(|byte| byte.is_ascii_hexdigit()) && kind.bytes().all(|byte| byte.is_ascii_digit());
    is_hash || ["cer", "crt", "pem"].iter().any(|known| kind.eq_ignore_ascii_case(known))
}
