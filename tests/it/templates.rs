//! Files that a template makes of a class's secrets, mounted.

use crate::support::{House, shown, web};

/// A class of one template.
fn class(template: &str) -> String {
    format!("- {{ template: {template:?}, secrets: {{ db: shop/db, list: {{ secret: shop/list, optional: true }} }}, path: app.conf }}")
}

#[tokio::test]
async fn a_template_is_mounted_and_follows_its_secrets() {
    let house = House::new("");
    let provider = house.serve();
    let objects = class("url = {{ db.username }}:{{ db.password | urlencode }}{{ '' if list is none else list.x }}\n");
    let mount = async || shown(&provider.mount(house.request(&web(), &objects)).await.unwrap()).join("\n");
    assert_eq!(mount().await, "app.conf 0644 url = app:correct%20horse\n");
    house.set("shop/db", &[("username", b"{{ db.password }}"), ("password", b"a/b")]);
    house.set("shop/list", &[("x", b"!")]);
    assert_eq!(mount().await, "app.conf 0644 url = {{ db.password }}:a%2Fb!\n", "a value is not a template");
}

/// More than a mount has at first, and less than there is.
#[tokio::test]
async fn a_template_that_needs_more_waits_for_it() {
    let house = House::new("");
    let items = format!("{{\"all\": [{}0]}}", "0,".repeat(1_999));
    house.set("shop/list", &[("json", items.as_bytes())]);
    let provider = house.serve();
    let objects = class("{% for a in (list.json | fromjson).all %}{{ loop.index }} {{ db.username }}\n{% endfor %}");
    let answer = provider.mount(house.request(&web(), &objects)).await.unwrap();
    let text = str::from_utf8(&answer.files[0].contents).unwrap();
    assert_eq!((text.lines().count(), text.lines().last()), (2_000, Some("2000 app")));
}

#[tokio::test]
async fn what_a_template_is_refused_for() {
    let house = House::new("");
    let provider = house.serve();
    let mut said = Vec::new();
    let doubled = "{% set a = db.password %}".to_owned() + &"{% set a = a ~ a %}".repeat(40) + "{{ a }}";
    let loops = "{% for a in db.password %}".repeat(12) + &"{% endfor %}".repeat(12);
    for template in [
        "x\n{{ db.password",
        "x\n{{ db.password | b64 }}",
        "{{ dv.password }}",
        "{{ db.pasword }}",
        "{{ db }}",
        "{{ db.password | fromjson }}",
        "{{ db.password | indent(db.password) }}",
        "{% include 'x' %}",
        &doubled,
        &loops,
    ] {
        let refused = provider.mount(house.request(&web(), &class(template))).await.unwrap_err();
        assert!(!refused.message().contains("correct horse"), "{}", refused.message());
        said.push(refused.message().to_owned());
    }
    insta::assert_snapshot!(said.join("\n"), @r#"
    InvalidRequest: object 1 (app.conf): template: line 2: a tag `{{` is not closed with `}}`
    InvalidRequest: object 1 (app.conf): template: line 2: there is no filter "b64" (there are: b64decode, b64encode, default, dotenv, first, fromjson, hex, indent, jmespath, join, json, last, length, lower, pem_chain, pem_key, pem_leaf, properties, quote, replace, sha256, shellquote, split, squote, toml, trim, upper, urlencode, yaml)
    InvalidRequest: object 1 (app.conf): template: line 1: uses "dv", which is not a name under `secrets` (did you mean `db`?)
    SecretNotFound: object 1 (app.conf): files/shop/db: template: line 1: "db.pasword" is not there (correct the name, or write `| default('')`)
    InvalidRequest: object 1 (app.conf): files/shop/db: template: line 1: the value to be written is a list or a mapping (write `| json`)
    InvalidRequest: object 1 (app.conf): files/shop/db: template: line 1: the filter `fromjson` needs JSON, and this is not JSON (or it is nested over 64 levels)
    InvalidRequest: object 1 (app.conf): files/shop/db: template: line 1: a filter or an operator in this line cannot work with the kind of value that it gets (a field is a text; what was JSON may be a number, a list, a mapping or `none`)
    InvalidRequest: object 1 (app.conf): template: line 1: there is no tag "include" (there are: elif, else, filter, for, if, raw, set, with)
    TooLarge: object 1 (app.conf): files/shop/db: its template makes more than 3670016 bytes while Keyferry renders it (write a simpler one)
    TooLarge: object 1 (app.conf): files/shop/db: its template makes more than 3670016 bytes while Keyferry renders it (write a simpler one)
    "#);
}
