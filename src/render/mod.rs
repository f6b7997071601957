//! From secrets to files: pure, and the last to touch a value before it is delivered.
//!
//! Every file of a plan is rendered or named in a fault; an optional one that is absent is named in `skipped`. A single field and a
//! lone field's bytes are shared with the secret, not copied. No fault shows a value.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::model::{
    Claim, Code, Field, FieldName, FieldPattern, FileMode, FilePath, FolderPath, Label, Object, Owner, Plan, Query, Secret, SecretBytes,
    SecretRef, Select, clashes, clean, quoted,
};

use self::select::Documents;

mod encoding;
mod json;
mod select;
#[cfg(test)]
mod tests;

/// What a file costs in an answer besides its content and path, in bytes.
const FILE_OVERHEAD: usize = 24;

/// How many faults are told at most; a message has room for few of them.
const MAX_FAULTS: usize = 1_000;

/// What may be rendered at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RenderLimits {
    /// Of one file, in bytes.
    pub secret_bytes: usize,
    /// Of all files with their paths, in bytes. Delivery measures the answer itself; this keeps what is far too much from being made.
    pub mount_bytes: usize,
}

/// A plan's files, in plan order; a secret's fields by name.
#[derive(Debug, Default)]
pub struct Rendered {
    pub files: Vec<RenderedFile>,
    /// What optional objects and patterns did not find.
    pub skipped: Vec<Skipped>,
}

#[derive(Debug)]
pub struct RenderedFile {
    pub path: FilePath,
    pub mode: FileMode,
    pub owner: Option<Owner>,
    pub contents: Arc<SecretBytes>,
    /// The object it is of, counted from 1.
    pub object: usize,
    /// The field it holds, or the expression; `None` for a whole secret.
    pub field: Option<FieldName>,
}

/// What was absent, and could be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Skipped {
    pub object: Label,
    pub secret: SecretRef,
    /// The field, expression or pattern that found nothing; `None`: the secret itself is absent.
    pub field: Option<String>,
}

/// One thing that keeps a plan from being rendered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RenderFault {
    pub object: Label,
    pub secret: SecretRef,
    /// What is wrong, and what to do.
    pub problem: String,
    pub code: Code,
}

/// A fault before it is known whose it is.
#[derive(Debug)]
struct Problem {
    code: Code,
    text: String,
}

/// Renders every file of a plan. `secrets` stand beside those that the plan asks for; `None`: absent.
///
/// # Errors
/// All faults: absent fields and secrets that are not optional (`SecretNotFound`), what cannot be decoded (`SecretCorrupt`), names that make no
/// path or two files of one path, and expressions that fail (`InvalidRequest`), what is over a limit (`TooLarge`).
pub fn render(plan: &Plan, secrets: &[Option<&Secret>], permission: FileMode, limits: RenderLimits) -> Result<Rendered, Vec<RenderFault>> {
    let mut renderer = Renderer {
        plan,
        permission,
        limits,
        documents: Documents::new(limits.secret_bytes),
        spent: 0,
        rendered: Rendered { files: Vec::with_capacity(plan.objects.len()), skipped: Vec::new() },
        faults: Vec::new(),
    };
    for object in &plan.objects {
        match secrets[object.secret] {
            Some(secret) => renderer.object(object, secret),
            None => renderer.absent(object, None, "is not in its store (store it, correct the name, or set `optional: true`)".to_owned()),
        }
        if renderer.spent > limits.mount_bytes {
            renderer.fault(object, too_much(limits));
            break;
        }
        if renderer.faults.len() >= MAX_FAULTS {
            break;
        }
    }
    renderer.check_layout();
    if renderer.faults.is_empty() { Ok(renderer.rendered) } else { Err(renderer.faults) }
}

struct Renderer<'p> {
    plan: &'p Plan,
    permission: FileMode,
    limits: RenderLimits,
    documents: Documents,
    /// Bytes of the files so far.
    spent: usize,
    rendered: Rendered,
    faults: Vec<RenderFault>,
}

// === impl Renderer ===

