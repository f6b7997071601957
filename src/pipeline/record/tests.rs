use std::collections::BTreeMap;

use super::*;
use crate::audit::Gist;
use crate::model::{FieldPattern, FileMode, PodIdentity, Secret, SecretBytes};
use crate::policy::Policy;
use crate::render::{RenderedFile, Skipped};
use crate::yaml::{self, Faults};

const RULES: &str = r#"
- pods: { namespace: bank }
  read: ["files/**"]
- pods: { namespace: shop }
  read: ["files/**"]
"#;

fn object(index: usize, secret: usize, select: Select) -> Object {
    Object { optional: true, ..Object::of_secret(index, secret, select) }
}

fn file(object: usize, path: &str, field: &str) -> RenderedFile {
    let (path, field) = (path.parse().unwrap(), Some(field.parse().unwrap()));
    RenderedFile {
        path,
        mode: FileMode::DEFAULT,
        owner: None,
        contents: Arc::new(SecretBytes::new(Vec::new())),
        object,
        secret: object - 1,
        field,
    }
}

/// For a class with two secrets: one file from the first, and all fields of the other.
fn facts(namespace: &str) -> Facts {
    let secrets: Vec<_> = ["db", "tls"].map(|name| SecretRef::read("files".parse().unwrap(), name.parse().unwrap())).into();
    let fields = Select::Fields { patterns: vec![FieldPattern::new("*")], folder: "tls/".parse().unwrap() };
    let plan = Plan {
        secrets,
        objects: vec![object(1, 0, Select::Whole { path: "db".parse().unwrap() }), object(2, 1, fields)],
        ..Plan::default()
    };
    let (plan, mut faults) = (Arc::new(plan), Faults::default());
    let policy = Policy::parse(&yaml::parse(RULES).unwrap(), &[], &mut faults);
    let pod = Arc::new(PodIdentity {
        namespace: namespace.into(),
        name: "web-0".into(),
        uid: "u-1".into(),
        service_account: "web".into(),
        service_account_uid: None,
        verified: true,
    });
    let permits = policy.of(&pod).grant(&plan).unwrap().permits(&pod, &plan).unwrap();
    let secret = Arc::new(Secret { fields: BTreeMap::new(), response: None, version: None, lease: None });
    let fetched = Fetched { secret, source: Source::Store, by: "files".parse().unwrap() };
    let rendered =
        Rendered { files: vec![file(1, "db", "a"), file(2, "tls/crt", "crt"), file(2, "tls/key", "key")], ..Rendered::default() };
    let versions = vec![Some(Version::new("1")), Some(Version::new("2"))];
    Facts { permits, secrets: vec![Some(fetched.clone()), Some(fetched)], versions, rendered }
}

fn stale(seconds: u64) -> Source {
    Source::Stale { age: Duration::from_secs(seconds), bound: Duration::from_hours(1), cause: "no connection".to_owned() }
}

/// Two mounts have the same gist if, and only if, their lines have the same objects. Only the age of an answer may differ, which a repeat
/// does not report either.
#[test]
fn a_gist_changes_with_whatever_the_line_says() {
    type Change = fn(&mut Facts);
    let changes: [Change; 11] = [
        |_| {},
        |facts| facts.versions[1] = Some(Version::new("3")),
        |facts| facts.versions = vec![Some(Version::new("2")), Some(Version::new("1"))],
        |facts| facts.secrets[0].as_mut().unwrap().source = Source::Fresh { age: Duration::ZERO },
        |facts| facts.secrets[0].as_mut().unwrap().source = stale(1),
        |facts| facts.secrets[1].as_mut().unwrap().source = stale(1),
        |facts| facts.secrets[1].as_mut().unwrap().by = "other".parse().unwrap(),
        |facts| drop(facts.rendered.files.pop()),
        |facts| facts.rendered.files[2] = file(2, "tls/other", "other"),
        |facts| {
            facts.rendered.files.remove(0);
            (facts.secrets[0], facts.versions[0]) = (None, None);
            let secret = facts.permits.secret(0).clone();
            facts.rendered.skipped.push(Skipped { object: 1, secret, field: None });
        },
        |facts| {
            let secret = facts.permits.secret(1).clone();
            facts.rendered.skipped.push(Skipped { object: 2, secret, field: Some("ca".to_owned()) });
        },
    ];
    let said = |namespace: &str, change: Change| {
        let mut facts = facts(namespace);
        change(&mut facts);
        (Gist::of(&facts), format!("{:?}", facts.objects()))
    };
    let all: Vec<_> = changes.iter().map(|change| said("shop", *change)).chain([said("bank", |_| {})]).collect();
    for (at, one) in all.iter().enumerate() {
        for (other_at, other) in all.iter().enumerate() {
            assert_eq!((one.0 == other.0, one.1 == other.1), (at == other_at, at == other_at), "{at} and {other_at}");
        }
    }
    let older = said("shop", |facts| facts.secrets[0].as_mut().unwrap().source = stale(2));
    assert_eq!(older.0, all[4].0, "only the age differs");
}

