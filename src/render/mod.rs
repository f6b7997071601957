//! From secrets to files: pure, and the last to touch a value before it is delivered.
//!
//! Every file of a plan is rendered, or a fault names it. `skipped` names an optional file that is absent. A single field and the bytes of
//! the only field are shared with the secret, not copied. No fault shows a value.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::formats::pkcs12::SaltKey;
use crate::model::{
    Claim, Code, Encoding, FaultList, Field, FieldName, FieldPattern, FileMode, FilePath, FolderPath, Label, Newline, Object, Owner, Parse,
    Part, Plan, Query, QueryError, Search, Secret, SecretBytes, SecretRef, Select, clashes, clean, quoted,
};
use crate::steps::{Spent, Steps};

use self::select::{Document, Expressions, Matched, Unfound};

mod each;
mod encoding;
mod formatted;
mod json;
mod keystore;
mod newline;
mod parse;
mod select;
mod template;
#[cfg(test)]
mod tests;

/// What a file costs in an answer besides its content and path, in bytes.
const FILE_OVERHEAD: usize = 24;

/// How many faults say which fields a secret has: it takes long to find the most similar name.
const NAMED_FAULTS: usize = 8;

/// A remedy that only classes in the native format know.
const MAY_BE_OPTIONAL: &str = ", or set `optional: true`";

/// The steps for a byte that is decoded, or written twice as JSON.
const WRITTEN: u64 = 4;

/// The steps for an object, a file, or a look at a name.
const LOOK: u64 = 32;

/// What may be rendered at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RenderLimits {
    pub files: usize,
    /// Of one file, in bytes.
    pub secret_bytes: usize,
    /// What templates may make at once, in bytes.
    pub memory: usize,
    /// The daemon has no more than that: a mount that needs more is refused.
    pub is_all_memory: bool,
    /// Of all files with their paths, in bytes. Delivery measures the answer itself; this limit stops Keyferry from making far too much.
    pub mount_bytes: usize,
}

/// A plan's files, in plan order; a secret's fields by name.
#[derive(Debug, Default)]
pub struct Rendered {
    pub files: Vec<RenderedFile>,
    /// What optional objects and patterns did not find.
    pub skipped: Vec<Skipped>,
    /// What was delivered or left out in another way than a class's author may expect.
    pub warnings: FaultList<RenderWarning>,
}

#[derive(Debug)]
pub struct RenderedFile {
    pub path: FilePath,
    pub mode: FileMode,
    pub owner: Option<Owner>,
    pub contents: Arc<SecretBytes>,
    /// The object that it belongs to, counted from 1.
    pub object: usize,
    /// The place of its secret in the plan; with several secrets, of the first.
    pub secret: usize,
    /// The field it holds, or the expression; `None` for a whole secret.
    pub field: Option<FieldName>,
}

/// What was absent, and may be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Skipped {
    /// The object, counted from 1.
    pub object: usize,
    pub secret: SecretRef,
    /// The field, expression or pattern that found nothing; `None`: the secret itself is absent.
    pub field: Option<String>,
}

/// A remark about a secret that was delivered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RenderWarning {
    pub object: Label,
    pub secret: SecretRef,
    pub problem: String,
}

/// One fault that stops a plan from being rendered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RenderFault {
    pub object: Label,
    pub secret: SecretRef,
    /// What is wrong, and what to do.
    pub problem: String,
    pub code: Code,
}

/// A fault whose object is not known yet.
#[derive(Clone, Debug)]
struct Problem {
    code: Code,
    text: String,
}

/// Why a plan was not rendered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unrendered {
    Faults(FaultList<RenderFault>),
    /// With more memory the mount may work.
    Short,
}

/// Why nothing more is rendered.
enum Over {
    Bytes,
    Files,
    Memory,
    Steps(Spent),
}

