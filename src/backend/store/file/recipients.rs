//! For whom a vault's secrets are encrypted: `.recipients` has one public key per line. A folder with this file is a vault.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use age::x25519::Recipient;
use thiserror::Error;

use super::Layout;
use super::read::{Unreadable, WholeFile};
use crate::text::{self, NotText};

/// The most recipients: each adds some 110 bytes and one key agreement to every file.
pub const MAX_RECIPIENTS: usize = 64;

/// The longest list in bytes.
const MAX_FILE: usize = 64 * 1024;

/// What a new list starts with.
const HEAD: &str = "# The secrets of this vault are encrypted for these age recipients (public keys), one per line.\n\
    # A change applies to the secrets that are set after it.\n";

/// The list as it is, with comments.
#[derive(Debug)]
pub struct Recipients {
    text: String,
    pub keys: Vec<Recipient>,
}

/// Why there is no list to encrypt for.
#[derive(Debug, Error)]
pub enum InvalidRecipients {
    #[error("{path} holds no recipient (add one with `keyferry vault init --recipient age1...`)")]
    Empty { path: PathBuf },
    #[error("{path}: the last recipient cannot be removed, because nobody could open the secrets (add another one, with --add)")]
    Last { path: PathBuf },
    #[error("{path}: {key} is not on the list (remove one of these: {})", .listed.join(", "))]
    NotListed { path: PathBuf, key: String, listed: Vec<String> },
    #[error("{path}:{line} is not an X25519 recipient (those start with age1; ssh, plugin and post-quantum recipients are not accepted)")]
    NotOne { path: PathBuf, line: usize },
    #[error("{path} {cause}")]
    NotText { path: PathBuf, cause: NotText },
    #[error("{path}:{line} is a secret key, and everyone who can read the vault has it now (remove it, and make a new identity)")]
    SecretKey { path: PathBuf, line: usize },
    #[error("{path} holds {count} recipients; at most {MAX_RECIPIENTS} are allowed (remove some)")]
    TooMany { path: PathBuf, count: usize },
    #[error("{path} {cause}")]
    Unreadable { path: PathBuf, cause: Unreadable },
}

impl Recipients {
    /// A list without anybody yet.
    pub fn none() -> Self {
        Self { text: HEAD.to_owned(), keys: Vec::new() }
    }

    pub fn read(layout: &Layout) -> Result<Self, InvalidRecipients> {
        let path = layout.recipients();
        match WholeFile::read(&path, MAX_FILE) {
            Ok(file) => match text::read(&file.bytes) {
                Ok(text) => Self::parse(&path, text.to_owned()),
                Err(cause) => Err(InvalidRecipients::NotText { path, cause }),
            },
            Err(cause) => Err(InvalidRecipients::Unreadable { path, cause }),
        }
    }

    /// Adds some keys and removes others, and gives how many of each.
    ///
    /// # Errors
    /// A key to remove is not on the list, or nobody would be left.
    pub fn change(&mut self, layout: &Layout, add: &[Recipient], remove: &[Recipient]) -> Result<(usize, usize), InvalidRecipients> {
        if let Some(unknown) = remove.iter().find(|key| !self.keys.contains(key)) {
            let listed = self.keys.iter().map(ToString::to_string).collect();
            return Err(InvalidRecipients::NotListed { path: layout.recipients(), key: unknown.to_string(), listed });
        }
        let added = self.add(add);
        let removed = self.remove(remove);
        if self.keys.is_empty() { Err(InvalidRecipients::Last { path: layout.recipients() }) } else { Ok((added, removed)) }
    }

    /// Adds the keys that are not listed yet, and gives how many it added.
    pub fn add(&mut self, keys: &[Recipient]) -> usize {
        let before = self.keys.len();
        for key in keys {
            if !self.keys.contains(key) {
                if !self.text.is_empty() && !self.text.ends_with('\n') {
                    self.text.push('\n');
                }
                // It writes to a string: this cannot fail.
                let _ = writeln!(self.text, "{key}");
                self.keys.push(key.clone());
            }
        }
        self.keys.len() - before
    }

