//! What the stores over a network share.

pub(super) mod credential;
pub(super) mod echo;
pub(super) mod fields;
pub(super) mod health;
pub(super) mod metadata;
pub(super) mod refusal;
pub(super) mod settings;
pub(super) mod slot;
