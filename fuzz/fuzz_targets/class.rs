//! A class's `objects`: no text makes parsing panic, and a plan's files can all stand in one volume.

#![no_main]

use std::collections::BTreeMap;

use keyferry::dialect::{ClassLimits, parse};
use keyferry::model::{BackendName, Catalogue, SecretName, Unresolved, Version};
use libfuzzer_sys::fuzz_target;

struct Everything;

impl Catalogue for Everything {
    fn resolve(&self, backend: Option<&str>, name: &str) -> Result<(BackendName, SecretName), Unresolved> {
        let backend = backend.unwrap_or("files").parse().map_err(|_| Unresolved::Backend("no such backend".to_owned()))?;
        let name = name.parse().map_err(|cause| Unresolved::Name { name: name.to_owned(), cause })?;
        Ok((backend, name))
    }

    fn pin(&self, _: &BackendName, version: &str) -> Result<Version, Unresolved> {
        Ok(Version::new(version))
    }
}

fuzz_target!(|objects: String| {
    let parameters = BTreeMap::from([("objects".to_owned(), objects)]);
    match parse(&parameters, &Everything, ClassLimits { objects: 64 }) {
        Ok(plan) => assert!(plan.objects.len() <= 64),
        Err(faults) => assert!(!faults.0.is_empty()),
    }
});
