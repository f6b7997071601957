//! How long a line is, and how much is kept of it.

use super::super::line::{self, LINE};
use super::super::repeats::{Repeats, VOLUMES};
use super::*;

/// An object that delivers this many files.
fn object_of(files: usize) -> ObjectEvent {
    let mut object = ObjectEvent { field: None, file: None, ..event(0, "3").objects.remove(0) };
    for number in 0..files {
        let name = format!("field-{number:04}");
        object.add_file(&format!("db/{name}").parse().unwrap(), Some(&name.parse().unwrap()));
    }
    object
}

fn lines_of(events: impl IntoIterator<Item = Event>) -> Vec<String> {
    let written = Shared::default();
    let mut trail = Trail::new(Destination::Writer(Box::new(written.clone())), Arc::default(), Arc::new(Losses::new(Arc::default())));
    for mut event in events {
        event.bound();
        let tenant = event.tenant();
        trail.pass(&mut event, &tenant, Instant::now()).unwrap();
    }
    String::from_utf8(written.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn an_object_of_one_file_names_it_and_one_of_several_counts_them() {
    let shown = |files| serde_json::to_string_pretty(&object_of(files)).unwrap();
    insta::assert_snapshot!(shown(1), @r#"
    {
      "object": 1,
      "backend": "files",
      "secret": "shop/db",
      "field": "field-0000",
      "file": "db/field-0000",
      "version": "3",
      "outcome": "delivered",
      "rule": 2,
      "source": "store"
    }
    "#);
    insta::assert_snapshot!(shown(3), @r#"
    {
      "object": 1,
      "backend": "files",
      "secret": "shop/db",
      "files": 3,
      "first": [
        "db/field-0000",
        "db/field-0001",
        "db/field-0002"
      ],
      "version": "3",
      "outcome": "delivered",
      "rule": 2,
      "source": "store"
    }
    "#);
    let many: serde_json::Value = serde_json::from_str(&shown(4_000)).unwrap();
    assert_eq!((&many["files"], many["first"].as_array().unwrap().len()), (&4_000.into(), 16));
    let mut absent = ObjectEvent { outcome: Outcome::Absent, ..object_of(0) };
    absent.add_absent(Some("a"));
    assert_eq!(serde_json::to_value(&absent).unwrap().get("files"), None);
    absent.add_absent(Some("b"));
    assert_eq!(serde_json::to_value(&absent).unwrap()["files"], 2);
}

#[test]
fn names_of_several_files_are_bounded_in_bytes() {
    let mut object = object_of(0);
    for number in 0..20 {
        let path = format!("{number}{}", "/long".repeat(150)).parse().unwrap();
        object.add_file(&path, None);
    }
    let shown = serde_json::to_value(&object).unwrap();
    assert_eq!((&shown["files"], shown["first"].as_array().unwrap().len()), (&20.into(), 1));
    assert!(shown.to_string().len() < 2_000);
}

/// With a line for each file this took 15 MB in each line, and 11 MiB for each volume.
#[test]
fn a_small_class_of_many_files_makes_a_small_line() {
    let mut mount = event(0, "3");
    mount.objects = (1..=27).map(|object| ObjectEvent { object, ..object_of(4_000) }).collect();
    assert!(mount.weight() < 64 * 1024, "{}", mount.weight());
    let lines = lines_of([mount]);
    assert!(lines[0].len() < 16 * 1024, "{}", lines[0].len());
    let shown: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let files: Vec<_> = shown["objects"].as_array().unwrap().iter().map(|object| object["files"].as_u64().unwrap()).collect();
    assert_eq!((files, shown.get("more")), (vec![4_000; 27], None));
}

#[test]
fn a_line_has_the_objects_that_it_has_room_for_and_counts_the_others() {
    let mut mount = event(0, "3");
    let long: crate::model::FilePath = "/element".repeat(500)[1..].parse().unwrap();
    mount.objects = (1..=512).map(|object| ObjectEvent { object, file: Some(long.clone()), ..object_of(0) }).collect();
    let lines = lines_of([mount]);
    assert!((LINE - 4_300..LINE).contains(&lines[0].len()), "{}", lines[0].len());
    let shown: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let objects = shown["objects"].as_array().unwrap();
    assert_eq!(objects.last().unwrap()["object"], objects.len(), "the first ones");
    assert_eq!(shown["more"], 512 - objects.len());
}

/// However long each text is, even if each byte of it takes six in JSON.
#[test]
fn no_text_makes_a_line_too_long() {
    let long = || "\u{1}".repeat(1024 * 1024);
    let mut mount = event(0, "3");
    mount.pod = Some(Arc::new(PodClaims { namespace: long(), name: long(), uid: long(), service_account: long() }));
    (mount.class, mount.target, mount.error) = (Some(long().into()), Some(long().into()), Some(long()));
    let lines = lines_of([mount.clone()]);
    assert!(lines[0].len() < LINE, "{}", lines[0].len());
    let shown: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert!(shown["pod"].as_str().unwrap().ends_with("\u{1}..."));
    mount.bound();
    mount.shorten();
    assert_eq!((mount.more, mount.error.map(|error| error.len())), (1, Some(256)));
}

#[test]
fn files_that_are_not_named_make_another_line_all_the_same() {
    let with = |second, last: &str| {
        let mut mount = event(second, "3");
        mount.objects = vec![object_of(50)];
        mount.objects[0].add_file(&last.parse().unwrap(), None);
        mount
    };
    let shown = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["objects"].clone();
    let lines = lines_of([with(0, "a"), with(60, "a"), with(120, "b")]);
    assert_eq!((lines.len(), shown(&lines[0])), (3, shown(&lines[2])));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&lines[1]).unwrap()["repeats"], 1);
}

/// A hash, a few numbers, and the namespace's name: nothing else of the event, however large the event is.
#[test]
fn a_volume_that_repeats_keeps_a_few_bytes() {
    const { assert!(Repeats::VOLUME <= 160) };
    let repeats = Repeats::default();
    let tenant: Tenant = "shop".into();
    let provider: Arc<str> = "keyferry".into();
    for second in [0, 60] {
        for volume in 0..VOLUMES {
            let mut mount = mount_of("shop", volume, second);
            mount.error = Some("x".repeat(4096));
            (mount.provider, mount.objects) = (Arc::clone(&provider), vec![object_of(2); 3]);
            repeats.pass(&mount, &tenant);
        }
    }
    assert_eq!(Arc::strong_count(&provider), 1, "no event is kept");
}

#[test]
fn who_has_most_volumes_loses_its_oldest() {
    let repeats = Repeats::default();
    let (shop, evil): (Tenant, Tenant) = ("shop".into(), "evil".into());
    for second in [0, 60] {
        repeats.pass(&mount_of("shop", 0, second), &shop);
    }
    let mut gone = Vec::new();
    for volume in 0..4_200 {
        for second in [60, 120] {
            gone.extend(repeats.pass(&mount_of("evil", volume, second), &evil).counts);
        }
    }
    assert_eq!(gone.len(), 4_200 + 1 - VOLUMES);
    insta::assert_snapshot!(String::from_utf8(line::of(&gone[0]).unwrap()).unwrap(), @r#"{"v":1,"time":"1970-01-01T00:02:00Z","event":"mount","request":"0000000000000007","outcome":"delivered","namespace":"evil","verified":true,"milliseconds":1.5,"objects":[],"repeats":1,"repeatOf":"0000000000000007"}"#);
    assert!(gone.iter().all(|count| count.tenant == evil && count.repeats == 1));
    let left = repeats.drain();
    assert_eq!((left.len(), left[0].tenant.as_str()), (VOLUMES, "shop"));
    assert!(repeats.drain().is_empty());
}
