//! The files that the configuration names, for the code that checks them.

use super::Config;
use crate::identity::{Keys, Verify};
use crate::model::NamedFile;

impl Config {
    /// Each file with the key that names it. Folders are not among them.
    pub fn files(&self) -> Vec<NamedFile> {
        let mut files: Vec<NamedFile> = self.version_key.iter().map(|path| NamedFile::secret("versionKey", path)).collect();
        if let Verify::Jwks { keys, .. } = &self.identity.verify {
            match keys {
                Keys::ApiServer => {}
                Keys::File(file) => files.push(NamedFile::public("identity.jwks.file", file)),
                Keys::Url { ca, token, .. } => {
                    files.extend(ca.iter().map(|path| NamedFile::public("identity.jwks.ca", path)));
                    files.extend(token.iter().map(|token| NamedFile::secret("identity.jwks.tokenFile", token.path())));
                }
            }
        }
        for (name, backend) in &self.backends {
            files.extend(
                backend.kind().facts().files.into_iter().map(|file| NamedFile { key: format!("backends.{name}.{}", file.key), ..file }),
            );
        }
        if let Some(sealed) = &self.sealed {
            files.extend(sealed.keys.iter().map(|path| NamedFile::secret("cache.sealed.key", path)));
        }
        files
    }
}
