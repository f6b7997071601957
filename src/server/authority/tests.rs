//! Hand-made HTTP/2 through the repair: in all its spellings, in pieces of any size, and into a real h2.

use super::{RepairAuthority, huffman};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

mod served;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATH: &[u8] = b"/run/keyferry.sock";
const REPAIRED: &[u8] = b"-run-keyferry.sock";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// `:method GET`, `:scheme http`, `:path /`.
const GET: &[u8] = &[0x82, 0x86, 0x84];

/// Literals' first octet with no name index: indexing, without, never.
const INDEXED: u8 = 0x40;
const PLAIN: u8 = 0x00;
const NEVER: u8 = 0x10;

/// A stream that is read in these pieces; an empty piece is a moment with nothing to read.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let Some(mut piece) = self.0.pop_front() else { return Poll::Ready(Ok(())) };
        if piece.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let rest = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(&piece);
        if !rest.is_empty() {
            self.0.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

/// The output of the repair, read `room` octets at a time.
fn read_all(pieces: impl IntoIterator<Item = Vec<u8>>, room: usize) -> Vec<u8> {
    let mut stream = RepairAuthority::new(Pieces(pieces.into_iter().collect()));
    let mut cx = Context::from_waker(Waker::noop());
    let mut out = Vec::new();
    let mut space = vec![0; room];
    loop {
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(&mut stream).poll_read(&mut cx, &mut buf) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return out,
            Poll::Ready(result) => {
                result.unwrap();
                out.extend_from_slice(buf.filled());
            }
        }
    }
}

fn repaired(octets: &[u8]) -> Vec<u8> {
    read_all([octets.to_vec()], 8192)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A whole request without a body.
fn headers(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, block)
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, b""), &frames.concat()].concat()
}

fn integer(first: u8, prefix: u32, value: usize) -> Vec<u8> {
    let most = (1 << prefix) - 1;
    if value < most {
        return vec![first | u8::try_from(value).unwrap()];
    }
    let mut octets = vec![first | u8::try_from(most).unwrap()];
    let mut rest = value - most;
    while rest >= 128 {
        octets.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    octets.push(u8::try_from(rest).unwrap());
    octets
}

fn string(text: &[u8], coded: bool) -> Vec<u8> {
    let (flag, text) = if coded { (0x80, huffman::encode(text)) } else { (0, text.to_vec()) };
    [integer(flag, 7, text.len()), text].concat()
}

/// A literal whose name is at `index`.
fn literal(kind: u8, index: usize, value: &[u8], coded: bool) -> Vec<u8> {
    [integer(kind, if kind == INDEXED { 6 } else { 4 }, index), string(value, coded)].concat()
}

fn named(kind: u8, name: &[u8], value: &[u8], coded: bool) -> Vec<u8> {
    [vec![kind], string(name, coded), string(value, coded)].concat()
}

/// Every way to spell an authority, as a header block.
fn spellings(value: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for coded in [false, true] {
        for kind in [INDEXED, PLAIN, NEVER] {
            all.push([GET, &literal(kind, 1, value, coded)].concat());
            all.push([GET, &named(kind, b":authority", value, coded)].concat());
        }
    }
    all
}

#[test]
fn every_spelling_is_repaired() {
    for (was, becomes) in spellings(PATH).into_iter().zip(spellings(REPAIRED)) {
        assert_eq!(repaired(&connection(&[headers(1, &was)])), connection(&[headers(1, &becomes)]), "{was:x?}");
    }
}

#[test]
fn an_accepted_authority_is_untouched() {
    for fine in [&b"localhost"[..], b"localhost:8080", b"[::1]:80", b"user%2F@host", b""] {
        for block in spellings(fine) {
            let octets = connection(&[headers(1, &block)]);
            assert_eq!(repaired(&octets), octets, "{block:x?}");
        }
    }
}

#[test]
fn other_headers_are_untouched() {
    let block =
        [GET, &named(INDEXED, b":path2", PATH, true), &literal(PLAIN, 4, PATH, true), &named(NEVER, b"x-authority", PATH, false)].concat();
    let octets = connection(&[headers(1, &block)]);
    assert_eq!(repaired(&octets), octets);
}

#[test]
fn a_split_anywhere_changes_nothing() {
    let block = |value: &[u8]| [GET, &literal(INDEXED, 1, value, true), &named(NEVER, b"x-a", value, false)].concat();
    let octets = |value: &[u8]| {
        let block = block(value);
        let rest = block.len() - 9;
        connection(&[
            frame(HEADERS, END_STREAM, 1, &block[..5]),
            frame(CONTINUATION, 0, 1, b""),
            frame(CONTINUATION, 0, 1, &block[5..rest]),
            frame(CONTINUATION, END_HEADERS, 1, &block[rest..]),
            frame(DATA, END_STREAM, 1, value),
            headers(3, &literal(PLAIN, 1, value, false)),
        ])
    };
    let was = octets(PATH);
    let becomes = repaired(&was);
    let changed = was.iter().zip(&becomes).filter(|(was, is)| was != is).count();
    assert!(changed > 0 && becomes.len() == was.len());
    assert!(becomes.ends_with(&headers(3, &literal(PLAIN, 1, REPAIRED, false))));

    for at in 0..was.len() {
        let (head, tail) = was.split_at(at);
        assert_eq!(read_all([head.to_vec(), vec![], tail.to_vec()], 8192), becomes, "split at {at}");
    }
    for size in 1..12 {
        for room in [1, 3, 8192] {
            assert_eq!(read_all(was.chunks(size).map(octets_of), room), becomes, "pieces of {size}, read by {room}");
        }
    }
}

fn octets_of(piece: &[u8]) -> Vec<u8> {
    piece.to_vec()
}

#[test]
fn a_block_split_at_any_octet_over_frames_is_repaired() {
    let block = |value| [GET, &named(INDEXED, b":authority", value, true), &[0x90]].concat();
    let (was, becomes) = (block(PATH), block(REPAIRED));
    for at in 0..=was.len() {
        let split =
            |block: &[u8]| connection(&[frame(HEADERS, END_STREAM, 1, &block[..at]), frame(CONTINUATION, END_HEADERS, 1, &block[at..])]);
        assert_eq!(repaired(&split(&was)), split(&becomes), "split at {at}");
    }
}

#[test]
fn padding_and_priority_are_stepped_over() {
    let octets = |value| {
        let block = [GET, &literal(INDEXED, 1, value, false)].concat();
        let padded = [&[7][..], &block, PATH.split_at(7).0].concat();
        let priority = [&[0x80, 0, 0, 0, 16][..], &block].concat();
        let both = [&[2, 0, 0, 0, 0, 16][..], &block, b"//"].concat();
        connection(&[
            frame(HEADERS, END_HEADERS | PADDED, 1, &padded),
            frame(HEADERS, END_HEADERS | PRIORITY, 3, &priority),
            frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 5, &both),
        ])
    };
    assert_eq!(repaired(&octets(PATH)), octets(REPAIRED));
}