    /// Removes keys from the list, and gives how many it removed. Comments stay.
    fn remove(&mut self, keys: &[Recipient]) -> usize {
        let before = self.keys.len();
        self.keys.retain(|key| !keys.contains(key));
        let gone = |line: &str| line.trim().parse().is_ok_and(|key: Recipient| keys.contains(&key));
        let mut text = String::with_capacity(self.text.len());
        for line in self.text.split_inclusive('\n') {
            if !gone(line) {
                text.push_str(line);
            } else if text.lines().last().is_some_and(is_own_comment) {
                // So that its comment does not become the comment of the next key.
                text.push('\n');
            }
        }
        self.text = text;
        before - self.keys.len()
    }

    /// The recipients, each with the comment right above it.
    pub fn listed(&self) -> Vec<(Recipient, Option<String>)> {
        let (mut listed, mut comment) = (Vec::new(), None);
        for line in self.text.lines() {
            match line.trim().parse() {
                Ok(key) => listed.push((key, comment.take())),
                Err(_) if is_own_comment(line) => comment = Some(line.trim().trim_start_matches('#').trim().to_owned()),
                Err(_) => comment = None,
            }
        }
        listed
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The list, if Keyferry can encrypt for it.
    pub fn usable(self, layout: &Layout) -> Result<Self, InvalidRecipients> {
        match self.keys.len() {
            0 => Err(InvalidRecipients::Empty { path: layout.recipients() }),
            count if count > MAX_RECIPIENTS => Err(InvalidRecipients::TooMany { path: layout.recipients(), count }),
            _ => Ok(self),
        }
    }

    fn parse(path: &Path, text: String) -> Result<Self, InvalidRecipients> {
        // Everything that later reads or changes the list goes line by line.
        let text = if text.replace("\r\n", "").contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text };
        let mut keys = Vec::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            if content.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
                return Err(InvalidRecipients::SecretKey { path: path.to_owned(), line });
            }
            keys.push(content.parse().map_err(|_| InvalidRecipients::NotOne { path: path.to_owned(), line })?);
        }
        Ok(Self { text, keys })
    }
}

/// A comment that somebody has written, not one that a new list starts with.
fn is_own_comment(line: &str) -> bool {
    line.trim().starts_with('#') && !HEAD.lines().any(|head| head == line)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn key() -> Recipient {
        age::x25519::Identity::generate().to_public()
    }

    fn refusal(text: &str) -> String {
        Recipients::parse(Path::new("/v/.recipients"), text.to_owned()).unwrap_err().to_string()
    }

    #[test]
    fn comments_stay_and_nobody_is_listed_twice() {
        let (ours, theirs) = (key(), key());
        let mut list = Recipients::parse(Path::new("x"), format!("# ours\n{ours}")).unwrap();
        assert_eq!(list.add(&[ours.clone(), theirs.clone(), theirs.clone()]), 1);
        assert_eq!(list.as_str(), format!("# ours\n{ours}\n{theirs}\n"));
    }

    #[test]
    fn old_line_ends_are_line_ends() {
        let (ours, theirs) = (key(), key());
        let mut list = Recipients::parse(Path::new("x"), format!("# ours\r{ours}\r{theirs}\r")).unwrap();
        assert_eq!(list.keys, [ours.clone(), theirs.clone()]);
        assert_eq!(list.remove(std::slice::from_ref(&theirs)), 1);
        assert_eq!(list.as_str(), format!("# ours\n{ours}\n"));
        assert!(refusal(&format!("{ours}\rjunk")).starts_with("/v/.recipients:2 is not an X25519 recipient"));
    }

    #[test]
    fn a_faulty_list_is_named_by_its_line() {
        assert_snapshot!(refusal("# x\nssh-ed25519 AAAA"), @"/v/.recipients:2 is not an X25519 recipient (those start with age1; ssh, plugin and post-quantum recipients are not accepted)");
        assert_snapshot!(refusal("AGE-SECRET-KEY-1CANARY"), @"/v/.recipients:1 is a secret key, and everyone who can read the vault has it now (remove it, and make a new identity)");
        assert_snapshot!(Recipients::none().usable(&Layout::of("/v")).unwrap_err(), @"/v/.recipients holds no recipient (add one with `keyferry vault init --recipient age1...`)");
        let mut many = Recipients::none();
        many.add(&(0..65).map(|_| key()).collect::<Vec<_>>());
        assert_snapshot!(many.usable(&Layout::of("/v")).unwrap_err(), @"/v/.recipients holds 65 recipients; at most 64 are allowed (remove some)");
    }
}
