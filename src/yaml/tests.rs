use super::*;

/// A kind of text, and one of this size.
type Sample = (&'static str, fn(usize) -> String);

#[test]
fn positions_quotes_and_nulls_are_kept() {
    let node = parse("a: 0444\nb:\n  - \"0444\"\n  - ~\nc:\n").unwrap();
    let Value::Mapping(entries) = &node.value else { panic!() };
    assert_eq!(entries[0].1.at, Position { line: 1, column: 4 });
    assert!(matches!(&entries[0].1.value, Value::Scalar { text, kind: Kind::Integer(292) } if text == "0444"));
    let Value::Sequence(items) = &entries[1].1.value else { panic!() };
    assert!(matches!(&items[0].value, Value::Scalar { text, kind: Kind::Text } if text == "0444"));
    assert!(items[1].is_null() && entries[2].1.is_null());
    assert_eq!(items[0].at, Position { line: 3, column: 5 });
}

#[test]
fn every_unknown_key_is_named_with_the_nearest() {
    let node = parse("path: x\nmoed: 1\nzzz: 2").unwrap();
    let mut faults = Faults::default();
    let mut reader = Reader::of(&node, "top", &mut faults).unwrap();
    assert_eq!(reader.text("path", &mut faults), Some("x"));
    assert_eq!(reader.text("mode", &mut faults), None);
    reader.finish(&mut faults);
    let shown: Vec<_> = faults.into_sorted().iter().map(|f| format!("{}: {f}", f.at.line)).collect();
    assert_eq!(
        shown,
        ["2: top.moed: is not a known key (did you mean `mode`?)", "3: top.zzz: is not a known key (known here: path, mode)"]
    );
}

#[test]
fn an_alias_bomb_is_refused_quickly() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{},", level - 1).repeat(10);
        bomb += &format!("a{level}: &a{level} [{before}]\n");
    }
    assert!(parse(&bomb).unwrap_err().problem.contains("budget"));
    let long = format!("- &a {}\n- [{}]\n", "x".repeat(500_000), "*a,".repeat(50_000));
    assert!(parse(&long).unwrap_err().problem.contains("budget"), "50,000 copies of a long text are 25 GB");
}

fn nested_anchors(levels: usize, items: usize) -> String {
    let opened: String = (0..levels).map(|level| format!("&a{level} [")).collect();
    format!("{opened}{}{}", "x,".repeat(items), "]".repeat(levels))
}

#[test]
fn what_an_anchor_copies_counts() {
    assert!(parse(&nested_anchors(31, 1_000)).is_ok());
    // 31 copies of 99,000 values.
    assert!(parse(&nested_anchors(31, 99_000)).unwrap_err().problem.contains("budget"));
    let texts: String = (0..500).map(|n| format!("- &a{n} {}\n", "x".repeat(4_000))).collect();
    assert!(parse(&texts).unwrap_err().problem.contains("budget"), "copies of 2 MB of text");
}

/// A chain of aliases nests deeper than any of its parts.
#[test]
fn an_alias_nests_as_deep_as_what_it_copies() {
    let link = |level: usize, inner: &str| format!("- &a{level} {}{inner}{}\n", "[".repeat(10), "]".repeat(10));
    let chain = |links: usize| {
        let first = link(0, "x");
        (1..links).fold(first, |chain, level| chain + &link(level, &format!("*a{}", level - 1)))
    };
    assert!(parse(&chain(3)).is_ok());
    let fault = parse(&chain(4)).unwrap_err();
    assert_eq!((fault.at.line, fault.problem.as_str()), (4, "nested deeper than 32 levels (nest less)"));
    assert!(parse(&chain(80)).unwrap_err().problem.contains("nested"));
}

