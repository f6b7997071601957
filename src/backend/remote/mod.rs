//! The code that all stores over a network share.

pub(super) mod annotation;
pub(super) mod credential;
pub(super) mod echo;
pub(super) mod fields;
pub(super) mod gather;
pub(super) mod health;
pub(super) mod metadata;
pub(super) mod refusal;
pub(super) mod settings;
pub(super) mod slot;
