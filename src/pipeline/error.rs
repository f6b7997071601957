//! Why a mount failed: one variant per step. Its `Display` is the message that a user reads in `kubectl describe pod`.

use std::fmt;
use std::sync::Arc;

use tokio::time::Duration;

use crate::audit::AuditUnavailable;
use crate::backend::BackendError;
use crate::delivery::{DeliveryError, Oversize};
use crate::identity::IdentityError;
use crate::model::{ClassFaults, Code, FaultList, Label, MAX_FAULTS, RequestFault, visible};
use crate::policy::Denial;
use crate::render::RenderFault;

/// The longest message in bytes: messages over about 8 KiB can be lost on the way, and the driver adds its own words.
const MAX_MESSAGE: usize = 4096;

#[derive(Debug)]
pub enum MountError {
    Audit(AuditUnavailable),
    Class(ClassFaults),
    Delivery(DeliveryError),
    Fetch(Vec<FetchFailure>),
    Identity(IdentityError),
    /// A bug.
    Internal,
    /// The daemon has no memory for the call itself.
    NoRoom,
    Overloaded {
        waited: Duration,
    },
    Oversize(Oversize),
    Policy(Vec<(Label, Denial)>),
    Render(FaultList<RenderFault>),
    Request(FaultList<RequestFault>),
    TimedOut {
        after: Duration,
    },
    /// It would need more bytes than any mount may hold.
    TooMuch {
        most: usize,
    },
}

/// An object whose secret Keyferry could not get.
#[derive(Debug)]
pub struct FetchFailure {
    pub label: Label,
    /// Many objects may ask for one secret.
    pub error: Arc<BackendError>,
}

impl MountError {
    /// The mount has paid for all errors, and pays no more once it has ended. So only those that a message can show are kept until it is sent;
    /// the other failures keep their objects.
    pub fn of_fetch(mut failures: Vec<FetchFailure>) -> Self {
        if let Some((shown, others)) = failures.split_at_mut_checked(MAX_FAULTS) {
            for other in others {
                other.error = Arc::clone(&shown[0].error);
            }
        }
        Self::Fetch(failures)
    }

    /// The code of the first fault.
    pub fn code(&self) -> Code {
        match self {
            Self::Audit(_) => Code::AuditUnavailable,
            Self::Class(ClassFaults(faults)) => faults.first().map_or(Code::InvalidRequest, |fault| fault.code),
            Self::Delivery(error) => error.code(),
            Self::Fetch(failures) => failures.first().map_or(Code::Internal, |failure| failure.error.fault.code()),
            Self::Identity(_) => Code::IdentityUnverified,
            Self::Internal => Code::Internal,
            Self::NoRoom | Self::Overloaded { .. } => Code::Overloaded,
            Self::Oversize(_) | Self::TooMuch { .. } => Code::TooLarge,
            Self::Policy(_) => Code::PolicyDenied,
            Self::Render(faults) => faults.first().map_or(Code::Internal, |fault| fault.code),
            Self::Request(faults) => faults.first().map_or(Code::InvalidRequest, |fault| fault.code),
            Self::TimedOut { .. } => Code::BackendTimeout,
        }
    }

    /// The message for the node's admin: it may name the node's paths, which the class's author must not see.
    pub fn in_full(&self) -> String {
        match self {
            Self::Fetch(failures) => {
                let shown = failures.iter().take(MAX_FAULTS);
                let parts: Vec<_> = shown.map(|failure| format!("{}: {}", failure.label, failure.error.in_full())).collect();
                bounded(self.code(), &parts, failures.len() - parts.len())
            }
            Self::Audit(_)
            | Self::Class(_)
            | Self::Delivery(_)
            | Self::Identity(_)
            | Self::Internal
            | Self::NoRoom
            | Self::Overloaded { .. }
            | Self::Oversize(_)
            | Self::Policy(_)
            | Self::Render(_)
            | Self::Request(_)
            | Self::TimedOut { .. }
            | Self::TooMuch { .. } => self.to_string(),
        }
    }

