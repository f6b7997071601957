//! The `:authority` that drivers before v1.6.0 and gRPC's C-core clients send: the socket's path. h2 resets the call because of it.
//!
//! h2 has no hook for it, so the repair is between the socket and h2: a stream that finds the authority in the client's header blocks and
//! replaces it by a valid one of the same length. "Same length" means: as many octets on the wire, so no frame changes its size; and as
//! many characters decoded. So the sizes in HPACK's dynamic table, and the evictions from it, stay as the client expects. Keyferry itself
//! never reads the authority.
//!
//! Some things stay as they are: every authority that h2 accepts, bit for bit; an empty authority, because no valid one is empty; an
//! authority whose Huffman coding is far longer than its plain form (`substitute` says when); and a connection from the point where it is
//! not well-formed HTTP/2: h2 refuses it in its own words.

mod frames;
mod hpack;
mod huffman;
mod malformed;
mod substitute;
#[cfg(test)]
mod tests;

pub use frames::MAX_BLOCK;

use frames::Frames;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A client's stream in a form that h2 accepts. Bytes to the client pass unchanged.
///
/// Frames other than HEADERS and CONTINUATION cost a look at nine octets. A header block is held back until its last frame arrives, up to
/// [`MAX_BLOCK`]; h2 cannot use a part of one either.
pub struct RepairAuthority<S> {
    stream: S,
    frames: Frames,
    held: Held,
}

impl<S> RepairAuthority<S> {
    /// Repairs the bytes that are read from `stream`. Nothing may have been read from it before.
    pub fn new(stream: S) -> Self {
        Self { stream, frames: Frames::default(), held: Held::default() }
    }

    /// The stream below, for its peer's credentials; reading from it would lose bytes.
    pub fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RepairAuthority<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buf.filled().len();
        while buf.filled().len() == start && buf.remaining() > 0 {
            if this.held.ready > 0 {
                this.held.give(buf);
                break;
            }
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            if buf.filled().len() > start {
                this.sift(buf, start);
            } else if this.held.octets.is_empty() {
                break;
            } else {
                this.finish();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> RepairAuthority<S> {
    /// Takes the new bytes in `buf` since `start`, and leaves there what may pass.
    fn sift(&mut self, buf: &mut ReadBuf<'_>, start: usize) {
        let fresh = &mut buf.filled_mut()[start..];
        if self.held.octets.is_empty() {
            let passed = self.frames.pass(fresh);
            self.held.octets.extend_from_slice(&fresh[passed..]);
            buf.set_filled(start + passed);
        } else {
            self.held.octets.extend_from_slice(fresh);
            self.held.ready = self.frames.pass(&mut self.held.octets);
            buf.set_filled(start);
        }
    }

    /// The client will send nothing more: everything that is held back passes.
    fn finish(&mut self) {
        self.frames.stop();
        self.held.ready = self.held.octets.len();
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RepairAuthority<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Without the held bytes: a client's headers must not be in a log.
impl<S: fmt::Debug> fmt::Debug for RepairAuthority<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepairAuthority").field("stream", &self.stream).field("held", &self.held.octets.len()).finish_non_exhaustive()
    }
}

/// Octets that were read and not yet passed on. The first `ready` of them may pass; the first `given` have passed.
#[derive(Default)]
struct Held {
    octets: Vec<u8>,
    ready: usize,
    given: usize,
}

impl Held {
    /// Passes on what is ready, as far as `buf` has room.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let some = buf.remaining().min(self.ready - self.given);
        buf.put_slice(&self.octets[self.given..self.given + some]);
        self.given += some;
        if self.given == self.ready {
            self.octets.drain(..self.ready);
            self.octets.shrink_to(IDLE_CAPACITY);
            self.ready = 0;
            self.given = 0;
        }
    }
}

/// The octets that an idle connection keeps for the next block that comes in parts.
const IDLE_CAPACITY: usize = 1024;
