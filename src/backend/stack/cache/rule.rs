//! The rules about answers that are given while a store is out, by name. A test switches each of them off, to see that the model notices.

/// One rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::backend) enum Rule {
    /// No answer is older than the configuration and the class allow.
    Bound,
    /// While the clock is behind the folder, nothing is given from the disk.
    Clock,
    /// A 403 removes the answer.
    Denied,
    /// While its login is refused, no answer is given.
    Login,
    /// After a restart, a refused login is still known.
    Marked,
    /// A 404 removes the answer.
    NotFound,
    /// Another address or login of the backend begins without answers.
    Origin,
    /// An answer is given while the store is out, and not for another failure.
    Outage,
    /// When a Pod goes, its own answers are removed.
    Pod,
    /// A reload removes what policy no longer allows.
    Policy,
    /// The age of an answer counts from before the store was asked.
    Since,
    /// If a request began before a refusal and its answer comes after it, the answer is not kept.
    UnderWay,
    /// What is removed is also removed from the disk.
    Unlinked,
    /// What was wiped is not given, also not from memory.
    Wiped,
    /// While the disk cannot be written, nothing is given from it.
    Written,
}

#[cfg(test)]
impl Rule {
    pub(in crate::backend) const ALL: [Self; 15] = [
        Self::Bound,
        Self::Clock,
        Self::Denied,
        Self::Login,
        Self::Marked,
        Self::NotFound,
        Self::Origin,
        Self::Outage,
        Self::Pod,
        Self::Policy,
        Self::Since,
        Self::UnderWay,
        Self::Unlinked,
        Self::Wiped,
        Self::Written,
    ];
}
