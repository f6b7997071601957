//! Everything that may happen to the files, and the messages for it.

use super::*;

#[test]
fn a_file_under_another_name_or_number_is_refused() {
    let bench = Bench::new();
    bench.set("shop/db", CANARY);
    fs::copy(bench.at("vault/shop/db.age"), bench.at("vault/root.age")).unwrap();
    let (fault, reason) = bench.refusal("root");
    assert_eq!(fault, Fault::Corrupt);
    assert_snapshot!(reason, @r#"/vault/root.age was encrypted as "shop/db", and is not served under another name (it was moved or copied: set the secret again)"#);

    fs::copy(bench.at("vault/shop/db.age"), bench.at("vault/.history/shop/db/7.age")).unwrap();
    let fault = bench.reader().read(&pinned("shop/db", 7)).unwrap_err();
    assert_eq!(fault.fault, Fault::Corrupt);
    assert_snapshot!(bench.shown(fault), @"/vault/.history/shop/db/7.age was encrypted as revision 1, and is not served as another (restore the vault's .history)");
}

#[test]
fn what_cannot_be_opened_is_corrupt_and_says_why() {
    let bench = Bench::new();
    bench.set("db", CANARY);
    let path = bench.at("vault/db.age");
    let sealed = fs::read(&path).unwrap();
    let refusal = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let (fault, reason) = bench.refusal("db");
        assert_eq!(fault, Fault::Corrupt);
        reason
    };
    let mut flipped = sealed.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_snapshot!(refusal(&flipped), @"/vault/db.age was altered after it was encrypted, or is damaged (restore it, or set the secret again)");
    assert_snapshot!(refusal(&sealed[..100]), @"/vault/db.age is truncated (restore it, or set the secret again)");
    assert_snapshot!(refusal(b""), @"/vault/db.age is empty (restore it, or set the secret again)");
    assert_snapshot!(refusal(b"password=canary-7f3a"), @"/vault/db.age is not an age file (restore it, or set the secret again)");
    assert_snapshot!(refusal(b"-----BEGIN AGE ENCRYPTED FILE-----"), @"/vault/db.age is age's text form; the vault's files are binary (decode it with `age -d` and set the secret again)");
    let ours = recipients_of(&bench.at("age.key")).unwrap();
    let other = seal::seal(b"password: canary-7f3a", &ours).unwrap();
    assert_snapshot!(refusal(&other), @"/vault/db.age opens, but what it holds is not the vault's JSON: it is wrong at line 1, column 1 (set the secret again)");

    let stranger = generate_identity(&bench.at("stranger.key"), now()).unwrap();
    let theirs = seal::seal(b"{}", &[stranger]).unwrap();
    assert_snapshot!(refusal(&theirs), @"/vault/db.age cannot be opened with any identity in /age.key (age1us): it is encrypted for other recipients, or its header was altered (list this recipient in the vault and set the secret again, or give the daemon the right identity file)");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_snapshot!(bench.refusal("db").1, @"/vault/db.age is not a regular file (remove it, and set the secret again)");
}

#[test]
fn what_cannot_be_reached_is_unavailable_and_an_absent_secret_is_not() {
    let bench = Bench::new();
    bench.set("shop/db", CANARY);
    let (fault, reason) = bench.refusal("shop/bd");
    assert_eq!(fault, Fault::NotFound);
    assert_snapshot!(reason, @"there is no such secret in the vault: /vault/shop/bd.age is absent (make it with `keyferry vault set shop/bd FIELD=@FILE`)");
    assert_eq!(bench.refusal("shop/db/under-a-secret").0, Fault::NotFound);

    symlink("loop.age", bench.at("vault/loop.age")).unwrap();
    let (fault, reason) = bench.refusal("loop");
    assert_eq!(fault, Fault::Unavailable);
    assert_snapshot!(reason, @"/vault/loop.age cannot be read: Too many levels of symbolic links (os error 40) (is its volume mounted and healthy?)");

    let reader = bench.reader();
    fs::rename(bench.at("vault"), bench.at("away")).unwrap();
    let gone = reader.read(&key("shop/db")).unwrap_err();
    assert_eq!(gone.fault, Fault::Unavailable);
    assert_snapshot!(bench.shown(&gone), @"the vault's folder /vault is not there (is its volume mounted, and synced?)");
    assert_eq!(reader.check().unwrap_err(), gone);
    assert_eq!(reader.list("").unwrap_err(), gone);

    fs::create_dir(bench.at("vault")).unwrap();
    let empty = reader.read(&key("shop/db")).unwrap_err();
    assert_eq!(empty.fault, Fault::Unavailable);
    assert_snapshot!(bench.shown(empty), @"/vault is not a vault: it has no list of recipients, /vault/.recipients (is its volume mounted, and synced? `keyferry vault init` makes a vault)");

    fs::remove_dir(bench.at("vault")).unwrap();
    fs::rename(bench.at("away"), bench.at("vault")).unwrap();
    assert_eq!(password(&reader.read(&key("shop/db")).unwrap()), CANARY);
}

