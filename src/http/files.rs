//! The files a client is made from (the CA, its own certificate and key), and what tells that they have changed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{HttpConfig, HttpError};

/// The files as they were when they were read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Files(Vec<FileIdentity>);

/// Changes whenever a file does: Kubernetes swaps a link, others write in place.
#[derive(Clone, Debug, Eq, PartialEq)]
struct FileIdentity {
    path: PathBuf,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

impl Files {
    pub(super) fn of(config: &HttpConfig) -> Result<Self, HttpError> {
        let mut files = Vec::new();
        if let Some(ca) = &config.ca {
            for path in ca_files(ca)? {
                files.push(FileIdentity::of(&path).map_err(|error| ca_fault(ca, &error))?);
            }
        }
        if let Some(certificate) = &config.certificate {
            for path in [&certificate.chain, &certificate.key] {
                let fault = |error: io::Error| HttpError::ClientCertificate { path: path.clone(), problem: error.to_string() };
                files.push(FileIdentity::of(path).map_err(fault)?);
            }
        }
        Ok(Self(files))
    }
}

/// A file, or the certificates of a folder.
pub(super) fn ca_files(ca: &Path) -> Result<Vec<PathBuf>, HttpError> {
    let fault = |error: io::Error| ca_fault(ca, &error);
    if !fs::metadata(ca).map_err(fault)?.is_dir() {
        return Ok(vec![ca.to_owned()]);
    }
    let entries = fs::read_dir(ca).map_err(fault)?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|file| is_certificate(file)).collect();
    files.sort();
    Ok(files)
}

fn ca_fault(ca: &Path, error: &io::Error) -> HttpError {
    HttpError::Ca { path: ca.to_owned(), problem: error.to_string() }
}

fn is_certificate(file: &Path) -> bool {
    file.is_file() && file.extension().is_some_and(|kind| kind == "cer" || kind == "crt" || kind == "pem")
}

impl FileIdentity {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            modified: (found.mtime(), found.mtime_nsec()),
            size: found.len(),
        })
    }
}