/// Renders every file of a plan. `secrets` has the same order as the secrets of the plan; `None`: absent. `salts`: for keystores.
///
/// # Errors
/// All faults: absent fields and secrets that are not optional (`SecretNotFound`), what cannot be decoded (`SecretCorrupt`), names that
/// cannot be paths, two files with one path, expressions that fail (`InvalidRequest`), and what is above a limit or takes more than `steps`
/// (`TooLarge`).
pub fn render(
    plan: &Plan,
    secrets: &[Option<&Secret>],
    permission: FileMode,
    limits: RenderLimits,
    salts: &SaltKey,
    steps: &Steps,
) -> Result<Rendered, Unrendered> {
    let mut renderer = Renderer {
        plan,
        permission,
        limits,
        salts,
        steps,
        expressions: Expressions::of(plan, limits),
        opened: Vec::new(),
        spent: 0,
        named: 0,
        rendered: Rendered { files: Vec::with_capacity(plan.objects.len()), ..Rendered::default() },
        faults: FaultList::default(),
    };
    let mut is_spent = false;
    for object in &plan.objects {
        if let Err(over) = renderer.object(object, secrets) {
            if matches!(over, Over::Memory) && !limits.is_all_memory {
                return Err(Unrendered::Short);
            }
            is_spent = matches!(over, Over::Steps(_));
            renderer.fault(object, || over.problem(limits));
            break;
        }
    }
    // If the steps are used up, the layout has none either, and one fault is enough.
    if let Some(last) = plan.objects.last().filter(|_| !is_spent)
        && let Err(spent) = renderer.check_layout()
    {
        renderer.fault(last, || Over::Steps(spent).problem(limits));
    }
    if renderer.faults.is_empty() { Ok(renderer.rendered) } else { Err(Unrendered::Faults(renderer.faults)) }
}

/// Where the files of a secret's fields go.
#[derive(Clone, Copy)]
struct Naming<'p> {
    folder: &'p FolderPath,
    /// The secret, where it was found below a prefix.
    part: Option<&'p Part>,
}

struct Renderer<'p> {
    plan: &'p Plan,
    permission: FileMode,
    limits: RenderLimits,
    salts: &'p SaltKey,
    steps: &'p Steps,
    expressions: Expressions<'p>,
    /// Stored keystores, by the place of their secrets. `None`: the keystore could not be opened, and a fault says so. A class has only
    /// few.
    opened: Vec<(usize, &'p Parse, Option<Arc<Secret>>)>,
    /// Bytes of the files so far.
    spent: usize,
    /// How many faults have named the fields of a secret.
    named: usize,
    rendered: Rendered,
    faults: FaultList<RenderFault>,
}

// === impl Renderer ===

impl<'p> Renderer<'p> {
    fn object(&mut self, object: &'p Object, secrets: &[Option<&Secret>]) -> Result<(), Over> {
        self.steps.charge(LOOK)?;
        if object.below.is_some() && object.parts.is_empty() {
            // No secret was found, and that is allowed.
            self.skip(object, None);
            return Ok(());
        }
        if let Select::Each { patterns, folder } = &object.select {
            return self.each(object, patterns.as_deref(), folder, secrets);
        }
        if let Select::Formatted { format, patterns, path } = &object.select {
            return self.formatted(object, *format, patterns, path, secrets);
        }
        if let Select::Template { template, path } = &object.select {
            return self.template(object, template, path, secrets);
        }
        if let Select::Keystore { keystore, path } = &object.select {
            return self.keystore(object, keystore, path, secrets);
        }
        let Some(secret) = secrets[object.secret] else {
            self.absent_secret(object, object.secret);
            return Ok(());
        };
        let Some(parse) = &object.parse else { return self.select(object, secret) };
        match self.parsed(object, object.secret, secret, parse, secrets)? {
            Some(parsed) => self.select(object, &parsed),
            None => Ok(()),
        }
    }

    fn select(&mut self, object: &'p Object, secret: &Secret) -> Result<(), Over> {
        match &object.select {
            // An object of several secrets: see `object`.
            Select::Each { .. } | Select::Formatted { .. } | Select::Keystore { .. } | Select::Template { .. } => Ok(()),
            Select::Field { query, path } => self.field(object, secret, query, path),
            Select::Fields { patterns, folder } => self.fields(object, object.secret, secret, patterns, Naming { folder, part: None }),
            Select::Key { key, path } => self.key(object, secret, key, path),
            Select::Response { path } => self.file(object, path.clone(), None, select::response(secret)),
            Select::Searched { path, searches } => self.searched(object, secret, path, searches),
            Select::Whole { path } => self.whole(object, object.secret, secret, path),
        }
    }