/// root can read everything, so this test asks as another user.
#[test]
fn a_file_that_may_not_be_read_names_the_user_who_may_not() {
    use std::os::unix::fs::PermissionsExt;
    let denied = std::io::Error::from(rustix::io::Errno::ACCESS);
    let uid = rustix::process::geteuid().as_raw();
    let expected = format!("Permission denied (os error 13) (let uid {uid} enter the vault's folders and read its files)");
    let bench = Bench::new();
    bench.set("db", CANARY);
    fs::set_permissions(bench.at("vault/db.age"), fs::Permissions::from_mode(0o000)).unwrap();
    if uid == 0 {
        assert!(reader::unavailable(Path::new("/vault"), Path::new("/vault/db.age"), &denied).reason.ends_with(&expected));
    } else {
        let (fault, reason) = bench.refusal("db");
        assert_eq!((fault, reason), (Fault::Unavailable, format!("/vault/db.age cannot be read: {expected}")));
    }
}

#[test]
fn a_secret_over_the_limit_is_refused_by_its_name() {
    let bench = Bench::new();
    bench.set("db", &"x".repeat(101));
    let read = |max| {
        let reader = Reader::open(&bench.at("vault"), &[bench.at("age.key")], max, Arc::new(SystemClock)).unwrap();
        reader.read(&key("db"))
    };
    assert!(read(101).is_ok());
    let fault = read(100).unwrap_err();
    assert_eq!(fault.fault, Fault::TooLarge);
    assert_snapshot!(bench.shown(fault), @"/vault/db.age holds 101 bytes; at most 100 are served (make it smaller, or ask for a higher limits.secretBytes)");
    fs::write(bench.at("vault/db.age"), vec![b'x'; 70_000]).unwrap();
    let fault = read(100).unwrap_err();
    assert_eq!(fault.fault, Fault::TooLarge);
    assert_snapshot!(bench.shown(fault), @"/vault/db.age is 70000 bytes long; at most 66136 are read, as secrets of up to 100 bytes need no more (make it smaller, or ask for a higher limits.secretBytes)");
    // A secret that needs the most room in JSON is still within the limit of the file.
    bench.set("db", &"\u{1}".repeat(200_000));
    assert!(read(200_000).is_ok());

    let much = bench.vault.set(&secret("db"), &fields(&[("f", &vec![0; MAX_BYTES + 1])])).unwrap_err();
    assert_snapshot!(much, @"the fields hold 4194305 bytes; a secret has at most 4194304 (store it in parts)");
    assert_snapshot!(bench.vault.set(&secret("db"), &BTreeMap::new()).unwrap_err(), @"a secret has at least one field (give it one)");
}

#[test]
fn identities_are_read_again_when_they_change() {
    let bench = Bench::new();
    bench.set("db", "value");
    let reader = bench.reader();
    reader.read(&key("db")).unwrap();
    let old = fs::read(bench.at("age.key")).unwrap();

    fs::remove_file(bench.at("age.key")).unwrap();
    let fault = reader.read(&key("db")).unwrap_err();
    assert_eq!(fault.fault, Fault::Unavailable);
    assert_snapshot!(bench.shown(&fault), @"the identity file /age.key is absent (is its volume mounted, and may this user read it?)");
    assert!(reader.recall(&key("db"), Instant::now()).is_none(), "a secret that the identities on disk do not open is not served");

    generate_identity(&bench.at("age.key"), now()).unwrap();
    assert_eq!(reader.read(&key("db")).unwrap_err().fault, Fault::Corrupt);
    fs::write(bench.at("age.key"), [old, fs::read(bench.at("age.key")).unwrap()].concat()).unwrap();
    assert_eq!(password(&reader.read(&key("db")).unwrap()), "value");
    assert!(reader.recall(&key("db"), Instant::now()).is_some());
}

#[test]
fn an_identity_that_others_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    fs::set_permissions(bench.at("age.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let log = logged(|| drop(bench.reader()));
    assert_snapshot!(bench.shown(log.trim()), @"WARN keyferry::backend::store::file::identity: the identity file /age.key is open to other users, its mode is 0644 (chmod 0400; in a volume of a Secret: defaultMode: 0400)");
}
