//! The one fault of `frames`, `hpack` and `huffman`.

/// Bytes that are not a header block, or not HTTP/2, and what is wrong: h2 will refuse them in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);
