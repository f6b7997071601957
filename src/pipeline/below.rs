//! A class that asks for everything below a prefix: each mount finds out what that is.
//!
//! The plan stays what the class says. Here its folders are listed, level by level, each with its own permit; the secrets that are found
//! become a plan for this mount, and the policy decides on it as on any other. So the other steps know nothing of prefixes, except for
//! names in messages: of denied secrets, Keyferry reports only their number.
//!
//! A listing is an answer of its store like any other: fetched through the same stack, for the same Pods, and cached in the same way.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Duration;

use self::folders::{Folder, NAMES, Names, Root, names_in, roots};
use self::unlisted::Unlisted;
use super::{FetchFailure, Found, Means, Missed, MountContext, MountError, Pipeline, Record};
use crate::backend::{BackendError, Fault, Terms};
use crate::budget::Spent;
use crate::model::{Fetched, Listing, Object, Part, Plan, SecretRef};
use crate::policy::{Denial, Permits};

mod folders;
mod unlisted;
mod whole;

pub(super) use self::whole::{renamed, versions};

/// The most folders that one mount lists.
const LISTS: usize = 64;

/// What a name in a listing costs while it is looked at, in addition to its bytes.
const NAME: usize = 64;

/// What a found secret costs in the mount's own plan, in bytes, in addition to its texts.
const SECRET: usize = 1024;

/// A class's plan with everything that was found.
#[derive(Debug)]
pub(super) struct Expanded {
    pub plan: Arc<Plan>,
    pub permits: Permits,
    /// All folders that were listed.
    pub folders: Vec<SecretRef>,
    /// The secrets of the plan that are known already, by their places: its listings. `None`: there is no such folder.
    known: Vec<(usize, Option<Fetched>)>,
    paid: Vec<Spent>,
}

/// One mount's search below the prefixes of its class.
struct Search<'m> {
    pipeline: &'m Pipeline,
    plan: &'m Arc<Plan>,
    permits: &'m Permits,
    means: &'m Means,
    cx: &'m MountContext,
    roots: Vec<Root>,
}

/// Folders that are listed together.
struct Level {
    folders: Vec<Folder>,
    permits: Permits,
    /// The place of each folder among the permits' secrets.
    places: Vec<usize>,
}

// === impl Pipeline ===

impl Pipeline {
    /// All secrets of a class with prefixes. If a secret disappears between listing and fetch, the folders are listed once more.
    pub(super) async fn fetch_below(
        &self,
        plan: &Arc<Plan>,
        permits: &Permits,
        terms: &Terms,
        (means, cx): (&Means, &MountContext),
        record: &mut Record,
    ) -> Result<(Found, Box<Expanded>), Missed> {
        let mut listing = terms.clone();
        for is_last in [false, true] {
            let search = Search { pipeline: self, plan, permits, means, cx, roots: roots(plan) };
            let mut expanded = search.run(&listing, record).await?;
            record.expanded(&expanded.plan);
            let known = std::mem::take(&mut expanded.known);
            let (mut found, failures) = self.fetch_each(&expanded.plan, &expanded.permits, terms, known).await?;
            let failures = told(&expanded.plan, &failures);
            if failures.is_empty() {
                found.paid.append(&mut expanded.paid);
                return Ok((found, Box::new(expanded)));
            }
            let is_gone = |failure: &FetchFailure| failure.error.fault == Fault::NotFound;
            if is_last || !failures.iter().all(is_gone) {
                return Err(Missed::Failed(MountError::of_fetch(failures)));
            }
            listing.fresh = Some(Duration::ZERO);
        }
        Err(Missed::Failed(MountError::Internal))
    }
}

// === impl Search ===

