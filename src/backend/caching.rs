//! The mapping `cache`: of the whole configuration, and of one backend.

use tokio::time::Duration;

use crate::units::parse_duration;
use crate::yaml::{Faults, Reader};

/// The longest `stale`: nobody relies on an answer that is older.
const LONGEST_STALE: Duration = Duration::from_hours(30 * 24);

/// The longest `fresh`: for so long nobody sees that a secret has changed.
const LONGEST_FRESH: Duration = Duration::from_hours(24);

/// The times that apply to a backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CacheConfig {
    /// How long Keyferry gives an answer to equal requests. Default 2 minutes; zero: not at all.
    pub fresh: Duration,
    /// How long Keyferry gives it while the store is out. Default zero: not at all.
    pub stale: Duration,
}

/// What one mapping sets. For the rest, the outer mapping applies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheTimes {
    pub fresh: Option<Duration>,
    pub stale: Option<Duration>,
}

// === impl CacheTimes ===

impl CacheTimes {
    /// Reads `fresh` and `stale`; the caller ends the reading with [`Reader::finish`].
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Self {
        let fresh = reader.parsed("fresh", faults, |text| match parse_duration(text)? {
            long if long > LONGEST_FRESH => {
                Err(format!("{text:?} is more than 24h: for so long nobody would see a changed secret (write at most 24h)"))
            }
            duration => Ok(duration),
        });
        let stale = reader.parsed("stale", faults, |text| match parse_duration(text)? {
            long if long > LONGEST_STALE => Err(format!("{text:?} is more than 720h, which is 30 days (write less)")),
            duration => Ok(duration),
        });
        Self { fresh, stale }
    }

    /// The mapping `cache` of a backend.
    pub fn of_backend(reader: &mut Reader<'_>, faults: &mut Faults) -> Self {
        let Some(mut inner) = reader.reader("cache", faults) else { return Self::default() };
        let keys = Self::parse(&mut inner, faults);
        inner.finish(faults);
        keys
    }

    pub fn or(self, outer: CacheConfig) -> CacheConfig {
        CacheConfig { fresh: self.fresh.unwrap_or(outer.fresh), stale: self.stale.unwrap_or(outer.stale) }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { fresh: Duration::from_mins(2), stale: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn read(text: &str) -> Result<CacheTimes, String> {
        let node = yaml::parse(text).unwrap();
        let mut faults = Faults::default();
        let mut reader = Reader::of(&node, "backends.bao", &mut faults).unwrap();
        let keys = CacheTimes::of_backend(&mut reader, &mut faults);
        reader.finish(&mut faults);
        let shown: Vec<_> = faults.into_sorted().iter().map(|fault| format!("{}: {fault}", fault.at.line)).collect();
        if shown.is_empty() { Ok(keys) } else { Err(shown.join("\n")) }
    }

    #[test]
    fn a_backend_says_what_is_its_own() {
        let seconds = Duration::from_secs;
        assert_eq!(read("").unwrap().or(CacheConfig::default()), CacheConfig { fresh: seconds(120), stale: seconds(0) });
        let outer = CacheConfig { fresh: seconds(60), stale: seconds(7200) };
        assert_eq!(read("cache:").unwrap().or(outer), outer);
        assert_eq!(read("cache: { fresh: 10s }").unwrap().or(outer), CacheConfig { fresh: seconds(10), ..outer });
        assert_eq!(read("cache: { fresh: 0, stale: 24h }").unwrap().or(outer), CacheConfig { fresh: seconds(0), stale: seconds(86_400) });
    }

    #[test]
    fn each_fault_says_what_to_do() {
        insta::assert_snapshot!(read("cache:\n  stale: 721h\n").unwrap_err(), @r#"2: backends.bao.cache.stale: "721h" is more than 720h, which is 30 days (write less)"#);
        insta::assert_snapshot!(read("cache:\n  fresh: 2d\n  stale: soon\n  frehs: 1m\n").unwrap_err(), @r#"
        2: backends.bao.cache.fresh: "2d" is more than 24h: for so long nobody would see a changed secret (write at most 24h)
        3: backends.bao.cache.stale: "soon" is not a duration (write for example 500ms, 90s, 2m or 24h)
        4: backends.bao.cache.frehs: is not a known key (did you mean `fresh`?)
        "#);
    }
}
