//! The names in a folder, for objects with a `prefix`: AWS knows no folders, so they are made of the names below.
//!
//! A listing asks for no values. IAM checks only the right to list, which covers all names. Policy decides name by name which of them a Pod
//! may read, and then IAM decides for each.
//!
//! A caller that reads everything below a folder asks next for the folders in it, and so on. The listing of a moment ago has them all, so
//! those cost no call.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use super::batch::Who;
use super::core::{Account, Core};
use super::identity::Session;
use super::name::Named;
use crate::backend::remote::refusal::Refusal;
use crate::backend::{Fault, Scope};
use crate::budget::{Growing, Unpaid};
use crate::model::{Field, FieldKind, FieldName, Listing, Secret, SecretBytes, SecretName};
use crate::shelf::Shelf;

/// The most names below a folder, and the most pages: an empty page may not be the last one.
const MAX_NAMES: usize = 16 * 1024;
const MAX_PAGES: usize = 1024;

/// How long a listing answers for the folders in it: as long as a mount needs for them.
const GOOD: Duration = Duration::from_secs(5);

/// The most bytes of listings that are remembered, and the bytes that a name counts for besides its text.
const REMEMBERED: usize = 1024 * 1024;
const WEIGHT: usize = 64;

/// The listings of a moment ago, by who asked.
#[derive(Debug)]
pub(super) struct Listings(Mutex<Shelf<(Who, String), Listed>>);

#[derive(Debug)]
struct Listed {
    at: Instant,
    /// From the folder on.
    names: Arc<Vec<String>>,
}

/// The names below a folder, and the memory that is paid for while they are held.
pub(super) struct Below {
    pub(super) names: Vec<String>,
    _cost: Growing,
}

// === impl Listings ===

impl Default for Listings {
    fn default() -> Self {
        Self(Mutex::new(Shelf::of_bytes(REMEMBERED)))
    }
}

impl Listings {
    /// The folder, in the form in which stores list folders.
    ///
    /// # Errors
    /// The errors of [`below`], or the folder is empty.
    pub(super) async fn folder(
        &self,
        core: &Core,
        session: &Session,
        who: &Who,
        name: &SecretName,
        on: &Account,
    ) -> Result<Secret, Refusal> {
        if let Some((known, inner)) = self.known(who, name.as_str()) {
            return folder(known.iter().filter_map(|below| below.strip_prefix(inner)));
        }
        let began = Instant::now();
        let Below { names, _cost } = below(core, session, name, on).await?;
        let names = Arc::new(names);
        let weight = names.iter().map(|name| name.len() + WEIGHT).sum::<usize>() + WEIGHT;
        let listed = Listed { at: began, names: Arc::clone(&names) };
        let tenant = if who.scope == Scope::Node { "" } else { on.tenant.as_str() };
        let gone = self.lock().put(tenant, (who.clone(), name.as_str().to_owned()), listed, weight, |_| false);
        drop(gone);
        folder(names.iter().map(String::as_str))
    }

    /// The listing of a folder above it, and its place in that. If a caller asks for the same folder again, it gets a new listing.
    fn known<'n>(&self, who: &Who, name: &'n str) -> Option<(Arc<Vec<String>>, &'n str)> {
        let mut all = self.lock();
        let mut ends = name.match_indices('/').map(|(at, _)| at + 1).filter(|end| *end < name.len());
        ends.find_map(|end| {
            let listed = all.find(&(who.clone(), name[..end].to_owned())).filter(|listed| listed.at.elapsed() < GOOD)?;
            Some((Arc::clone(&listed.names), &name[end..]))
        })
    }

    /// A panic elsewhere cannot leave it half-changed: each step is one call of its own.
    fn lock(&self) -> MutexGuard<'_, Shelf<(Who, String), Listed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All names below a folder, without the folder's own name, in their order. The one who asks pays for them.
///
/// # Errors
/// AWS does not list them, there are too many, or the folder is another account's.
pub(super) async fn below(core: &Core, session: &Session, folder: &SecretName, on: &Account) -> Result<Below, Refusal> {
    let foreign = || Refusal::new(Fault::Unsupported, "names of another account cannot be listed (name each secret by its ARN)");
    let named = Named::of(folder).filter(|named| named.account.is_none() && !named.name.contains(':')).ok_or_else(foreign)?;
    let (prefix, mut all, mut next, mut cost) = (named.stored(), BTreeSet::new(), None, Growing::new(on.payer.clone()));
    for _ in 0..MAX_PAGES {
        let page = core.page(session, (named.service, &prefix), next.as_deref(), on).await?;
        let unpaid = |why: Unpaid| Refusal::unanswered(&"the names below this prefix", &why.into(), "");
        cost.add(page.names.iter().map(|name| name.len() + WEIGHT).sum()).map_err(unpaid)?;
        let below = page.names.iter().filter_map(|name| name.strip_prefix(prefix.as_str())).filter(|name| !name.is_empty());
        all.extend(below.map(SecretName::without_empty));
        if all.len() > MAX_NAMES {
            break;
        }
        next = page.next.filter(|next| !next.is_empty());
        if next.is_none() {
            return Ok(Below { names: all.into_iter().collect(), _cost: cost });
        }
    }
    let reason = format!("{} has more than {MAX_NAMES} names below this prefix (write a longer prefix)", named.service.name());
    Err(Refusal::new(Fault::TooLarge, reason))
}

/// The folder, in the form in which stores list folders: its secrets and its folders, each once.
///
/// # Errors
/// The folder is empty.
fn folder<'n>(names: impl Iterator<Item = &'n str>) -> Result<Secret, Refusal> {
    let keys: BTreeSet<&str> = names.map(|name| name.find('/').map_or(name, |slash| &name[..=slash])).collect();
    if keys.is_empty() {
        return Err(Refusal::new(Fault::NotFound, "AWS lists no secret below this prefix (check the prefix and the backend's region)"));
    }
    let json = serde_json::to_vec(&keys).unwrap_or_default();
    let field = Field { bytes: Arc::new(SecretBytes::new(json)), kind: FieldKind::Json };
    let fields = [(FieldName::new(Listing::KEYS), field)].into_iter().collect();
    Ok(Secret { fields, response: None, version: None, lease: None })
}
