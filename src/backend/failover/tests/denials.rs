//! The memory of the first member's denials is limited, and the second is never asked because something was forgotten.

use super::*;
use crate::backend::stack::asked::Asked;
use crate::backend::stack::cache::archive::{Archive, Denied};
use crate::backend::stack::sealed::{Sealed, SealedConfig};
use crate::clock::{Clock, SystemClock};
use crate::model::{PodClaims, PodIdentity};

const BYTES: usize = 64 * 1024;

/// Without a disk.
fn unsealed(bytes: usize) -> Arc<Denials> {
    Denials::new(&"both".parse().unwrap(), bytes, None)
}

fn asked(scope: &Scope, name: &str) -> Asked {
    Asked { scope: scope.clone(), secret: both(name).with(|parts| parts.backend = "bao".parse().unwrap()) }
}

fn own(pod: &str) -> Scope {
    Scope::Pod(format!("uid-{pod}").into())
}

fn claims() -> PodClaims {
    PodClaims { namespace: "shop".into(), name: "web-0".into(), uid: "uid-1".into(), service_account: "web".into() }
}

/// Whether the second may be asked.
fn may(denials: &Denials, scope: &Scope, tenant: &str, name: &str) -> bool {
    denials.allow(&asked(scope, name), &tenant.into())
}

fn deny(denials: &Denials, scope: &Scope, tenant: &str, name: &str) {
    denials.denied(&asked(scope, name), &tenant.into());
}

fn answer(denials: &Denials, scope: &Scope, tenant: &str, name: &str) {
    let begun = denials.begin();
    denials.allowed(&asked(scope, name), &tenant.into(), begun);
}

#[tokio::test]
async fn whoever_has_many_denials_loses_the_second_member_for_what_is_not_answered_since_and_nobody_else_does() {
    let denials = unsealed(BYTES);
    let [evil, shop] = ["evil", "shop"].map(own);
    deny(&denials, &shop, "shop", "kv/secret");
    deny(&denials, &evil, "evil", "kv/wanted");
    for n in 0..10_000 {
        deny(&denials, &evil, "evil", &format!("kv/none-{n}"));
    }
    let (own_weight, weight) = denials.weight("evil");
    assert!(weight <= BYTES && own_weight < weight, "{own_weight} of {weight}");
    assert!(!may(&denials, &evil, "evil", "kv/wanted"), "it had to go, and is not asked for all the same");
    assert!(!may(&denials, &evil, "evil", "kv/never-asked"));
    assert!(!may(&denials, &shop, "shop", "kv/secret") && may(&denials, &shop, "shop", "kv/other"));
    assert!(may(&denials, &own("bank"), "bank", "kv/wanted"));
    answer(&denials, &evil, "evil", "kv/good");
    assert!(may(&denials, &evil, "evil", "kv/good"), "the first has answered it since");
    deny(&denials, &evil, "evil", "kv/good");
    assert!(!may(&denials, &evil, "evil", "kv/good"));
    assert_eq!(denials.marks(), 1);
}

#[tokio::test]
async fn a_smaller_table_forgets_nothing_either() {
    let denials = unsealed(BYTES);
    for n in 0..20 {
        deny(&denials, &own("shop"), "shop", &format!("kv/{n}"));
    }
    denials.resize(1);
    assert_eq!((denials.weight("shop"), denials.marks()), ((0, 0), 1));
    assert!((0..20).all(|n| !may(&denials, &own("shop"), "shop", &format!("kv/{n}"))));
}

/// Pods come and go, and each has an optional secret that does not exist.
#[tokio::test(start_paused = true)]
async fn pods_that_are_gone_take_their_denials_along() {
    let denials = unsealed(BYTES);
    for n in 0..5_000 {
        deny(&denials, &own(&format!("job-{n}")), "shop", "kv/optional");
        advance(MINUTE).await;
    }
    assert_eq!(denials.marks(), 0);
    assert!(!may(&denials, &own("job-4999"), "shop", "kv/optional") && may(&denials, &own("job-5000"), "shop", "kv/optional"));
    for n in 0..5_000 {
        deny(&denials, &own(&format!("crowd-{n}")), "shop", "kv/optional");
    }
    assert_eq!(denials.marks(), 1, "these are all there");
}

