//! Making a vault, and naming one in the configuration.

use super::*;

#[test]
fn init_can_be_run_again_and_takes_no_foreign_folder() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    bench.set("db", "value");
    assert_eq!(fs::metadata(bench.at("vault")).unwrap().permissions().mode() & 0o777, 0o700);
    let ours = recipients_of(&bench.at("age.key")).unwrap();
    let again = Vault::init(bench.at("vault"), &ours).unwrap();
    assert_eq!((again.new, again.added, again.recipients), (false, 0, 1));
    let colleague = generate_identity(&bench.at("colleague.key"), now()).unwrap();
    let more = Vault::init(bench.at("vault"), &[colleague]).unwrap();
    assert_eq!((more.new, more.added, more.recipients), (false, 1, 2));

    // Either identity opens secrets that are set from now on, but not those that were set before.
    bench.set("both", "value");
    let theirs = Reader::open(&bench.at("vault"), &[bench.at("colleague.key")], 1 << 20, Arc::new(SystemClock)).unwrap();
    assert_eq!(password(&theirs.read(&key("both")).unwrap()), "value");
    assert_eq!(theirs.read(&key("db")).unwrap_err().fault, Fault::Corrupt);

    let foreign = Vault::init(bench.folder.path(), &ours).unwrap_err();
    let shown = bench.shown(foreign);
    assert!(shown.contains("is neither empty nor a vault") && shown.ends_with("(name a separate folder for the vault)"), "{shown}");
    assert_snapshot!(bench.shown(Vault::open_for_writing(bench.at("none")).unwrap_err()), @"/none is not a vault: it has no list of recipients (make a vault with `keyferry vault init`)");
    assert_snapshot!(bench.shown(Vault::init(bench.at("nobody"), &[]).unwrap_err()), @"/nobody/.recipients holds no recipient (add one with `keyferry vault init --recipient age1...`)");
}

#[test]
fn the_configuration_names_what_is_missing() {
    let read = |text: &str| {
        let mut faults = Faults::default();
        let node = parse(text).unwrap();
        let mut reader = yaml::Reader::of(&node, "backends.files", &mut faults).unwrap();
        let config = FileConfig::parse(&mut reader, &mut faults);
        reader.finish(&mut faults);
        let faults: Vec<String> = faults.into_sorted().iter().map(ToString::to_string).collect();
        (config, faults.join("\n"))
    };
    let (config, faults) = read("vault: /v\nidentity: [/a, /b]");
    assert_eq!(config, Some(FileConfig { vault: "/v".into(), identity: vec!["/a".into(), "/b".into()] }));
    assert_eq!(faults, "");
    assert_eq!(read("vault: /v\nidentity: /a").0.unwrap().identity, [PathBuf::from("/a")]);
    assert_snapshot!(read("valut: /v\nidentity: []").1, @r"
    backends.files.vault: is missing (the folder of age files, such as /var/lib/keyferry/vault)
    backends.files.identity: is missing (the age identity file that opens them, such as /etc/keyferry/age.key, or a list of such)
    backends.files.valut: is not a known key (did you mean `vault`?)
    ");
    assert_snapshot!(read("vault: ''\nidentity: [{}, '']").1, @r#"
    backends.files.vault: is empty (write a path that starts with /, or leave the key out)
    backends.files.identity: holds a mapping, but must be a list of texts (write each on a separate line, after `- `)
    backends.files.identity: is empty (write a path that starts with /, or leave the key out)
    "#);
}

#[test]
fn nothing_shows_a_value_or_an_identity() {
    let bench = Bench::new();
    bench.set("db", CANARY);
    let backend = bench.backend();
    let opened = bench.reader().read(&key("db")).unwrap();
    let shown = format!("{backend:?} {opened:?} {:?} {:?}", bench.vault, bench.reader());
    assert!(!shown.contains(CANARY) && !shown.contains("SECRET-KEY"), "{shown}");
    let lists = [&shown, &fs::read_to_string(bench.at("vault/.recipients")).unwrap()].map(|text| text.contains(CANARY));
    assert_eq!(lists, [false, false]);
}
