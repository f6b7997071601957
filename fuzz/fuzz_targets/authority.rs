//! The authority's repair: any bytes pass through it whole, and h2 takes a sound request with any authority.
//!
//! An input's first octet says how to read the rest. Its low six bits, plus one, are the size of the pieces in which the stream arrives. With
//! 0x80 set, the rest starts with the connection preface itself; otherwise the target puts the preface before it.

#![no_main]

use keyferry::server::authority::RepairAuthority;
use libfuzzer_sys::fuzz_target;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    let size = usize::from(how & 0x3f) + 1;
    let octets = if how & 0x80 == 0 { [PREFACE, rest].concat() } else { rest.to_vec() };
    passes_whole(octets, size);
    reaches_h2(*how, rest, size);
});

/// As many octets come out as went in, and a second repair changes none.
fn passes_whole(octets: Vec<u8>, size: usize) {
    let once = read_all(octets.clone(), size);
    assert_eq!(once.len(), octets.len());
    assert_eq!(read_all(once.clone(), 64), once);
}

/// h2 takes two requests with the authority `value`. The second one has it by its index, if `how` says so.
fn reaches_h2(how: u8, value: &[u8], size: usize) {
    let value = &value[..value.len().min(300)];
    let coded = how & 0x40 != 0;
    let mut text = value.to_vec();
    if coded {
        text.clear();
        httlib_huffman::encode(value, &mut text).expect("any octet has a code");
    }
    // A real authority with this many characters never has so many octets (authority/substitute.rs).
    if value.is_empty() || text.len() > (value.len() * 13).div_ceil(8) {
        return;
    }
    let (kind, again) = if how & 0x20 == 0 { (0x41, Some(0xbe)) } else { (0x11, None) };
    let authority = [&[kind][..], &length(text.len(), coded), &text].concat();
    let requests = [request(1, &authority), again.map_or_else(|| request(3, &authority), |index| request(3, &[index]))];
    let octets = [PREFACE, SETTINGS, &requests.concat()].concat();

    let mut handshake = pin!(h2::server::handshake(RepairAuthority::new(Pieces { octets, at: 0, size, ends: false })));
    let mut h2 = at_once(handshake.as_mut()).expect("a handshake");
    for _ in requests {
        let (request, _) = at_once(pin!(h2.accept())).expect("a request").expect("a sound one");
        assert_eq!(request.uri().authority().map(|it| it.as_str().len()), Some(value.len()));
    }
}

/// The value of a future that is ready at once, because everything is in memory.
fn at_once<F: Future>(future: Pin<&mut F>) -> F::Output {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("h2 did not take the request"),
    }
}

/// A request's frames, the block cut in two.
fn request(stream: u8, authority: &[u8]) -> Vec<u8> {
    let block = [&[0x82, 0x86, 0x84], authority].concat();
    let (head, tail) = block.split_at(block.len() / 2);
    let frame = |kind, flags, part: &[u8]| [&[0, (part.len() >> 8) as u8, part.len() as u8, kind, flags, 0, 0, 0, stream], part].concat();
    [frame(1, 0x1, head), frame(9, 0x4, tail)].concat()
}

/// A string's length (RFC 7541, section 5.2), below 16,511.
fn length(length: usize, coded: bool) -> Vec<u8> {
    let flag = if coded { 0x80 } else { 0 };
    match length.checked_sub(127) {
        None => vec![flag | length as u8],
        Some(rest) if rest < 128 => vec![flag | 127, rest as u8],
        Some(rest) => vec![flag | 127, (rest % 128) as u8 | 0x80, (rest / 128) as u8],
    }
}

fn read_all(octets: Vec<u8>, size: usize) -> Vec<u8> {
    let mut stream = RepairAuthority::new(Pieces { octets, at: 0, size, ends: true });
    let mut out = Vec::new();
    let mut space = [0; 48];
    loop {
        let mut buf = ReadBuf::new(&mut space);
        let read = Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
        assert!(matches!(read, Poll::Ready(Ok(()))));
        if buf.filled().is_empty() {
            return out;
        }
        out.extend_from_slice(buf.filled());
    }
}

/// A client that sends `octets` in pieces and hears nothing.
struct Pieces {
    octets: Vec<u8>,
    at: usize,
    size: usize,
    /// Whether it closes after its last piece, or waits for an answer.
    ends: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.at == self.octets.len() && !self.ends {
            return Poll::Pending;
        }
        let some = self.size.min(buf.remaining()).min(self.octets.len() - self.at);
        buf.put_slice(&self.octets[self.at..self.at + some]);
        self.at += some;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
