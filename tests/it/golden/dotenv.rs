//! Keyferry and the programs that read dotenv files: `tests/golden/dotenv.json` has their answers, and `make golden-dotenv` asks them again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use keyferry::dotenv;
use serde::Deserialize;

use crate::folder;
use crate::support::apart;

#[derive(Deserialize)]
struct Golden {
    written: Vec<Written>,
    read: Vec<Read>,
}

/// Read back by dash, bash, node's dotenv and python-dotenv, with nothing run.
#[derive(Deserialize)]
struct Written {
    value: String,
    text: Option<String>,
}

type Fields = BTreeMap<String, String>;

#[derive(Deserialize)]
struct Read {
    text: String,
    dotenv: Fields,
    /// `None`: it refuses the file.
    kubectl: Option<Fields>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dotenv.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn what_is_written_is_what_all_readers_were_asked() {
    let cases = golden().written;
    assert!(cases.len() > 200);
    for case in cases {
        let line = dotenv::write("V", case.value.as_bytes()).ok();
        assert_eq!(line.as_deref(), case.text.as_ref(), "{:?}", case.value);
    }
}

#[test]
fn what_is_read_is_what_nodes_dotenv_reads() {
    let (mut refused, mut differences) = (Vec::new(), 0);
    for case in golden().read {
        // The reader of texts removes the mark, as in kubectl. node's takes it for a blank.
        let Ok(entries) = dotenv::read(case.text.trim_start_matches('\u{feff}')) else {
            refused.push(case.text);
            continue;
        };
        let fields: Fields = entries.iter().map(|entry| (entry.name.to_owned(), entry.value.to_string())).collect();
        assert_eq!(fields, case.dotenv, "{:?}", case.text);
        let Some(kubectl) = case.kubectl else { continue };
        for entry in entries {
            // None of that name: for kubectl, a carriage return alone does not end a line.
            let Some(value) = kubectl.get(entry.name) else { continue };
            let differs = value != entry.value.as_str();
            assert_eq!(entry.kubectl.is_some(), differs, "{:?}: {}", case.text, entry.name);
            differences += usize::from(differs);
        }
    }
    assert!(differences > 40, "{differences}");
    // node's dotenv leaves out what is in these, takes a value from another line, or a quote into the value. The first are chosen by hand.
    let chosen: Vec<_> = refused.iter().take(21).map(|text| format!("{text:?}")).collect();
    insta::assert_snapshot!(chosen.join("\n"), @r#"
    "A:abc"
    "A : abc"
    "A:\nB=1"
    "A:"
    "A='a' b"
    "A='a"
    "A=\"a"
    "A=`a"
    "A='"
    "A=\""
    "A=1\nA=2"
    "A"
    "A\nB=1"
    "=a"
    "a b=c"
    "ö=c"
    "A=\n'x'"
    "//A=1"
    "A='a#b'c'"
    "A=\"a#b\"c"
    "A='x"
    "#);
}

/// Every combination of up to three pieces that mean something in a shell, in one file.
#[test]
fn a_shell_reads_the_bytes_and_runs_nothing() {
    const PIECES: [&str; 14] =
        ["'", "\"", "`touch ran`", "$(touch ran)", "$HOME", "$", "\\", "\n", "x", " ", "#", ";touch ran;", "~", "\u{f6}"];
    let pairs = PIECES.iter().flat_map(|a| PIECES.iter().map(move |b| format!("{a}{b}"))).collect::<Vec<_>>();
    let triples = pairs.iter().flat_map(|a| PIECES.iter().map(move |b| format!("{a}{b}"))).collect::<Vec<_>>();
    let values = PIECES.iter().map(|piece| (*piece).to_owned()).chain(pairs).chain(triples);
    let written: Vec<_> = values.filter_map(|value| Some((dotenv::write("V", value.as_bytes()).ok()?, value))).collect();
    assert!(written.len() > 1500, "{}", written.len());

    let folder = folder::new();
    // A zero byte after each value: none has one, and `$( )` would lose line ends.
    let script: String = written.iter().map(|(line, _)| format!("{}printf '%s\\0' \"$V\"\n", line.as_str())).collect();
    fs::write(folder.path().join("f.env"), script).unwrap();
    let done = apart("sh").args(["-c", ". ./f.env"]).current_dir(folder.path()).output().unwrap();
    assert_eq!((done.status.success(), String::from_utf8(done.stderr).unwrap()), (true, String::new()));
    let out = String::from_utf8(done.stdout).unwrap();
    let read: Vec<&str> = out.split_terminator('\0').collect();
    let expected: Vec<&str> = written.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(read, expected);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was run");
}
