//! Header blocks (HPACK, RFC 7541): the places of `:authority` in them, and the small part of the dynamic table that this needs.

use super::malformed::Malformed;
use super::{huffman, substitute};
use std::collections::VecDeque;
use std::ops::Range;

/// The header blocks of one connection, to be repaired in the order they arrive.
#[derive(Debug, Default)]
pub struct HeaderBlocks {
    table: Table,
}

impl HeaderBlocks {
    /// Repairs each refused `:authority` value in the whole header block `block`; returns true if that changed it.
    ///
    /// As in h2, a size update is accepted anywhere in a block, and an integer may have five octets.
    pub fn repair(&mut self, block: &mut [u8]) -> Result<bool, Malformed> {
        let mut block = Block { octets: block, at: 0, changed: false };
        while let Some(&first) = block.octets.get(block.at) {
            match first {
                0x80.. => {
                    let index = block.integer(7)?;
                    self.table.name(index)?;
                }
                0x40.. => {
                    let (name, value) = self.literal(&mut block, 6)?;
                    let size = name.length + block.decoded_length(&value)? + ENTRY_OVERHEAD;
                    self.table.insert(Entry { name, size });
                }
                0x20.. => self.table.resize(block.integer(5)?)?,
                _ => {
                    self.literal(&mut block, 4)?;
                }
            }
        }
        Ok(block.changed)
    }

    /// Reads a literal whose name's index has `prefix` bits, and repairs its value if it is an `:authority`.
    fn literal(&self, block: &mut Block<'_>, prefix: u32) -> Result<(Name, Coded), Malformed> {
        let name = match block.integer(prefix)? {
            0 => block.name()?,
            index => self.table.name(index)?,
        };
        let value = block.string()?;
        if name.is_authority {
            block.repair(&value)?;
        }
        Ok((name, value))
    }
}

/// A header block being read.
struct Block<'a> {
    octets: &'a mut [u8],
    at: usize,
    changed: bool,
}

/// A string literal: where its octets are, and how they are coded.
struct Coded {
    range: Range<usize>,
    huffman: bool,
}

impl Block<'_> {
    /// An integer that starts in the low `prefix` bits of the next octet (RFC 7541, section 5.1), below 2^29: five octets at most, as in h2.
    fn integer(&mut self, prefix: u32) -> Result<usize, Malformed> {
        const CONTINUES: u8 = 0x80;
        let most = (1_usize << prefix) - 1;
        let mut value = usize::from(self.octet()?) & most;
        if value < most {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let octet = self.octet()?;
            value += usize::from(octet & !CONTINUES) << shift;
            if octet & CONTINUES == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("HPACK integer"))
    }

    fn octet(&mut self) -> Result<u8, Malformed> {
        let octet = self.octets.get(self.at).copied().ok_or(Malformed("header block cut short"))?;
        self.at += 1;
        Ok(octet)
    }

    fn string(&mut self) -> Result<Coded, Malformed> {
        const HUFFMAN: u8 = 0x80;
        let huffman = self.octets.get(self.at).is_some_and(|first| first & HUFFMAN != 0);
        let length = self.integer(7)?;
        let range = self.at..self.at + length;
        if range.end > self.octets.len() {
            return Err(Malformed("header block cut short"));
        }
        self.at = range.end;
        Ok(Coded { range, huffman })
    }

    fn name(&mut self) -> Result<Name, Malformed> {
        const AUTHORITY: &[u8] = STATIC_NAMES[0].as_bytes();
        let coded = self.string()?;
        let octets = &self.octets[coded.range.clone()];
        let is_authority = if coded.huffman { octets == huffman::encode(AUTHORITY) } else { octets == AUTHORITY };
        Ok(Name { length: self.decoded_length(&coded)?, is_authority })
    }

    fn decoded_length(&self, coded: &Coded) -> Result<usize, Malformed> {
        if !coded.huffman {
            return Ok(coded.range.len());
        }
        let mut length = 0;
        huffman::decode(&self.octets[coded.range.clone()], |_| length += 1)?;
        Ok(length)
    }

    /// Replaces an authority's value that h2 refuses by an accepted one, if that is possible.
    fn repair(&mut self, value: &Coded) -> Result<(), Malformed> {
        let octets = &mut self.octets[value.range.clone()];
        if !value.huffman {
            if !substitute::is_accepted(octets) {
                substitute::plain(octets);
                self.changed = true;
            }
            return Ok(());
        }
        let mut text = Vec::with_capacity(octets.len() * 2);
        huffman::decode(octets, |octet| text.push(octet))?;
        if !substitute::is_accepted(&text)
            && let Some(coded) = substitute::coded(&mut text, octets)
        {
            octets.copy_from_slice(&coded);
            self.changed = true;
        }
        Ok(())
    }
}

/// What is needed of a header's name: whether it is an authority, and the size of an entry with it.
#[derive(Debug, Clone, Copy)]
struct Name {
    length: usize,
    is_authority: bool,
}

#[derive(Debug)]
struct Entry {
    name: Name,
    /// Name and value in octets, decoded, and `ENTRY_OVERHEAD`.
    size: usize,
}

/// What an entry costs in addition to its name and value (RFC 7541, section 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// The largest dynamic table that the client may choose, in octets: SETTINGS_HEADER_TABLE_SIZE, which h2 and hyper leave at its default
/// (RFC 9113, section 6.5.2).
const TABLE_LIMIT: usize = 4096;

/// The client's dynamic table (RFC 7541, section 4) without its values: its entries' names and sizes, newest first. At most 128 entries.
#[derive(Debug)]
struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, limit: TABLE_LIMIT }
    }
}

impl Table {
    fn name(&self, index: usize) -> Result<Name, Malformed> {
        let index = index.checked_sub(1).ok_or(Malformed("HPACK index 0"))?;
        match STATIC_NAMES.get(index) {
            Some(name) => Ok(Name { length: name.len(), is_authority: index == 0 }),
            None => self.entries.get(index - STATIC_NAMES.len()).map(|entry| entry.name).ok_or(Malformed("HPACK index beyond the table")),
        }
    }

    /// Adds an entry; one larger than the table leaves it empty (RFC 7541, section 4.4).
    fn insert(&mut self, entry: Entry) {
        self.evict(self.limit.saturating_sub(entry.size));
        if entry.size <= self.limit {
            self.size += entry.size;
            self.entries.push_front(entry);
        }
    }

    fn resize(&mut self, limit: usize) -> Result<(), Malformed> {
        if limit > TABLE_LIMIT {
            return Err(Malformed("HPACK table size above what was offered"));
        }
        self.limit = limit;
        self.evict(limit);
        Ok(())
    }

    /// Drops the oldest entries until the rest has at most `size` octets.
    fn evict(&mut self, size: usize) {
        while self.size > size
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}

/// The names of the static table (RFC 7541, Appendix A), from index 1.
const STATIC_NAMES: [&str; 61] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];
