//! A session: an access key that a login gave, for how long, and for whom.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::HeaderMap;
use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use crate::backend::remote::slot::{Pass, Standing};
use crate::backend::store::aws::credentials::Credentials;
use crate::backend::store::aws::error::date;

/// Keyferry asks for the next key this long before the present one ends, or a quarter of its life before, if that is shorter.
const EARLY: Duration = Duration::from_mins(5);

/// A key that ends so soon is not used for a new request: the request could take longer than that.
const LAST: Duration = Duration::from_secs(15);

/// How often Keyferry reads the file of a key that never ends: somebody may have written another one.
const LOOK: Duration = Duration::from_secs(10);

/// How long the successor of a refused key stays, even if it is refused as well: another login does not help then, and each object of a
/// mount would make one.
const SPARED: Duration = Duration::from_secs(10);

/// The longest life that Keyferry assumes.
const LONGEST: Duration = Duration::from_hours(36);

/// The result of a login. All who hold the same session are the same to AWS.
pub(in crate::backend::store::aws) struct Session {
    credentials: Arc<Credentials>,
    /// The daemon's own key, if the login used it.
    own: Option<Arc<Credentials>>,
    since: Instant,
    /// `None`: a key that is kept in files.
    ends: Option<Instant>,
    /// When it was last seen in its files.
    seen: Mutex<Instant>,
    /// AWS no longer accepts it.
    refused: AtomicBool,
    /// It replaced one that was refused.
    second: bool,
}

/// A key as it was issued, and how long it lives.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) credentials: Credentials,
    pub(super) left: Duration,
}

/// How long a key lives that ends at this time. If the answer has a `Date`, that counts: so a wrong clock of ours does not matter.
pub(super) fn left(ends: Timestamp, headers: &HeaderMap, now: Timestamp) -> Duration {
    Duration::try_from(ends.duration_since(date(headers).unwrap_or(now))).unwrap_or_default().min(LONGEST)
}

// === impl Session ===

impl Session {
    /// `own`: the key of the daemon's login.
    pub(super) fn issued(issued: Issued, own: Option<Arc<Credentials>>) -> Self {
        let Issued { credentials, left } = issued;
        Self { own, ..Self::of(Arc::new(credentials), Some(left)) }
    }

    /// The daemon's own key, for a while.
    pub(super) fn own_issued(issued: Issued) -> Self {
        let Issued { credentials, left } = issued;
        Self::owned(Arc::new(credentials), Some(left))
    }

    /// The daemon's own key from its files, until somebody writes another one into them. `before`: the session until now. A different key
    /// gets a chance. The same key that was refused gets none.
    pub(super) fn kept(credentials: Credentials, before: Option<&Self>) -> Self {
        let before = before.filter(|before| before.holds(&credentials));
        Self::owned(Arc::new(credentials), None).in_place_of(before)
    }

    /// A session with the same key, as the first one of a chain.
    pub(super) fn again(first: &Self) -> Self {
        Self { own: first.own.clone(), ..Self::of(Arc::clone(&first.credentials), None) }
    }

    fn owned(credentials: Arc<Credentials>, left: Option<Duration>) -> Self {
        Self { own: Some(Arc::clone(&credentials)), ..Self::of(credentials, left) }
    }

    fn of(credentials: Arc<Credentials>, left: Option<Duration>) -> Self {
        let since = Instant::now();
        let ends = left.map(|left| since + left);
        Self { credentials, own: None, since, ends, seen: Mutex::new(since), refused: AtomicBool::new(false), second: false }
    }

