//! The one fault of `frames`, `hpack` and `huffman`.

/// Bytes that are no header block, or no HTTP/2, and what of them: h2 will refuse them in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);