impl Search<'_> {
    async fn run(mut self, terms: &Terms, record: &mut Record) -> Result<Expanded, Missed> {
        let (mut folders, mut known, mut paid) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = Some(self.first_level());
        while let Some(level) = next {
            if folders.len() + level.folders.len() > LISTS {
                return Err(self.too_many_folders(&level));
            }
            let listed = self.list(&level, terms, &mut paid).await?;
            folders.extend(level.folders.into_iter().map(|folder| folder.secret));
            let of_prefix = listed.iter().filter(|(folder, _)| folder.is_prefix());
            known.extend(of_prefix.map(|(folder, fetched)| (self.roots[folder.root].place, fetched.clone())));
            let below = self.names(listed).await?;
            next = self.next_level(below, record)?;
        }
        let (plan, spent) = self.put_in().await?;
        paid.push(spent);
        let plan = Arc::new(plan);
        let permits = self.leave_to_read(&plan, record)?;
        Ok(Expanded { plan, permits, folders, known, paid })
    }

    /// The prefixes: the class names them, so there are permits for them.
    fn first_level(&self) -> Level {
        let places = self.roots.iter().map(|root| root.place).collect();
        Level { folders: Folder::of_roots(self.plan, &self.roots), permits: self.permits.clone(), places }
    }

    /// The listing of each folder of a level; `None`: there is no such folder.
    async fn list(&self, level: &Level, terms: &Terms, paid: &mut Vec<Spent>) -> Result<Vec<(Folder, Option<Fetched>)>, Missed> {
        let mut found = Found { secrets: vec![None; level.permits.secrets().len()], ..Found::default() };
        let mut failures = HashMap::new();
        self.pipeline.fetch_these(&level.places, &level.permits, terms, &mut found, &mut failures).await?;
        self.check_listed(level, &failures)?;
        paid.append(&mut found.paid);
        Ok(level.folders.iter().cloned().zip(level.places.iter().map(|place| found.secrets[*place].take())).collect())
    }

    /// A folder that disappeared between two listings has nothing in it. Every other failure belongs to all objects of the prefix; the
    /// names that the store denies are not reported.
    fn check_listed(&self, level: &Level, failed: &HashMap<usize, Arc<BackendError>>) -> Result<(), Missed> {
        let mut told = Vec::new();
        for (folder, place) in level.folders.iter().zip(&level.places) {
            let Some(error) = failed.get(place) else { continue };
            let root = &self.roots[folder.root];
            let objects = || root.objects.iter().map(|object| &self.plan.objects[*object]);
            if error.fault == Fault::NotFound {
                let needing = objects().filter(|object| folder.is_prefix() && !object.optional);
                told.extend(needing.map(|object| FetchFailure { label: object.label(), error: Arc::clone(error) }));
                continue;
            }
            let mut error = Arc::clone(error);
            if error.fault == Fault::Denied && !folder.is_prefix() {
                let reason =
                    "the store refuses to list a folder below it (let the role list it, or leave it out with `exclude`)".to_owned();
                let secret = Some(self.plan.secrets[root.place].name.clone());
                error = Arc::new(BackendError { secret, reason, source: None, ..(*error).clone() });
            }
            told.extend(objects().map(|object| FetchFailure { label: object.label(), error: Arc::clone(&error) }));
        }
        if told.is_empty() { Ok(()) } else { Err(Missed::Failed(MountError::of_fetch(told))) }
    }

    /// What the objects ask for in these folders, each with its root.
    async fn names(&self, listed: Vec<(Folder, Option<Fetched>)>) -> Result<Vec<(usize, Names)>, Missed> {
        let asking: Vec<Vec<usize>> = self.roots.iter().map(|root| root.objects.clone()).collect();
        let weight: usize = listed.iter().filter_map(|(_, fetched)| Some(fetched.as_ref()?.secret.weight())).sum();
        // During the look, each name is a separate text.
        let most = listed.iter().filter_map(|(_, fetched)| Some(Listing::of(&fetched.as_ref()?.secret)?.most())).sum::<usize>();
        let _copies = self.means.purse.spend(weight + NAME * most.min(NAMES * LISTS))?;
        let (of, steps, limit) = (Arc::clone(self.plan), Arc::clone(&self.means.steps), self.pipeline.limits.objects);
        let read = move || {
            let each = listed.into_iter().filter_map(|(folder, fetched)| Some((folder, fetched?)));
            let read = each.map(|(folder, fetched)| {
                let names = names_in(&of, &asking[folder.root], &folder.name, &fetched.secret, limit, &steps);
                (folder.root, names)
            });
            read.collect::<Vec<_>>()
        };
        let read = self.work(weight, read).await?;
        read.into_iter().map(|(root, names)| Ok((root, names.map_err(|unlisted| self.failed(root, &unlisted))?))).collect()
    }

    /// Keeps the names of secrets, and returns the folders below with permits for them; `None`: there are none.
    fn next_level(&mut self, below: Vec<(usize, Names)>, record: &mut Record) -> Result<Option<Level>, Missed> {
        let mut named = Vec::new();
        for (root, names) in below {
            self.roots[root].names.extend(names.secrets);
            named.extend(names.folders.into_iter().map(|name| (root, name)));
        }
        if self.roots.iter().map(|root| root.names.len()).sum::<usize>() > self.pipeline.limits.objects {
            return Err(self.too_many());
        }
        let folders = named.into_iter().take(LISTS + 1).map(|(root, name)| self.folder(root, name)).collect::<Result<Vec<_>, _>>()?;
        if folders.is_empty() {
            return Ok(None);
        }
        let permits = self.leave_to_list(&folders, record)?;
        let places = (0..folders.len()).collect();
        Ok(Some(Level { folders, permits, places }))
    }

    /// The request for a folder that was found.
    fn folder(&self, root: usize, name: String) -> Result<Folder, Missed> {
        let prefix = &self.plan.secrets[self.roots[root].place];
        let secret = self.pipeline.backends.catalogue().listed(prefix, &name);
        let secret = secret.map_err(|cause| self.failed(root, &Unlisted::unasked(&name, &cause)))?;
        Ok(Folder { root, name, secret })
    }

    /// Permits for the folders of a level.
    fn leave_to_list(&self, folders: &[Folder], record: &mut Record) -> Result<Permits, Missed> {
        let of_level = Arc::new(Plan { secrets: folders.iter().map(|folder| folder.secret.clone()).collect(), ..Plan::default() });
        let denied = match self.grant(&of_level) {
            Ok(permits) => return permits,
            Err(denied) => denied,
        };
        let denied = |root: usize| {
            folders.iter().zip(0..).filter(move |(folder, _)| folder.root == root).filter_map(|(_, place)| denied.get(&place))
        };
        let each = self.roots.iter().enumerate().flat_map(|(at, root)| root.objects.iter().map(move |object| (at, *object)));
        let denials = each.map(|(at, object)| (&self.plan.objects[object], denied(at).collect::<Vec<_>>()));
        Err(refused(self.plan, denials, record))
    }

    /// Permits for everything that was found, and for what the class itself names.
    fn leave_to_read(&self, plan: &Arc<Plan>, record: &mut Record) -> Result<Permits, Missed> {
        let denied = match self.grant(plan) {
            Ok(permits) => return permits,
            Err(denied) => denied,
        };
        record.expanded(plan);
        let of = |object: &Object| object.secrets().filter_map(|place| denied.get(&place)).collect::<Vec<_>>();
        Err(refused(plan, plan.objects.iter().map(|object| (object, of(object))), record))
    }

    /// The policy's decision on each secret of a plan: permits for all, or the denials.
    fn grant(&self, plan: &Arc<Plan>) -> Result<Result<Permits, Missed>, HashMap<usize, Denial>> {
        let pod = self.permits.pod();
        let granted = self.pipeline.policy.of(pod).grant(plan)?;
        Ok(granted.permits(pod, plan).ok_or(Missed::Failed(MountError::Internal)))
    }

    /// The plan with a part for each name. It is paid for before it is made.
    async fn put_in(&mut self) -> Result<(Plan, Spent), Missed> {
        let roots = std::mem::take(&mut self.roots);
        let names: usize = roots.iter().map(|root| root.names.len() * root.objects.len()).sum();
        let texts: usize = roots.iter().map(|root| texts(self.plan, root)).sum();
        let objects: usize = self.plan.objects.iter().map(weight).sum();
        let limit = self.pipeline.limits.objects;
        let spent = self.means.purse.spend(texts + objects + names.min(limit) * SECRET)?;
        let (of, steps, configured) = (Arc::clone(self.plan), Arc::clone(&self.means.steps), self.pipeline.backends.catalogue());
        let put = self.work(texts, move || whole::put_in(&of, &roots, &configured, limit, &steps)).await?;
        Ok((put.map_err(|failures| Missed::Failed(MountError::of_fetch(failures)))?, spent))
    }

    /// Work on this many bytes of names, for each pattern that they are compared with.
    async fn work<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Missed> {
        let patterns: usize = self.plan.bulk().map(patterns).sum();
        let bytes = bytes.saturating_mul(1 + patterns);
        self.pipeline.work(bytes, self.means.purse.tenant(), self.cx, work).await.map_err(Missed::Failed)
    }

    fn too_many(&self) -> Missed {
        let these = (0..self.roots.len()).filter(|root| !self.roots[*root].names.is_empty());
        self.all_failed(these, &Unlisted::too_many(self.pipeline.limits.objects))
    }

    fn too_many_folders(&self, level: &Level) -> Missed {
        let these: BTreeSet<usize> = level.folders.iter().map(|folder| folder.root).collect();
        self.all_failed(these, &Unlisted::too_many_folders())
    }

    fn failed(&self, root: usize, unlisted: &Unlisted) -> Missed {
        self.all_failed([root], unlisted)
    }

    /// Each object of these prefixes.
    fn all_failed(&self, these: impl IntoIterator<Item = usize>, unlisted: &Unlisted) -> Missed {
        let each = these.into_iter().map(|root| &self.roots[root]).flat_map(|root| {
            let error = Arc::new(unlisted.of(&self.plan.secrets[root.place]));
            root.objects.iter().map(move |object| FetchFailure { label: self.plan.objects[*object].label(), error: Arc::clone(&error) })
        });
        Missed::Failed(MountError::of_fetch(each.collect()))
    }
}

