//! Sizes and durations in the configuration: `3.5MiB`, `90s`.

use tokio::time::Duration;

/// Bytes: a number with `B`, `KiB` or `MiB`; a bare number is bytes. Fractions are cut to whole bytes.
///
/// # Errors
/// The text is written in another way, or means more than 1 GiB.
pub fn parse_size(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, f64); 4] = [("MiB", 1_048_576.0), ("KiB", 1024.0), ("B", 1.0), ("", 1.0)];
    let bytes = UNITS.iter().find_map(|(unit, factor)| Some(number(text.strip_suffix(unit)?)? * factor));
    match bytes {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounded on both sides by the guard
        Some(bytes) if (0.0..=1_073_741_824.0).contains(&bytes) => Ok(bytes as usize),
        _ => Err(format!("{text:?} is not a size (write for example 512KiB, 1MiB or 3.5MiB; at most 1024MiB)")),
    }
}

/// A time: a number with `ms`, `s`, `m`, `h` or `d`; `0` means no time.
///
/// # Errors
/// The text is written in another way, or means more than 10 years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 5] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let seconds = UNITS.iter().find_map(|(unit, factor)| Some(number(text.strip_suffix(unit)?)? * factor));
    match seconds {
        Some(seconds) if (0.0..=315_360_000.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => Err(format!("{text:?} is over 10 years (write at most 3650d)")),
        _ => Err(format!("{text:?} is not a duration (write for example 500ms, 90s, 2m or 24h)")),
    }
}

fn number(text: &str) -> Option<f64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("17", 17), ("17B", 17), ("1KiB", 1024), ("3.5MiB", 3_670_016), ("1024MiB", 1 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1 MiB", "1MB", "-1", "1e3", "nan", "inf", "2000MiB", "1.2.3B"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [("0", 0), ("250ms", 250), ("90s", 90_000), ("1.5m", 90_000), ("24h", 86_400_000), ("1d", 86_400_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "90", "s", "1w", "-1s", "10000d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("3650d"), Ok(Duration::from_hours(87_600)));
        for text in ["3651d", "10000d", "99999999999999999999h"] {
            assert_eq!(parse_duration(text).unwrap_err(), format!("{text:?} is over 10 years (write at most 3650d)"));
        }
    }
}