    pub(in crate::backend::store::aws) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials)
    }

    /// The keys that no Pod may get as a secret: its own, and the daemon's key that it was made with.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Arc<Credentials>> {
        let own = self.own.as_ref().filter(|own| !Arc::ptr_eq(own, &self.credentials));
        std::iter::once(&self.credentials).chain(own)
    }

    pub(super) fn own(&self) -> Option<&Arc<Credentials>> {
        self.own.as_ref()
    }

    /// Whether it is this very key.
    pub(super) fn holds(&self, read: &Credentials) -> bool {
        let known = &self.credentials;
        known.id() == read.id() && known.secret() == read.secret() && known.token() == read.token()
    }

    /// The files still have the key.
    pub(super) fn seen(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// `before`: the session until now.
    pub(super) fn in_place_of(self, before: Option<&Self>) -> Self {
        Self { second: before.is_some_and(Self::is_refused), ..self }
    }

    pub(super) fn refuse(&self) {
        if !self.second || self.since.elapsed() >= SPARED {
            self.refused.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Pass for Session {
    const REMEMBERED: Duration = Duration::from_secs(2);

    fn standing(&self) -> Standing {
        if self.is_refused() {
            return Standing::Spent;
        }
        let now = Instant::now();
        let Some(ends) = self.ends else {
            let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            return if now < seen + LOOK { Standing::Fresh } else { Standing::Due };
        };
        let (life, left) = (ends.duration_since(self.since), ends.saturating_duration_since(now));
        match () {
            () if left <= LAST.min(life / 10) => Standing::Spent,
            () if left <= EARLY.min(life / 4) => Standing::Due,
            () => Standing::Fresh,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("credentials", &self.credentials).field("refused", &self.is_refused()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::DATE;
    use zeroize::Zeroizing;

    fn credentials(secret: &str) -> Credentials {
        Credentials::new("AKIAEXAMPLE".into(), Zeroizing::new(secret.into()), Some(Zeroizing::new(format!("token-of-{secret}"))), None)
            .unwrap()
    }

    fn session(left: Duration) -> Session {
        Session::issued(Issued { credentials: credentials("a-secret-access-key"), left }, Some(Arc::new(credentials("the-own-access-key"))))
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_is_renewed_five_minutes_before_its_end_and_what_is_shorter_later() {
        for (left, due) in [(3600, 3300), (43_200, 42_900), (900, 675), (120, 90), (16, 12)] {
            let session = session(Duration::from_secs(left));
            let mut turns = Vec::new();
            for second in 0..=left {
                let standing = session.standing();
                if turns.last().is_none_or(|(_, last)| *last != standing) {
                    turns.push((second, standing));
                }
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            let spent = left - 15.min(left / 10).max(1);
            let [(0, Standing::Fresh), (then, Standing::Due), (end, Standing::Spent)] = turns[..] else { panic!("{turns:?}") };
            assert_eq!(then, due);
            assert!(end.abs_diff(spent) <= 1, "{end} {spent}");
        }
        assert_eq!(session(Duration::ZERO).standing(), Standing::Spent);
    }

    #[test]
    fn a_life_is_counted_by_the_clock_of_who_gave_it() {
        let (ends, now): (Timestamp, Timestamp) = ("2026-11-28T15:00:00Z".parse().unwrap(), "2026-11-28T17:30:00Z".parse().unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(DATE, "Sat, 28 Nov 2026 14:00:00 GMT".parse().unwrap());
        assert_eq!(left(ends, &headers, now), Duration::from_hours(1));
        headers.insert(DATE, "soon".parse().unwrap());
        assert_eq!(left(ends, &headers, now), Duration::ZERO);
        assert_eq!(left(ends, &HeaderMap::new(), "2026-11-28T14:59:00Z".parse().unwrap()), Duration::from_mins(1));
        assert_eq!(left("9999-01-01T00:00:00Z".parse().unwrap(), &HeaderMap::new(), now), LONGEST);
    }

    #[tokio::test]
    async fn debug_shows_neither_key() {
        let session = session(Duration::from_hours(1));
        assert_eq!(session.keys().count(), 2);
        assert!(!format!("{session:?}").contains("secret-access") && !format!("{session:?}").contains("own-access"));
    }
}
