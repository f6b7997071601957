//! Where things are in a vault's folder, and which names fit there.
//!
//! It is a module of its own because reader and writer must agree on it to the byte. And only a [`VaultName`] can become a path: a name
//! that was not checked here cannot reach the file system.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Revision;
use crate::model::{InvalidName, SecretName};

/// What an encrypted file's name ends in.
pub(super) const SEALED: &str = ".age";

/// The longest element of a name in bytes: `<element>.age` is a file name, and Linux allows those 255.
const MAX_ELEMENT: usize = 255 - SEALED.len();

/// The paths of a vault. Everything but the current revisions of secrets starts with a dot, and no name may.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// A secret's name that belongs to exactly one file of a vault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VaultName(SecretName);

// === impl Layout ===

impl Layout {
    pub fn of(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `<name>.age`: the current revision.
    pub fn current(&self, name: &VaultName) -> PathBuf {
        self.root.join(format!("{name}{SEALED}"))
    }

    /// `<name>`: the folder of the secrets below the name.
    pub fn folder(&self, name: &VaultName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// `.history/<name>`: the earlier revisions.
    pub fn history(&self, name: &VaultName) -> PathBuf {
        self.root.join(format!(".history/{name}"))
    }

    /// `.history/<name>/<revision>.age`.
    pub fn earlier(&self, name: &VaultName, revision: Revision) -> PathBuf {
        self.root.join(format!(".history/{name}/{revision}{SEALED}"))
    }

    /// `.history/<name>/.revision`: the highest revision ever given, in decimal. It outlives the secret.
    pub fn counter(&self, name: &VaultName) -> PathBuf {
        self.root.join(format!(".history/{name}/.revision"))
    }

    /// `.recipients`: for whom the vault's secrets are encrypted. A folder that has it is a vault.
    pub fn recipients(&self) -> PathBuf {
        self.root.join(".recipients")
    }

    /// `.history/.unfinished`: where Keyferry writes a batch of files. No name of a secret leads to it.
    pub fn batch(&self) -> PathBuf {
        self.root.join(".history").join(super::write::UNFINISHED)
    }

    /// `.lock`: a writer holds it.
    pub fn lock(&self) -> PathBuf {
        self.root.join(".lock")
    }
}

// === impl VaultName ===

impl VaultName {
    pub fn secret(&self) -> &SecretName {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The folder to list.
    pub(super) fn of_folder(folder: &SecretName) -> Result<Self, InvalidName> {
        let name: SecretName = folder.without_slash().parse()?;
        name.as_str().split('/').try_for_each(check_element)?;
        Ok(Self(name))
    }

    /// The rules of a vault, besides those that all stores share.
    fn check(name: &SecretName) -> Result<(), InvalidName> {
        for element in name.as_str().split('/') {
            check_element(element)?;
        }
        match name.as_str().rsplit_once('@') {
            // The id of revision 3 of `db` is `files/db@3`: a secret called `db@3` would have the same id.
            Some((base, pin)) if !base.is_empty() && !pin.is_empty() && pin.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(InvalidName::Store(format!("ends in `@{pin}`, which reads as a pinned version (write `version: \"{pin}\"` for that)")))
            }
            _ => Ok(()),
        }
    }
}

fn check_element(element: &str) -> Result<(), InvalidName> {
    if element.starts_with('.') {
        return Err(InvalidName::Store(format!(
            "has the element {element:?}: what starts with a dot is the vault's own (choose another name)"
        )));
    }
    // `a` is in `a.age`, so `a.age/b` would need a folder in the place of a file; and revision 3 of `a` is `3.age`.
    if let Some(bare) = element.strip_suffix(SEALED) {
        return Err(InvalidName::Store(format!("has the element {element:?}: the vault adds `{SEALED}` by itself (write {bare:?})")));
    }
    if element.len() > MAX_ELEMENT {
        return Err(InvalidName::Store(format!(
            "has an element of {} bytes; in a vault at most {MAX_ELEMENT} are allowed (shorten it)",
            element.len()
        )));
    }
    Ok(())
}

impl FromStr for VaultName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::try_from(&text.parse::<SecretName>()?)
    }
}

impl TryFrom<&SecretName> for VaultName {
    type Error = InvalidName;

    fn try_from(name: &SecretName) -> Result<Self, InvalidName> {
        Self::check(name)?;
        Ok(Self(name.clone()))
    }
}

impl From<VaultName> for SecretName {
    fn from(name: VaultName) -> Self {
        name.0
    }
}

impl std::fmt::Display for VaultName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn refusal(name: &str) -> String {
        name.parse::<VaultName>().unwrap_err().to_string()
    }

    #[test]
    fn names_that_stand_for_one_file_are_taken_as_they_are() {
        for name in ["db", "shop/db", "ünïcode/ключ", "alice@example.com", "@3", "a@3/b", "a@", "age", "x.agex", "a b", "3", "*"] {
            let parsed: VaultName = name.parse().unwrap();
            assert_eq!(parsed.as_str(), name);
            assert_eq!(Layout::of("/v").current(&parsed), PathBuf::from(format!("/v/{name}.age")));
        }
        assert!("x".repeat(251).parse::<VaultName>().is_ok());
    }

    #[test]
    fn names_that_could_reach_the_vaults_own_files_or_share_one_are_refused() {
        assert_snapshot!(refusal(".history/a/3"), @r#"has the element ".history": what starts with a dot is the vault's own (choose another name)"#);
        assert_snapshot!(refusal("a/.revision"), @r#"has the element ".revision": what starts with a dot is the vault's own (choose another name)"#);
        assert_snapshot!(refusal("a.age/b"), @r#"has the element "a.age": the vault adds `.age` by itself (write "a")"#);
        assert_snapshot!(refusal("a/3.age"), @r#"has the element "3.age": the vault adds `.age` by itself (write "3")"#);
        assert_snapshot!(refusal("shop/db@3"), @r#"ends in `@3`, which reads as a pinned version (write `version: "3"` for that)"#);
        assert_snapshot!(refusal(&"x".repeat(252)), @"has an element of 252 bytes; in a vault at most 251 are allowed (shorten it)");
        assert!("a/../b".parse::<VaultName>().is_err());
    }
}
