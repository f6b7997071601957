//! A call's message. Keyferry reads it to its end before it looks at it. As soon as the length is known, Keyferry reserves memory for it.
//!
//! All calls of a driver share one connection and its window: a message that Keyferry does not read blocks the calls behind it. So if
//! there is no memory for a message, Keyferry still reads it, drops its bytes, and answers the call. Keyferry never resets the call or
//! refuses it below gRPC: clients would make one of the codes of the trap from that (`status.rs`).

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
        // A stream that breaks has no message: the decoder refuses the part that came. Each further read of the stream fails too.
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
        // If more bytes come than were announced, Keyferry keeps one of them: then the decoder refuses the message.
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

/// The prefix is a part of its own: then tonic reserves memory only for the rest, and not once more for all that has arrived.
fn whole(mut message: Bytes) -> Body {
    let prefix = message.split_to(PREFIX.min(message.len()));
    let parts = [prefix, message].into_iter().filter(|part| !part.is_empty());
    Body::new(StreamBody::new(stream::iter(parts.map(|part| Ok::<_, Infallible>(Frame::data(part))))))
}

/// The length that the prefix announces. A length above the limit counts as 0: the decoder sees the prefix, and refuses it.
fn announced(message: &[u8]) -> Option<usize> {
    let length = message.get(1..PREFIX)?;
    let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
    Some(if length > MAX_REQUEST { 0 } else { length })
}

impl Room {
    /// The first call gets it; later calls get nothing.
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