/// There are more namespaces than can be kept apart: nobody asks the second, so that nobody asks it wrongly.
#[tokio::test]
async fn marks_are_bounded_too() {
    let denials = unsealed(1);
    for n in 0..5_000 {
        let tenant = format!("team-{n}");
        deny(&denials, &own(&tenant), &tenant, "kv/x");
        assert!(!may(&denials, &own(&tenant), &tenant, "kv/x"));
    }
    assert_eq!((denials.marks(), denials.weight("team-0")), (1024, (0, 0)));
    assert!(!may(&denials, &own("bank"), "bank", "kv/x"));
}

/// All tenants are the same to the store: the daemon logs in as itself.
#[tokio::test]
async fn a_denial_of_all_holds_for_each_and_one_tenants_room_is_its_own() {
    let (denials, all) = (unsealed(BYTES), Scope::Node);
    deny(&denials, &all, "evil", "kv/secret");
    assert!(!may(&denials, &all, "shop", "kv/secret"), "nobody is asked for it");
    deny(&denials, &all, "shop", "kv/secret");
    for n in 0..10_000 {
        deny(&denials, &all, "evil", &format!("kv/none-{n}"));
    }
    assert!(!may(&denials, &all, "shop", "kv/secret") && !may(&denials, &all, "evil", "kv/secret"));
    assert!(may(&denials, &all, "shop", "kv/other"));
    answer(&denials, &all, "shop", "kv/secret");
    assert!(may(&denials, &all, "shop", "kv/secret") && !may(&denials, &all, "evil", "kv/secret"));
}

#[tokio::test]
async fn long_names_and_arguments_weigh_no_more() {
    let denials = unsealed(BYTES);
    for n in 0..1_000 {
        let mut long = asked(&own("evil"), &format!("kv/{n}-{}", "x".repeat(900)));
        long.secret = long.secret.with(|parts| {
            parts.args.insert("a", &"y".repeat(4_000).into());
            parts.login.role = Some("z".repeat(2_000));
        });
        denials.denied(&long, &"evil".into());
        let (own, all) = denials.weight("evil");
        assert!(all <= BYTES && own == all);
        assert!(!denials.allow(&long, &"evil".into()));
    }
    assert!(denials.weight("evil").0 > BYTES / 2, "a request is kept as its hash");
}

/// A sealed folder, and a daemon with it that is killed and started again.
struct Disk {
    folder: tempfile::TempDir,
    key: u8,
    former: Vec<u8>,
}

impl Disk {
    fn new() -> Self {
        Self { folder: crate::backend::testing::folder(), key: 1, former: Vec::new() }
    }

    fn start(&self) -> Arc<Denials> {
        self.start_with(BYTES)
    }

    fn start_with(&self, bytes: usize) -> Arc<Denials> {
        Denials::new(&"both".parse().unwrap(), bytes, Some(&self.archive()))
    }

