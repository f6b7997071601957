use std::collections::BTreeMap;

use super::folders::*;
use super::*;
use crate::backend::Configured;
use crate::model::{Below, Field, FieldName, Secret, SecretBytes, SecretName, Select};
use crate::steps::Steps;

fn plan(objects: &[(&[&str], &[&str], bool)]) -> Plan {
    let folder: SecretRef = SecretRef::read("files".parse().unwrap(), SecretName::escapable_or_folder("shop/certs/").unwrap());
    let texts = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    let object = |(at, (include, exclude, optional)): (usize, &(&[&str], &[&str], bool))| {
        let below = Below { include: texts(include), exclude: texts(exclude), rename: None };
        let select = Select::Each { patterns: None, folder: format!("f{at}").parse().unwrap() };
        Object { below: Some(Box::new(below)), optional: *optional, ..Object::of_secret(at + 1, 0, select) }
    };
    let objects: Vec<_> = objects.iter().enumerate().map(object).collect();
    Plan { secrets: vec![folder], prefixes: (0..objects.len()).collect(), objects, ..Plan::default() }
}

fn listing(keys: &str) -> Secret {
    let field = Field::of_bytes(SecretBytes::new(keys.as_bytes().to_vec()));
    Secret { fields: BTreeMap::from([(FieldName::new(Listing::KEYS), field)]), response: None, version: None, lease: None }
}

fn names(plan: &Plan, folder: &str, keys: &str, limit: usize) -> Result<(String, String), String> {
    let objects: Vec<usize> = plan.prefixes.clone();
    let names = names_in(plan, &objects, folder, &listing(keys), limit, &Steps::unbounded());
    names
        .map(|names| (names.secrets.join(" "), names.folders.join(" ")))
        .map_err(|unlisted| format!("{:?}: {}", unlisted.fault, unlisted.reason))
}

fn these(secrets: &str, folders: &str) -> (String, String) {
    (secrets.to_owned(), folders.to_owned())
}

#[test]
fn a_listing_gives_what_some_object_wants() {
    let all = plan(&[(&[], &[], false)]);
    assert_eq!(names(&all, "", r#"["web","old/","api"]"#, 9), Ok(these("web api", "old/")));
    assert_eq!(names(&all, "old/", r#"["web","x/"]"#, 9), Ok(these("old/web", "old/x/")));
    let two = plan(&[(&["w*"], &[], false), (&["old/**"], &["old/deep/**"], false)]);
    assert_eq!(names(&two, "", r#"["web","old/","new/","api"]"#, 9), Ok(these("web", "old/")));
    assert_eq!(names(&two, "old/", r#"["deep/","x/","api"]"#, 9), Ok(these("old/api", "old/x/")));
    assert_eq!(names(&all, "", "[]", 9), Ok(these("", "")));
}

/// What a hostile store could list.
#[test]
fn a_listing_that_is_none_is_refused() {
    let all = plan(&[(&[], &[], false)]);
    for keys in [r#"["a/b"]"#, r#"["/"]"#, r#"[""]"#, r#"["a//"]"#, r#"{"a":1}"#, "[1]", "", "null", r#"["a""#] {
        let refused = names(&all, "", keys, 9).unwrap_err();
        assert!(refused.starts_with("Corrupt: "), "{keys}: {refused}");
    }
    let deep = "1/2/3/4/5/6/7/";
    assert_eq!(names(&all, deep, r#"["x"]"#, 9), Ok(these("1/2/3/4/5/6/7/x", "")));
    assert!(names(&all, deep, r#"["8/"]"#, 9).unwrap_err().starts_with("TooLarge: it has folders more than 8 levels deep"));
    let many = format!("[{}\"x\"]", "\"y\",".repeat(NAMES));
    assert!(names(&all, "", &many, 9).unwrap_err().starts_with("TooLarge: there are more than 16384"));
    assert!(names(&all, "", r#"["a","b","c"]"#, 2).unwrap_err().starts_with("TooLarge: there are more than 2 secrets"));
}

fn put(plan: &Plan, names: &[&str], limit: usize) -> Result<Vec<String>, Vec<String>> {
    let mut roots = roots(plan);
    roots[0].names = names.iter().map(|name| (*name).to_owned()).collect();
    let put = whole::put_in(plan, &roots, &Configured::default(), limit, &Steps::unbounded());
    put.map(|put| {
        put.objects.iter().map(|object| put.secrets_of(object).skip(1).map(ToString::to_string).collect::<Vec<_>>().join(" ")).collect()
    })
    .map_err(|failures| failures.iter().map(ToString::to_string).collect())
}

#[test]
fn what_is_found_becomes_parts_of_the_objects() {
    let two = plan(&[(&["w*", "a/**"], &[], false), (&[], &["web"], true)]);
    assert_eq!(
        put(&two, &["a/b", "web"], 9),
        Ok(vec!["files/shop/certs/a/b files/shop/certs/web".to_owned(), "files/shop/certs/a/b".to_owned()])
    );
    assert_eq!(put(&two, &["web"], 9), Ok(vec!["files/shop/certs/web".to_owned(), String::new()]), "it may be absent");
    insta::assert_snapshot!(put(&two, &["b"], 9).unwrap_err().join("\n"), @"object 1 (f0/): files/shop/certs/: there are no secrets below it that this object asks for (correct `include` and `exclude`, store one, or set `optional: true`)");
    insta::assert_snapshot!(put(&two, &["a/b", "web"], 2).unwrap_err().join("\n"), @"object 2 (f1/): files/shop/certs/: with what is below it, the class has more than 2 secrets: no more are delivered on this node (choose with `include` and `exclude`, split the class, or ask for a higher limits.objects)");
    let told = put(&two, &["w%2f"], 9).unwrap_err();
    assert_eq!(told.len(), 2);
    insta::assert_snapshot!(told[1], @r#"object 2 (f1/): files/shop/certs/: the name "w%2f" below it has the character '%', which stores read as an escape or a query (store the secret under another name, or leave it out with `exclude`)"#);
}
