//! Gathers what a connection writes, until it has nothing more to write for now.
//!
//! h2 writes an answer in two parts: its head with its files, then its trailers. Each part would be a system call and would wake the
//! client, which cannot use the first part alone. So the parts are kept, and are sent together at the end of each poll of the connection.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes that are gathered: an answer of ten small files has less than 4 KiB, and for a long one another system call costs little.
const GATHERED: usize = 16 * 1024;

/// How many bytes are copied or wiped at once: libc does it with vector instructions. From 2 KiB on it uses one instruction for all of
/// them, which is not faster here, and which callgrind counts byte by byte.
const PIECE: usize = 1024;

/// A stream whose writes are sent by [`Gathered::poll_with`], or when there are too many. `poll_flush` sends nothing.
pub(super) struct Gather<S>(Arc<Mutex<Outgoing<S>>>);

/// The other handle of a [`Gather`].
pub(super) struct Gathered<S>(Arc<Mutex<Outgoing<S>>>);

struct Outgoing<S> {
    stream: S,
    bytes: Vec<u8>,
    /// How many of them are sent.
    sent: usize,
}

// === impl Gather ===

impl<S> Gather<S> {
    pub(super) fn new(stream: S) -> (Self, Gathered<S>) {
        let outgoing = Arc::new(Mutex::new(Outgoing { stream, bytes: Vec::with_capacity(GATHERED), sent: 0 }));
        (Self(Arc::clone(&outgoing)), Gathered(outgoing))
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.lock().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut outgoing = self.lock();
        ready!(outgoing.poll_send(cx))?;
        Pin::new(&mut outgoing.stream).poll_shutdown(cx)
    }
}

impl<S> fmt::Debug for Gather<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather").finish_non_exhaustive()
    }
}

// === impl Gathered ===

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Polls the writer of the stream, then sends what it has written.
    ///
    /// # Errors
    /// The stream's error, when nothing can be sent any more.
    pub(super) fn poll_with<T>(&self, cx: &mut Context<'_>, writer: Pin<&mut impl Future<Output = T>>) -> Poll<io::Result<T>> {
        let written = writer.poll(cx);
        let mut outgoing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (outgoing.poll_send(cx), written) {
            (Poll::Ready(Err(error)), Poll::Pending) => Poll::Ready(Err(error)),
            (_, written) => written.map(Ok),
        }
    }
}

// === impl Outgoing ===

impl<S: AsyncWrite + Unpin> Outgoing<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if self.bytes.len() + length > GATHERED {
            ready!(self.poll_send(cx))?;
        }
        if length > GATHERED {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        bufs.iter().flat_map(|buf| buf.chunks(PIECE)).for_each(|piece| self.bytes.extend_from_slice(piece));
        Poll::Ready(Ok(length))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.bytes[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        // Sent bytes do not stay in memory.
        wipe(&mut self.bytes);
        self.bytes.clear();
        self.sent = 0;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

/// The compiler cannot know that nobody reads the zeros.
fn wipe(bytes: &mut [u8]) {
    bytes.chunks_mut(PIECE).for_each(|piece| piece.fill(0));
    std::hint::black_box(bytes);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    /// Runs a writer to its end, as a connection's task does.
    async fn run<T>(gathered: &Gathered<UnixStream>, writer: impl Future<Output = T>) -> io::Result<T> {
        let mut writer = pin!(writer);
        poll_fn(|cx| gathered.poll_with(cx, writer.as_mut())).await
    }

    #[tokio::test]
    async fn what_one_poll_writes_is_one_piece() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (mut stream, gathered) = Gather::new(server);
        for _ in 0..3 {
            let writer = async {
                for part in ["head", "files", "trailers"] {
                    stream.write_all(part.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    let nothing = client.try_read(&mut [0; 1]).unwrap_err();
                    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
                }
            };
            run(&gathered, writer).await.unwrap();
            let mut seen = [0; 64];
            let length = client.read(&mut seen).await.unwrap();
            assert_eq!(&seen[..length], b"headfilestrailers");
        }
        let outgoing = gathered.0.lock().unwrap();
        assert_eq!((outgoing.bytes.len(), outgoing.bytes.capacity()), (0, GATHERED));
    }

    /// With any sizes and any slow client: the bytes in their order, and few that wait.
    #[tokio::test]
    async fn bytes_keep_their_order() {
        let (client, server) = UnixStream::pair().unwrap();
        let (mut stream, gathered) = Gather::new(server);
        let sizes = [1, 10, GATHERED - 11, 1, GATHERED, GATHERED + 1, 5, 3 * GATHERED, 700_000, 9, GATHERED - 1, 2];
        let sent: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let reader = tokio::spawn(async move {
            let (mut client, mut all, mut some) = (client, Vec::new(), [0; 1500]);
            loop {
                match client.read(&mut some).await.unwrap() {
                    0 => return all,
                    length => all.extend_from_slice(&some[..length]),
                }
            }
        });
        let writer = async {
            let mut rest = &sent[..];
            for size in sizes {
                let (head, tail) = rest.split_at(size);
                let (one, other) = head.split_at(size / 3);
                let mut written = stream.write_vectored(&[IoSlice::new(one), IoSlice::new(other)]).await.unwrap();
                while written < size {
                    written += stream.write(&head[written..]).await.unwrap();
                }
                assert!(gathered.0.lock().unwrap().bytes.len() <= GATHERED);
                rest = tail;
            }
            stream.shutdown().await.unwrap();
        };
        run(&gathered, writer).await.unwrap();
        assert!(reader.await.unwrap() == sent, "other bytes came");
    }

    #[test]
    fn all_of_it_is_wiped() {
        let mut bytes = vec![7; 3 * PIECE - 5];
        wipe(&mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    #[tokio::test]
    async fn a_client_that_is_gone_ends_the_connection() {
        let (client, server) = UnixStream::pair().unwrap();
        let (mut stream, gathered) = Gather::new(server);
        drop(client);
        let writer = async {
            stream.write_all(b"answer").await.unwrap();
            std::future::pending::<()>().await;
        };
        let error = run(&gathered, writer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
