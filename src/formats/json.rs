//! Reads JSON that a store wrote, from beginning to end, and writes it in another spelling. A number keeps its digits; serde_json would
//! round it.

use std::collections::HashSet;

use super::{MAX_DEPTH, Out, Unfit, Value, text};

/// How a format writes nested values.
pub struct Spelling {
    pub format: &'static str,
    /// Between a name and its value.
    pub colon: &'static str,
    pub comma: &'static str,
    /// `None`: the format has no such value.
    pub null: Option<&'static str>,
    pub number: fn(&str, &mut Out) -> Result<(), Unfit>,
    /// The most characters of a written name.
    pub longest_name: usize,
    /// Whether an object may have a member twice.
    pub twice: bool,
}

/// JSON itself.
pub const PLAIN: Spelling = Spelling {
    format: "json",
    colon: ":",
    comma: ",",
    null: Some("null"),
    number: |digits, out| {
        out.push(digits);
        Ok(())
    },
    longest_name: usize::MAX,
    twice: true,
};

/// Writes a value that is not binary.
pub fn write(value: Value<'_>, spelling: &Spelling, out: &mut Out) -> Result<(), Unfit> {
    match value {
        Value::Binary(_) => Err(Unfit::Binary { format: spelling.format }),
        Value::Json(json) => {
            let mut reader = Reader { json, at: 0, spelling };
            reader.value(0, out)?;
            reader.space();
            if reader.at == json.len() { Ok(()) } else { Err(Unfit::NotJson) }
        }
        Value::Text(value) => {
            text::quote(value, out);
            Ok(())
        }
    }
}

/// Whether a value can be read to its end.
///
/// # Errors
/// It has half a character, is nested too deep, or is not JSON.
pub fn check(json: &str) -> Result<(), Unfit> {
    write(Value::Json(json), &PLAIN, &mut Out::counting())
}

struct Reader<'j, 's> {
    json: &'j str,
    at: usize,
    spelling: &'s Spelling,
}

// === impl Reader ===

impl Reader<'_, '_> {
    fn value(&mut self, depth: usize, out: &mut Out) -> Result<(), Unfit> {
        if depth > MAX_DEPTH {
            return Err(Unfit::Deep);
        }
        self.space();
        match self.byte() {
            Some(b'{') => self.object(depth, out),
            Some(b'[') => self.list(depth, out),
            Some(b'"') => {
                text::quote(&self.string()?, out);
                Ok(())
            }
            Some(_) => self.word(out),
            None => Err(Unfit::NotJson),
        }
    }

    fn object(&mut self, depth: usize, out: &mut Out) -> Result<(), Unfit> {
        let Spelling { format, colon, comma, longest_name, twice, .. } = *self.spelling;
        self.at += 1;
        out.push("{");
        let mut names = HashSet::new();
        let mut is_first = true;
        while !self.ends_with(b'}')? {
            if !is_first {
                self.expect(b',')?;
                out.push(comma);
            }
            is_first = false;
            self.space();
            let (name, before) = (self.string()?, out.len());
            text::quote(&name, out);
            if out.len() - before > longest_name {
                return Err(Unfit::LongName);
            }
            if !twice && !names.insert(name) {
                return Err(Unfit::Twice { format });
            }
            self.expect(b':')?;
            out.push(colon);
            self.value(depth + 1, out)?;
        }
        out.push("}");
        Ok(())
    }

    fn list(&mut self, depth: usize, out: &mut Out) -> Result<(), Unfit> {
        self.at += 1;
        out.push("[");
        let mut is_first = true;
        while !self.ends_with(b']')? {
            if !is_first {
                self.expect(b',')?;
                out.push(self.spelling.comma);
            }
            is_first = false;
            self.value(depth + 1, out)?;
        }
        out.push("]");
        Ok(())
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self, out: &mut Out) -> Result<(), Unfit> {
        let rest = &self.json[self.at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).unwrap_or(rest.len());
        let word = &rest[..end];
        self.at += end;
        match word {
            "true" | "false" => out.push(word),
            "null" => out.push(self.spelling.null.ok_or(Unfit::Null { format: self.spelling.format })?),
            number if number.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => (self.spelling.number)(number, out)?,
            _ => return Err(Unfit::NotJson),
        }
        Ok(())
    }

    /// A text or a name, without its escapes.
    fn string(&mut self) -> Result<String, Unfit> {
        let rest = &self.json[self.at..];
        if !rest.starts_with('"') {
            return Err(Unfit::NotJson);
        }
        let mut escaped = false;
        let end = rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let text = &rest[..end.ok_or(Unfit::NotJson)? + 2];
        self.at += text.len();
        serde_json::from_str(text).map_err(|_| Unfit::Half)
    }

    /// Whether an object or a list ends here. If it does, the sign is read.
    fn ends_with(&mut self, sign: u8) -> Result<bool, Unfit> {
        self.space();
        let byte = self.byte().ok_or(Unfit::NotJson)?;
        self.at += usize::from(byte == sign);
        Ok(byte == sign)
    }

    fn expect(&mut self, sign: u8) -> Result<(), Unfit> {
        self.space();
        let is_there = self.byte() == Some(sign);
        self.at += usize::from(is_there);
        if is_there { Ok(()) } else { Err(Unfit::NotJson) }
    }

    fn byte(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while self.byte().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }
}
