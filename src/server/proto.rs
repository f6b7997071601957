//! The generated messages and service. Messages with secrets or tokens get a `Debug` here that shows only sizes.

#![allow(clippy::pedantic, missing_debug_implementations)]

use std::fmt;

include!("../../proto/generated/v1alpha1.rs");

/// What the driver says about itself, to clients at its own socket.
pub mod csi {
    include!("../../proto/generated/csi.v1.rs");
}

impl fmt::Debug for MountRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountRequest")
            .field("attributes", &format_args!("({} bytes, redacted)", self.attributes.len()))
            .field("secrets", &format_args!("({} bytes, redacted)", self.secrets.len()))
            .field("target_path", &self.target_path)
            .field("permission", &self.permission)
            .field("current_object_version", &self.current_object_version)
            .finish()
    }
}

impl fmt::Debug for MountResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountResponse")
            .field("object_version", &self.object_version)
            .field("error", &self.error)
            .field("files", &self.files)
            .finish()
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("path", &self.path)
            .field("mode", &self.mode)
            .field("contents", &format_args!("({} bytes, redacted)", self.contents.len()))
            .finish()
    }
}
