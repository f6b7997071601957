use super::*;
use crate::backend::Kind;
use crate::backend::store::http::tests::parsed;

const EXAMPLE: &str = "\
url: https://secrets.example/v1/{name}
auth: { bearer: { podToken: intranet } }
fields: data
version: meta.version
versionQuery: version
statuses: { 418: notFound }
cache: { fresh: 1m }
";

#[test]
fn the_example_is_read() {
    let read = parsed(EXAMPLE).unwrap();
    assert_eq!(read.auth, Auth::BearerPod("intranet".to_owned()));
    assert_eq!((read.pins.clone(), read.share), (Pins::Query("version".to_owned()), Share::Pod));
    assert_eq!(read, parsed(EXAMPLE).unwrap(), "equal texts are equal configurations: a reload keeps the store");
    assert_ne!(read, parsed(&EXAMPLE.replace("data", "items")).unwrap());
    let least = parsed("url: http://127.0.0.1:8080/{name}").unwrap();
    assert_eq!((least.auth, least.asking, least.pins), (Auth::None, Asking::Get, Pins::Never));
}

#[test]
fn faults_are_told_with_their_remedies() {
    let told = |text: &str| parsed(text).unwrap_err();
    insta::assert_snapshot!(told("auth: {}\nshare: pod"), @"
    1: url: is missing (where a secret is, such as https://secrets.example/v1/{name})
    1: auth.bearer: is missing (write bearer or basic; without a login, remove `auth`)
    2: share: works only with auth.bearer.podToken: without that, all Pods are the same to the store (remove it)
    ");
    insta::assert_snapshot!(told("url: https://{namespace}.example/{name}"), @"1: url: has a placeholder in its host (write the host itself: it is the same for every secret; only path and query can have placeholders)");
    insta::assert_snapshot!(told("url: https://s.example/x\nbody: '{\"n\": \"{name}\"}'"), @"
    1: url: does not say where the secret's name goes (put {name} into its path or query)
    2: body: works only with method: POST (set that, or remove it)
    ");
    insta::assert_snapshot!(told("url: https://s.example/x\nmethod: POST\nbody: '{\"n\": {name}}'"), @r#"
    1: url: does not say where the secret's name goes (put {name} into its path or query)
    3: body: is not JSON (put placeholders inside its texts, such as {"path": "{name}"})
    "#);
    insta::assert_snapshot!(told("url: https://s.example/{name}\nmethod: PUT"), @"2: method: is not a method to read with (known here: GET, POST)");
    insta::assert_snapshot!(told("url: https://s.example/{name}/{version}\nversionQuery: v"), @"2: versionQuery: cannot be used together with {version} (remove one)");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nlatest: newest"), @"2: latest: is the value for {version}, and neither url nor body has {version} (remove it)");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nheaders: { Host: x, Authorization: x, x-a: 1, X-A: 2, X-B: \"{name}\", X-C: {}, ü: x }"), @"
    2: headers.Host: is a header of the connection itself, and cannot be set (remove it)
    2: headers.Authorization: is secret, and must not be in this file (write { file: ... }, or use `auth`)
    2: headers.X-A: is there twice: capital letters make no difference in a header's name (remove one)
    2: headers.X-B: has a placeholder, and only `url` and `body` can have one (write the text itself)
    2: headers.X-C.file: is missing (the file that holds the value)
    2: headers.ü: is not a header's name (letters, digits and `-`)
    ");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nauth: { bearer: { podToken: a, file: /f }, basic: { user: 'a:b' } }"), @"
    2: auth.bearer.file: cannot be used together with `podToken` (remove one)
    2: auth.basic.passwordFile: is missing (the file that holds the password)
    2: auth.basic: cannot be used together with `bearer` (remove one)
    2: auth.basic.user: must be a name without colons
    ");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nheaders: { Authorization: { file: /f } }\nauth: { bearer: { file: /f } }"), @"3: auth: cannot be used together with a header Authorization, which it would set (remove one)");
    insta::assert_snapshot!(told("url: http://s.example/{name}\nca: /ca.crt\nclientCert: /c"), @"
    2: ca: is for https, and the url is of http://s.example (write https://, or remove it)
    3: clientCert: needs `clientKey`, which is missing (name both, or neither)
    3: clientCert: is for https, and the url is of http://s.example (write https://, or remove it)
    ");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nformat: raw\nfields: data\nversion: v\nversionHeader: ETag"), @"
    3: fields: searches JSON, and format: raw does not read JSON (remove one)
    4: version: searches JSON, and format: raw does not read JSON (remove one)
    5: versionHeader: cannot be used together with `version` (remove one)
    ");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nfields: a-b\nversion: '['\nversionHeader: 'a b'"), @"
    2: fields: as a JMESPath expression it is wrong at character 2 (a member needs double quotes if its name has other characters than letters, digits and `_`)
    3: version: as a JMESPath expression it is wrong at character 2 (a member needs double quotes if its name has other characters than letters, digits and `_`)
    4: versionHeader: is not a header's name (write for example ETag)
    4: versionHeader: cannot be used together with `version` (remove one)
    ");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nstatuses: { 200: notFound, 4040: denied, 404: absent, 405: [] }\ncheck: healthz"), @"
    2: statuses.200: is not a status of an answer without a secret (300 to 599)
    2: statuses.4040: is not a status of an answer without a secret (300 to 599)
    2: statuses.404: is not a meaning of a status (known here: unauthenticated, denied, notFound, invalid, throttled, timedOut, unavailable)
    2: statuses.405: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    3: check: must be a path at the url's host, such as /healthz
    ");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nmehtod: GET\nverify: false"), @"
    2: mehtod: is not a known key (did you mean `method`?)
    3: verify: is not a known key (known here: url, method, body, headers, ca, serverName, clientCert, clientKey, auth, share, versionQuery, latest, format, fields, version, versionHeader, statuses, check, cache, storeWords)
    ");
}