    /// `place`: of the secret in the plan.
    fn whole(&mut self, object: &Object, place: usize, secret: &Secret, path: &FilePath) -> Result<(), Over> {
        let bytes = |(name, field): (&FieldName, &Field)| LOOK + WRITTEN * (name.as_str().len() + field.bytes.len()) as u64;
        self.steps.charge(secret.fields.iter().map(bytes).sum())?;
        if let (1, Some((name, field)), None) = (secret.fields.len(), secret.fields.first_key_value(), select::stored(secret))
            && field.is_null()
        {
            self.absent_at(object, place, Some(name.as_str()), || select::null(name));
            return Ok(());
        }
        let contents = match select::whole(secret, object.encoding, self.limits.secret_bytes) {
            Ok(contents) => Ok(self.end(object, contents)?),
            Err(problem) => Err(problem),
        };
        self.file_of(object, place, path.clone(), None, contents)
    }

    fn field(&mut self, object: &'p Object, secret: &Secret, query: &Query, path: &FilePath) -> Result<(), Over> {
        self.steps.charge(LOOK + query.as_str().len() as u64)?;
        if let Some((name, field)) = secret.fields.get_key_value(query.as_str()) {
            if field.is_null() {
                self.absent(object, Some(name.as_str()), || select::null(name));
                return Ok(());
            }
            let contents = self.decode(object, Arc::clone(&field.bytes))?;
            return self.file(object, path.clone(), Some(name.clone()), contents);
        }
        let found = if query.is_expression() {
            self.expressions.search(object, secret, query, self.steps)?
        } else {
            Err(select::without_document(query))
        };
        match found {
            Ok(contents) => {
                let contents = self.decode(object, contents)?;
                self.file(object, path.clone(), Some(query.name().clone()), contents)?;
            }
            Err(Unfound::Absent(why)) => self.absent_field(object, secret, query.as_str(), why.as_ref()),
            Err(Unfound::Failed(error)) => {
                let (named, steps) = (self.names_fields(), self.steps);
                self.fault(object, || select::failed(secret, query, &error, named.then_some(steps)));
            }
            Err(Unfound::Member { path, near }) => {
                let named = !object.optional && self.names_fields();
                let text = || select::no_member(secret, query.as_str(), &path, near.as_deref(), named);
                self.absent(object, Some(query.as_str()), text);
            }
            Err(Unfound::Problem(problem)) => self.fault(object, || problem),
        }
        Ok(())
    }

    fn key(&mut self, object: &Object, secret: &Secret, key: &FieldName, path: &FilePath) -> Result<(), Over> {
        self.steps.charge(LOOK + key.as_str().len() as u64)?;
        let Some(field) = select::key(secret, key.as_str(), self.steps)? else {
            self.absent_field(object, secret, key.as_str(), None);
            return Ok(());
        };
        if field.is_null() {
            self.warn(object, || {
                format!(
                    "its field {} is null in the store: the file has the four letters null, as vault-csi-provider writes it (give it a value)",
                    quoted(key.as_str())
                )
            });
        }
        let contents = self.decode(object, field.bytes)?;
        self.file(object, path.clone(), Some(key.clone()), contents)
    }

    fn searched(&mut self, object: &Object, secret: &Secret, path: &FilePath, searches: &[Search]) -> Result<(), Over> {
        let response = match select::response(secret) {
            Ok(response) => response,
            Err(problem) => {
                self.fault(object, || problem);
                return Ok(());
            }
        };
        let document = Document::of_response(&response, self.limits.secret_bytes, self.steps)?;
        self.file(object, path.clone(), None, Ok(Arc::clone(&response)))?;
        let document = match document {
            Ok(document) => document,
            Err(problem) => {
                self.fault(object, || problem);
                return Ok(());
            }
        };
        for Search { query, path, mode } in searches {
            self.steps.charge(LOOK + query.as_str().len() as u64)?;
            match document.search(query, self.limits.secret_bytes, self.steps)? {
                Ok(contents) => {
                    let contents = select::to_the_digit(&response, query, contents, self.steps)?;
                    let before = self.rendered.files.len();
                    self.file(object, path.clone(), Some(query.name().clone()), Ok(contents))?;
                    if let (Some(mode), Some(file)) = (mode, self.rendered.files.get_mut(before)) {
                        file.mode = *mode;
                    }
                }
                Err(unfound) => self.unsearched(object, query, unfound),
            }
        }
        Ok(())
    }

