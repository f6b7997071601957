//! An answer: what a provider sent for a mount, after the driver's own checks.
//!
//! It is not in the client, because these rules are the driver's, and tests of them need no socket.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use bytes::Bytes;
use jiff::Timestamp;
use prost::Message;
use thiserror::Error;

use crate::delivery::volume::{self, VolumeError, VolumeFile, Written};
use crate::model::{FileMode, FilePath, InvalidPath};
use crate::server::proto::{File, MountResponse, ObjectVersion};

/// The largest answer that the driver receives by default, in bytes (`--max-call-recv-msg-size`).
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// From this size on, in bytes, the driver warns that the API server may refuse Secrets that are synced from the files.
const LARGE_ANSWER: usize = 1024 * 1024;

/// What a provider answered.
#[derive(Debug)]
pub struct Answer {
    /// The whole volume. Empty: the driver believes that the provider wrote the volume itself.
    pub files: Vec<AnswerFile>,
    /// What the SecretProviderClassPodStatus will show.
    pub objects: Vec<ObjectVersion>,
    /// What the driver would accept, but with a problem.
    pub warnings: Vec<String>,
}

/// One file of an answer.
pub struct AnswerFile {
    pub path: FilePath,
    pub mode: FileMode,
    pub contents: Bytes,
}

/// Why the driver would not take an answer.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum RefusedAnswer {
    #[error("the answer has the mode {mode} for {path}: the driver accepts 0 to 511 (octal 0777)")]
    BadMode { path: String, mode: i32 },
    #[error("the answer has the path {path:?}, which {cause}: the driver refuses the whole mount")]
    BadPath { path: String, cause: InvalidPath },
    #[error("mount request failed with provider error code {0} (the driver drops the message; see the provider's log)")]
    ErrorCode(String),
    #[error("missing object versions (the driver accepts no answer without one)")]
    NoVersions,
    #[error("the answer has {0} bytes: the driver receives at most {MAX_ANSWER} (its --max-call-recv-msg-size)")]
    TooLarge(usize),
}

// === impl Answer ===

impl Answer {
    /// The driver's checks, in its order.
    pub fn check(response: MountResponse) -> Result<Self, RefusedAnswer> {
        let size = response.encoded_len();
        if size > MAX_ANSWER {
            return Err(RefusedAnswer::TooLarge(size));
        }
        if let Some(error) = response.error.filter(|error| !error.code.is_empty()) {
            return Err(RefusedAnswer::ErrorCode(error.code));
        }
        if response.object_version.is_empty() {
            return Err(RefusedAnswer::NoVersions);
        }
        let warnings = warnings(size, &response.object_version);
        let files = response.files.into_iter().map(AnswerFile::check).collect::<Result<_, _>>()?;
        Ok(Self { files, objects: response.object_version, warnings })
    }

    /// Writes the files as the driver does. One difference: if only a mode has changed, the driver writes nothing.
    /// If the answer has no files, the folder does not change.
    pub fn write(&self, dir: impl AsFd, now: Timestamp) -> Result<Written, VolumeError> {
        if self.files.is_empty() {
            return Ok(Written::Unchanged);
        }
        let files: Vec<_> =
            self.files.iter().map(|file| VolumeFile { path: &file.path, mode: file.mode, contents: &file.contents, owner: None }).collect();
        volume::write(dir, &files, now)
    }
}

impl AnswerFile {
    fn check(file: File) -> Result<Self, RefusedAnswer> {
        let path = file.path.parse().map_err(|cause| RefusedAnswer::BadPath { path: file.path.clone(), cause })?;
        let mode = u64::try_from(file.mode).ok().and_then(FileMode::from_bits);
        let mode = mode.ok_or(RefusedAnswer::BadMode { path: file.path, mode: file.mode })?;
        Ok(Self { path, mode, contents: file.contents })
    }
}