#[test]
fn a_header_is_not_shown() {
    let read = parsed("url: https://s.example/{name}\nheaders: { X-Key: canary }").unwrap();
    assert!(!format!("{read:?}").contains("canary"));
}

/// Answers that are kept over a restart depend on every setting that can change an answer, and on nothing else.
#[test]
fn each_part_of_a_request_makes_other_answers() {
    const ALL: &str = "url: https://s.example/v1/{name}?n={namespace}\nmethod: POST\nbody: '{\"v\": \"{version}\"}'\nlatest: newest\n\
                       headers: { X-A: one, X-B: { file: /b } }\nauth: { bearer: { podToken: intranet } }\nshare: serviceAccount\n\
                       fields: data\nversion: meta.v\nca: /ca\nserverName: s.internal\nclientCert: /c\nclientKey: /k\n";
    let text = |text: &str| parsed(text).unwrap().hangs_on().to_text();
    // Kept answers are lost if this text changes.
    assert_eq!(
        text(ALL),
        r#"[["kind","http"],["url","https://s.example/v1/{name}?n={namespace}"],["method","POST"],["body","{\"v\": \"{version}\"}"],["headers.x-a","one"],["headers.x-b.file","/b"],["auth.bearer.podToken","intranet"],["share","serviceAccount"],["fields","data"],["version","meta.v"],["latest","newest"],["ca","/ca"],["clientCert","/c"],["clientKey","/k"],["serverName","s.internal"]]"#
    );
    let mut texts = vec![text(ALL), text("url: https://s.example/{name}")];
    let bearer = "auth: { bearer: { podToken: intranet } }\nshare: serviceAccount\n";
    for (from, to) in [
        ("s.example", "t.example"),
        ("https://s.example", "https://s.example:8443"),
        ("/v1/", "/v2/"),
        ("?n={namespace}", "?n={serviceAccount}"),
        ("?n={namespace}", ""),
        ("\"v\"", "\"w\""),
        ("latest: newest", "latest: last"),
        ("X-A: one", "X-A: two"),
        ("X-A: one", "X-C: one"),
        ("X-A: one", "X-A: { file: /one }"),
        ("file: /b", "file: /c"),
        ("podToken: intranet", "podToken: other"),
        ("share: serviceAccount", "share: pod"),
        (bearer, ""),
        (bearer, "auth: { bearer: { file: /t } }\n"),
        (bearer, "auth: { bearer: { file: /u } }\n"),
        (bearer, "auth: { basic: { user: u, passwordFile: /t } }\n"),
        (bearer, "auth: { basic: { user: v, passwordFile: /t } }\n"),
        (bearer, "auth: { basic: { user: u, passwordFile: /u } }\n"),
        ("fields: data", "fields: items"),
        ("fields: data\n", ""),
        ("version: meta.v", "version: meta.w"),
        ("version: meta.v", "versionHeader: etag"),
        ("fields: data\nversion: meta.v\n", "format: raw\n"),
        ("ca: /ca", "ca: /other"),
        ("s.internal", "other.internal"),
        ("/c\n", "/other\n"),
        ("/k", "/other"),
        ("serverName: s.internal\n", ""),
    ] {
        assert!(ALL.contains(from), "{from}");
        let other = text(&ALL.replacen(from, to, 1));
        assert!(!texts.contains(&other), "{from} -> {to}: {other}");
        texts.push(other);
    }
    for pins in ["", "versionQuery: v\n", "versionQuery: w\n"] {
        let other = text(&format!("url: https://u.example/{{name}}\n{pins}"));
        assert!(!texts.contains(&other), "{pins}: {other}");
        texts.push(other);
    }
    for same in ["statuses: { 418: notFound }", "check: /health", "storeWords: false", "cache: { fresh: 1m }"] {
        assert_eq!(text(&format!("{ALL}{same}\n")), text(ALL), "{same}");
    }
}