    /// How many faults there are without a text.
    fn unkept(&self) -> usize {
        match self {
            Self::Class(ClassFaults(faults)) => faults.more(),
            Self::Render(faults) => faults.more(),
            Self::Request(faults) => faults.more(),
            Self::Audit(_)
            | Self::Delivery(_)
            | Self::Fetch(_)
            | Self::Identity(_)
            | Self::Internal
            | Self::NoRoom
            | Self::Overloaded { .. }
            | Self::Oversize(_)
            | Self::Policy(_)
            | Self::TimedOut { .. }
            | Self::TooMuch { .. } => 0,
        }
    }

    /// The messages of its faults, and how many more there are. Only as many are made as can be shown: a class may have hundreds of faults.
    fn parts(&self) -> (Vec<String>, usize) {
        fn first<T>(faults: &[T], told: impl Fn(&T) -> String) -> (Vec<String>, usize) {
            (faults.iter().take(MAX_FAULTS + 1).map(told).collect(), faults.len().saturating_sub(MAX_FAULTS + 1))
        }
        fn each<T: fmt::Display>(faults: &[T]) -> (Vec<String>, usize) {
            first(faults, ToString::to_string)
        }
        let one = match self {
            Self::Audit(error) => error.to_string(),
            Self::Class(ClassFaults(faults)) => return each(faults),
            Self::Delivery(error) => error.to_string(),
            Self::Fetch(failures) => return each(failures),
            Self::Identity(error) => error.to_string(),
            Self::Internal => {
                "a bug in the provider; this mount alone is affected (its log names the place in the code; please report it)".to_owned()
            }
            Self::NoRoom => "there is no room for this call now: other waiting calls have taken all of it (many Pods start at once; \
                             kubelet tries again by itself)"
                .to_owned(),
            Self::Overloaded { waited } => {
                let waited = waited.as_secs();
                format!(
                    "no place was free for this mount in {waited} s (many Pods start at once, or a store is slow; kubelet tries again by itself)"
                )
            }
            Self::Oversize(error) => error.to_string(),
            Self::Policy(denials) => return first(denials, |(label, denial)| format!("{label}: {denial}")),
            Self::Render(faults) => return each(faults),
            Self::Request(faults) => return each(faults),
            Self::TimedOut { after } => {
                let after = after.as_secs_f64();
                format!("the mount was not done after {after:.1} s (a store is slow or out of reach; kubelet tries again by itself)")
            }
            Self::TooMuch { most } => {
                format!(
                    "its secrets and files take more than the {most} bytes that one mount may hold on this node (ask for less, split the class over \
                     several volumes, or ask for a higher limits.mountBytes)"
                )
            }
        };
        (vec![one], 0)
    }
}

/// `<Code>: <first>; <second> ...`, cut at 4 KiB, with the number of faults that were left out.
impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parts, more) = self.parts();
        f.write_str(&bounded(self.code(), &parts, self.unkept() + more))
    }
}

impl std::error::Error for MountError {}

/// `more` faults have no text.
fn bounded(code: Code, parts: &[String], more: usize) -> String {
    /// The length of `; ... and 100000 more`.
    const ROOM: usize = 32;
    let mut message = format!("{code}: ");
    for (at, part) in parts.iter().enumerate() {
        // Names of secrets and fields may have invisible characters, which would change how the rest of the line looks.
        let part = &visible(part);
        let separator = if at == 0 { "" } else { "; " };
        let space = (MAX_MESSAGE - ROOM).saturating_sub(message.len());
        if at < MAX_FAULTS && separator.len() + part.len() <= space {
            message += separator;
            message += part;
        } else if at == 0 {
            message += &part[..part.floor_char_boundary(space)];
            message += "...";
        } else {
            return message + &format!("; ... and {} more", parts.len() - at + more);
        }
    }
    if more > 0 { message + &format!("; ... and {more} more") } else { message }
}