#[test]
fn long_values_and_large_frames_are_repaired() {
    let (was, becomes) = (PATH.repeat(900), REPAIRED.repeat(900));
    for coded in [false, true] {
        let octets = |value| connection(&[headers(1, &literal(INDEXED, 1, value, coded)), frame(DATA, 0, 1, &b"/".repeat(70_000))]);
        assert_eq!(read_all(octets(&was).chunks(1000).map(octets_of), 512), octets(&becomes));
    }
}

#[test]
fn a_name_by_dynamic_index_is_known() {
    let octets = |value, other| {
        connection(&[
            headers(1, &[&named(INDEXED, b":authority", b"localhost", true)[..], &named(INDEXED, b"x-a", other, true)].concat()),
            headers(3, &[literal(INDEXED, 63, value, false), literal(PLAIN, 62, value, true)].concat()),
            headers(5, &[literal(NEVER, 64, other, false), literal(PLAIN, 62, value, false), literal(PLAIN, 63, other, true)].concat()),
        ])
    };
    // In the third request: 62 is the second one's authority, 63 is `x-a`, 64 is the first one's authority.
    let was = octets(PATH, PATH);
    let becomes = repaired(&was);
    let third = |a, b, c| headers(5, &[literal(NEVER, 64, a, false), literal(PLAIN, 62, b, false), literal(PLAIN, 63, c, true)].concat());
    assert!(becomes.ends_with(&third(REPAIRED, REPAIRED, PATH)));
    // In the second, 62 is `x-a` until the literal before it makes it an authority.
    let second = [literal(INDEXED, 63, REPAIRED, false), literal(PLAIN, 62, REPAIRED, true)].concat();
    assert!(becomes.windows(second.len()).any(|window| window == second));
}

/// A request that puts an authority into the table, then `entries`, and one that names it by `index`.
fn after(entries: &[Vec<u8>], index: usize) -> (Vec<u8>, Vec<u8>) {
    let octets = |value| {
        connection(&[
            headers(1, &literal(INDEXED, 1, b"localhost", true)),
            headers(3, &entries.concat()),
            headers(5, &literal(PLAIN, index, value, false)),
        ])
    };
    (repaired(&octets(PATH)), octets(REPAIRED))
}

