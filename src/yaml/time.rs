//! Dates and times in YAML, as yaml.v3 reads them and Go's `encoding/json` writes them.

use jiff::civil::Date;

/// The most minutes of an offset: under a day. JSON has no time with a larger one.
const DAY: u32 = 24 * 60;

/// Whether a text is a time: `2006-1-2`, that with `T` (or `t`) and a time with an offset, or that with spaces and a time without
/// (`time.Parse` in Go).
pub(super) fn is_time(text: &str) -> bool {
    parse(text).is_some()
}

/// A time in RFC 3339 form; a date alone means midnight in UTC. `None`: it is not a time, or JSON cannot have its offset.
pub(super) fn rfc3339(text: &str) -> Option<String> {
    parse(text).filter(|(_, offset)| *offset < DAY).map(|(time, _)| time)
}

/// The time, and the minutes of its offset.
fn parse(text: &str) -> Option<(String, u32)> {
    let mut rest = text;
    let year = digits(&mut rest, 4, 4)?;
    let month = mark(&mut rest, '-').and_then(|()| digits(&mut rest, 1, 2))?;
    let day = mark(&mut rest, '-').and_then(|()| digits(&mut rest, 1, 2))?;
    let part = |number: u32| i8::try_from(number).ok();
    Date::new(i16::try_from(year).ok()?, part(month)?, part(day)?).ok()?;
    let date = format!("{year:04}-{month:02}-{day:02}");
    let Some(first) = rest.chars().next() else { return Some((format!("{date}T00:00:00Z"), 0)) };
    rest = match first {
        'T' | 't' => &rest[1..],
        ' ' => rest.trim_start_matches(' '),
        _ => return None,
    };
    let time = clock(&mut rest)?;
    let (offset, minutes) = if first == ' ' { ("Z".to_owned(), 0) } else { offset(&mut rest)? };
    rest.is_empty().then(|| (format!("{date}T{time}{offset}"), minutes))
}

/// `15:4:5`, with a fraction. Its first nine digits count.
fn clock(rest: &mut &str) -> Option<String> {
    let hour = digits(rest, 1, 2).filter(|hour| *hour < 24)?;
    let minute = mark(rest, ':').and_then(|()| digits(rest, 1, 2)).filter(|minute| *minute < 60)?;
    let second = mark(rest, ':').and_then(|()| digits(rest, 1, 2)).filter(|second| *second < 60)?;
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix(['.', ',']) {
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        if end > 0 {
            fraction = after[..end.min(9)].trim_end_matches('0');
            *rest = &after[end..];
        }
    }
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{hour:02}:{minute:02}:{second:02}{point}{fraction}"))
}

/// `Z`, or `+01:00`, and its minutes.
fn offset(rest: &mut &str) -> Option<(String, u32)> {
    if mark(rest, 'Z').is_some() {
        return Some(("Z".to_owned(), 0));
    }
    let sign = rest.chars().next().filter(|sign| matches!(sign, '+' | '-'))?;
    *rest = &rest[1..];
    let hours = digits(rest, 2, 2).filter(|hours| *hours <= 24)?;
    let minutes = mark(rest, ':').and_then(|()| digits(rest, 2, 2)).filter(|minutes| *minutes <= 60)?;
    let minutes = hours * 60 + minutes;
    let shown = if minutes == 0 { "Z".to_owned() } else { format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60) };
    Some((shown, minutes))
}

fn digits(rest: &mut &str, least: usize, most: usize) -> Option<u32> {
    let count = rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
    if count < least {
        return None;
    }
    let (digits, after) = rest.split_at(count);
    *rest = after;
    digits.parse().ok()
}

fn mark(rest: &mut &str, mark: char) -> Option<()> {
    *rest = rest.strip_prefix(mark)?;
    Some(())
}
