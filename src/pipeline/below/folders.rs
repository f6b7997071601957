//! The folders that a mount lists, and what its objects ask for in each.

use std::collections::{BTreeSet, HashMap};

use super::unlisted::Unlisted;
use crate::glob::LEVELS;
use crate::model::{Listing, Plan, Secret, SecretRef};
use crate::steps::Steps;

/// The most names that are looked at in one folder.
pub(super) const NAMES: usize = 16 * 1024;

/// A prefix, and what was found below it so far.
#[derive(Debug)]
pub(super) struct Root {
    /// The folder's place among the plan's secrets.
    pub place: usize,
    /// The objects that ask for it, by their places.
    pub objects: Vec<usize>,
    /// Names relative to the prefix.
    pub names: BTreeSet<String>,
}

/// A folder to be listed.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    /// The place of its prefix among the roots.
    pub root: usize,
    /// Relative to the prefix, with a `/` at its end; empty: the prefix itself.
    pub name: String,
    pub secret: SecretRef,
}

/// What the objects ask for in one folder.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub secrets: Vec<String>,
    pub folders: Vec<String>,
}

/// Each prefix once.
pub(super) fn roots(plan: &Plan) -> Vec<Root> {
    let mut roots: Vec<Root> = Vec::new();
    let mut known = HashMap::new();
    for at in &plan.prefixes {
        let place = plan.objects[*at].secret;
        let root = *known.entry(place).or_insert_with(|| {
            roots.push(Root { place, objects: Vec::new(), names: BTreeSet::new() });
            roots.len() - 1
        });
        roots[root].objects.push(*at);
    }
    roots
}

// === impl Folder ===

impl Folder {
    /// The prefixes themselves.
    pub fn of_roots(plan: &Plan, roots: &[Root]) -> Vec<Self> {
        let folder = |(root, of): (usize, &Root)| Self { root, name: String::new(), secret: plan.secrets[of.place].clone() };
        roots.iter().enumerate().map(folder).collect()
    }

    pub fn is_prefix(&self) -> bool {
        self.name.is_empty()
    }
}

/// What the objects ask for in a folder. `folder`: relative to the prefix.
pub(super) fn names_in(
    plan: &Plan,
    objects: &[usize],
    folder: &str,
    listing: &Secret,
    limit: usize,
    steps: &Steps,
) -> Result<Names, Unlisted> {
    let listing = Listing::of(listing).ok_or_else(Unlisted::unreadable)?;
    steps.charge(4 * listing.bytes() as u64)?;
    if listing.most() > NAMES {
        return Err(Unlisted::too_many(NAMES));
    }
    let keys = listing.names().ok_or_else(Unlisted::unreadable)?;
    let wanted = || objects.iter().filter_map(|object| plan.objects[*object].below.as_deref());
    let mut names = Names::default();
    for key in keys {
        let (element, is_folder) = key.strip_suffix('/').map_or((key.as_str(), false), |element| (element, true));
        let name = format!("{folder}{element}");
        let mut is_wanted = false;
        for below in wanted() {
            is_wanted |= if is_folder { below.goes_into(&name, steps)? } else { below.takes(&name, steps)? };
        }
        match () {
            () if !is_wanted => continue,
            () if element.is_empty() || element.contains('/') => return Err(Unlisted::unnamed(&name)),
            () if is_folder && name.split('/').count() >= LEVELS => return Err(Unlisted::too_deep()),
            () if is_folder => names.folders.push(name + "/"),
            () => names.secrets.push(name),
        }
        if names.secrets.len() > limit {
            return Err(Unlisted::too_many(limit));
        }
    }
    Ok(names)
}