// === what is paid ===

/// About how often a name is looked at for one object.
fn patterns(object: &Object) -> usize {
    object.below.as_ref().map_or(0, |below| 1 + below.include.len() + below.exclude.len())
}

/// About how many bytes a copy of an object needs.
fn weight(object: &Object) -> usize {
    size_of::<Object>() + object.parts.len() * size_of::<Part>() + object.below.as_ref().map_or(0, |below| below.weight())
}

/// About how many bytes the texts of the secrets below a prefix need.
fn texts(plan: &Plan, root: &Root) -> usize {
    let folder = &plan.secrets[root.place];
    let login: usize = folder.login.said().iter().map(|(_, text)| text.len()).sum();
    let of_names: usize = root.names.iter().map(String::len).sum();
    root.names.len() * (SECRET + 2 * folder.name.as_str().len() + login) + 4 * of_names * (1 + root.objects.len())
}

// === what is reported ===

/// Denials of found secrets are counted; denials of secrets that the class names are reported in full.
fn refused<'o>(plan: &Plan, denied: impl Iterator<Item = (&'o Object, Vec<&'o Denial>)>, record: &mut Record) -> Missed {
    let (mut whole, mut told) = (Vec::new(), Vec::new());
    for (object, denials) in denied {
        let label = object.label();
        whole.extend(denials.iter().map(|denial| (label.clone(), (*denial).clone())));
        if object.below.is_some() {
            told.extend(Denial::of_found(plan.secret(object), &denials).into_iter().map(|denial| (label.clone(), denial)));
        } else {
            told.extend(denials.into_iter().map(|denial| (label.clone(), denial.clone())));
        }
    }
    record.denied(&whole);
    Missed::Failed(MountError::Policy(told))
}

/// The failures that no object allows. Below a prefix, the names that the store denies are not reported.
fn told(plan: &Plan, failed: &HashMap<usize, Arc<BackendError>>) -> Vec<FetchFailure> {
    let mut told = Vec::new();
    for object in &plan.objects {
        let is_found = |place: usize| object.below.is_some() && place != object.secret;
        let mut denied: Option<(&Arc<BackendError>, usize)> = None;
        for place in object.secrets() {
            let Some(error) = failed.get(&place) else { continue };
            if error.fault == Fault::Denied && is_found(place) {
                denied = Some((error, denied.map_or(0, |(_, count)| count) + 1));
            } else if error.fault != Fault::NotFound || !object.may_lack(place) {
                told.push(FetchFailure { label: object.label(), error: Arc::clone(error) });
            }
        }
        if let Some((error, count)) = denied {
            let reason = format!(
                "the store denies {count} of the {} secrets below it (let the role read them, or leave them out with `exclude`)",
                object.parts.len()
            );
            let error = BackendError { secret: Some(plan.secret(object).name.clone()), reason, source: None, ..(**error).clone() };
            told.push(FetchFailure { label: object.label(), error: Arc::new(error) });
        }
    }
    told
}

#[cfg(test)]
mod tests;
