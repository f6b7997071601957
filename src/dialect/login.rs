//! What a class says about the login to a store. These texts become part of a URL or a request, so they are first compared with the rules
//! of names.

use crate::model::{SecretName, quoted};

/// The longest text in bytes.
const MAX_TEXT: usize = 1024;

/// A role, an audience or an address; `None`: the class says nothing.
pub(super) fn text(text: &str) -> Result<Option<String>, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("is {} bytes long; at most {MAX_TEXT} are allowed (shorten it)", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{} has a control character (remove it)", quoted(text)));
    }
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

/// A namespace or the mount of a login: a path, without a `/` at its ends.
pub(super) fn path(path: &str) -> Result<Option<String>, String> {
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Ok(None);
    }
    match path.parse::<SecretName>() {
        Ok(path) => Ok(Some(path.as_str().to_owned())),
        Err(cause) => Err(format!("{} {cause} (write it as the store lists it)", quoted(path))),
    }
}

/// A warning about a mount that is probably wrong: Keyferry puts `auth/` before it, as the peers do.
pub(super) fn doubt_of_mount(mount: &str) -> Option<String> {
    let rest = mount.strip_prefix("auth/")?;
    Some(format!("begins with `auth/`, which Keyferry adds itself, so the login is at auth/{mount} (write {rest} for auth/{rest})"))
}
