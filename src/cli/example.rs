//! `keyferry example`: the examples of `deploy/examples`, in the binary.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use super::streams::write;
use super::{Failure, Format, Shown};
use crate::nearest::nearest;

/// By name, in the order of names.
const ALL: [(&str, &str); 38] = [
    ("aws", include_str!("../../deploy/examples/aws.yaml")),
    ("aws-provider-class", include_str!("../../deploy/examples/aws-provider-class.yaml")),
    ("basic-auth", include_str!("../../deploy/examples/basic-auth.yaml")),
    ("binary-values", include_str!("../../deploy/examples/binary-values.yaml")),
    ("docker-config", include_str!("../../deploy/examples/docker-config.yaml")),
    ("dotfiles", include_str!("../../deploy/examples/dotfiles.yaml")),
    ("env", include_str!("../../deploy/examples/env.yaml")),
    ("exec", include_str!("../../deploy/examples/exec.yaml")),
    ("file-modes", include_str!("../../deploy/examples/file-modes.yaml")),
    ("formats", include_str!("../../deploy/examples/formats.yaml")),
    ("git-credentials", include_str!("../../deploy/examples/git-credentials.yaml")),
    ("image-pull", include_str!("../../deploy/examples/image-pull.yaml")),
    ("kafka", include_str!("../../deploy/examples/kafka.yaml")),
    ("key-to-path", include_str!("../../deploy/examples/key-to-path.yaml")),
    ("keyferry", include_str!("../../deploy/examples/keyferry.yaml")),
    ("large", include_str!("../../deploy/examples/large.yaml")),
    ("missing", include_str!("../../deploy/examples/missing.yaml")),
    ("namespace", include_str!("../../deploy/examples/namespace.yaml")),
    ("nested-paths", include_str!("../../deploy/examples/nested-paths.yaml")),
    ("nginx", include_str!("../../deploy/examples/nginx.yaml")),
    ("node", include_str!("../../deploy/examples/node.yaml")),
    ("odd-names", include_str!("../../deploy/examples/odd-names.yaml")),
    ("one-container", include_str!("../../deploy/examples/one-container.yaml")),
    ("openbao-certificate", include_str!("../../deploy/examples/openbao-certificate.yaml")),
    ("openbao-database", include_str!("../../deploy/examples/openbao-database.yaml")),
    ("openbao-static", include_str!("../../deploy/examples/openbao-static.yaml")),
    ("openbao-vault-class", include_str!("../../deploy/examples/openbao-vault-class.yaml")),
    ("optional", include_str!("../../deploy/examples/optional.yaml")),
    ("owner", include_str!("../../deploy/examples/owner.yaml")),
    ("pgpass", include_str!("../../deploy/examples/pgpass.yaml")),
    ("pkcs12", include_str!("../../deploy/examples/pkcs12.yaml")),
    ("prefix", include_str!("../../deploy/examples/prefix.yaml")),
    ("rotation", include_str!("../../deploy/examples/rotation.yaml")),
    ("several-secrets", include_str!("../../deploy/examples/several-secrets.yaml")),
    ("spring", include_str!("../../deploy/examples/spring.yaml")),
    ("ssh", include_str!("../../deploy/examples/ssh.yaml")),
    ("template", include_str!("../../deploy/examples/template.yaml")),
    ("tls", include_str!("../../deploy/examples/tls.yaml")),
];

const EXAMPLES: &str = "\
Examples:
  keyferry example                         # the list
  keyferry example tls > class.yaml
  keyferry example keyferry                # a configuration of the daemon

Exit code 1: there is no such example.";

/// Print an example: a class with a Pod that mounts it, or a configuration.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ExampleArgs {
    /// The example's name. Without it: the list of all examples.
    #[arg(value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    pub(super) shown: Shown,
}

/// # Errors
/// There is no such example (exit code 1).
pub fn run(args: &ExampleArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let Some(name) = &args.name else {
        if args.shown.output == Format::Json {
            let all: Vec<Value> = ALL.iter().map(|(name, text)| json!({ "name": name, "title": title(text) })).collect();
            return write(out, &format!("{:#}\n", json!({ "examples": all })));
        }
        let width = ALL.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let list: String = ALL.iter().map(|(name, text)| format!("{name:width$}  {}\n", title(text))).collect();
        return write(out, &list);
    };
    let name = name.strip_suffix(".yaml").unwrap_or(name);
    if let Some((name, text)) = ALL.iter().find(|(known, _)| *known == name) {
        return match args.shown.output {
            Format::Json => write(out, &format!("{:#}\n", json!({ "name": name, "title": title(text), "text": text }))),
            Format::Text => write(out, text),
        };
    }
    let remedy = match nearest(name, ALL.iter().map(|(known, _)| *known)) {
        Some(near) => format!("did you mean {near}?"),
        None => "`keyferry example` lists them".to_owned(),
    };
    Err(Failure::fault(format!("{name:?}: is not an example ({remedy})")))
}

/// The first sentence of the comment at an example's start.
fn title(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default().trim_start_matches('#').trim();
    line.split_once(". ").map_or(line, |(sentence, _)| sentence).trim_end_matches(['.', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_examples_are_here_and_have_a_title() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples")).unwrap();
        let files = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = files.filter_map(|file| Some(file.strip_suffix(".yaml")?.to_owned())).collect();
        names.sort();
        assert_eq!(names, ALL.map(|(name, _)| name));
        assert!(ALL.iter().all(|(_, text)| text.starts_with("# ") && !title(text).is_empty()));
    }

    #[test]
    fn an_unknown_one_has_the_nearest() {
        let run = |name: &str| {
            run(&ExampleArgs { name: Some(name.to_owned()), shown: Shown::TEXT }, &mut Vec::new()).map_err(|failure| failure.to_string())
        };
        assert_eq!(run("tsl").unwrap_err(), "\"tsl\": is not an example (did you mean tls?)");
        assert_eq!(run("something else").unwrap_err(), "\"something else\": is not an example (`keyferry example` lists them)");
        assert_eq!(run("tls.yaml"), Ok(()));
    }
}
