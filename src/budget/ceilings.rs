//! The kept part: tables that live longer than a mount, and how many bytes each may hold.

/// The largest weight of each table in bytes, with its keys. Where several backends have such a table, they share one table, or its ceiling
/// is divided among them.
///
/// Together they are at most the kept part. The two largest hold secrets: with 256 MiB of memory they have 15 MiB each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ceilings {
    /// Answers of stores over a network (`backend/cache/table.rs`).
    pub answers: usize,
    /// Lines of the audit log that are not written yet (`audit/mod.rs`).
    pub audit: usize,
    /// HTTP clients for the addresses and the TLS settings of classes (`backend/store/vault/wire.rs`).
    pub clients: usize,
    /// Requests for which stores failed, and the servers that classes name (`backend/stack/circuits/`).
    pub held: usize,
    /// Leases, with their credentials (`backend/lease/state.rs`).
    pub leases: usize,
    /// Opened secrets of file vaults (`backend/file/reader.rs`).
    pub opened: usize,
    /// Requests that came without a lease (`backend/lease/table.rs`).
    pub plain: usize,
    /// Parsed classes (`pipeline.rs`).
    pub plans: usize,
    /// Pods and volumes that Keyferry watches or has written (`backend/lease/pods.rs`, `delivery/`).
    pub pods: usize,
    /// The last event of each volume (`audit/repeats.rs`), the volumes that Pods have (`pipeline/live.rs`), and the data to write a volume
    /// again when a secret changes (`pipeline/watch.rs`).
    pub repeats: usize,
    /// The highest revisions seen in file vaults (`backend/file/reader.rs`).
    pub revisions: usize,
    /// Tokens of stores, one for each login (`backend/vault/sessions.rs`).
    pub sessions: usize,
    /// Tokens of Pods that were verified or reviewed (`identity/keys.rs`, `identity/review.rs`).
    pub tokens: usize,
}

impl Ceilings {
    /// Gives each table a fixed part of `kept` bytes.
    pub fn of(kept: usize) -> Self {
        let part = |of_64: usize| kept / 64 * of_64;
        Self {
            answers: part(15),
            audit: part(5),
            clients: part(2),
            held: part(1),
            leases: part(10),
            opened: part(15),
            plain: part(1),
            plans: part(4),
            pods: part(1),
            repeats: part(4),
            revisions: part(1),
            sessions: part(2),
            tokens: part(3),
        }
    }

    /// Each table's name and ceiling, for the metrics.
    pub fn each(&self) -> [(&'static str, usize); 13] {
        let Self { answers, audit, clients, held, leases, opened, plain, plans, pods, repeats, revisions, sessions, tokens } = *self;
        [
            ("answers", answers),
            ("audit", audit),
            ("clients", clients),
            ("held", held),
            ("leases", leases),
            ("opened", opened),
            ("plain", plain),
            ("plans", plans),
            ("pods", pods),
            ("repeats", repeats),
            ("revisions", revisions),
            ("sessions", sessions),
            ("tokens", tokens),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn together_they_are_what_is_kept_and_each_has_something() {
        for kept in [1 << 20, 16 << 20, 64 << 20, (64 << 20) + 63] {
            let each = Ceilings::of(kept).each();
            let all: usize = each.iter().map(|(_, bytes)| bytes).sum();
            assert!(all <= kept && all > kept - 64, "{all} of {kept}");
            assert!(each.iter().all(|(_, bytes)| *bytes >= kept / 64));
        }
        assert_eq!(Ceilings::of(64 << 20).opened, 15 << 20);
    }
}
