//! The files of an object that delivers several: their number, the first few names, and one digest of all names.

use std::fmt;
use std::hash::{Hash, Hasher};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Serialize, Serializer};

use crate::model::{FieldName, FilePath};

/// The most names that are kept, and their bytes together: a line must have room for many objects.
const NAMES: usize = 16;
const NAME_BYTES: usize = 1024;

/// The files of an object's entry. It is shown where there are several: a single file has its own field in the entry.
#[derive(Clone, Default, Serialize)]
pub struct Files {
    #[serde(rename = "files", skip_serializing_if = "is_one")]
    count: usize,
    /// The first of several, in the order of delivery.
    #[serde(rename = "first", serialize_with = "names", skip_serializing_if = "Vec::is_empty")]
    names: Vec<FilePath>,
    /// Over every path and field, where there are several. A class's author chooses them, and must not find two lists that count as the
    /// same.
    #[serde(skip)]
    digest: Option<Box<Context>>,
}

// === impl Files ===

impl Files {
    /// Counts one more, and returns how many there are now.
    pub(super) fn count(&mut self) -> usize {
        self.count += 1;
        self.count
    }

    /// Adds the name of one of several.
    pub(super) fn name(&mut self, path: &FilePath, field: Option<&FieldName>) {
        let bytes = self.names.iter().map(|name| name.as_str().len()).sum::<usize>() + path.as_str().len();
        if self.names.len() < NAMES && bytes <= NAME_BYTES {
            self.names.push(path.clone());
        }
        let digest = self.digest.get_or_insert_with(|| Box::new(Context::new(&SHA256)));
        for text in [path.as_str(), field.map_or("", FieldName::as_str)] {
            // The length keeps ("ab", "c") and ("a", "bc") apart.
            digest.update(&text.len().to_le_bytes());
            digest.update(text.as_bytes());
        }
    }

    /// About how many bytes of memory it takes in addition to its own size.
    pub(super) fn weight(&self) -> usize {
        let names = self.names.iter().map(|name| size_of::<FilePath>() + name.as_str().len()).sum::<usize>();
        names + self.digest.as_ref().map_or(0, |_| size_of::<Context>())
    }
}

impl Hash for Files {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.count.hash(state);
        if let Some(digest) = &self.digest {
            state.write(Context::clone(digest).finish().as_ref());
        }
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("count", &self.count).field("names", &self.names).finish_non_exhaustive()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_one(count: &usize) -> bool {
    *count < 2
}

fn names<S: Serializer>(names: &[FilePath], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(FilePath::as_str))
}
