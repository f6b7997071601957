//! Files of the secrets that were found below a prefix: one file per secret, or one folder per secret with a file for each field.

use super::{LOOK, Naming, Over, Problem, Renderer};
use crate::model::{
    Code, FieldName, FieldPattern, FilePath, FolderPath, InvalidPath, Object, RENAMED, Secret, Template, Unrendered, quoted,
};

/// The most bytes that a `rename` may make while it is rendered, and the longest result.
const RENAME: usize = 64 * 1024;
const PATH: usize = 4096;

/// Why a name has no path.
enum Unnamed {
    Over(Over),
    Problem(Problem),
}

// === impl Renderer ===

impl<'p> Renderer<'p> {
    pub(super) fn each(
        &mut self,
        object: &'p Object,
        patterns: Option<&[FieldPattern]>,
        folder: &'p FolderPath,
        secrets: &[Option<&Secret>],
    ) -> Result<(), Over> {
        for part in &object.parts {
            self.steps.charge(LOOK)?;
            let Some(secret) = secrets[part.secret] else {
                self.absent_secret(object, part.secret);
                continue;
            };
            let parsed;
            let secret = match &part.parse {
                None => secret,
                Some(parse) => match self.parsed(object, part.secret, secret, parse, secrets)? {
                    Some(fields) => {
                        parsed = fields;
                        &parsed
                    }
                    None => continue,
                },
            };
            let naming = Naming { folder, part: Some(part) };
            match patterns {
                Some(patterns) => self.fields(object, part.secret, secret, patterns, naming)?,
                None => match self.path_of(object, naming, None)? {
                    Ok(path) => self.whole(object, part.secret, secret, &path)?,
                    Err(problem) => self.fault_at(object, part.secret, || problem),
                },
            }
        }
        Ok(())
    }

    /// The path of the file of a field, or of a whole secret.
    pub(super) fn path_of(
        &self,
        object: &Object,
        naming: Naming<'_>,
        field: Option<&FieldName>,
    ) -> Result<Result<FilePath, Problem>, Over> {
        let Naming { folder, part } = naming;
        let field = field.map(FieldName::as_str);
        let above = folder.as_path().map_or(0, |path| path.as_str().len());
        self.steps.charge((above + part.map_or(0, |part| part.name.len()) + field.map_or(0, str::len)) as u64)?;
        let Some(part) = part else {
            let name = field.unwrap_or_default();
            return Ok(folder.join(name).map_err(|cause| no_name_of_field(name, &cause)));
        };
        let rename = object.below.as_ref().and_then(|below| below.rename.as_deref());
        let name = match (rename, field) {
            (None, None) => part.name.clone(),
            (None, Some(field)) => format!("{}/{field}", part.name),
            (Some(rename), field) => match self.renamed(rename, &part.name, field) {
                Ok(name) => name,
                Err(Unnamed::Over(over)) => return Err(over),
                Err(Unnamed::Problem(problem)) => return Ok(Err(problem)),
            },
        };
        Ok(folder.join(&name).map_err(|cause| no_name(&name, &cause, rename.is_some())))
    }

    fn renamed(&self, rename: &Template, name: &str, field: Option<&str>) -> Result<String, Unnamed> {
        let texts = RENAMED.into_iter().zip([Some(name), field]).filter_map(|(name, text)| Some((name, text?)));
        let problem = |text: String| Unnamed::Problem(Problem { code: Code::InvalidRequest, text });
        match rename.render_texts(&texts.collect::<Vec<_>>(), PATH, RENAME, self.steps) {
            // The result is text, since the template and the names are text.
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(Unrendered::Absent { fault, .. } | Unrendered::Fault(fault)) => Err(problem(format!("rename: {fault}"))),
            Err(Unrendered::Spent(spent)) => Err(Unnamed::Over(spent.into())),
            Err(Unrendered::Memory | Unrendered::TooLong) => {
                Err(problem(format!("rename: makes a name of more than {PATH} bytes (make a shorter one)")))
            }
        }
    }

    /// The fault of two files that exclude each other. Both are of one object that found its secrets.
    pub(super) fn clash_of_found(object: &Object, [earlier, later]: [(usize, &FilePath); 2]) -> Problem {
        let name = |place: usize| object.parts.iter().find(|part| part.secret == place).map(|part| part.name.as_str());
        let [one, other] = [earlier, later].map(|(place, _)| quoted(name(place).unwrap_or_default()));
        let path = quoted(earlier.1.as_str());
        let text = match earlier.1 == later.1 {
            true if earlier.0 == later.0 => {
                format!("two fields of {one} would both become the file {path} (correct `rename`, or choose with `fields`)")
            }
            true => format!("{one} and {other} would both become the file {path} (correct `rename`)"),
            false => format!(
                "{one} would be the file {path}, and {other} a file below it (give them other names, such as \
                 `rename: \"{{{{ name | replace('/', '.') }}}}\"`)"
            ),
        };
        Problem { code: Code::InvalidRequest, text }
    }
}

/// The fault of a field whose name cannot be a path.
pub(super) fn no_name_of_field(name: &str, cause: &InvalidPath) -> Problem {
    let text = format!(
        "its field {} cannot name a file: the path {cause} (name the fields, or write a separate object for this one)",
        quoted(name)
    );
    Problem { code: Code::InvalidRequest, text }
}

fn no_name(name: &str, cause: &InvalidPath, is_renamed: bool) -> Problem {
    let remedy = if is_renamed { "correct `rename`" } else { "give it another name with `rename`, or leave it out with `exclude`" };
    Problem { code: Code::InvalidRequest, text: format!("{} cannot name a file: the path {cause} ({remedy})", quoted(name)) }
}