    fn unsearched(&mut self, object: &Object, query: &Query, unfound: Unfound) {
        let shown = || quoted(query.as_str());
        let absent = |hint: String| {
            let text = format!("the expression {} finds nothing in it{hint} (correct the expression, or the secret)", shown());
            Problem { code: Code::SecretNotFound, text }
        };
        self.fault(object, || match unfound {
            Unfound::Absent(_) => absent(String::new()),
            Unfound::Member { path, .. } => absent(format!(": its member {} is not there", clean(&path))),
            Unfound::Failed(error) => {
                let text = format!("the expression {}: {error} (correct the expression, or the secret)", shown());
                Problem { code: Code::InvalidRequest, text }
            }
            Unfound::Problem(problem) => problem,
        });
    }

    /// `place`: of the secret in the plan.
    fn fields(
        &mut self,
        object: &Object,
        place: usize,
        secret: &Secret,
        patterns: &[FieldPattern],
        naming: Naming<'_>,
    ) -> Result<(), Over> {
        let Matched { fields, unmatched } = select::matching(secret, patterns, self.steps)?;
        for pattern in unmatched {
            if pattern.is_literal() {
                self.absent_field_at(object, place, secret, pattern.as_str(), None);
            } else {
                self.skip_at(object, place, Some(pattern.as_str()));
            }
        }
        for (name, field, is_named) in fields {
            match (field.is_null(), is_named) {
                (false, _) => self.exploded(object, place, name, field, naming)?,
                (true, true) => self.absent_at(object, place, Some(name.as_str()), || select::null(name)),
                (true, false) => {
                    self.skip_at(object, place, Some(name.as_str()));
                    self.warn_at(object, place, || {
                        let name = quoted(name.as_str());
                        format!("its field {name} is null in the store: no file is delivered for it (give it a value, or remove it)")
                    });
                }
            }
        }
        Ok(())
    }

    fn exploded(&mut self, object: &Object, place: usize, name: &FieldName, field: &Field, naming: Naming<'_>) -> Result<(), Over> {
        match self.path_of(object, naming, Some(name))? {
            Ok(path) => {
                let contents = self.decode(object, Arc::clone(&field.bytes))?;
                self.file_of(object, place, path, Some(name.clone()), contents.map_err(|problem| problem.of_field(name)))
            }
            Err(problem) => {
                self.fault_at(object, place, || problem);
                Ok(())
            }
        }
    }

    fn decode(&self, object: &Object, stored: Arc<SecretBytes>) -> Result<Result<Arc<SecretBytes>, Problem>, Over> {
        if object.encoding != Encoding::Utf8 {
            self.steps.charge(WRITTEN * stored.len() as u64)?;
        }
        match encoding::decode(object.encoding, stored, self.plan.is_native()) {
            Ok(decoded) => Ok(Ok(self.end(object, decoded)?)),
            Err(problem) => Ok(Err(problem)),
        }
    }

    /// Changes the line ends at the end of a text, as the object says.
    fn end(&self, object: &Object, contents: Arc<SecretBytes>) -> Result<Arc<SecretBytes>, Spent> {
        if object.newline != Newline::Keep {
            self.steps.charge(WRITTEN * contents.len() as u64)?;
        }
        Ok(newline::end(object.newline, contents))
    }

    /// The secret made from the content of one field; `None`: there is none, and a fault says so.
    fn parsed(
        &mut self,
        object: &'p Object,
        place: usize,
        secret: &Secret,
        parse: &'p Parse,
        secrets: &[Option<&Secret>],
    ) -> Result<Option<Arc<Secret>>, Spent> {
        if let Parse::Pkcs12 { .. } = parse {
            return self.opened(object, place, secret, parse, secrets);
        }
        match parse::parsed(secret, parse, self.limits, self.steps)? {
            Ok(parsed) => return Ok(Some(Arc::new(parsed))),
            Err(parse::Unparsed::Absent { field, text }) => self.absent_at(object, place, Some(&field), || text),
            Err(parse::Unparsed::Problem(problem)) => self.fault_at(object, place, || problem),
        }
        Ok(None)
    }

