//! Paths of the API that answer with raw bytes, such as a PEM file, and their twins that answer with JSON.

use super::fault::Refusal;
use crate::model::SecretName;

/// Per row: how a path with raw bytes ends, after its mount; how the path ends that has the same as JSON; and the field there. A `*` is
/// one element. The paths are from the engines `pki` and `ssh` (see their API documentation).
const TWINS: [(&str, &str, &str); 24] = [
    ("issuer/*/crl/delta/der", "issuer/*/crl/delta", "crl"),
    ("issuer/*/crl/delta/pem", "issuer/*/crl/delta", "crl"),
    ("issuer/*/crl/der", "issuer/*/crl", "crl"),
    ("issuer/*/crl/pem", "issuer/*/crl", "crl"),
    ("issuer/*/unified-crl/delta/der", "issuer/*/unified-crl/delta", "crl"),
    ("issuer/*/unified-crl/delta/pem", "issuer/*/unified-crl/delta", "crl"),
    ("issuer/*/unified-crl/der", "issuer/*/unified-crl", "crl"),
    ("issuer/*/unified-crl/pem", "issuer/*/unified-crl", "crl"),
    ("issuer/*/der", "issuer/*/json", "certificate"),
    ("issuer/*/pem", "issuer/*/json", "certificate"),
    ("cert/*/raw/pem", "cert/*", "certificate"),
    ("cert/*/raw", "cert/*", "certificate"),
    ("crl/delta/pem", "cert/delta-crl", "certificate"),
    ("crl/delta", "cert/delta-crl", "certificate"),
    ("unified-crl/delta/pem", "cert/unified-delta-crl", "certificate"),
    ("unified-crl/delta", "cert/unified-delta-crl", "certificate"),
    ("unified-crl/pem", "cert/unified-crl", "certificate"),
    ("unified-crl", "cert/unified-crl", "certificate"),
    ("crl/pem", "cert/crl", "certificate"),
    ("crl", "cert/crl", "certificate"),
    ("ca/pem", "cert/ca", "certificate"),
    ("ca", "cert/ca", "certificate"),
    ("ca_chain", "cert/ca_chain", "certificate"),
    ("public_key", "config/ca", "public_key"),
];

/// The refusal of an answer that Keyferry cannot read. It says what to ask for instead, where that is known.
pub(super) fn explained(refusal: Refusal, name: &SecretName) -> Refusal {
    match twin(name.as_str()) {
        Some((twin, field)) => {
            let reason = format!("{name} answers with raw bytes, not with JSON (ask for {twin}, and take its field `{field}`)");
            Refusal::new(refusal.fault, reason)
        }
        None => refusal,
    }
}

fn twin(name: &str) -> Option<(String, &'static str)> {
    let elements: Vec<&str> = name.split('/').collect();
    // A secret of KV version 2 may have any name.
    if elements.iter().skip(1).any(|element| *element == "data") {
        return None;
    }
    TWINS.iter().find_map(|(raw, twin, field)| {
        let raw: Vec<&str> = raw.split('/').collect();
        let mount = elements.len().checked_sub(raw.len()).filter(|mount| *mount > 0)?;
        let (mount, tail) = elements.split_at(mount);
        // What follows an issuer belongs to the issuer, and has rows of its own.
        if mount.iter().rev().skip(1).take(1).any(|element| *element == "issuer")
            || !raw.iter().zip(tail).all(|(raw, element)| *raw == "*" || raw == element)
        {
            return None;
        }
        // In all rows the `*` is the second element.
        let twin = twin.replace('*', tail.get(1).copied().unwrap_or_default());
        Some((format!("{}/{twin}", mount.join("/")), *field))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_raw_path_has_its_twin() {
        let shown = |name: &str| twin(name).map_or_else(|| "-".to_owned(), |(twin, field)| format!("{twin} {field}"));
        let names = [
            "pki/ca_chain",
            "team-a/pki/int/ca_chain",
            "pki/ca/pem",
            "pki/ca",
            "pki/crl",
            "pki/crl/pem",
            "pki/crl/delta",
            "pki/unified-crl/pem",
            "pki/cert/17:1e/raw/pem",
            "pki/issuer/default/pem",
            "pki/issuer/default/crl/der",
            "ssh/public_key",
            "ca_chain",
            "kv/data/shop/db",
            "kv/data/shop/ca",
            "pki/issuer/default/unified-crl",
            "pki/issuer/default/unified-crl/pem",
            "pki/unified-crl/delta/pem",
        ];
        insta::assert_snapshot!(names.map(|name| format!("{name}: {}", shown(name))).join("\n"), @"
        pki/ca_chain: pki/cert/ca_chain certificate
        team-a/pki/int/ca_chain: team-a/pki/int/cert/ca_chain certificate
        pki/ca/pem: pki/cert/ca certificate
        pki/ca: pki/cert/ca certificate
        pki/crl: pki/cert/crl certificate
        pki/crl/pem: pki/cert/crl certificate
        pki/crl/delta: pki/cert/delta-crl certificate
        pki/unified-crl/pem: pki/cert/unified-crl certificate
        pki/cert/17:1e/raw/pem: pki/cert/17:1e certificate
        pki/issuer/default/pem: pki/issuer/default/json certificate
        pki/issuer/default/crl/der: pki/issuer/default/crl crl
        ssh/public_key: ssh/config/ca public_key
        ca_chain: -
        kv/data/shop/db: -
        kv/data/shop/ca: -
        pki/issuer/default/unified-crl: -
        pki/issuer/default/unified-crl/pem: pki/issuer/default/unified-crl crl
        pki/unified-crl/delta/pem: pki/cert/unified-delta-crl certificate
        ");
    }
}