impl Renderer<'_> {
    fn object(&mut self, object: &Object, secret: &Secret) {
        match &object.select {
            Select::Field { query, path } => self.field(object, secret, query, path),
            Select::Fields { patterns, folder } => self.fields(object, secret, patterns, folder),
            Select::Response { path } => self.file(object, path.clone(), None, select::response(secret)),
            Select::Whole { path } => {
                let contents = select::whole(secret, object.encoding, self.limits.secret_bytes);
                self.file(object, path.clone(), None, contents);
            }
        }
    }

    fn field(&mut self, object: &Object, secret: &Secret, query: &Query, path: &FilePath) {
        let (name, contents) = match secret.fields.get_key_value(query.as_str()) {
            Some((name, field)) => (Some(name.clone()), Ok(Arc::clone(&field.bytes))),
            None => (query.as_str().parse().ok(), self.documents.search(object.secret, secret, query)),
        };
        match contents {
            Ok(contents) => self.file(object, path.clone(), name, encoding::decode(object.encoding, contents)),
            Err(problem) if problem.code == Code::SecretNotFound => self.absent(object, Some(query.as_str()), problem.text),
            Err(problem) => self.fault(object, problem),
        }
    }

    fn fields(&mut self, object: &Object, secret: &Secret, patterns: &[FieldPattern], folder: &FolderPath) {
        for pattern in patterns {
            if pattern.is_literal() {
                if !secret.fields.contains_key(pattern.as_str()) {
                    self.absent(object, Some(pattern.as_str()), select::no_field(secret, pattern.as_str(), ""));
                }
            } else if !secret.fields.keys().any(|name| pattern.matches(name.as_str())) {
                self.skip(object, Some(pattern.as_str()));
            }
        }
        for (name, field) in select::matching(secret, patterns) {
            self.exploded(object, name, field, folder);
            if self.spent > self.limits.mount_bytes || self.faults.len() >= MAX_FAULTS {
                return;
            }
        }
    }

    fn exploded(&mut self, object: &Object, name: &FieldName, field: &Field, folder: &FolderPath) {
        match folder.join(name.as_str()) {
            Ok(path) => {
                let contents = encoding::decode(object.encoding, Arc::clone(&field.bytes));
                self.file(object, path, Some(name.clone()), contents.map_err(|problem| problem.of_field(name)));
            }
            Err(cause) => {
                let text = format!(
                    "its field {} cannot name a file: the path {cause} (name the fields, or give it an object of its own)",
                    quoted(name.as_str())
                );
                self.fault(object, Problem { code: Code::InvalidRequest, text });
            }
        }
    }

    fn file(&mut self, object: &Object, path: FilePath, field: Option<FieldName>, contents: Result<Arc<SecretBytes>, Problem>) {
        match contents {
            Ok(contents) if contents.len() > self.limits.secret_bytes => {
                self.fault(object, too_large(contents.len(), self.limits.secret_bytes));
            }
            Ok(contents) => {
                self.spent = self.spent.saturating_add(contents.len() + path.as_str().len() + FILE_OVERHEAD);
                let mode = object.mode.unwrap_or(self.permission);
                self.rendered.files.push(RenderedFile { path, mode, owner: object.owner, contents, object: object.index, field });
            }
            Err(problem) => self.fault(object, problem),
        }
    }

    fn absent(&mut self, object: &Object, field: Option<&str>, text: String) {
        if object.optional {
            self.skip(object, field);
        } else {
            self.fault(object, Problem { code: Code::SecretNotFound, text });
        }
    }

    fn fault(&mut self, object: &Object, Problem { code, text }: Problem) {
        let secret = self.plan.secret(object).clone();
        self.faults.push(RenderFault { object: object.label(), secret, problem: text, code });
    }

    fn skip(&mut self, object: &Object, field: Option<&str>) {
        let secret = self.plan.secret(object).clone();
        self.rendered.skipped.push(Skipped { object: object.label(), secret, field: field.map(clean) });
    }

    /// The dialect has checked every path but those that fields' names make.
    fn check_layout(&mut self) {
        let plan = self.plan;
        if !plan.objects.iter().any(|object| matches!(object.select, Select::Fields { .. })) {
            return;
        }
        let files = &self.rendered.files;
        let claims: Vec<Claim<'_>> = files.iter().map(|file| Claim { path: file.path.as_str(), folder: false }).collect();
        let (mut faults, mut told) = (Vec::new(), HashSet::new());
        for clash in clashes(&claims) {
            let (earlier, later) = (clash.file.min(clash.other), clash.file.max(clash.other));
            // One of its files is enough to say what is wrong with an object.
            if !told.insert(files[later].object) {
                continue;
            }
            let (Some(holder), Some(object)) = (plan.object(files[earlier].object), plan.object(files[later].object)) else { continue };
            let text = format!(
                "it would deliver {}, which excludes {} of {} (name the fields, or change a path)",
                quoted(files[later].path.as_str()),
                quoted(files[earlier].path.as_str()),
                holder.label()
            );
            faults.push((object, Problem { code: Code::InvalidRequest, text }));
        }
        for (object, problem) in faults {
            self.fault(object, problem);
        }
    }
}

// === impl Problem ===

impl Problem {
    fn of_field(mut self, name: &FieldName) -> Self {
        self.text = format!("its field {}: {}", quoted(name.as_str()), self.text);
        self
    }
}

fn too_large(bytes: usize, limit: usize) -> Problem {
    let text = format!(
        "is {bytes} bytes as a file: at most {limit} are allowed on this node (deliver single fields, or ask for a higher limits.secretBytes)"
    );
    Problem { code: Code::TooLarge, text }
}

fn too_much(limits: RenderLimits) -> Problem {
    let text = format!(
        "with this object the volume has more than {} bytes (split the class over several volumes, or ask for a higher limits.mountBytes)",
        limits.mount_bytes
    );
    Problem { code: Code::TooLarge, text }
}

impl fmt::Display for RenderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.secret, self.problem)
    }
}