    fn file(
        &mut self,
        object: &Object,
        path: FilePath,
        field: Option<FieldName>,
        contents: Result<Arc<SecretBytes>, Problem>,
    ) -> Result<(), Over> {
        self.file_of(object, object.secret, path, field, contents)
    }

    /// `place`: of its secret in the plan.
    fn file_of(
        &mut self,
        object: &Object,
        place: usize,
        path: FilePath,
        field: Option<FieldName>,
        contents: Result<Arc<SecretBytes>, Problem>,
    ) -> Result<(), Over> {
        self.steps.charge(LOOK)?;
        match contents {
            Ok(contents) if contents.len() > self.limits.secret_bytes => {
                let limit = self.limits.secret_bytes;
                self.fault_at(object, place, || too_large(contents.len(), limit));
                Ok(())
            }
            Ok(contents) => {
                self.spent = self.spent.saturating_add(contents.len() + path.as_str().len() + FILE_OVERHEAD);
                let mode = object.mode.unwrap_or(self.permission);
                self.rendered.files.push(RenderedFile {
                    path,
                    mode,
                    owner: object.owner,
                    contents,
                    object: object.index,
                    secret: place,
                    field,
                });
                match () {
                    () if self.spent > self.limits.mount_bytes => Err(Over::Bytes),
                    () if self.rendered.files.len() > self.limits.files => Err(Over::Files),
                    () => Ok(()),
                }
            }
            Err(problem) => {
                self.fault_at(object, place, || problem);
                Ok(())
            }
        }
    }

    fn absent_field(&mut self, object: &Object, secret: &Secret, wanted: &str, why: Option<&QueryError>) {
        self.absent_field_at(object, object.secret, secret, wanted, why);
    }

    fn absent_field_at(&mut self, object: &Object, place: usize, secret: &Secret, wanted: &str, why: Option<&QueryError>) {
        let (named, steps) = (!object.optional && self.names_fields(), self.steps);
        self.absent_at(object, place, Some(wanted), || select::no_field(secret, wanted, why, named.then_some(steps)));
    }

    fn absent_secret(&mut self, object: &Object, place: usize) {
        let text = || "is not in its store (store it, correct the name, or set `optional: true`)".to_owned();
        self.absent_at(object, place, None, text);
    }

    fn absent(&mut self, object: &Object, field: Option<&str>, text: impl FnOnce() -> String) {
        self.absent_at(object, object.secret, field, text);
    }

    /// `place`: of the secret that lacks it.
    fn absent_at(&mut self, object: &Object, place: usize, field: Option<&str>, text: impl FnOnce() -> String) {
        if object.optional {
            self.skip_at(object, place, field);
        } else {
            let known = |text: String| if self.plan.is_native() { text } else { text.replace(MAY_BE_OPTIONAL, "") };
            self.fault_at(object, place, || Problem { code: Code::SecretNotFound, text: known(text()) });
        }
    }

    /// Whether the next fault names the fields of the secret.
    fn names_fields(&mut self) -> bool {
        self.named += 1;
        self.named <= NAMED_FAULTS
    }

    fn fault(&mut self, object: &Object, problem: impl FnOnce() -> Problem) {
        self.fault_at(object, object.secret, problem);
    }

    /// `place`: of the secret with the fault.
    fn fault_at(&mut self, object: &Object, place: usize, problem: impl FnOnce() -> Problem) {
        let plan = self.plan;
        self.faults.add_with(|| {
            let Problem { code, text } = problem();
            RenderFault { object: object.label(), secret: plan.secrets[place].clone(), problem: text, code }
        });
    }

    fn warn(&mut self, object: &Object, problem: impl FnOnce() -> String) {
        self.warn_at(object, object.secret, problem);
    }