#[test]
fn entries_are_evicted_by_their_decoded_size() {
    // The authority's entry has 10 + 9 + 32 = 51 octets: one with 4096 - 51 leaves room for it, one with an octet more does not.
    let other = |size: usize, coded| named(INDEXED, b"a", &vec![b'a'; size - 33], coded);
    for coded in [false, true] {
        let (is, becomes) = after(&[other(4096 - 51, coded)], 63);
        assert_eq!(is, becomes);
        let (is, becomes) = after(&[other(4096 - 50, coded)], 63);
        assert_ne!(is, becomes);
    }
    // One larger than the table empties it; the next is the only one.
    let (is, becomes) = after(&[other(4097, true), literal(INDEXED, 1, b"a", false)], 62);
    assert_eq!(is, becomes);
    let (is, becomes) = after(&[other(4097, true), literal(INDEXED, 1, b"a", false)], 63);
    assert_ne!(is, becomes);
    // A name by index counts as long as the name: 19 + 4096 - 51 - 32 - 19 fits.
    let (is, becomes) = after(&[literal(INDEXED, 48, &vec![b'a'; 4096 - 51 - 32 - 18], true)], 63);
    assert_eq!(is, becomes);
    let (is, becomes) = after(&[literal(INDEXED, 48, &vec![b'a'; 4096 - 51 - 32 - 17], true)], 63);
    assert_ne!(is, becomes);
}

#[test]
fn size_updates_evict() {
    let update = |size| integer(0x20, 5, size);
    for (updates, kept) in
        [(vec![update(51)], true), (vec![update(50)], false), (vec![update(0), update(4096)], false), (vec![update(4097)], false)]
    {
        let (is, becomes) = after(&updates, 62);
        assert_eq!(is == becomes, kept, "{updates:x?}");
    }
}

#[test]
fn from_a_fault_on_all_is_passed_untouched() {
    let bad_code = [&[0x41, 0x82][..], &[0xff, 0xff]].concat();
    let stop = literal(PLAIN, 1, PATH, false);
    for fault in [
        headers(1, &[0x80]),                                 // index 0
        headers(1, &[0xbe]),                                 // index beyond the table
        headers(1, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0x01]),   // an integer of six octets
        headers(1, &[0x41]),                                 // cut short
        headers(1, &[0x41, 0x05, b'/']),                     // a string beyond the block
        headers(1, &bad_code),                               // not Huffman
        headers(0, GET),                                     // no stream
        frame(HEADERS, END_HEADERS | PADDED, 1, b""),        // no room for the padding's length
        frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x82]), // more padding than payload
        frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 1, &[3, 0, 0, 0, 0, 0, 0]),
        frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 3]), // no room for the priority
        frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0, 0, 0, 1, 0]), // a stream that depends on itself
        frame(CONTINUATION, END_HEADERS, 1, GET),           // of nothing
        frame(PUSH_PROMISE, END_HEADERS, 1, GET),           // from a client
        [frame(HEADERS, 0, 1, GET), frame(DATA, 0, 1, b"")].concat(), // a block interrupted
        [frame(HEADERS, 0, 1, GET), frame(CONTINUATION, 0, 3, b"")].concat(),
        frame(HEADERS, END_HEADERS, 1, &GET.repeat(21_900)), // more than is held back
    ] {
        let octets = connection(&[fault.clone(), headers(3, &stop)]);
        assert_eq!(repaired(&octets), octets, "{fault:x?}");
        assert_eq!(read_all(octets.chunks(7).map(octets_of), 5), octets);
    }
}

#[test]
fn what_is_no_http2_passes() {
    let http1 = b"GET / HTTP/1.1\r\nhost: /run/keyferry.sock\r\n\r\n";
    assert_eq!(repaired(http1), http1);
    let octets = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!", &headers(1, &literal(PLAIN, 1, PATH, false))[..]].concat();
    assert_eq!(read_all(octets.chunks(3).map(octets_of), 100), octets);
}

#[test]
fn a_stream_that_ends_anywhere_is_passed_whole() {
    let octets = connection(&[frame(HEADERS, 0, 1, &literal(PLAIN, 1, PATH, true)), frame(CONTINUATION, END_HEADERS, 1, b"")]);
    for end in 0..octets.len() {
        assert_eq!(repaired(&octets[..end]), octets[..end], "cut at {end}");
    }
}

