//! The name of a session: readers see it in CloudTrail, and policies as `sts:RoleSessionName`. It says whose session it is. It is the same
//! at each login, so that a policy can name it.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

use crate::backend::Scope;
use crate::model::PodIdentity;

/// STS's own limit in characters.
const MAX: usize = 64;

/// The length of the hash that replaces the part that is cut off, in characters.
const HASH: usize = 8;

/// `namespace.serviceaccount`, since a namespace has no dot. If the session is only for one Pod, `@pod` follows. If it is for all Pods of
/// this node, the name is `keyferry@host`.
pub(super) fn of(who: &Scope, pod: &PodIdentity) -> String {
    let PodIdentity { namespace, service_account, name, .. } = pod;
    fit(&match who {
        Scope::Account(_) => format!("{namespace}.{service_account}"),
        Scope::Node => own(),
        Scope::Pod(_) => format!("{namespace}.{service_account}@{name}"),
    })
}

/// The name for the daemon itself.
pub(super) fn own() -> String {
    let system = rustix::system::uname();
    fit(&format!("keyferry@{}", system.nodename().to_string_lossy()))
}

/// Makes a name with the characters and the length that STS allows. If that changes the name, a hash keeps it different from all others.
fn fit(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    if text.len() <= MAX && text.len() >= 2 && text.chars().all(fits) {
        return text.to_owned();
    }
    let kept: String = text.chars().map(|c| if fits(c) { c } else { '-' }).take(MAX - HASH - 1).collect();
    let hash = HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref());
    format!("{kept}-{}", &hash[..HASH])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Account, PodClaims};

    fn name(namespace: &str, service_account: &str, pod: &str, who: &Scope) -> String {
        let claims = PodClaims { namespace: namespace.into(), name: pod.into(), uid: "u".into(), service_account: service_account.into() };
        let name = of(who, &PodIdentity::believed(&claims));
        assert!((2..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b)), "{name}");
        name
    }

    #[test]
    fn a_name_says_whose_session_it_is() {
        let account = Scope::Account(Account { namespace: "shop".into(), name: "web".into(), uid: None });
        let pod = Scope::Pod("u".into());
        assert_eq!(name("shop", "web", "web-0", &account), "shop.web");
        assert_eq!(name("shop", "web", "web-0", &pod), "shop.web@web-0");
        assert!(name("shop", "web", "web-0", &Scope::Node).starts_with("keyferry@"));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_still_another() {
        let account = Scope::Account(Account { namespace: "n".into(), name: "a".into(), uid: None });
        let long = "n".repeat(63);
        assert_eq!(name(&long, "web", "p", &account), "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn-f7c7fb92");
        assert_ne!(name(&long, "web", "p", &account), name(&long, "api", "p", &account));
        assert_eq!(name(&long[..55], "12345678", "p", &account).len(), 64);
        assert!(!name(&long[..55], "12345678", "p", &account).contains('-'), "as long as may be");
        assert_ne!(name("a", "b c", "p", &account), name("a", "b-c", "p", &account));
        assert_ne!(name("a", "ü", "p", &account), name("a", "ä", "p", &account));
        name("", "", "", &account);
        name(&"ü".repeat(100), "\n\0", "", &account);
    }
}
