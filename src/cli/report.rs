//! The result of a mount, for a person or a script: a table, a tree, JSON. Never a file's contents.
//!
//! An answer does not say which of its files come from which of its objects. If it is clear, the table says it. If not, the table shows `-`, and
//! lists the objects below.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::answer::{Answer, AnswerFile};
use super::manifest::ClassManifest;
use crate::server::proto::ObjectVersion;
use crate::yaml::{Node, Reader, Value, parse};

/// An answer, and which object each file comes from.
pub(super) struct Report<'a> {
    pub(super) answer: &'a Answer,
    /// For each file the object it comes from.
    sources: Vec<Option<&'a ObjectVersion>>,
}

/// The part of an object in a native class that helps to find where a file comes from.
struct Wish {
    backend: Option<String>,
    secret: String,
    version: Option<String>,
    /// A file, or with `/` at its end the folder of several.
    path: String,
}

// === impl Report ===

impl<'a> Report<'a> {
    pub(super) fn of(answer: &'a Answer, class: &ClassManifest) -> Self {
        let wishes = wishes(class);
        Self { answer, sources: answer.files.iter().map(|file| source(file, &answer.objects, &wishes)).collect() }
    }

    /// Path, mode, size, object and version of each file; then the objects that the table could not place.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![["PATH", "MODE", "SIZE", "FROM", "VERSION"].map(str::to_owned)];
        for (file, source) in self.answer.files.iter().zip(&self.sources) {
            let (id, version) = source.map_or(("-", "-"), |object| (&object.id, &object.version));
            rows.push([file.path.to_string(), file.mode.to_string(), file.contents.len().to_string(), id.to_owned(), version.to_owned()]);
        }
        let mut text = columns(&rows);
        let unplaced = self.unplaced();
        if !unplaced.is_empty() {
            text.push_str("\nThe answer also has these objects, but does not say which files come from them:\n");
            text.push_str(&objects(&unplaced));
        }
        text
    }

    /// What an answer without files means.
    pub(super) fn written_by_provider(&self, volume: &Path) -> String {
        format!(
            "The answer has no files: to the driver this means that the provider wrote the volume itself, in {}, and the driver changes nothing there.\n\nIts objects:\n{}",
            volume.display(),
            objects(&self.unplaced())
        )
    }

    /// The same for scripts. `written` says what happened to the files.
    pub(super) fn json(&self, written: &str, target: Option<&Path>) -> String {
        let files = self.answer.files.iter().zip(&self.sources).map(|(file, source)| {
            json!({
                "path": file.path.as_str(),
                "mode": file.mode.to_string(),
                "size": file.contents.len(),
                "from": source.map(|object| &object.id),
                "version": source.map(|object| &object.version),
            })
        });
        let objects = self.answer.objects.iter().map(|object| json!({ "id": object.id, "version": object.version }));
        let report = json!({
            "written": written,
            "target": target.map(|target| target.display().to_string()),
            "files": files.collect::<Vec<Json>>(),
            "objects": objects.collect::<Vec<Json>>(),
        });
        format!("{report:#}\n")
    }

    fn unplaced(&self) -> Vec<&ObjectVersion> {
        let placed = |object: &&ObjectVersion| self.sources.iter().flatten().any(|source| std::ptr::eq(*source, *object));
        self.answer.objects.iter().filter(|object| !placed(object)).collect()
    }
}

/// The files of an answer as they are in a folder, with modes and sizes from the file system.
pub fn tree(dir: &Path, files: &[AnswerFile]) -> io::Result<String> {
    let mut root = Branch::default();
    for file in files {
        file.path.as_str().split('/').fold(&mut root, |branch, name| branch.0.entry(name).or_default());
    }
    let mut text = format!("{}\n", dir.display());
    root.draw(dir, "", &mut text)?;
    Ok(text)
}

/// What is in a folder, by name. A file is a branch with nothing in it.
#[derive(Default)]
struct Branch<'f>(BTreeMap<&'f str, Branch<'f>>);

// === impl Branch ===

