//! The files a client is made from (the CA, its own certificate and key), and what tells that they have changed.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{HttpConfig, HttpError};
use crate::files::{MAX_FILE, Named, Stamp, Unreadable};
use crate::text;

/// The most entries of a folder of certificates.
const MAX_ENTRIES: usize = 4096;

/// The most bytes that a folder's certificates may have together: several times what a system trusts.
const MAX_FOLDER: usize = 4 * 1024 * 1024;

/// The files as they were when they were read. They change with every file: Kubernetes swaps a link, others write in place.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Files(Vec<(Named, Stamp)>);

/// A file with certificates that are trusted.
pub(super) struct CaFile {
    pub(super) path: PathBuf,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// Whose file it is, for messages.
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
            ca_files(config, ca)?.into_iter().try_for_each(|file| add(Of::Ca, file))?;
        }
        if let Some(certificate) = &config.certificate {
            [&certificate.chain, &certificate.key].into_iter().try_for_each(|path| add(Of::Client, named(config, path)))?;
        }
        Ok(Self(files))
    }
}

/// The content of a file.
pub(super) fn read(config: &HttpConfig, of: Of, path: &Path) -> Result<Zeroizing<Vec<u8>>, HttpError> {
    let whole = named(config, path).read(MAX_FILE).map_err(|error| fault(config, of, path, problem(error)))?;
    text::owned_without_mark(whole.bytes).map_err(|error| fault(config, of, path, error.to_string()))
}

/// The files of the CA: a file, or the certificates of a folder. What only looks like one there (a folder, a link to nothing) is none.
pub(super) fn read_ca(config: &HttpConfig, ca: &Path) -> Result<Vec<CaFile>, HttpError> {
    let (files, mut left) = (ca_files(config, ca)?, MAX_FOLDER);
    let of_folder = files.first().is_none_or(|file| file.path() != ca);
    let mut contents = Vec::new();
    for file in files {
        match file.read(MAX_FILE) {
            Ok(whole) => {
                let too_much = || fault(config, Of::Ca, ca, format!("its certificates have more than {MAX_FOLDER} bytes together"));
                left = left.checked_sub(whole.bytes.len()).ok_or_else(too_much)?;
                match text::owned_without_mark(whole.bytes) {
                    Ok(bytes) => contents.push(CaFile { path: file.path().to_owned(), bytes }),
                    Err(error) if of_folder => tracing::warn!(file = %file.path().display(), "a CA file is left out: it {error}"),
                    Err(error) => return Err(fault(config, Of::Ca, file.path(), error.to_string())),
                }
            }
            Err(Unreadable::Absent | Unreadable::NotAFile) if of_folder => {}
            // One file takes nothing from the others.
            Err(error) if of_folder => tracing::warn!(file = %file.path().display(), "a CA file is left out: {}", problem(error)),
            Err(error) => return Err(fault(config, Of::Ca, file.path(), problem(error))),
        }
    }
    Ok(contents)
}

fn ca_files(config: &HttpConfig, ca: &Path) -> Result<Vec<Named>, HttpError> {
    let (file, fault) = (named(config, ca), |problem| fault(config, Of::Ca, ca, problem));
    if !file.is_folder().map_err(|error| fault(error.to_string()))? {
        return Ok(vec![file]);
    }
    let entries = file.entries(MAX_ENTRIES).map_err(|error| fault(problem(error)))?;
    Ok(entries.into_iter().filter(|file| is_certificate(file.path()) && file.stamp().is_ok()).collect())
}

fn named(config: &HttpConfig, path: &Path) -> Named {
    match &config.files_below {
        Some(folder) => Named::below(folder, path),
        None => Named::anywhere(path),
    }
}

/// In the system's words where it has some.
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

fn is_certificate(file: &Path) -> bool {
    file.extension().is_some_and(|kind| kind == "cer" || kind == "crt" || kind == "pem")
}
