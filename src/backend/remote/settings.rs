//! The TLS keys of a store's entry: how Keyferry knows the server, and which certificate Keyferry shows to it. They are the same for every
//! store over HTTP.

use std::path::PathBuf;

use crate::files::absolute;
use crate::http::Endpoint;
use crate::model::{LoginTls, NamedFile};
use crate::yaml::{Faults, Reader};

/// Reads `ca`, `serverName`, `clientCert` and `clientKey`.
pub(in crate::backend) fn tls(reader: &mut Reader<'_>, faults: &mut Faults) -> LoginTls {
    let ca = file(reader, "ca", faults);
    let server_name = reader.parsed("serverName", faults, filled);
    let (certificate, key) = (file(reader, "clientCert", faults), file(reader, "clientKey", faults));
    for (one, other) in [("clientCert", "clientKey"), ("clientKey", "clientCert")] {
        if let (Some(node), None) = (reader.get(one), reader.get(other)) {
            faults.add(node.at, reader.path(one), format!("needs `{other}`, which is missing (name both, or neither)"));
        }
    }
    LoginTls { ca, client: certificate.zip(key), server_name, skip_verify: false }
}

/// A certificate has no effect without TLS, and an admin who names one expects an effect. `plain` says which address is without TLS.
pub(in crate::backend) fn refuse_tls(reader: &mut Reader<'_>, plain: &str, faults: &mut Faults) {
    for key in ["ca", "serverName", "clientCert", "clientKey"] {
        if let Some(node) = reader.get(key) {
            faults.add(node.at, reader.path(key), format!("is for https, and the {plain} (write https://, or remove it)"));
        }
    }
}

/// Checks that a server can prove the name that it must have.
pub(in crate::backend) fn check_server_name(
    reader: &mut Reader<'_>,
    endpoint: &Endpoint,
    tls: &LoginTls,
    address: &'static str,
    faults: &mut Faults,
) {
    let key = if tls.server_name.is_some() { "serverName" } else { address };
    if let (Err(problem), Some(node)) = (endpoint.check_server_name(tls.server_name.as_deref()), reader.get(key)) {
        faults.add(node.at, reader.path(key), problem);
    }
}

/// The files that the entry names, under their keys.
pub(in crate::backend) fn files(tls: &LoginTls) -> Vec<NamedFile> {
    let mut files: Vec<NamedFile> = tls.ca.iter().map(|path| NamedFile::public("ca", path)).collect();
    if let Some((certificate, key)) = &tls.client {
        files.extend([NamedFile::public("clientCert", certificate), NamedFile::secret("clientKey", key)]);
    }
    files
}

pub(in crate::backend) fn file(reader: &mut Reader<'_>, key: &'static str, faults: &mut Faults) -> Option<PathBuf> {
    reader.parsed(key, faults, absolute)
}

pub(in crate::backend) fn filled(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("is empty") } else { Ok(text.to_owned()) }
}
