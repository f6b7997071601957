//! The client's side of an HTTP/2 connection (RFC 9113), frame by frame: only header blocks are decoded. No I/O.

use super::hpack::HeaderBlocks;
use super::malformed::Malformed;
use std::ops::Range;

/// The most octets of one header block that are held back, with frame headers. hyper refuses header lists of 16 KiB, and after a longer
/// block nothing on the connection is repaired any more.
pub const MAX_BLOCK: usize = 64 * 1024;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The position in the client's bytes, and its header compression.
#[derive(Debug)]
pub struct Frames {
    state: State,
    /// The parts of the present header block, counted from the start of its first frame.
    fragments: Vec<Range<usize>>,
    blocks: HeaderBlocks,
}

#[derive(Debug)]
enum State {
    /// In a header block; its frames from `next` on (counted from the start of the first one) are not seen yet.
    Block { stream: u32, next: usize },
    /// Between two frames.
    Boundary,
    /// Not HTTP/2 as we know it: everything passes.
    Off,
    /// In a frame without headers, with this many octets still to come.
    Payload(usize),
    /// In the connection preface, with this many octets still to come.
    Preface(usize),
}

impl Default for Frames {
    fn default() -> Self {
        Self { state: State::Preface(PREFACE.len()), fragments: Vec::new(), blocks: HeaderBlocks::default() }
    }
}

impl Frames {
    /// Repairs the complete parts of `octets` in place, and returns how many octets from the start may pass. The rest must be held back,
    /// and be at the start of `octets` in the next call, with more octets after it.
    pub fn pass(&mut self, octets: &mut [u8]) -> usize {
        let mut passed = 0;
        loop {
            match self.step(&mut octets[passed..]) {
                Ok(Step::Pass(some)) => passed += some,
                Ok(Step::Wait) => return passed,
                Err(Malformed(what)) => {
                    tracing::debug!(what, "Keyferry does not repair this client's HTTP/2 from here on");
                    self.stop();
                }
            }
        }
    }

    /// Repairs nothing from now on: everything that is held back may pass.
    pub fn stop(&mut self) {
        self.state = State::Off;
    }

    fn step(&mut self, octets: &mut [u8]) -> Result<Step, Malformed> {
        if octets.is_empty() {
            return Ok(Step::Wait);
        }
        match self.state {
            State::Block { stream, next } => self.block(octets, stream, next),
            State::Boundary => Ok(self.boundary(octets)),
            State::Off => Ok(Step::Pass(octets.len())),
            State::Payload(left) => {
                let here = left.min(octets.len());
                self.state = if here == left { State::Boundary } else { State::Payload(left - here) };
                Ok(Step::Pass(here))
            }
            State::Preface(left) => {
                let here = left.min(octets.len());
                let expected = &PREFACE[PREFACE.len() - left..][..here];
                if octets[..here] != *expected {
                    return Err(Malformed("connection preface"));
                }
                self.state = if here == left { State::Boundary } else { State::Preface(left - here) };
                Ok(Step::Pass(here))
            }
        }
    }

    /// At a frame's first octet.
    fn boundary(&mut self, octets: &[u8]) -> Step {
        let Some(head) = Head::of(octets) else { return Step::Wait };
        match head.kind {
            // If a client sends CONTINUATION or PUSH_PROMISE here, h2 refuses it: its header compression is not needed any more.
            Head::CONTINUATION | Head::PUSH_PROMISE | Head::HEADERS => {
                self.fragments.clear();
                self.state = State::Block { stream: head.stream, next: 0 };
                Step::Pass(0)
            }
            _ => {
                self.state = State::Payload(head.length);
                Step::Pass(Head::LENGTH)
            }
        }
    }

