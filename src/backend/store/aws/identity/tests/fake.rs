//! What STS answers, if moto cannot.

use super::*;

/// It gives the key `ASIAn` at its login n.
pub(super) fn sts() -> Server {
    Server::plain(|asked| key(&asked.parameter("Action").unwrap(), &format!("ASIA{}", asked.before)))
}

/// An error as STS sends it.
pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
    Answer::new(
        status,
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}\
             </Message></Error><RequestId>3f2a-77</RequestId></ErrorResponse>"
        ),
    )
}

/// A key as STS gives it, for an hour.
pub(super) fn key(action: &str, id: &str) -> Answer {
    key_until(action, id, &SystemClock.now().saturating_add(jiff::SignedDuration::from_hours(1)).unwrap().to_string())
}

pub(super) fn key_until(action: &str, id: &str, ends: &str) -> Answer {
    Answer::new(
        200,
        format!(
            "<{action}Response><{action}Result><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>secret-of-{id}\
             </SecretAccessKey><SessionToken>token-of-{id}</SessionToken><Expiration>{ends}</Expiration></Credentials></{action}Result>\
             </{action}Response>"
        ),
    )
}
