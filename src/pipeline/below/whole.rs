//! The plan of one mount: the class's plan, with everything that was found.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use super::super::FetchFailure;
use super::folders::Root;
use super::unlisted::Unlisted;
use crate::backend::Configured;
use crate::delivery::VersionKey;
use crate::model::{Fetched, Field, FieldName, Label, Object, Part, Plan, Secret, SecretBytes, SecretRef, Version};
use crate::steps::Steps;

/// What the making of a name by a template costs, as bytes of work.
const RENAME: usize = 1024;

/// The class's plan. Each object with a prefix has a part for each found secret that it asks for.
///
/// # Errors
/// An object finds nothing that it asks for, or more than the limit; or the store lists a name that cannot be requested.
pub(super) fn put_in(plan: &Plan, roots: &[Root], configured: &Configured, limit: usize, steps: &Steps) -> Result<Plan, Vec<FetchFailure>> {
    let (mut secrets, mut objects) = (plan.secrets.clone(), plan.objects.clone());
    let mut places: HashMap<SecretRef, usize> = secrets.iter().cloned().zip(0..).collect();
    let (mut failures, mut parts) = (Vec::new(), 0);
    for root in roots {
        let folder = &plan.secrets[root.place];
        let mut fail = |label: Label, unlisted: &Unlisted| failures.push(FetchFailure { label, error: Arc::new(unlisted.of(folder)) });
        for at in &root.objects {
            let object = &mut objects[*at];
            let place = |name: &str| {
                let secret = configured.listed(folder, name).map_err(|cause| Unlisted::unasked(name, &cause))?;
                Ok(*places.entry(secret).or_insert_with_key(|secret| {
                    secrets.push(secret.clone());
                    secrets.len() - 1
                }))
            };
            match parts_of(object, root, (limit.saturating_sub(parts), limit), place, steps) {
                Ok(found) if found.is_empty() && !object.optional => fail(object.label(), &Unlisted::nothing()),
                Ok(found) => {
                    parts += found.len();
                    object.parts = found;
                }
                Err(unlisted) => fail(object.label(), &unlisted),
            }
        }
    }
    if !failures.is_empty() {
        return Err(failures);
    }
    let Plan { prefixes, fresh, max_stale, parameters, version_ids, .. } = plan;
    // A prefix has one id, whatever is below it.
    let versioned = OnceLock::from(plan.versioned().to_vec());
    let (prefixes, parameters) = (prefixes.clone(), parameters.clone());
    let (fresh, max_stale, version_ids) = (*fresh, *max_stale, *version_ids);
    Ok(Plan { secrets, objects, prefixes, fresh, max_stale, parameters, version_ids, versioned, ..Plan::default() })
}

/// The found secrets that one object asks for, at most `most` parts; `limit` is for the class.
fn parts_of(
    object: &Object,
    root: &Root,
    (most, limit): (usize, usize),
    mut place: impl FnMut(&str) -> Result<usize, Unlisted>,
    steps: &Steps,
) -> Result<Vec<Part>, Unlisted> {
    let mut parts = Vec::new();
    for name in &root.names {
        if !object.takes(name, steps)? {
            continue;
        }
        if parts.len() >= most {
            return Err(Unlisted::too_many_in_all(limit));
        }
        parts.push(object.part_below(name.clone(), place(name)?));
    }
    Ok(parts)
}

/// The version of each found secret, in the order of the plan's secrets. For the places of the prefixes: what their own version is made of
/// (which secrets there are, and their versions).
pub(in crate::pipeline) fn versions(
    plan: &Plan,
    found: &[Option<Fetched>],
    key: &VersionKey,
) -> (Vec<Option<Version>>, Option<HashMap<usize, Secret>>) {
    let mut versions = vec![None; found.len()];
    let mut prefixes: HashMap<usize, BTreeMap<FieldName, Field>> = HashMap::new();
    for object in plan.bulk() {
        let of_prefix = prefixes.entry(object.secret).or_default();
        for part in &object.parts {
            let Some(fetched) = &found[part.secret] else { continue };
            let version = versions[part.secret].get_or_insert_with(|| key.version(&fetched.secret));
            let bytes = SecretBytes::new(version.as_str().as_bytes().to_vec());
            of_prefix.insert(FieldName::new(plan.secrets[part.secret].name.as_str()), Field::of_bytes(bytes));
        }
    }
    let secret = |(place, fields)| (place, Secret { fields, response: None, version: None, lease: None });
    (versions, Some(prefixes.into_iter().map(secret).collect()))
}

/// What the making of the files' names costs, as bytes of work.
pub(in crate::pipeline) fn renamed(plan: &Plan) -> usize {
    let renames = |object: &&Object| object.below.as_ref().is_some_and(|below| below.rename.is_some());
    plan.bulk().filter(renames).map(|object| object.parts.len() * RENAME).sum()
}
