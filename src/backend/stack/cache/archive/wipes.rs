//! What `keyferry cache wipe` leaves: sealed marks that say "nothing older than this". They are for everything, for a backend, or for the names
//! with a prefix. The running daemon reads them before it gives an old answer.

use std::ops::ControlFlow;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::backend::stack::sealed::Room;
use crate::model::SecretRef;

/// A mark has no effect after this time: no answer is kept for longer.
const LASTS: SignedDuration = SignedDuration::from_hours(30 * 24 + 1);

/// If there are more marks than this, no answer older than the newest mark is given: keeping all of them apart is not worth more memory.
const MOST: usize = 1024;

/// One mark.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Wipe {
    /// `None`: all backends.
    pub backend: Option<String>,
    pub prefix: String,
    pub at: Timestamp,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Wipes(Vec<Wipe>);

// === impl Wipe ===

impl Wipe {
    pub fn covers(&self, secret: &SecretRef) -> bool {
        let backend = self.backend.as_ref().is_none_or(|backend| backend == secret.backend.as_str());
        backend && secret.name.as_str().starts_with(&self.prefix)
    }

    fn id(&self) -> String {
        format!("{}/{}", self.backend.as_deref().unwrap_or_default(), self.prefix)
    }

    /// Writes the mark into its room for good. Marks without an effect are removed. If the clock was set back, the former marks still apply.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&mut self, room: &Room) -> std::io::Result<()> {
        for former in Wipes::read(room)?.0 {
            if former.id() == self.id() {
                self.at = self.at.max(former.at);
            } else if self.at.duration_since(former.at) > LASTS {
                room.remove(&former.id())?;
            }
        }
        room.write(&self.id(), &serde_json::to_vec(self).unwrap_or_default())?;
        room.sync()
    }
}

// === impl Wipes ===

impl Wipes {
    /// A mark that does not open is ignored. What it covered was encrypted with the same key, which is not configured any more.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn read(room: &Room) -> std::io::Result<Self> {
        let (mut wipes, mut unopened) = (Vec::new(), None);
        room.visit(false, |path, content| {
            match content.map(|content| serde_json::from_slice::<Wipe>(content.expose()).map_err(|error| error.to_string())) {
                Ok(Ok(wipe)) => wipes.push(wipe),
                Ok(Err(problem)) | Err(problem) => {
                    let (count, _) = unopened.get_or_insert_with(|| (0_usize, format!("{} {problem}", path.display())));
                    *count += 1;
                }
            }
            if wipes.len() > MOST {
                let newest = wipes.iter().map(|wipe| wipe.at).max();
                wipes = newest.map(|at| Wipe { backend: None, prefix: String::new(), at }).into_iter().collect();
            }
            ControlFlow::Continue(())
        })?;
        if let Some((count, first)) = unopened {
            tracing::warn!(count, first, "marks of `keyferry cache wipe` do not open, and Keyferry ignores them (remove the files)");
        }
        Ok(Self(wipes))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an answer to this request was wiped, if the store was asked at this time.
    pub fn cover(&self, secret: &SecretRef, at: Timestamp) -> bool {
        self.0.iter().any(|wipe| at <= wipe.at && wipe.covers(secret))
    }

    pub fn newest(&self) -> Option<Timestamp> {
        self.0.iter().map(|wipe| wipe.at).max()
    }
}
