use super::*;
use crate::backend::http::tests::parsed;

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
    insta::assert_snapshot!(told("auth: {}\nshare: pod"), @"");
    insta::assert_snapshot!(told("url: https://{namespace}.example/{name}"), @"");
    insta::assert_snapshot!(told("url: https://s.example/x\nbody: '{\"n\": \"{name}\"}'"), @"");
    insta::assert_snapshot!(told("url: https://s.example/x\nmethod: POST\nbody: '{\"n\": {name}}'"), @"");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nmethod: PUT"), @"");
    insta::assert_snapshot!(told("url: https://s.example/{name}/{version}\nversionQuery: v"), @"");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nlatest: newest"), @"");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nheaders: { Host: x, Authorization: x, x-a: 1, X-A: 2, X-B: \"{name}\", X-C: {}, ü: x }"), @"");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nauth: { bearer: { podToken: a, file: /f }, basic: { user: 'a:b' } }"), @"");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nheaders: { Authorization: { file: /f } }\nauth: { bearer: { file: /f } }"), @"");
    insta::assert_snapshot!(told("url: http://s.example/{name}\nca: /ca.crt\nclientCert: /c"), @"");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nformat: raw\nfields: data\nversion: v\nversionHeader: ETag"), @"");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nfields: a-b\nversion: '['\nversionHeader: 'a b'"), @"");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nstatuses: { 200: notFound, 4040: denied, 404: absent, 405: [] }\ncheck: healthz"), @"");
    insta::assert_snapshot!(told("url: https://s.example/{name}\nmehtod: GET\nverify: false"), @"");
}

#[test]
fn a_header_is_not_shown() {
    let read = parsed("url: https://s.example/{name}\nheaders: { X-Key: canary }").unwrap();
    assert!(!format!("{read:?}").contains("canary"));
}
