//! The rules about answers that serve while a store is out, by name: a test switches each of them off, to see that the model notices.

/// One rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::backend) enum Rule {
    /// None is older than the configuration and the class allow.
    Bound,
    /// A 403 removes it.
    Denied,
    /// While its login is refused, none is given.
    Login,
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
}

#[cfg(test)]
impl Rule {
    pub(in crate::backend) const ALL: [Self; 10] = [
        Self::Bound,
        Self::Denied,
        Self::Login,
        Self::NotFound,
        Self::Origin,
        Self::Outage,
        Self::Pod,
        Self::Policy,
        Self::Since,
        Self::UnderWay,
    ];
}