    fn archive(&self) -> Arc<Archive> {
        let path = |key: u8| {
            let path = self.folder.path().join(format!("{key}.key"));
            std::fs::write(&path, [key; 32]).unwrap();
            path
        };
        let keys = std::iter::once(self.key).chain(self.former.iter().copied()).map(path).collect();
        let sealed = Sealed::open(&SealedConfig { dir: self.folder.path().join("cache"), keys, bytes: 1 << 20 }).unwrap();
        Archive::at_once(&sealed, &(Arc::new(SystemClock) as Arc<dyn Clock>))
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("cache/denials")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

#[tokio::test]
async fn a_restart_forgets_no_denial_and_none_that_has_ended() {
    let disk = Disk::new();
    for scope in [own("web"), Scope::Node] {
        let denials = disk.start();
        deny(&denials, &scope, "shop", "kv/secret");
        deny(&denials, &scope, "shop", "kv/other");
        answer(&denials, &scope, "shop", "kv/other");
        drop(denials);
        let denials = disk.start();
        assert!(!may(&denials, &scope, "shop", "kv/secret") && may(&denials, &scope, "shop", "kv/other"), "{scope:?}");
        let (others, is_one) = if scope == Scope::Node { (Scope::Node, true) } else { (own("bank"), false) };
        assert_eq!(may(&denials, &others, "bank", "kv/secret"), !is_one, "where all are one to the store, it holds for all");
        answer(&denials, &scope, "shop", "kv/secret");
        drop(denials);
        assert!(may(&disk.start(), &scope, "shop", "kv/secret"), "{scope:?}");
        assert_eq!(disk.files().len(), 0, "nothing is left of what has ended");
    }
}

#[tokio::test]
async fn whoever_had_too_many_has_so_after_a_restart_and_nobody_else() {
    let (disk, [evil, shop]) = (Disk::new(), ["evil", "shop"].map(own));
    let denials = disk.start();
    deny(&denials, &shop, "shop", "kv/secret");
    for n in 0..300 {
        deny(&denials, &evil, "evil", &format!("kv/none-{n}"));
    }
    let bytes: u64 = disk.files().iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(disk.files().len() == 2 && bytes < 32 * 1024, "one file for each namespace: {bytes}");
    drop(denials);
    for _ in 0..2 {
        let denials = disk.start();
        assert!(!may(&denials, &evil, "evil", "kv/none-0") && !may(&denials, &evil, "evil", "kv/never-asked"));
        assert!(!may(&denials, &shop, "shop", "kv/secret") && may(&denials, &shop, "shop", "kv/other"));
        answer(&denials, &evil, "evil", "kv/good");
        assert!(may(&denials, &evil, "evil", "kv/good"), "the first has answered it since");
    }
    let smaller = disk.start_with(1);
    assert!(!may(&smaller, &shop, "shop", "kv/secret"), "with less memory nothing is forgotten either");
    let crowd = disk.start_with(1);
    for n in 0..1_100 {
        let tenant = format!("team-{n}");
        deny(&crowd, &own(&tenant), &tenant, "kv/x");
    }
    drop(crowd);
    assert!(!may(&disk.start(), &own("bank"), "bank", "kv/x"), "more namespaces than can be kept apart");
}

/// What holds for all is kept once, however many tenants get it: no namespace uses another's room, and nothing stays that has ended.
#[tokio::test]
async fn what_holds_for_all_is_kept_once() {
    let (disk, all) = (Disk::new(), Scope::Node);
    let denials = disk.start();
    for tenant in ["shop", "bank"] {
        deny(&denials, &all, tenant, "kv/ended");
        deny(&denials, &all, tenant, "kv/secret");
    }
    answer(&denials, &all, "bank", "kv/ended");
    for n in 0..300 {
        for tenant in ["evil", "worse"] {
            deny(&denials, &all, tenant, "kv/secret");
            deny(&denials, &all, tenant, &format!("kv/none-{n}"));
        }
    }
    let bytes: u64 = disk.files().iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes < 32 * 1024, "no page grows beyond what memory has: {bytes}");
    for denials in [denials, disk.start()] {
        assert!(!may(&denials, &all, "third", "kv/secret"), "the one that was told first has its room");
        assert!(may(&denials, &all, "third", "kv/ended") && may(&denials, &all, "bank", "kv/ended"));
        assert!(!may(&denials, &all, "shop", "kv/ended"), "its own, which nothing has ended");
    }
}

/// Another release finds what this one has left. If this test fails, increase `FORMAT` of the ledger: then the former ids count as unread.
#[test]
fn the_names_of_requests_stay() {
    let names = [Scope::Node, own("web"), Scope::Account(PodIdentity::believed(&claims()).account())].map(|scope| {
        let mut asked = asked(&scope, "kv/db");
        asked.secret = asked.secret.with(|parts| {
            parts.args.insert("ttl", &"1h".into());
            parts.login.role = Some("app".to_owned());
        });
        String::from(Denied::of(&asked, None))
    });
    assert_eq!(names, ["bc4b0b0399f6aacfc47a568d6941f6d3", "2500c1f0949a7ab239fc9c21cd39e214", "312ab80e5e4c36d486cf0bf7e44c2890"]);
}

#[tokio::test]
async fn what_the_daemon_keeps_of_an_answer_makes_no_other_request() {
    let bench = Bench::new();
    bench.first.is_out(Some(Fault::Denied));
    let shared = both("kv/db").with(|parts| parts.lease = crate::model::LeaseFor::Shared);
    assert_eq!(bench.by(&both("kv/db")).await, fails(Fault::Denied));
    bench.first.is_out(Some(Fault::Down));
    assert_eq!(bench.by(&shared).await, fails(Fault::Down), "the store was asked for the same");
}

#[tokio::test]
async fn on_a_disk_that_could_not_be_written_anything_may_have_been_denied() {
    let disk = Disk::new();
    let archive = disk.archive();
    archive.fails();
    let denials = Denials::new(&"both".parse().unwrap(), BYTES, Some(&archive));
    assert!(!may(&denials, &own("shop"), "shop", "kv/db"));
    answer(&denials, &own("shop"), "shop", "kv/db");
    assert!(may(&denials, &own("shop"), "shop", "kv/db"), "the first has answered it since");
    drop((denials, archive));
    assert!(may(&disk.start(), &own("shop"), "shop", "kv/db"), "and nothing is left of that");
}

/// A rekey, file by file: the first start encrypts again what the former key encrypted, so that the former key can be removed after it.
#[tokio::test]
async fn a_new_key_loses_no_denial() {
    let (mut disk, shop) = (Disk::new(), own("shop"));
    deny(&disk.start(), &shop, "shop", "kv/secret");
    (disk.key, disk.former) = (2, vec![1]);
    assert!(!may(&disk.start(), &shop, "shop", "kv/secret"));
    disk.former.clear();
    let denials = disk.start();
    assert!(!may(&denials, &shop, "shop", "kv/secret") && may(&denials, &shop, "shop", "kv/other"));
    assert_eq!(disk.files().len(), 1);
}

/// If a file does not open, it may have had any denial.
#[tokio::test]
async fn a_denial_that_cannot_be_read_counts_as_all_of_them() {
    let shop = own("shop");
    for spoil in [&b""[..], b"kfseal\x01", &[0; 4096]] {
        let disk = Disk::new();
        deny(&disk.start(), &shop, "shop", "kv/secret");
        std::fs::write(&disk.files()[0], spoil).unwrap();
        let denials = disk.start();
        assert!(!may(&denials, &shop, "shop", "kv/secret") && !may(&denials, &own("bank"), "bank", "kv/x"));
        answer(&denials, &own("bank"), "bank", "kv/x");
        assert!(may(&denials, &own("bank"), "bank", "kv/x"), "the first has answered it since");
        deny(&denials, &shop, "shop", "kv/new");
        drop(denials);
        assert!(!may(&disk.start(), &shop, "shop", "kv/secret"), "what has taken the file's place does not end that");
        std::fs::remove_dir_all(disk.folder.path().join("cache/denials")).unwrap();
        assert!(may(&disk.start(), &shop, "shop", "kv/secret"), "the admin begins again");
    }
    let disk = Disk::new();
    let denials = disk.start_with(1 << 20);
    for n in 0..500 {
        let tenant = format!("team-{n}");
        deny(&denials, &own(&tenant), &tenant, "kv/x");
    }
    drop(denials);
    assert!(!may(&disk.start_with(1 << 20), &own("bank"), "bank", "kv/x"), "more than are read at a start");
}
