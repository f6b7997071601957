use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{Field, FieldKind, FieldName, SecretBytes};

/// Is in every value, and in no fault.
const CANARY: &str = "hunter2";

const MIB: usize = 1 << 20;

fn secret(fields: &[(&str, Field)]) -> Secret {
    let fields: BTreeMap<_, _> = fields.iter().map(|(name, field)| (FieldName::new(name), field.clone())).collect();
    Secret { fields, response: None, version: None, lease: None }
}

fn text(value: &str) -> Field {
    Field::of_bytes(SecretBytes::new(value.into()))
}

fn json(value: &str) -> Field {
    Field { bytes: Arc::new(SecretBytes::new(value.into())), kind: FieldKind::Json }
}

fn db() -> Secret {
    secret(&[
        ("user", text("app")),
        ("password", text("hunter2 'x\"\n€")),
        ("b64", text("aHVudGVyMg==")),
        ("list", text("hunter2,b,c")),
        ("evil", text("{{ db.user }}{% for x in y %}hunter2")),
        ("nested", json(r#"{"hosts": ["a", "b"], "port": 5432, "ratio": 1.50, "half": 0.5, "none": null, "on": true}"#)),
        ("key", Field { bytes: Arc::new(SecretBytes::new(vec![0xff, 0])), kind: FieldKind::Binary }),
        ("dotted.name", text("d")),
    ])
}

fn compiled(source: &str) -> Result<Template, TemplateFault> {
    Template::parse(source, &["db", "none_such"], &Steps::unbounded()).unwrap()
}

fn rendered(source: &str) -> Result<String, Unrendered> {
    let (template, db) = (compiled(source).map_err(Unrendered::Fault)?, db());
    let steps = Steps::of(50_000_000);
    let bytes = template.render(&[("db", Some(&db)), ("none_such", None)], MIB, MIB, &steps)?;
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

fn fault(source: &str) -> String {
    let fault = match rendered(source) {
        Ok(made) => panic!("{source} makes {made}"),
        Err(Unrendered::Absent { fault, .. } | Unrendered::Fault(fault)) => fault.to_string(),
        Err(other) => format!("{other:?}"),
    };
    assert!(!fault.contains(CANARY), "{fault}");
    fault
}

#[test]
fn what_a_template_can_do() {
    for (source, result) in [
        ("url = {{ db.user }}:{{ db.password | urlencode }}@db\n", "url = app:hunter2%20%27x%22%0A%E2%82%AC@db\n"),
        ("{{ db['dotted.name'] }} {{ db.nested.port }} {{ db.nested.ratio }} {{ db.nested.half }}", "d 5432 1.50 0.5"),
        ("{% for h in db.nested.hosts %}{{ loop.index }}{{ h }};{% endfor %}", "1a;2b;"),
        ("{% for n in db.nested %}{{ n }} {% endfor %}", "half hosts none on port ratio "),
        ("{% for n in db if 'user' == n %}{{ n }}={{ db[n] }}{% else %}no{% endfor %}", "user=app"),
        ("{% if none_such is none %}absent{% endif %}{{ none_such | default('x', true) }}{{ db.lost | default('y') }}", "absentxy"),
        ("{% if db.lost is defined %}a{% elif db.user == 'app' %}b{% else %}c{% endif %}", "b"),
        ("{{ 'yes' if db.nested.port > 5000 and not db.nested.none else 'no' }}{{ 'b' in db.nested.hosts }}", "yestrue"),
        ("{% set a = db.user ~ '!' %}{{ a | upper }}{% raw %}{{ x | y }}{% endraw %}{# z | q #}", "APP!{{ x | y }}"),
        ("{% set a %}{{ db.user }}-{% endset %}{{ a }}{% with b = a, c = '.' %}{{ b ~ c }}{% endwith %}", "app-app-."),
        ("{% filter upper | quote %}{{ db.user }}{% endfilter %}", "\"APP\""),
        ("a {{- db.user -}}  b {%- if true +%} c{% endif %}", "aappb c"),
        ("{{ db.b64 | b64decode }} {{ db.key | b64encode }} {{ db.user | hex }}", "hunter2 /wA= 617070"),
        ("{{ db.user | sha256 }}", "a172cedcae47474b615c54d510a5d84a8dea3032e958587430b413538be3f333"),
        ("{{ db.nested | json }}", r#"{"half":0.5,"hosts":["a","b"],"none":null,"on":true,"port":5432,"ratio":1.50}"#),
        ("{{ db.nested.hosts | yaml }} {{ db.nested.hosts | toml }} {{ '' ~ db.nested.hosts }}", r#"["a", "b"] ["a", "b"] ["a","b"]"#),
        ("{{ db.password | quote }} {{ db.password | shellquote }}", "\"hunter2 'x\\\"\\n€\" 'hunter2 '\\''x\"\n€'"),
        ("{{ db.user | squote }} {{ db.password | properties }}", "'app' hunter2 'x\"\\n\\u20ac"),
        ("A={{ db.list | dotenv }}", "A=hunter2,b,c"),
        ("{{ 'A=A=x' | dotenv }}", "A=A=x"),
        ("{{ db.list | split(',') | join('-') }} {{ db.list | split(',') | last }} {{ db.nested.hosts | first }}", "hunter2-b-c c a"),
        ("{{ db.list | replace(',', ';') | length }} {{ ' x ' | trim }} {{ 'X' | lower }}", "11 x x"),
        ("  {{ 'a\nb\n\nc' | indent(2) }} {{ 'a\nb' | indent(1, first=true) }}", "  a\n  b\n\n  c  a\n b"),
        ("{{ '{\"a\": [1.0]}' | fromjson | json }} {{ db.nested | jmespath('hosts[0]') }}", "{\"a\":[1.0]} a"),
        ("{{ db.evil }}", "{{ db.user }}{% for x in y %}hunter2"),
        ("a\n", "a\n"),
        ("", ""),
    ] {
        assert_eq!(rendered(source).as_deref(), Ok(result), "{source}");
    }
}

#[test]
fn what_is_no_template() {
    let faults = [
        "a\n{{ db.user",
        "a\n\n{% if db.user %}",
        "{% endif %}",
        "a {# b",
        "{% raw %} {% endrow %}",
        "{% include 'x' %}",
        "{% macro x() %}{% endmacro %}",
        "{% do x() %}",
        "a\n{{ db.user | b64encod }}",
        "{{ db.user | attr('x') }}",
        "{% filter shout %}x{% endfilter %}",
        "{{ db.user is odd }}",
        "{{ db.user is not divisibleby(3) }}",
        "{{ dbb.user }}",
        "\n{{ range(10) }}",
        "{{ env.HOME }}",
        "{{ db.user.upper() }}",
        "{{ loop.cycle('a') }}",
        "{{ [1, 2] }}",
        "{{ {'a': 1} }}",
        "{{ (1, 2) }}",
        "{{ db.user + 'x' }}",
        "{{ db.user * 9 }}",
        "{{ 2 ** 9 }}",
        "{{ db.user[0] }}",
        "{{ db.user.0 }}",
        "{{ db.user[1:] }}",
        "{{ db.nested[db.user] }}",
        "{{ db.user == db.password }}",
        "{{ db.user ~ 'x' == db.password }}",
        "{{ db.user == 'x' ~ db.password }}",
        "{{ db.user in db.password }}",
        "{{ 0x10 }}",
        "{{ db.user ! }}",
        "{% for db in db.nested %}{% endfor %}",
        "{% set a, b = db.user %}",
        "{% for a in db.nested recursive %}{% endfor %}",
        "{{ (db.user }}",
        "{{ db.user) }}",
        "{{ 'x }}",
        "{{ }}",
    ];
    insta::assert_snapshot!(faults.map(fault).join("\n"), @r#"
    line 2: a tag `{{` is not closed with `}}`
    line 3: `{% if %}` has no `{% endif %}`
    line 1: `endif` ends nothing (remove it)
    line 1: a comment `{#` is not closed with `#}`
    line 1: `{% raw %}` has no `{% endraw %}`
    line 1: there is no tag "include" (there are: elif, else, filter, for, if, raw, set, with)
    line 1: there is no tag "macro" (there are: elif, else, filter, for, if, raw, set, with)
    line 1: there is no tag "do" (there are: elif, else, filter, for, if, raw, set, with)
    line 2: there is no filter "b64encod" (did you mean `b64encode`?)
    line 1: there is no filter "attr" (there are: b64decode, b64encode, default, dotenv, first, fromjson, hex, indent, jmespath, join, json, last, length, lower, pem_chain, pem_key, pem_leaf, properties, quote, replace, sha256, shellquote, split, squote, toml, trim, upper, urlencode, yaml)
    line 1: there is no filter "shout" (there are: b64decode, b64encode, default, dotenv, first, fromjson, hex, indent, jmespath, join, json, last, length, lower, pem_chain, pem_key, pem_leaf, properties, quote, replace, sha256, shellquote, split, squote, toml, trim, upper, urlencode, yaml)
    line 1: there is no test "odd" (there are: defined, none, undefined)
    line 1: there is no test "divisibleby" (there are: defined, none, undefined)
    line 1: uses "dbb", which is not a name under `secrets` (did you mean `db`?)
    line 2: "range" cannot be called: templates have filters and no functions (write `value | filter`)
    line 1: uses "env", which is not a name under `secrets` (it has: db, none_such)
    line 1: "upper" cannot be called: templates have filters and no functions (write `value | filter`)
    line 1: "cycle" cannot be called: templates have filters and no functions (write `value | filter`)
    line 1: templates make no lists (use `split`, or store a list as JSON)
    line 1: templates have no `{`: they make no mappings and no slices (use `first`, `last`, `split` or `jmespath`)
    line 1: templates make no lists (write `{{ }}` for each value)
    line 1: templates have no `+`: they do not compute (join texts with `~`, or store the result)
    line 1: templates have no `*`: they do not compute (join texts with `~`, or store the result)
    line 1: templates have no `*`: they do not compute (join texts with `~`, or store the result)
    line 1: within `[ ]` write a name in quotes; after a name under `secrets`, a variable works too (for an item of a list use `first`, `last` or `jmespath`)
    line 1: the name of a field must follow a `.` (for an item of a list use `first`, `last` or `jmespath`)
    line 1: templates have no `:`: they make no mappings and no slices (use `first`, `last`, `split` or `jmespath`)
    line 1: within `[ ]` write a name in quotes; after a name under `secrets`, a variable works too (for an item of a list use `first`, `last` or `jmespath`)
    line 1: one side of `==` must be a text in quotes, a number or a word such as `none`
    line 1: one side of `==` must be a text in quotes, a number or a word such as `none`
    line 1: one side of `==` must be a text in quotes, a number or a word such as `none`
    line 1: left of `in` there must be a text in quotes or a number
    line 1: "0x10" is not a number that templates take (write digits, or a text in quotes)
    line 1: "!" has no meaning within a tag
    line 1: `db` is a name under `secrets`, and cannot be a variable too (use another name)
    line 1: `set` has more in it than that word (remove ",")
    line 1: templates have no `recursive` (remove it)
    line 1: templates have no `}`: they make no mappings and no slices (use `first`, `last`, `split` or `jmespath`)
    line 1: has one closing bracket too many
    line 1: a text in quotes has no end
    line 1: cannot be read as a template (look for an open `{{`, `{%` or quote; the tags are if, for, set, with, filter and raw)
    "#);
    let long = "x".repeat(MAX_TEMPLATE + 1);
    insta::assert_snapshot!(fault(&long), @"has 65537 bytes: at most 65536 are compiled (split the file)");
}

/// The engine takes a word such as `if` as a name where it expects a value.
#[test]
fn words_of_the_language_are_no_values() {
    let faults = [
        "{{if}}",
        "{{ db.user if else }}",
        "{{ is defined }}",
        "{{ (and) }}",
        "{{ db.user | default(or) }}",
        "{% if not else %}{% endif %}",
        "{% for x in if %}{% endfor %}",
        "{% set if = 1 %}",
        "{% for else in db.list %}{% endfor %}",
        "{% with and = 1 %}{% endwith %}",
    ];
    insta::assert_snapshot!(faults.map(fault).join("\n"), @"
    line 1: there is no value before `if` (write one there)
    line 1: there is no value before `else` (write one there)
    line 1: there is no value before `is` (write one there)
    line 1: there is no value before `and` (write one there)
    line 1: there is no value before `or` (write one there)
    line 1: there is no value before `else` (write one there)
    line 1: there is no value before `if` (write one there)
    line 1: `if` is a word of the language, and cannot be a variable (use another name)
    line 1: `else` is a word of the language, and cannot be a variable (use another name)
    line 1: there is no value before `and` (write one there)
    ");
    let fine = "{% if not db.user is not defined and 'x' not in db.user %}{{ db.user if true else '' }}{% endif %}";
    assert_eq!(rendered(fine).unwrap(), "app");
}

#[test]
fn what_fails_while_it_is_rendered() {
    let faults = [
        "a\n{{ db.pasword }}",
        "{{ db.lost | default('x') }}\n{{ db.other | upper }}",
        "{{ db['hunter' ~ '2'] }}",
        "{% set a = db.password %}{{ db[a] }}",
        "{{ db.nested.lost.deep }}",
        "{% if db.lost %}{% endif %}",
        "{{ none_such }}",
        "{{ none_such.user }}",
        "{{ db.nested }}",
        "{{ db.key }}",
        "{{ db.key | upper }}",
        "{{ db.password | b64decode }}",
        "{{ db.password | fromjson }}",
        "{{ db.password | squote }}",
        "{{ db.nested | jmespath(db.password) }}",
        "{{ db.nested | jmespath('hosts.x(') }}",
        "{{ db.password | pem_leaf }}",
        "{{ db.user | indent(1000) }}",
        "{{ db.user | indent(99999999999999999) }}",
        "{{ db.password | split('') }}",
        "{{ db.password | replace('', 'x') }}",
        "{{ db.nested | toml }}",
        "{{ db.password | indent(db.password) }}",
        "{{ db.user | length(1, 2) }}",
        "{{ db.user | indent(2, second=true) }}",
        "{{ db.user | first }}",
        "{% for a in db.nested.port %}{% endfor %}",
        "{{ 'x' in db.nested.port }}",
    ];
    insta::assert_snapshot!(faults.map(fault).join("\n"), @r#"
    line 2: "db.pasword" is not there (correct the name, or write `| default('')`)
    line 2: "db.other" is not there (correct the name, or write `| default('')`)
    line 1: within `[ ]` write a name in quotes; after a name under `secrets`, a variable works too (for an item of a list use `first`, `last` or `jmespath`)
    line 1: a name, or what `first`, `last` or `jmespath` looks for, is not there (correct it, or write `| default('')`)
    line 1: "db.nested.lost.deep" is not there (correct the name, or write `| default('')`)
    line 1: "db.lost" is not there (correct the name, or write `| default('')`)
    line 1: the value to be written is `none`, which has no text (test it with `if`, or write `| default('', true)`)
    line 1: "none_such.user" is not there (correct the name, or write `| default('')`)
    line 1: the value to be written is a list or a mapping (write `| json`)
    line 1: the value to be written is binary (write `| b64encode`)
    line 1: the filter `upper` needs text, and this is binary (write `| b64encode` before it)
    line 1: the filter `b64decode` needs base64, and this is not base64
    line 1: the filter `fromjson` needs JSON, and this is not JSON (or it is nested over 64 levels)
    line 1: the filter `squote` cannot write a single quote or a control character within single quotes (use `quote` or `shellquote`)
    line 1: the filter `jmespath` has an expression that fails on this value
    line 1: the filter `jmespath` has an expression that fails on this value
    line 1: the filter `pem_leaf` finds no such block, or certificates of several chains (`format: pem` says what is wrong)
    line 1: the filter `indent` indents by at most 256
    line 1: the filter `indent` indents by at most 256
    line 1: the filter `split` splits at a text, and this one is empty
    line 1: the filter `replace` replaces a text, and this one is empty
    line 1: the filter `toml` cannot write this value (a null, a large number, a member twice, or nesting over 64 levels)
    line 1: a filter or an operator in this line cannot work with the kind of value that it gets (a field is a text; what was JSON may be a number, a list, a mapping or `none`)
    line 1: a filter or an operator in this line cannot work with the kind of value that it gets (a field is a text; what was JSON may be a number, a list, a mapping or `none`)
    line 1: a filter or an operator in this line cannot work with the kind of value that it gets (a field is a text; what was JSON may be a number, a list, a mapping or `none`)
    line 1: the filter `first` needs a list, and this is not a list
    line 1: a filter or an operator in this line cannot work with the kind of value that it gets (a field is a text; what was JSON may be a number, a list, a mapping or `none`)
    line 1: a filter or an operator in this line cannot work with the kind of value that it gets (a field is a text; what was JSON may be a number, a list, a mapping or `none`)
    "#);
}

fn outcome(source: &str, memory: usize, steps: &Steps) -> Result<(), Unrendered> {
    let db = secret(&[
        ("user", text("app")),
        ("big", text(&"x".repeat(100_000))),
        ("list", json(&format!("[{}0]", "0,".repeat(999)))),
        ("expression", text("[@,@,@,@]|[@,@,@,@]|[@,@,@,@]")),
    ]);
    let template = compiled(source).unwrap();
    template.render(&[("db", Some(&db)), ("none_such", None)], MIB, memory, steps).map(|_| ())
}

/// One of these took 5 GiB with version 2 of the engine.
#[test]
fn memory_and_work_end() {
    let loops = "{% for a in db.list %}".repeat(5);
    let ends = "{% endfor %}".repeat(5);
    let again = |what: &str| format!("{{% for a in db.list %}}{{% for b in db.list %}}{what}{{% endfor %}}{{% endfor %}}");
    let sources = [
        "{% set a = db.user %}".to_owned() + &"{% set a = a ~ a %}".repeat(40) + "{{ a }}",
        format!("{loops}x{ends}"),
        format!("{{% set t %}}{loops}x{ends}{{% endset %}}"),
        format!("{loops}{ends}"),
        "{% set a = 'xxxxxxxxxx' %}".to_owned() + &"{% set a = a | replace('x', a) %}".repeat(10) + "{{ a }}",
        "{% set a = db.big %}".to_owned() + &"{% set a = a | split('x') | join(a) %}".repeat(10),
        "{% set a = db.big | replace('x', '\n') | indent(256, first=true) %}".repeat(50),
        "{% set a = db.big | replace('x', '\n.') | indent(256) %}".repeat(50),
        again("{% set x = db.big | sha256 %}"),
        again("{% set x = db.big | b64encode %}"),
        again("{% set x = db.big | length %}"),
        again("{% set x = 'y' in db.big %}"),
        again("{% set x = db.list | jmespath('[@,@,@,@]|[@,@,@,@]|[@,@,@,@]') %}"),
        again("{% set x = db.list | jmespath(db.expression) | json %}"),
        again("{% set x = db.list | json | fromjson %}"),
        again("{% set x = db.list | json | quote | quote | quote %}"),
        again("{% filter upper %}{{ db.big }}{% endfilter %}"),
        again("{% set x = '' ~ db.list %}"),
        again("{% set x = db.big | pem_chain | default('') %}"),
    ];
    for source in sources {
        let shown: String = source.chars().take(100).collect();
        let steps = Steps::of(50_000_000);
        let began = tokio::time::Instant::now();
        match outcome(&source, MIB, &steps) {
            Err(Unrendered::Memory | Unrendered::TooLong) => {}
            Err(Unrendered::Fault(fault)) if shown.contains("pem_chain") => assert!(fault.problem.contains("pem_chain"), "{fault}"),
            other => panic!("{other:?}: {shown}"),
        }
        assert!(steps.spent() <= 4 << 20, "{}: {shown}", steps.spent());
        assert!(began.elapsed() < tokio::time::Duration::from_secs(5), "{:?}: {shown}", began.elapsed());
        let few = outcome(&source, 1 << 40, &Steps::of(700_000));
        assert!(
            matches!(few, Err(Unrendered::Absent { .. } | Unrendered::Fault(_) | Unrendered::Spent(_) | Unrendered::TooLong)),
            "{few:?}: {shown}"
        );
    }
}

#[test]
fn a_file_has_a_bound() {
    let db = db();
    let of = |longest: usize| {
        let template = compiled(&format!("{{{{ db.user }}}}{}", "x".repeat(997))).unwrap();
        template.render(&[("db", Some(&db)), ("none_such", None)], longest, MIB, &Steps::of(50_000_000)).map(|bytes| bytes.len())
    };
    assert_eq!((of(1_000), of(999)), (Ok(1_000), Err(Unrendered::TooLong)));
}

/// The memory for a secret's values counts before they are made.
#[test]
fn secrets_count_as_memory() {
    let zeros = secret(&[("list", json(&format!("[{}0]", "0,".repeat(50_000))))]);
    let steps = Steps::of(50_000_000);
    let outcome = compiled("x").unwrap().render(&[("db", Some(&zeros)), ("none_such", None)], MIB, 4 * MIB, &steps);
    assert_eq!(outcome.map(|_| ()), Err(Unrendered::Memory));
}

#[test]
fn values_that_are_written_as_they_are() {
    for (source, line) in [
        ("x", None),
        ("a\n{{ db.user }}", Some(2)),
        ("{{ db.user | quote }}", None),
        ("{{ db.user | upper }}", Some(1)),
        ("{{ db.user | quote | upper }}", Some(1)),
        ("{{ db.user | upper | quote }}", None),
        ("{{ 'x' ~ db.user | quote }}", None),
        ("{{ db.user ~ db.user | quote }}", Some(1)),
        ("{{ 'a' if db.user else 'b' }}", None),
        ("{{ 'a' if db.user else db.user }}", Some(1)),
        ("{{ (db.user ~ 'x') | quote }}{% for a in db.list %}{{ loop.index }}{% endfor %}{{ 5 }}", None),
        ("{{ (db.user | quote) ~ db.user }}", Some(1)),
        ("{% filter quote %}{{ db.user }}{% endfilter %}", None),
        ("{% set a = db.user %}\n\n{{ a | json }} {{ a }}", Some(3)),
        ("{# {{ db.user }} #}{% raw %}{{ x }}{% endraw %}", None),
    ] {
        assert_eq!(compiled(source).map(|template| template.bare()), Ok(line), "{source}");
    }
}

/// Any text is compiled or refused, also with little room on the stack: the engine recurses.
#[test]
fn no_text_is_too_much() {
    let nested = |open: &str, inner: &str, close: &str, times: usize| open.repeat(times) + inner + &close.repeat(times);
    let sources = [
        "{{".repeat(30_000),
        "{%".repeat(30_000),
        "{{}}".repeat(16_000),
        nested("{{ (", "db", "", 1).replace('(', &"(".repeat(60_000)),
        format!("{{{{ db{} }}}}", ".a".repeat(30_000)),
        format!("{{{{ db{} }}}}", "~db".repeat(20_000)),
        format!("{{{{ db{} }}}}", "|trim".repeat(12_000)),
        format!("{{{{ {}db }}}}", "not ".repeat(15_000)),
        format!("{{{{ {}db }}}}", "-".repeat(60_000)),
        format!("{{{{ db{} }}}}", " if db else db".repeat(4_000)),
        format!("{{{{ {} }}}}", nested("db[", "'a'", "]", 10_000)),
        format!("{{{{ db{} }}}}", "['a']".repeat(10_000)),
        format!("{{{{ db{} }}}}", " is defined".repeat(5_000)),
        format!("{{{{ {} }}}}", "'a' ".repeat(16_000)),
        nested("{% if db %}", "", "{% endif %}", 2_500),
        format!("{{% if db %}}{}{{% endif %}}", "{% elif db %}".repeat(5_000)),
        nested("{% for a in db %}", "", "{% endfor %}", 2_000),
        nested("{% filter trim %}", "", "{% endfilter %}", 2_000),
        nested("{% set a %}", "", "{% endset %}", 2_500),
        nested("{% with a = db %}", "", "{% endwith %}", 2_000),
        format!("{{% for {} in db %}}{{% endfor %}}", "(".repeat(60_000)),
        format!("{{% set {}a = db %}}", "(".repeat(60_000)),
    ];
    for source in sources {
        let shown: String = source.chars().take(30).collect();
        assert!(compiled(&source).is_err(), "{shown}");
    }
    // As deep as the limits allow, in half of the stack that the runtime's threads have.
    let deepest = [
        format!("{{{{ db.user{} }}}}", "~db.user".repeat(62)),
        format!("{{{{ db.user{} }}}}", "|trim".repeat(126)),
        format!("{{{{ {}db.user }}}}", "not ".repeat(250)),
        format!("{{{{ db.user{} }}}}", " if db.user else db.user".repeat(31)),
        format!("{{{{ {} }}}}", nested("(", "db.user", ")", 16)),
        nested("{% if db.user %}", &format!("{{{{ {}{} }}}}", nested("(", "db.user", ")", 16), "~db.user".repeat(50)), "{% endif %}", 24),
        nested("{% filter trim %}", "{{ db.user }}", "{% endfilter %}", 24),
        format!("{{% if db.lost is defined %}}{}{{{{ db.user }}}}{{% endif %}}", "{% elif db.user %}".repeat(23)),
    ];
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
        for source in deepest {
            let made = rendered(&source);
            assert!(made.is_ok(), "{made:?}: {source}");
        }
    });
    thread.unwrap().join().unwrap();
}

/// As many tags as a template can have.
#[test]
fn long_templates_are_compiled() {
    for source in ["{{ db.user }}".repeat(5_000), "{% if db.user %}{% endif %}".repeat(2_400), "{% set a = db.user %}".repeat(3_000)] {
        let steps = Steps::of(50_000_000);
        let template = Template::parse(&source, &["db"], &steps).unwrap().unwrap();
        assert!(template.weight() >= source.len() && steps.spent() <= 5_000_000);
    }
}

fn tokens() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "{",
        "}",
        "%",
        "#",
        "-",
        "+",
        " ",
        "\n",
        "'",
        "\"",
        "\\",
        "raw",
        "endraw",
        "if",
        "endif",
        "for",
        "in",
        "endfor",
        "set",
        "a",
        "db",
        "db.user",
        ".",
        "|",
        "trim",
        "upper",
        "(",
        ")",
        "[",
        "]",
        ",",
        "=",
        "==",
        "1",
        "1.5",
        "none",
        "not",
        "is",
        "defined",
        "{% raw %}",
        "{% endraw %}",
        "{%- raw -%}",
        "{{ db.user }}",
        "{% if db.user %}",
        "{% endif %}",
        "ü",
        "range",
        "sha",
        "~",
    ]);
    prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// The engine sees only names that were seen before: tags begin and end in the same places.
    #[test]
    fn no_name_is_overlooked(source in tokens()) {
        let Ok(scan) = scan::scan(&source, &["db"]) else { return Ok(()) };
        let mut engine = engine();
        if engine.add_template_owned(NAME, source.clone()).is_ok() {
            for name in engine.get_template(NAME).unwrap().undeclared_variables(false) {
                prop_assert!(scan.names.iter().any(|(_, seen)| *seen == name), "{name}: {source}");
            }
        }
    }

    /// A text that compiles is rendered, or fails with a fault of ours: by then, no filter is unknown.
    #[test]
    fn what_is_compiled_is_known(source in tokens()) {
        if let Err(Unrendered::Absent { fault, .. } | Unrendered::Fault(fault)) = rendered(&source) {
            prop_assert!(!fault.to_string().contains(CANARY));
        }
    }
}