impl Branch<'_> {
    fn draw(&self, dir: &Path, indent: &str, text: &mut String) -> io::Result<()> {
        for (index, (name, branch)) in self.0.iter().enumerate() {
            let (elbow, below) = if index + 1 == self.0.len() { ("└── ", "    ") } else { ("├── ", "│   ") };
            let path = dir.join(name);
            let found = fs::metadata(&path)?;
            let mode = found.permissions().mode() & 0o7777;
            let size = if found.is_dir() { "/".to_owned() } else { format!("  {} bytes", found.len()) };
            text.push_str(&format!("{indent}{elbow}{mode:04o} {name}{size}\n"));
            branch.draw(&path, &format!("{indent}{below}"), text)?;
        }
        Ok(())
    }
}

fn objects(objects: &[&ObjectVersion]) -> String {
    let mut rows = vec![["OBJECT", "VERSION"].map(str::to_owned)];
    rows.extend(objects.iter().map(|object| [object.id.clone(), object.version.clone()]));
    columns(&rows)
}

/// Columns as wide as their widest cell, two spaces apart, without spaces at a line's end.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  "); // a String takes everything
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The object that a file comes from, if it is clear. It is the only object, or one with the file's name (some dialects name objects by their
/// files), or the one that the class asks for at this path.
fn source<'a>(file: &AnswerFile, objects: &'a [ObjectVersion], wishes: &[Wish]) -> Option<&'a ObjectVersion> {
    let path = file.path.as_str();
    only(objects.iter()).or_else(|| only(objects.iter().filter(|object| object.id == path))).or_else(|| {
        let in_folder = |wish: &&Wish| wish.path.ends_with('/') && path.starts_with(&wish.path);
        let wish = only(wishes.iter().filter(|wish| wish.path == path)).or_else(|| only(wishes.iter().filter(in_folder)))?;
        only(objects.iter().filter(|object| wish.asks_for(&object.id)))
    })
}

fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

// === impl Wish ===

impl Wish {
    /// Whether an id, `<backend>/<name>[@version][#n]`, is of the secret that this object asks for.
    fn asks_for(&self, id: &str) -> bool {
        let id = id.rsplit_once('#').map_or(id, |(id, _)| id);
        let id = match &self.version {
            Some(version) => id.strip_suffix(version.as_str()).and_then(|id| id.strip_suffix('@')),
            None => Some(id),
        };
        let parts = id.and_then(|id| id.split_once('/'));
        parts.is_some_and(|(backend, name)| name == self.secret && self.backend.as_ref().is_none_or(|wished| wished == backend))
    }

    fn of(object: &Node, default_backend: Option<&str>) -> Option<Self> {
        let faults = &mut crate::yaml::Faults::default(); // the provider judges the class, not this table
        let mut object = Reader::of(object, "", faults)?;
        let secret = object.text("secret", faults)?;
        let backend = object.text("backend", faults).or(default_backend);
        let version = object.text("version", faults);
        let field = object.text("field", faults);
        let path = object.text("path", faults);
        let path = match (object.get("fields"), path, field) {
            (Some(_), path, _) => format!("{}/", path?.trim_end_matches('/')),
            (None, Some(path), _) | (None, None, Some(path)) => path.to_owned(),
            (None, None, None) => secret.rsplit('/').next()?.to_owned(),
        };
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Self { backend: owned(backend), secret: secret.to_owned(), version: owned(version), path })
    }
}

