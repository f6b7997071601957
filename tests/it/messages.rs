//! Bad input, and the exact words of the answer. After every refusal the same daemon serves a good mount.
//!
//! A snapshot has a table of cases: what is wrong, and below it the gRPC code and the message.

use std::fs;
use std::path::Path;

use keyferry::server::proto::MountRequest;
use serde_json::Value;
use tonic::Status;

use crate::support::{Client, House, Provider, assert_no_trap, debug_text, files_below, shown, web};

mod classes;
mod request;
mod secrets;
mod tokens;

/// What kubelet and driver let through at most, with room for their own words.
const LONGEST: usize = 4096;

const GOOD: &str = "- {secret: shop/db, field: username}";

/// A daemon that gets requests that it must refuse.
struct Asked {
    house: House,
    provider: Provider,
    client: Client,
}

/// What is wrong, and a request with it.
type Case = (&'static str, MountRequest);

impl Asked {
    async fn new(house: House) -> Self {
        let provider = house.serve();
        let client = provider.client().await;
        Self { house, provider, client }
    }

    /// The table of a snapshot.
    async fn refusals(&self, cases: impl IntoIterator<Item = Case>) -> String {
        let mut table = Vec::new();
        for (what, request) in cases {
            let refusal = self.refusal(request).await;
            table.push(format!("# {what}\n{refusal}"));
        }
        table.join("\n")
    }

    /// Code and message, with a text in place of the house's own folder. The daemon goes on serving.
    async fn refusal(&self, request: MountRequest) -> String {
        let status = self.client.clone().mount(request).await.map(|_| ()).unwrap_err();
        self.goes_on().await;
        self.words(&status)
    }

    fn words(&self, status: &Status) -> String {
        assert_no_trap(status);
        assert!(status.message().len() <= LONGEST, "{} bytes: {status}", status.message().len());
        assert_eq!(debug_text(status.message()), None, "{}", status.message());
        assert!(status.details().is_empty() && status.message().contains(": "), "{status}");
        let message = status.message().replace(self.house.folder.path().to_str().unwrap(), "<house>");
        // Readers of a vault need not know where it is on the node.
        assert!(!message.contains("<house>/vault") && !message.contains("<house>/age.key"), "{message}");
        format!("{:?} {message}", status.code())
    }

    async fn goes_on(&self) {
        let answer = self.client.clone().mount(self.house.request(&web(), GOOD)).await.unwrap();
        assert_eq!(shown(answer.get_ref()), ["username 0644 app"]);
    }

    /// A case of one class.
    fn class(&self, what: &'static str, objects: &str) -> Case {
        (what, self.house.request(&web(), objects))
    }

    /// A case of a class's parameters.
    fn parameters(&self, what: &'static str, parameters: Value) -> Case {
        (what, self.house.asking(&web(), parameters))
    }
}

/// Snapshots of what a test has put together itself, by their first words.
const TABLES: [(&str, &str); 2] = [("src/kube/tests.rs", "GET /x?y=z Some("), ("src/render/tests.rs", "object 1 (p) Some(")];

/// Every message in a snapshot, and every one that the pages quote.
#[test]
fn no_message_shows_how_something_looks_in_memory() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in [files_below(&root.join("src"), "rs"), files_below(&root.join("tests"), "rs")].concat() {
        let text = fs::read_to_string(&file).unwrap();
        for (snapshot, of) in snapshots(&text) {
            seen += 1;
            // Some show what a value looks like, on purpose: they are not messages.
            let is_table = TABLES.iter().any(|(table, first)| file.ends_with(table) && snapshot.trim_start().starts_with(first));
            if debug_text(snapshot).is_some() && !is_table && !of.contains("?}") {
                wrong.push(format!("{}: {snapshot}", file.display()));
            }
        }
    }
    for file in files_below(&root.join("docs"), "md") {
        let text = fs::read_to_string(&file).unwrap();
        wrong.extend(text.lines().filter(|line| debug_text(line).is_some()).map(|line| format!("{}: {line}", file.display())));
    }
    assert!(seen > 500, "only {seen} snapshots were found: does the reader work?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The texts of inline snapshots, each with the text before it in its macro.
fn snapshots(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("_snapshot!(") {
        let start = text[..at].rfind('\n').map_or(0, |line| line + 1);
        let Some(sign) = text[at..].find('@').map(|sign| at + sign) else { continue };
        let (body, hashes) = (&text[sign + 1..], text[sign + 1..].strip_prefix('r').unwrap_or(&text[sign + 1..]));
        let count = hashes.len() - hashes.trim_start_matches('#').len();
        let Some(opened) = hashes[count..].strip_prefix('"') else { continue };
        let end = if body.starts_with('r') { format!("\"{}", "#".repeat(count)) } else { "\"".to_owned() };
        let Some(length) = opened.find(&end) else { continue };
        found.push((&opened[..length], &text[start..sign]));
    }
    found
}

#[test]
fn the_reader_of_snapshots_sees_them() {
    let text = "  insta::assert_snapshot!(a(\"x\"), @\"one (1)\");\n assert_snapshot!(b, @r#\"two \"2\"\"#);\n";
    assert_eq!(snapshots(text).iter().map(|(text, _)| *text).collect::<Vec<_>>(), ["one (1)", "two \"2\""]);
    for sign in ["cannot be used: Other(OtherError(X))", "Os { code: 2 }", "Some(1)", "Custom { kind: Other }"] {
        assert!(debug_text(sign).is_some(), "{sign}");
    }
    assert_eq!(debug_text("No such file or directory (os error 2) (is it mounted?)"), None);
}