/// The contents are secret.
impl std::fmt::Debug for AnswerFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let contents = format_args!("({} bytes, redacted)", self.contents.len());
        f.debug_struct("AnswerFile").field("path", &self.path).field("mode", &self.mode).field("contents", &contents).finish()
    }
}

fn warnings(size: usize, objects: &[ObjectVersion]) -> Vec<String> {
    let mut warnings = Vec::new();
    if size > LARGE_ANSWER {
        warnings.push(format!("the answer has {size} bytes: the API server may refuse a Secret of more than 1 MiB that is synced from it"));
    }
    let mut ids = BTreeSet::new();
    for object in objects.iter().filter(|object| !ids.insert(&object.id)) {
        warnings.push(format!("the object id {} is in the answer twice: the driver keeps one of them", object.id));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(path: &str, mode: i32) -> MountResponse {
        MountResponse {
            object_version: vec![ObjectVersion { id: "files/db".to_owned(), version: "1".to_owned() }],
            error: None,
            files: vec![File { path: path.to_owned(), mode, contents: Bytes::from_static(b"hunter2") }],
        }
    }

    fn refused(response: MountResponse) -> String {
        Answer::check(response).unwrap_err().to_string()
    }

    #[test]
    fn a_good_answer_is_taken_and_its_contents_stay_out_of_debug() {
        let answer = Answer::check(response("db/password", 0o440)).unwrap();
        assert_eq!((answer.files[0].path.as_str(), answer.files[0].mode.bits()), ("db/password", 0o440));
        assert!(answer.warnings.is_empty());
        assert!(!format!("{answer:?}").contains("hunter2"));
    }

    #[test]
    fn paths_and_modes_are_the_drivers() {
        for path in ["a//b", "./a", "../a", "a/../b", "/a", "", "..a/b", "a/", "."] {
            assert!(matches!(Answer::check(response(path, 0o644)), Err(RefusedAnswer::BadPath { .. })), "{path}");
        }
        for mode in [0, 0o777] {
            assert!(Answer::check(response("a", mode)).is_ok(), "{mode}");
        }
        insta::assert_snapshot!(refused(response("a//b", 0)), @r#"the answer has the path "a//b", which has an empty element (`//`, or a `/` at its end): the driver refuses the whole mount"#);
        insta::assert_snapshot!(refused(response("a", 512)), @"the answer has the mode 512 for a: the driver accepts 0 to 511 (octal 0777)");
        insta::assert_snapshot!(refused(response("a", -1)), @"the answer has the mode -1 for a: the driver accepts 0 to 511 (octal 0777)");
    }

    #[test]
    fn error_codes_missing_versions_and_large_answers_are_refused() {
        let error = Some(crate::server::proto::Error { code: "SecretNotFound".to_owned() });
        insta::assert_snapshot!(refused(MountResponse { error, ..response("a", 0) }), @"mount request failed with provider error code SecretNotFound (the driver drops the message; see the provider's log)");
        insta::assert_snapshot!(refused(MountResponse { object_version: Vec::new(), ..response("a", 0) }), @"missing object versions (the driver accepts no answer without one)");
        let mut large = response("a", 0);
        large.files[0].contents = vec![0; MAX_ANSWER].into();
        insta::assert_snapshot!(refused(large), @"the answer has 4194332 bytes: the driver receives at most 4194304 (its --max-call-recv-msg-size)");
        let unset = Some(crate::server::proto::Error { code: String::new() });
        assert!(Answer::check(MountResponse { error: unset, ..response("a", 0) }).is_ok());
    }

    #[test]
    fn what_the_driver_takes_with_harm_is_warned_of() {
        let mut answer = response("a", 0);
        answer.files[0].contents = vec![0; LARGE_ANSWER].into();
        answer.object_version.push(answer.object_version[0].clone());
        insta::assert_snapshot!(Answer::check(answer).unwrap().warnings.join("\n"), @r#"
        the answer has 1048617 bytes: the API server may refuse a Secret of more than 1 MiB that is synced from it
        the object id files/db is in the answer twice: the driver keeps one of them
        "#);
    }
}