/// Read from a native class; any other has none.
fn wishes(class: &ClassManifest) -> Vec<Wish> {
    let backend = class.parameters.get("backend").map(String::as_str);
    let objects = class.parameters.get("objects").and_then(|text| parse(text).ok());
    match objects.map(|objects| objects.value) {
        Some(Value::Sequence(objects)) => objects.iter().filter_map(|object| Wish::of(object, backend)).collect(),
        Some(Value::Mapping(_) | Value::Null | Value::Scalar { .. }) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FileMode;

    fn answer(files: &[&str], objects: &[(&str, &str)]) -> Answer {
        let file = |path: &&str| AnswerFile { path: path.parse().unwrap(), mode: FileMode::DEFAULT, contents: "hunter2".into() };
        let object = |(id, version): &(&str, &str)| ObjectVersion { id: (*id).to_owned(), version: (*version).to_owned() };
        Answer { files: files.iter().map(file).collect(), objects: objects.iter().map(object).collect(), warnings: Vec::new() }
    }

    fn class(objects: &str) -> ClassManifest {
        let parameters = BTreeMap::from([("objects".to_owned(), objects.to_owned())]);
        ClassManifest { name: "c".to_owned(), namespace: None, provider: "keyferry".to_owned(), parameters }
    }

    #[test]
    fn files_are_placed_by_the_class_and_the_rest_is_shown_apart() {
        let class = class(
            "- {secret: shop/db, field: password, path: db/password}\n- {secret: shop/db}\n- {secret: shop/tls, backend: bao, version: '3', fields: '*', path: tls}\n- {secret: twice, path: x}\n",
        );
        let answer = answer(
            &["db/password", "db", "tls/a/b", "x", "stranger"],
            &[("files/shop/db", "7"), ("files/shop/tls", "1"), ("bao/shop/tls@3", "3"), ("files/twice#1", "a"), ("files/twice#2", "b")],
        );
        insta::assert_snapshot!(Report::of(&answer, &class).table(), @r#"
        PATH         MODE  SIZE  FROM            VERSION
        db/password  0644  7     files/shop/db   7
        db           0644  7     files/shop/db   7
        tls/a/b      0644  7     bao/shop/tls@3  3
        x            0644  7     -               -
        stranger     0644  7     -               -

        The answer also has these objects, but does not say which files come from them:
        OBJECT          VERSION
        files/shop/tls  1
        files/twice#1   a
        files/twice#2   b
        "#);
    }

    #[test]
    fn one_object_serves_all_files_and_dialects_name_objects_by_their_files() {
        let one = answer(&["a", "b"], &[("files/db", "v1")]);
        insta::assert_snapshot!(Report::of(&one, &class("")).table(), @r#"
        PATH  MODE  SIZE  FROM      VERSION
        a     0644  7     files/db  v1
        b     0644  7     files/db  v1
        "#);
        let named = answer(&["a", "b"], &[("b", "1"), ("a", "2")]);
        insta::assert_snapshot!(Report::of(&named, &class("not: a list")).table(), @r#"
        PATH  MODE  SIZE  FROM  VERSION
        a     0644  7     a     2
        b     0644  7     b     1
        "#);
    }

    #[test]
    fn scripts_get_json_without_contents() {
        let answer = answer(&["a", "b"], &[("a", "1"), ("z", "2")]);
        insta::assert_snapshot!(Report::of(&answer, &class("")).json("dry-run", None), @r#"
        {
          "written": "dry-run",
          "target": null,
          "files": [
            {
              "path": "a",
              "mode": "0644",
              "size": 7,
              "from": "a",
              "version": "1"
            },
            {
              "path": "b",
              "mode": "0644",
              "size": 7,
              "from": null,
              "version": null
            }
          ],
          "objects": [
            {
              "id": "a",
              "version": "1"
            },
            {
              "id": "z",
              "version": "2"
            }
          ]
        }
        "#);
    }

    #[test]
    fn a_tree_shows_what_the_file_system_has() {
        let dir = tempfile::tempdir().unwrap();
        let answer = answer(&["db/deep/password", "a", "db/user", "z"], &[("x", "1")]);
        answer.write(fs::File::open(dir.path()).unwrap(), jiff::Timestamp::UNIX_EPOCH).unwrap();
        fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o400)).unwrap();
        let shown = tree(dir.path(), &answer.files).unwrap().replace(dir.path().to_str().unwrap(), "DIR");
        insta::assert_snapshot!(shown, @r#"
        DIR
        ├── 0400 a  7 bytes
        ├── 0755 db/
        │   ├── 0755 deep/
        │   │   └── 0644 password  7 bytes
        │   └── 0644 user  7 bytes
        └── 0644 z  7 bytes
        "#);
        assert!(tree(Path::new("/nowhere/at/all"), &answer.files).is_err());
    }
}
