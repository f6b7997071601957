//! The rules about answers that serve while a store is out, by name: a test switches each of them off, to see that the model notices.

/// One rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::backend) enum Rule {
    /// None is older than the configuration and the class allow.
    Bound,
    /// While the clock is behind the folder, nothing is given from the disk.
    Clock,
    /// A 403 removes it.
    Denied,
    /// While its login is refused, none is given.
    Login,
    /// That a login is refused outlives the process.
    Marked,
    /// A 404 removes it.
    NotFound,
    /// Another address or login of the backend begins with nothing.
    Origin,
    /// It is given while the store is out, and not for another failure.
    Outage,
    /// The Pod takes what is its own along.
    Pod,
    /// A reload removes what policy does not allow any more.
    Policy,
    /// Its age counts from before the store was asked.
    Since,
    /// What was asked for before a refusal and comes after it is not kept.
    UnderWay,
    /// What is removed is removed from the disk, too.
    Unlinked,
    /// What was wiped is not given, from memory neither.
    Wiped,
    /// While the disk cannot be written, nothing is given from there.
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
