//! Files on a terminal or for a script. Their values are made up, so they can be shown.

use std::path::Path;

use data_encoding::BASE64;
use serde_json::{Value as Json, json};

use crate::render::{Rendered, RenderedFile};

/// A line with each file's name, and then its content, if that is plain text.
pub fn text(rendered: &Rendered) -> String {
    let mut text = String::new();
    for file in &rendered.files {
        let gap = if text.is_empty() { "" } else { "\n" };
        text.push_str(&format!("{gap}==> {} ({}, {} bytes)\n", file.path, file.mode, file.contents.len()));
        match of_terminal(file) {
            Some(contents) => {
                text.push_str(contents);
                if !contents.is_empty() && !contents.ends_with('\n') {
                    text.push_str("\n\\ no line end\n");
                }
            }
            None => text.push_str("(not shown, because it is not plain text: -o json and --to DIR have it)\n"),
        }
    }
    text
}

pub fn json(rendered: &Rendered, target: Option<&Path>) -> String {
    let files: Vec<Json> = rendered.files.iter().map(of_script).collect();
    let document = json!({ "target": target.map(|target| target.display().to_string()), "files": files });
    format!("{document:#}\n")
}

fn of_script(file: &RenderedFile) -> Json {
    let bytes = file.contents.expose();
    let (key, value) = match str::from_utf8(bytes) {
        Ok(text) => ("text", text.to_owned()),
        Err(_) => ("base64", BASE64.encode(bytes)),
    };
    let mut shown = json!({ "path": file.path.as_str(), "mode": file.mode.to_string(), "size": bytes.len(), "object": file.object });
    shown[key] = value.into();
    shown
}

fn of_terminal(file: &RenderedFile) -> Option<&str> {
    let text = str::from_utf8(file.contents.expose()).ok()?;
    text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t')).then_some(text)
}