    fn warn_at(&mut self, object: &Object, place: usize, problem: impl FnOnce() -> String) {
        let plan = self.plan;
        self.rendered.warnings.add_with(|| RenderWarning {
            object: object.label(),
            secret: plan.secrets[place].clone(),
            problem: problem(),
        });
    }

    fn skip(&mut self, object: &Object, field: Option<&str>) {
        self.skip_at(object, object.secret, field);
    }

    fn skip_at(&mut self, object: &Object, place: usize, field: Option<&str>) {
        let secret = self.plan.secrets[place].clone();
        self.rendered.skipped.push(Skipped { object: object.index, secret, field: field.map(clean) });
    }

    /// The dialect has checked every path, except those that are made of the names of fields and of found secrets.
    fn check_layout(&mut self) -> Result<(), Spent> {
        let plan = self.plan;
        if !plan.objects.iter().any(|object| matches!(object.select, Select::Each { .. } | Select::Fields { .. })) {
            return Ok(());
        }
        let files = &self.rendered.files;
        let claims: Vec<Claim<'_>> = files.iter().map(|file| Claim { path: file.path.as_str(), folder: false }).collect();
        let (mut faults, mut told) = (Vec::new(), HashSet::new());
        for clash in clashes(&claims, self.steps)? {
            let (earlier, later) = (clash.file.min(clash.other), clash.file.max(clash.other));
            // One of its files is enough to show what is wrong with an object.
            if !told.insert(files[later].object) {
                continue;
            }
            let (Some(holder), Some(object)) = (plan.object(files[earlier].object), plan.object(files[later].object)) else { continue };
            if holder.index == object.index && matches!(object.select, Select::Each { .. }) {
                let both = [clash.file, clash.other].map(|at| (files[at].secret, &files[at].path));
                faults.push((object, Self::clash_of_found(object, both)));
                continue;
            }
            let text = format!(
                "it would deliver {}, which cannot be in one volume with {} of {} (name the fields, or change a path)",
                quoted(files[later].path.as_str()),
                quoted(files[earlier].path.as_str()),
                holder.label()
            );
            faults.push((object, Problem { code: Code::InvalidRequest, text }));
        }
        for (object, problem) in faults {
            self.fault(object, || problem);
        }
        Ok(())
    }
}

// === impl Problem ===

impl Problem {
    /// Adds the field's name to what is wrong with it.
    fn of_field_itself(mut self, name: &FieldName) -> Self {
        self.text = format!("its field {} {}", quoted(name.as_str()), self.text);
        self
    }

    fn of_field(mut self, name: &FieldName) -> Self {
        self.text = format!("its field {}: {}", quoted(name.as_str()), self.text);
        self
    }
}

// === impl Over ===

impl Over {
    fn problem(self, limits: RenderLimits) -> Problem {
        let text = match self {
            Self::Bytes => format!(
                "with this object the volume has more than {} bytes (split the class over several volumes, or ask for a higher limits.mountBytes)",
                limits.mount_bytes
            ),
            Self::Files => format!(
                "with this object the volume has more than {} files (split the class over several volumes, or ask for a higher limits.files)",
                limits.files
            ),
            Self::Memory => format!("its template makes more than {} bytes while Keyferry renders it (write a simpler one)", limits.memory),
            Self::Steps(spent) => format!("with this object the volume {spent} (split the class over several volumes)"),
        };
        Problem { code: Code::TooLarge, text }
    }
}

impl From<Spent> for Over {
    fn from(spent: Spent) -> Self {
        Self::Steps(spent)
    }
}

fn too_large(bytes: usize, limit: usize) -> Problem {
    let text = format!(
        "is {bytes} bytes as a file: at most {limit} are allowed on this node (deliver single fields, or ask for a higher limits.secretBytes)"
    );
    Problem { code: Code::TooLarge, text }
}

/// For a file that was not finished.
fn too_long(limit: usize) -> Problem {
    let text = format!(
        "makes a file of more than {limit} bytes: no more are allowed on this node (make a shorter one, or ask for a higher limits.secretBytes)"
    );
    Problem { code: Code::TooLarge, text }
}

impl fmt::Display for RenderWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.secret, self.problem)
    }
}

impl fmt::Display for RenderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.secret, self.problem)
    }
}
