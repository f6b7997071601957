//! What works with the former configuration and would not work with the new one. The classes themselves are not compared.

use super::finding::{Finding, Warned};
use super::settings::Settings;
use crate::config::Config;
use crate::model::BackendName;

/// Compares two configurations. If one of them has faults, this compares nothing.
pub fn judge(former: &Settings, new: &Settings) -> Vec<Finding> {
    let (Some(before), Some(after)) = (&former.config, &new.config) else { return Vec::new() };
    let mut findings: Vec<Finding> = unnamed(before, after, new).into_iter().collect();
    for gone in before.backends.keys().filter(|name| !after.backends.contains_key(*name)) {
        let message = format!(
            "backends.{gone}: {} has it, and this configuration does not: classes that name it will fail at their next mount or rotation (keep it until no class names it)",
            former.file
        );
        let finding = Finding::warning(Warned::RemovedBackend, &new.file, new.backends, message);
        findings.push(Finding { key: format!("backends.{gone}"), ..finding });
    }
    findings
}

/// Classes that name no backend.
fn unnamed(before: &Config, after: &Config, new: &Settings) -> Option<Finding> {
    let served = implied(before)?;
    let key = "defaultBackend".to_owned();
    match implied(after) {
        Some(name) if name == served => None,
        Some(name) => {
            let message = format!(
                "defaultBackend: classes that name no backend get their secrets from {served} today, and would get them from {name} \
                 (set defaultBackend: {served}, or name the backend in those classes)"
            );
            Some(Finding { key, ..Finding::warning(Warned::DefaultBackend, &new.file, new.backends, message) })
        }
        None => {
            let remedy = if after.backends.contains_key(served) {
                format!("set defaultBackend: {served}")
            } else {
                "set defaultBackend to the backend that has their secrets".to_owned()
            };
            let message = format!(
                "defaultBackend: is missing: classes that name no backend get their secrets from {served} today, and will fail at \
                 their next mount or rotation ({remedy})"
            );
            Some(Finding { key, ..Finding::error(&new.file, new.backends, message) })
        }
    }
}

/// The backend of classes that name none.
fn implied(config: &Config) -> Option<&BackendName> {
    config.default_backend.as_ref().or_else(|| config.backends.keys().next().filter(|_| config.backends.len() == 1))
}