#[test]
fn without_an_error_the_class_counts_too() {
    let mut record = Record::new(
        &MountContext::new(crate::model::RequestId::new(1), "keyferry".into(), tokio::time::Instant::now(), None, Duration::from_secs(1)),
        Timestamp::UNIX_EPOCH,
    );
    let mut gists = Vec::new();
    for class in ["a", "b"] {
        let facts = facts("shop");
        record.planned(&Arc::new(Plan::default()), Gist::of(class));
        record.delivered(facts);
        gists.push(record.in_brief().gist.unwrap());
        assert_eq!((record.in_brief().objects.len(), record.event(None).objects.len()), (0, 2), "told for a line alone");
    }
    assert_ne!(gists[0], gists[1]);
    let failed = record.event(Some(&MountError::Internal));
    assert!(failed.gist.is_none() && failed.objects.iter().all(|object| object.outcome == Outcome::Failed), "{failed:?}");
}

/// If a secret of another region replaced the first, it is in the line too, with its own rule and version; otherwise it is not in the line.
#[test]
fn what_stood_in_for_a_secret_is_told() {
    let of = |backend: &str| SecretRef::read(backend.parse().unwrap(), "db".parse().unwrap());
    let plan = || Plan {
        secrets: vec![of("files"), of("dr")],
        instead: [(0, 1)].into(),
        objects: vec![object(1, 0, Select::Response { path: "db".parse().unwrap() })],
        ..Plan::default()
    };
    let said = |found: [bool; 2]| {
        let (mut facts, plan) = (facts("shop"), Arc::new(plan()));
        let rules = "- pods: { namespace: shop }\n  read: [\"files/**\"]\n- pods: { namespace: shop }\n  read: [\"dr/**\"]";
        let policy = Policy::parse(&yaml::parse(rules).unwrap(), &[], &mut Faults::default());
        let pod = Arc::clone(facts.permits.pod());
        facts.permits = policy.of(&pod).grant(&plan).unwrap().permits(&pod, &plan).unwrap();
        facts.rendered.files = vec![file(1, "db", "a")];
        for (at, by) in ["files", "dr"].into_iter().enumerate() {
            let fetched = facts.secrets[at].take().map(|fetched| Fetched { by: by.parse().unwrap(), ..fetched });
            facts.secrets[at] = fetched.filter(|_| found[at]);
            facts.versions[at] = facts.versions[at].take().filter(|_| found[at]);
        }
        assert_eq!(facts.permits.plan().answering(0, |place| facts.secrets[place].is_some()), usize::from(!found[0]));
        (Gist::of(&facts), serde_json::to_string(&facts.objects()).unwrap())
    };
    let (usual, instead) = (said([true, false]), said([false, true]));
    assert_ne!(usual.0, instead.0);
    insta::assert_snapshot!(format!("{}\n{}", usual.1, instead.1), @r#"
    [{"object":1,"backend":"files","secret":"db","field":"a","file":"db","version":"1","outcome":"delivered","rule":1,"source":"store"}]
    [{"object":1,"backend":"files","secret":"db","others":[{"backend":"dr","secret":"db","version":"2","rule":2,"source":"store"}],"field":"a","file":"db","outcome":"delivered","rule":1}]
    "#);
    let withheld: Vec<_> = plan().objects.iter().map(|object| of_object(&plan(), object, Outcome::Withheld)).collect();
    assert_eq!(withheld[0].others.len(), 1, "both were asked of policy");
}