#[test]
fn frames_pass_before_a_block_that_is_not_complete() {
    let mut stream = RepairAuthority::new(Pieces(VecDeque::from([connection(&[frame(HEADERS, 0, 1, GET)]), vec![]])));
    let mut space = [0; 100];
    let mut buf = ReadBuf::new(&mut space);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut stream).poll_read(&mut cx, &mut buf).is_ready());
    assert_eq!(buf.filled(), connection(&[]));
    assert!(Pin::new(&mut stream).poll_read(&mut cx, &mut buf).is_pending());
    assert_eq!(format!("{:?}", RepairAuthority::new(())), "RepairAuthority { stream: (), held: 0, .. }");
}

#[tokio::test]
async fn writes_pass_unchanged() {
    let (ours, mut theirs) = tokio::io::duplex(1024);
    let mut stream = RepairAuthority::new(ours);
    let octets = headers(1, &literal(PLAIN, 1, PATH, false));
    stream.write_all(&octets).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut out = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut out).await.unwrap();
    assert_eq!(out, octets);
}

/// The seeds of fuzz/fuzz_targets/authority.rs, which says how they are read.
#[test]
fn the_fuzz_corpus_replays() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/authority");
    let mut seeds = 0;
    for seed in std::fs::read_dir(folder).unwrap() {
        let seed = std::fs::read(seed.unwrap().path()).unwrap();
        let Some((how, rest)) = seed.split_first() else { continue };
        let octets = if how & 0x80 == 0 { [PREFACE, rest].concat() } else { rest.to_vec() };
        let size = usize::from(how & 0x3f) + 1;
        assert_eq!(read_all(octets.chunks(size).map(octets_of), 64).len(), octets.len());
        seeds += 1;
    }
    assert!(seeds >= 10, "{folder} has lost its seeds");
}

/// A header of a random block: an authority where `name` is `None`.
#[derive(Debug, Clone)]
struct Header {
    kind: u8,
    name: Option<Vec<u8>>,
    value: Vec<u8>,
    coded: bool,
}

fn header() -> impl Strategy<Value = Header> {
    let kind = prop::sample::select(vec![INDEXED, PLAIN, NEVER]);
    let name = prop::option::of(prop::collection::vec(prop::sample::select(b"abc-".to_vec()), 1..5));
    let value = prop::collection::vec(prop_oneof![4 => prop::sample::select(b"/run%2F.sock:".to_vec()), 1 => any::<u8>()], 0..60);
    (kind, name, value, any::<bool>()).prop_map(|(kind, name, value, coded)| Header { kind, name, value, coded })
}

/// A connection of these requests, each block in frames of `size`, and where in it the authorities' values are.
fn build(requests: &[Vec<Header>], size: usize) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut octets = connection(&[]);
    let mut values = Vec::new();
    for (request, stream) in requests.iter().zip((1..).step_by(2)) {
        let mut block = Vec::new();
        let mut authorities = Vec::new();
        for header in request {
            match &header.name {
                Some(name) => block.extend(named(header.kind, name, &header.value, header.coded)),
                None => block.extend(literal(header.kind, 1, &header.value, header.coded)),
            }
            let length = string(&header.value, header.coded).len();
            if header.name.is_none() {
                authorities.push(block.len() - length..block.len());
            }
        }
        let frames = block.len().div_ceil(size).max(1);
        for (at, fragment) in block.chunks(size).enumerate() {
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let flags = if at + 1 == frames { END_HEADERS } else { 0 };
            let before = octets.len() + 9;
            octets.extend(frame(kind, flags, stream, fragment));
            let here = at * size..at * size + fragment.len();
            for range in &authorities {
                let (start, end) = (range.start.max(here.start), range.end.min(here.end));
                if start < end {
                    values.push(before + start - here.start..before + end - here.start);
                }
            }
        }
    }
    (octets, values)
}

proptest! {
    #[test]
    fn only_authorities_change(
        requests in prop::collection::vec(prop::collection::vec(header(), 1..5), 1..6),
        size in 1_usize..80,
        piece in 1_usize..50,
        room in 1_usize..50,
    ) {
        let (was, values) = build(&requests, size);
        let is = read_all(was.chunks(piece).map(octets_of), room);
        prop_assert_eq!(is.len(), was.len());
        for (at, (was, is)) in was.iter().zip(&is).enumerate() {
            prop_assert!(was == is || values.iter().any(|range| range.contains(&at)), "octet {} changed", at);
        }
        prop_assert_eq!(repaired(&is), is, "a second repair changes nothing");
    }

    #[test]
    fn arbitrary_octets_keep_their_length(octets: Vec<u8>, piece in 1_usize..50, preface: bool) {
        let octets = if preface { [PREFACE, &octets].concat() } else { octets };
        prop_assert_eq!(read_all(octets.chunks(piece).map(octets_of), 16).len(), octets.len());
    }
}