    /// In a header block, `octets` starting with its first frame.
    fn block(&mut self, octets: &mut [u8], stream: u32, mut next: usize) -> Result<Step, Malformed> {
        loop {
            let Some(head) = octets.get(next..).and_then(Head::of) else {
                self.state = State::Block { stream, next };
                return Ok(Step::Wait);
            };
            let expected = if next == 0 { Head::HEADERS } else { Head::CONTINUATION };
            if head.kind != expected || head.stream != stream || stream == 0 {
                return Err(Malformed("order of frames"));
            }
            let payload = next + Head::LENGTH..next + Head::LENGTH + head.length;
            if payload.end > MAX_BLOCK {
                return Err(Malformed("header block too long to be held back"));
            }
            let Some(content) = octets.get(payload.clone()) else {
                self.state = State::Block { stream, next };
                return Ok(Step::Wait);
            };
            let fragment = head.fragment(content)?;
            self.fragments.push(payload.start + fragment.start..payload.start + fragment.end);
            next = payload.end;
            if head.flags & Head::END_HEADERS != 0 {
                self.repair(octets)?;
                self.state = State::Boundary;
                return Ok(Step::Pass(next));
            }
        }
    }

    /// Repairs the header block whose fragments are all in `octets`.
    fn repair(&mut self, octets: &mut [u8]) -> Result<(), Malformed> {
        if let [whole] = &self.fragments[..] {
            self.blocks.repair(&mut octets[whole.clone()])?;
            return Ok(());
        }
        let mut joined = Vec::with_capacity(self.fragments.iter().map(Range::len).sum());
        for fragment in &self.fragments {
            joined.extend_from_slice(&octets[fragment.clone()]);
        }
        if self.blocks.repair(&mut joined)? {
            let mut rest = &joined[..];
            for fragment in &self.fragments {
                let (here, later) = rest.split_at(fragment.len());
                octets[fragment.clone()].copy_from_slice(here);
                rest = later;
            }
        }
        Ok(())
    }
}

enum Step {
    /// This many octets may pass.
    Pass(usize),
    /// More octets are needed.
    Wait,
}

/// A frame's header (RFC 9113, section 4.1).
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    /// The size of the header itself, in octets.
    const LENGTH: usize = 9;

    // Types (RFC 9113, section 6).
    const HEADERS: u8 = 0x1;
    const PUSH_PROMISE: u8 = 0x5;
    const CONTINUATION: u8 = 0x9;

    // Flags of HEADERS and CONTINUATION.
    const END_HEADERS: u8 = 0x4;
    const PADDED: u8 = 0x8;
    const PRIORITY: u8 = 0x20;

    /// The header at the start of `octets`, once all of it is there.
    fn of(octets: &[u8]) -> Option<Self> {
        let head = octets.first_chunk::<{ Self::LENGTH }>()?;
        Some(Self {
            length: u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize,
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
        })
    }

    /// Where in `payload` the header block's fragment is, without padding and priority (RFC 9113, section 6.2).
    fn fragment(&self, payload: &[u8]) -> Result<Range<usize>, Malformed> {
        const PRIORITY_LENGTH: usize = 5;
        let mut fragment = 0..payload.len();
        if self.kind != Self::HEADERS {
            return Ok(fragment);
        }
        if self.flags & Self::PADDED != 0 {
            let padding = payload.first().ok_or(Malformed("padding"))?;
            fragment.start += 1;
            fragment.end = fragment.end.checked_sub(usize::from(*padding)).ok_or(Malformed("padding"))?;
        }
        if self.flags & Self::PRIORITY != 0 {
            // h2 resets a stream that depends on itself and does not decode its headers: from then on its table differs from the client's.
            let dependency = payload.get(fragment.start..).and_then(<[u8]>::first_chunk).ok_or(Malformed("priority"))?;
            if u32::from_be_bytes(*dependency) & 0x7fff_ffff == self.stream {
                return Err(Malformed("priority"));
            }
            fragment.start += PRIORITY_LENGTH;
        }
        if fragment.start > fragment.end { Err(Malformed("padding")) } else { Ok(fragment) }
    }
}
