//! The service as the daemon serves it. The parts of an answer share their texts with the class and the secrets; prost's own types, in
//! `proto.rs`, have a copy of each. On the wire both are the same.

use std::fmt;
use std::sync::Arc;

use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, bytes, encode_key, encode_varint, encoded_len_varint, int32, key_len, skip_field, string};
use prost::{DecodeError, Message};

pub use generated::{MountResponse, csi_driver_provider_server};

#[allow(clippy::pedantic)]
mod generated {
    include!("../../proto/generated/server/v1alpha1.rs");
}

/// A shared text.
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct Text(Arc<str>);

/// `File` of `proto/provider.proto`.
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct File {
    pub path: Text,
    pub mode: i32,
    pub contents: Bytes,
}

/// `ObjectVersion` of `proto/provider.proto`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct ObjectVersion {
    pub id: Text,
    pub version: Text,
}

// === impl Text ===

impl Text {
    fn encode(&self, tag: u32, buf: &mut impl BufMut) {
        if !self.0.is_empty() {
            encode_key(tag, WireType::LengthDelimited, buf);
            encode_varint(self.0.len() as u64, buf);
            buf.put_slice(self.0.as_bytes());
        }
    }

    fn encoded_len(&self, tag: u32) -> usize {
        if self.0.is_empty() { 0 } else { key_len(tag) + encoded_len_varint(self.0.len() as u64) + self.0.len() }
    }

    fn merge(&mut self, wire_type: WireType, buf: &mut impl Buf, ctx: DecodeContext) -> Result<(), DecodeError> {
        let mut text = String::new();
        string::merge(wire_type, &mut text, buf, ctx)?;
        self.0 = text.into();
        Ok(())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<T: Into<Arc<str>>> From<T> for Text {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

// === impl File, ObjectVersion ===

impl Message for File {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.path.encode(1, buf);
        if self.mode != 0 {
            int32::encode(2, &self.mode, buf);
        }
        if !self.contents.is_empty() {
            bytes::encode(3, &self.contents, buf);
        }
    }

    fn merge_field(&mut self, tag: u32, wire_type: WireType, buf: &mut impl Buf, ctx: DecodeContext) -> Result<(), DecodeError> {
        match tag {
            1 => self.path.merge(wire_type, buf, ctx),
            2 => int32::merge(wire_type, &mut self.mode, buf, ctx),
            3 => bytes::merge(wire_type, &mut self.contents, buf, ctx),
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let mode = if self.mode == 0 { 0 } else { int32::encoded_len(2, &self.mode) };
        let contents = if self.contents.is_empty() { 0 } else { bytes::encoded_len(3, &self.contents) };
        self.path.encoded_len(1) + mode + contents
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Message for ObjectVersion {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.id.encode(1, buf);
        self.version.encode(2, buf);
    }

    fn merge_field(&mut self, tag: u32, wire_type: WireType, buf: &mut impl Buf, ctx: DecodeContext) -> Result<(), DecodeError> {
        match tag {
            1 => self.id.merge(wire_type, buf, ctx),
            2 => self.version.merge(wire_type, buf, ctx),
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        self.id.encoded_len(1) + self.version.encoded_len(2)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The content is a secret.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("path", &self.path)
            .field("mode", &self.mode)
            .field("contents", &format_args!("({} bytes, redacted)", self.contents.len()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::proto;
    use super::*;

    proptest! {
        #[test]
        fn they_are_on_the_wire_as_prost_writes_them(
            path in ".{0,200}", mode in any::<i32>(), contents in prop::collection::vec(any::<u8>(), 0..200), version in ".{0,9}",
        ) {
            let contents = Bytes::from(contents);
            let (theirs, ours) = (
                proto::File { path: path.clone(), mode, contents: contents.clone() },
                File { path: path.as_str().into(), mode, contents },
            );
            prop_assert_eq!(ours.encoded_len(), theirs.encoded_len());
            prop_assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
            prop_assert_eq!(File::decode(&theirs.encode_to_vec()[..]).unwrap(), ours);

            let theirs = proto::ObjectVersion { id: path.clone(), version: version.clone() };
            let ours = ObjectVersion { id: path.into(), version: version.into() };
            prop_assert_eq!(ours.encoded_len(), theirs.encoded_len());
            prop_assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
            prop_assert_eq!(ObjectVersion::decode(&theirs.encode_to_vec()[..]).unwrap(), ours);
        }

        #[test]
        fn any_bytes_are_read_as_prost_reads_them(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let file = |file: File| (file.path.0.to_string(), file.mode, file.contents);
            let theirs = proto::File::decode(&bytes[..]).map(|file| (file.path, file.mode, file.contents)).ok();
            prop_assert_eq!(File::decode(&bytes[..]).map(file).ok(), theirs);
            let version = |version: ObjectVersion| (version.id.0.to_string(), version.version.0.to_string());
            let theirs = proto::ObjectVersion::decode(&bytes[..]).map(|version| (version.id, version.version)).ok();
            prop_assert_eq!(ObjectVersion::decode(&bytes[..]).map(version).ok(), theirs);
        }
    }

    #[test]
    fn a_file_shows_no_content() {
        let file = File { path: "db".into(), mode: 0o400, contents: Bytes::from_static(b"hunter2") };
        assert_eq!(format!("{file:?}"), r#"File { path: "db", mode: 256, contents: (7 bytes, redacted) }"#);
    }
}
