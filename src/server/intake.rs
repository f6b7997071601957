//! A call's message, read whole before anybody looks at it: into room that is taken for it once its length is known, or not at all.
//!
//! All calls of a driver share one connection, and its window: what is not read keeps the calls behind it from being read. So a message
//! for which there is no room is read all the same, and dropped as it comes; and the call is answered. It is never reset or refused below
//! gRPC: clients make codes of the trap of that (`status.rs`).

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tonic::Status;
use tonic::body::Body;

use super::MAX_REQUEST;
use crate::budget::{Budget, Unread};
use crate::pipeline::MountError;

/// What comes before a message: whether it is compressed, and its length (the gRPC wire protocol, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// The room of a message, for the code that parses it.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Mutex<Option<Unread>>>);

/// A message in memory, with its room; the rest of the stream has been read.
///
/// # Errors
/// There is no room now.
pub(super) async fn take_in(mut body: Incoming, budget: &Budget) -> Result<(Body, Room), Status> {
    let mut message = BytesMut::new();
    let mut room: Option<Option<Unread>> = None;
    while let Some(frame) = body.frame().await {
        // A stream that breaks has no message: what came of it is refused by who decodes it. It breaks again at each look.
        let Ok(frame) = frame else { break };
        let Ok(data) = frame.into_data() else { continue };
        let mut data = &data[..];
        if room.is_none() {
            let rest = PREFIX.saturating_sub(message.len()).min(data.len());
            message.put_slice(&data[..rest]);
            data = &data[rest..];
            if let Some(length) = announced(&message) {
                room = Some(budget.read(length));
                if let Some(Some(_)) = room {
                    message.reserve(length + 1);
                }
            }
        }
        // Of more bytes than were announced, one is kept: then the decoder refuses the message.
        if let Some(Some(_)) = room {
            let length = announced(&message).unwrap_or_default();
            let rest = (PREFIX + length + 1).saturating_sub(message.len()).min(data.len());
            message.put_slice(&data[..rest]);
        }
    }
    match room {
        Some(None) => Err(MountError::NoRoom.into()),
        Some(Some(room)) => Ok((whole(message.freeze()), Room(Arc::new(Mutex::new(Some(room)))))),
        None => Ok((whole(message.freeze()), Room(Arc::default()))),
    }
}

/// Its prefix comes first, and alone: then tonic makes room for just the rest, instead of for as much as has arrived once more.
fn whole(mut message: Bytes) -> Body {
    let prefix = message.split_to(PREFIX.min(message.len()));
    let parts = [prefix, message].into_iter().filter(|part| !part.is_empty());
    Body::new(StreamBody::new(stream::iter(parts.map(|part| Ok::<_, Infallible>(Frame::data(part))))))
}

/// How long the message is to be; more than is ever read counts as nothing: the decoder sees the prefix, and refuses it.
fn announced(message: &[u8]) -> Option<usize> {
    let length = message.get(1..PREFIX)?;
    let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
    Some(if length > MAX_REQUEST { 0 } else { length })
}

impl Room {
    /// Once; then it is gone.
    pub(super) fn take(&self) -> Option<Unread> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_says_the_length() {
        assert_eq!(announced(&[0, 0, 0, 1]), None);
        assert_eq!(announced(&[0, 0, 0, 1, 2]), Some(258));
        assert_eq!(announced(&[0, 0, 0, 1, 2, 3]), Some(258));
        assert_eq!(announced(&[0, 0xff, 0xff, 0xff, 0xff]), Some(0), "the decoder refuses it");
    }
}