/// The stack of a runtime thread. In this build its frames are larger than in a release.
#[test]
fn the_deepest_tree_fits_the_stack() {
    let deepest = || {
        let [flow, block, mapping] = [("[", "x", "]"), ("- ", "x", ""), ("{a: ", "x", "}")]
            .map(|(open, inner, close)| parse(&format!("{}{inner}{}", open.repeat(32), close.repeat(32))).unwrap());
        assert_eq!([&flow, &block, &mapping].map(Node::weight), [33, 33, 65]);
        drop(flow.clone());
        assert!(parse(&"- ".repeat(125_000)).is_err() && parse(&"[".repeat(250_000)).is_err());
        assert!(parse(&"? ".repeat(125_000)).is_err() && parse(&"{a: ".repeat(62_500)).is_err());
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(deepest).unwrap().join().unwrap();
}

fn steps_of(text: &str) -> u64 {
    let steps = Steps::unbounded();
    let _ = parse_within(text, &steps);
    steps.spent()
}

#[test]
fn twice_the_text_takes_twice_the_steps() {
    let kinds: [Sample; 8] = [
        ("lines", |n| "- a\n".repeat(n)),
        ("flow", |n| format!("[{}]", "a,".repeat(n))),
        ("members", |n| (0..n).map(|n| format!("key{n:06}: x\n")).collect()),
        ("comments", |n| "# a\n".repeat(n)),
        ("anchors", |n| (0..n).map(|n| format!("- &a{n:06} x\n")).collect()),
        ("aliases", |n| format!("- &a [x, y]\n{}", "- *a\n".repeat(n))),
        ("anchors in anchors", |n| nested_anchors(8, n)),
        ("one text", |n| "a b ".repeat(n)),
    ];
    for (kind, text) in kinds {
        let (once, twice) = (steps_of(&text(5_000)), steps_of(&text(10_000)));
        assert!(twice * 10 <= once * 22, "{kind}: {once}, {twice}");
    }
}

#[test]
fn parsing_ends_with_the_steps() {
    let steps = Steps::new(10_000, tokio::time::Instant::now() + tokio::time::Duration::from_mins(1));
    assert_eq!(parse_within(&"- a\n".repeat(60_000), &steps).unwrap_err(), Unparsed::Spent(Spent::Steps(10_000)));
    assert_eq!(steps.spent(), 240_000, "a text that is too long is not begun");
    let steps = Steps::new(100_000, tokio::time::Instant::now() + tokio::time::Duration::from_mins(1));
    assert!(parse_within(&"- a\n".repeat(20_000), &steps).is_err());
    assert!(steps.spent() < 101_000);
}

#[test]
fn deep_nesting_duplicate_keys_and_bad_syntax_are_faults() {
    assert!(parse(&"[".repeat(100_000)).is_err());
    assert!(parse(&"- ".repeat(40)).unwrap_err().problem.contains("nested"));
    let twice = parse("a: 1\nb: 2\na: 3").unwrap_err();
    assert_eq!((twice.at.line, twice.key.as_str()), (3, "a"));
    assert!(parse("a: [1, 2").unwrap_err().problem.contains("not valid YAML"));
    assert!(parse("a: &x [*x]").is_err());
    assert!(parse("a: 1\n---\nb: 2").unwrap_err().problem.contains("second"));
}

#[test]
fn aliases_and_several_documents_are_read() {
    let node = parse("a: &x {k: v}\nb: *x").unwrap();
    let mut faults = Faults::default();
    let mut reader = Reader::of(&node, "", &mut faults).unwrap();
    let mut b = reader.reader("b", &mut faults).unwrap();
    assert_eq!(b.text("k", &mut faults), Some("v"));
    assert_eq!(parse_all("a: 1\n---\nb: 2\n").unwrap().len(), 2);
    assert!(parse("").unwrap().is_null());
    assert!(parse("# only a comment\n").unwrap().is_null());
}

#[test]
fn half_of_a_pair_is_told_from_letters_that_look_like_it() {
    for (escape, letter) in [("\\u00dc", "Ü"), ("\\u00df", "ß"), ("\\U000000DE", "Þ"), ("\\u0d85", "\u{d85}"), ("\\u0DFF", "\u{dff}")] {
        assert_eq!(parse(&format!("\"a{escape}\"")).unwrap().text(), Some(format!("a{letter}").as_str()), "{escape}");
    }
    for half in ["\\ud800", "\\uDFFF", "\\U0000d801"] {
        assert!(parse(&format!("\"a{half}\"")).is_err(), "{half}");
    }
}