impl fmt::Display for FetchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.label, self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Fault;

    fn faults(count: usize, length: usize) -> MountError {
        let fault = |n| RequestFault { key: format!("key{n}"), problem: "ü".repeat(length / 2), code: Code::InvalidRequest };
        MountError::Request((0..count).map(fault).collect())
    }

    #[test]
    fn a_long_message_is_cut_and_says_how_much_is_missing() {
        let message = faults(200, 80).to_string();
        assert!(message.len() <= MAX_MESSAGE, "{}", message.len());
        assert!(message.starts_with("InvalidRequest: key0: ü"), "{message}");
        let kept = message.matches("key").count();
        assert!(message.ends_with(&format!("; ... and {} more", 200 - kept)), "{message}");
    }

    #[test]
    fn one_endless_fault_is_cut_at_a_character() {
        let message = faults(1, 100_000).to_string();
        assert!(message.len() <= MAX_MESSAGE && message.ends_with("ü..."));
        assert!(faults(3, 100_000).to_string().len() <= MAX_MESSAGE);
    }

    #[test]
    fn faults_that_were_not_kept_are_counted() {
        let message = faults(70_000, 80).to_string();
        let told = message.matches("key").count();
        assert!(told < 64 && message.len() <= MAX_MESSAGE && message.ends_with(&format!("; ... and {} more", 70_000 - told)), "{message}");
        let message = faults(70, 2).to_string();
        assert!(message.ends_with("; key63: ü; ... and 6 more"), "{message}");
    }

    #[test]
    fn errors_that_no_message_shows_are_gone() {
        let mut errors = Vec::new();
        let failures = (0..512).map(|index| {
            let (backend, reason) = ("bao".parse().unwrap(), format!("reason {index} {}", "x".repeat(20)));
            let error = BackendError { fault: Fault::Denied, backend, secret: None, reason, retry_after: None, source: None };
            let error = Arc::new(error);
            errors.push(Arc::downgrade(&error));
            FetchFailure { label: Label { index, path: format!("f{index}") }, error }
        });
        let error = MountError::of_fetch(failures.collect());
        assert_eq!(errors.iter().filter(|error| error.strong_count() > 0).count(), MAX_FAULTS);
        for message in [error.to_string(), error.in_full()] {
            let told = message.matches("reason ").count();
            assert!(told > 20 && message.ends_with(&format!("; ... and {} more", 512 - told)), "{message}");
            assert!(message.contains("(f9): ") && message.contains("reason 9 "), "{message}");
        }
        let MountError::Fetch(failures) = error else { panic!("{error}") };
        assert!(failures.iter().map(|failure| failure.label.index).eq(0..512), "the audit has each object");
    }

    #[test]
    fn nothing_in_it_is_invisible_or_turns_the_line_round() {
        let fault = RequestFault { key: "key\u{202e}".into(), problem: "a\u{2028}b\u{200b}c".into(), code: Code::InvalidRequest };
        assert_eq!(MountError::Request(FaultList::from_iter([fault])).to_string(), r"InvalidRequest: key\u{202e}: a\u{2028}b\u{200b}c");
    }

    #[test]
    fn short_messages_are_whole() {
        insta::assert_snapshot!(faults(2, 4), @"InvalidRequest: key0: üü; key1: üü");
        insta::assert_snapshot!(MountError::Internal, @"Internal: a bug in the provider; this mount alone is affected (its log names the place in the code; please report it)");
        insta::assert_snapshot!(MountError::Overloaded { waited: Duration::from_secs(80) }, @"Overloaded: no place was free for this mount in 80 s (many Pods start at once, or a store is slow; kubelet tries again by itself)");
        insta::assert_snapshot!(MountError::TimedOut { after: Duration::from_millis(1500) }, @"BackendTimeout: the mount was not done after 1.5 s (a store is slow or out of reach; kubelet tries again by itself)");
    }
}
