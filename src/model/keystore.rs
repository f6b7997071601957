//! What a class says about a keystore: which fields of which secrets go into it.

use super::FieldName;

/// A PKCS#12 file: a key with its certificates, trusted certificates, or both.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Keystore {
    pub key: Option<FieldOf>,
    /// Certificates from the key's own to the root. Empty without a key.
    pub chain: Vec<FieldOf>,
    pub trust: Vec<FieldOf>,
    pub password: FieldOf,
    /// Java's name for the key.
    pub alias: String,
}

/// A field of one of the secrets that an object is made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FieldOf {
    /// Its place in [`super::Object::parts`], counted from 0.
    pub part: usize,
    pub field: FieldName,
}

/// The password of a stored keystore.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PasswordOf {
    /// The place of its secret in [`super::Plan::secrets`], counted from 0.
    pub secret: usize,
    pub field: FieldName,
}
