//! What comes out of an answer.

use super::*;
use crate::model::FieldKind;

async fn read(body: &'static str, rest: &str) -> String {
    shown(&Bench::saying(200, body).read(rest).await.unwrap())
}

#[tokio::test]
async fn fields_are_where_the_configuration_says() {
    assert_eq!(read(r#"{"user":"app","pw":"x"}"#, "").await, "pw=x user=app");
    let nested = r#"{"meta":{"rev":7},"items":[{"k":"x","secret":{"a-b":"1"}}]}"#;
    assert_eq!(read(nested, "fields: items[0].secret\nversion: meta.rev").await, "a-b=1 @7");
    assert_eq!(read(nested, "fields: \"{password: items[?k=='x'].secret | [0].\\\"a-b\\\"}\"").await, "password=1");
    assert_eq!(read(nested, "fields: items[0].k").await, "value=x", "what is not an object is one field");
    assert_eq!(read("[1,2]", "").await, "value=[1,2]");
    assert_eq!(read(r#"{"data":{"v":"1"},"meta":{}}"#, "fields: data\nversion: meta.version").await, "v=1", "no version is none");
}

#[tokio::test]
async fn numbers_come_to_the_digit_and_anything_but_text_as_json() {
    let body = r#"{"data":{"big":12345678901234567890123,"price":1.10,"on":true,"list":[1.50, "a"],"none":null}}"#;
    let plain = "big=12345678901234567890123 list=[1.50, \"a\"] none=null on=true price=1.10";
    assert_eq!(read(body, "fields: data").await, plain);
    assert_eq!(read(body, "fields: \"data.{big: big, list: list}\"").await, "big=12345678901234567890123 list=[1.50,\"a\"]");
    assert_eq!(read(body, "fields: data\nversion: data.big").await, format!("{plain} @12345678901234567890123"));
    let bench = Bench::saying(200, body);
    let secret = bench.read("fields: data").await.unwrap();
    assert_eq!(secret.fields["price"].kind, FieldKind::Json);
}

#[tokio::test]
async fn a_raw_body_is_one_field_and_a_header_may_be_its_version() {
    let bench = Bench::new(|_| Answer::new(200, b"-----BEGIN\n\xff".to_vec()).header("ETag", "W/\"abc\""));
    let secret = bench.read("format: raw\nversionHeader: ETag").await.unwrap();
    assert_eq!(secret.fields["value"].bytes.expose(), b"-----BEGIN\n\xff");
    assert_eq!(
        (secret.fields["value"].kind, secret.version.as_ref().unwrap().as_str()),
        (FieldKind::Binary, "abc"),
        "the answer's own word: delivery makes an HMAC of it"
    );
    assert_eq!(bench.server.asked()[0].header("accept"), "");
}

#[tokio::test]
async fn an_answer_without_the_secret_is_told() {
    let told = async |body: &'static str, rest: &str| Bench::saying(200, body).fails(rest).await;
    insta::assert_snapshot!(told("<html>", "").await, @"Corrupt: intranet/shop/db: the answer is not JSON: it is wrong at line 1, column 1 (is `url` of the backend the address of the API? `format: raw` delivers any body as it is)");
    insta::assert_snapshot!(told("", "").await, @"NotFound: intranet/shop/db: the store's answer is empty (write the secret, or correct `url` of the backend)");
    insta::assert_snapshot!(told(" \n", "format: raw").await, @"NotFound: intranet/shop/db: the store's answer is empty (write the secret, or correct `url` of the backend)");
    insta::assert_snapshot!(told("null", "").await, @"NotFound: intranet/shop/db: the answer is null (write the secret, or correct the name)");
    insta::assert_snapshot!(told(r#"{"data":null}"#, "fields: data").await, @r#"NotFound: intranet/shop/db: the answer has nothing at "data" (does the secret exist? if it does, correct `fields` of the backend)"#);
    insta::assert_snapshot!(told(r#"{"data":{"pw":"hunter2"}}"#, "fields: data.secret").await, @r#"NotFound: intranet/shop/db: the answer has nothing at "data.secret" (does the secret exist? if it does, correct `fields` of the backend)"#);
    insta::assert_snapshot!(told(r#"{"data":{"pw":"hunter2"}}"#, "fields: join(',', data)").await, @r#"Corrupt: intranet/shop/db: fields "join(',', data)": the JMESPath expression fails: argument 2 of a function must be array[string], but is object (correct it in the backend)"#);
    insta::assert_snapshot!(told(r#"{"a":"x","v":{"hunter2":1}}"#, "version: v").await, @r#"Corrupt: intranet/shop/db: what the answer has at "v" is neither a text nor a number (correct `version` of the backend)"#);
    insta::assert_snapshot!(told(r#"{"a":"x","v":"hunter2\n"}"#, "version: v").await, @r#"Corrupt: intranet/shop/db: what the answer has at "v" is not a version: 1 to 256 bytes without control characters (correct the backend's configuration)"#);
    insta::assert_snapshot!(told(r#"{"a":"\ud800"}"#, "").await, @r#"Corrupt: intranet/shop/db: field "a" has half a character in it (half of a surrogate pair: write the secret again)"#);
}

#[tokio::test]
async fn an_answer_that_is_coded_or_in_parts_is_refused_by_name() {
    let told = async |status: u16, headers: &[(&'static str, &str)], rest: &str| {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let bench = Bench::new(move |asked| {
            assert_eq!(asked.header("accept-encoding"), "identity");
            let answer = Answer::new(status, r#"{"value":"hunter2"}"#);
            headers.iter().fold(answer, |answer, (name, value)| answer.header(name, value.clone()))
        });
        bench.read(rest).await.map_or_else(|error| bench.told(&error), |secret| shown(&secret))
    };
    let all = [
        told(200, &[("content-encoding", "gzip")], "format: raw").await,
        told(200, &[("content-encoding", "zstd")], "").await,
        told(403, &[("content-encoding", "br")], "").await,
        told(404, &[("content-encoding", "x\u{9}y")], "").await,
        told(200, &[("content-type", "multipart/mixed; boundary=x")], "format: raw").await,
        told(202, &[], "").await,
        told(205, &[], "format: raw").await,
        told(206, &[("content-range", "bytes 0-3/10")], "format: raw").await,
        told(207, &[], "").await,
        told(200, &[("content-type", "application/json; charset=iso-8859-1")], "").await,
        told(200, &[("content-type", "text/plain; charset=\"UTF-16\"")], "").await,
    ];
    insta::assert_snapshot!(all.join("\n"), @r#"
    Corrupt: intranet/shop/db: ORIGIN: its answer (200 OK) has Content-Encoding "gzip", which Keyferry does not take: it asks for the plain body (turn that off in the store, or in the proxy in front of it; often a reverse proxy compresses although Keyferry sends `Accept-Encoding: identity`)
    Corrupt: intranet/shop/db: ORIGIN: its answer (200 OK) has Content-Encoding "zstd", which Keyferry does not take: it asks for the plain body (turn that off in the store, or in the proxy in front of it; often a reverse proxy compresses although Keyferry sends `Accept-Encoding: identity`)
    Corrupt: intranet/shop/db: ORIGIN: its answer (403 Forbidden) has Content-Encoding "br", which Keyferry does not take: it asks for the plain body (turn that off in the store, or in the proxy in front of it; often a reverse proxy compresses although Keyferry sends `Accept-Encoding: identity`)
    Corrupt: intranet/shop/db: ORIGIN: its answer (404 Not Found) has Content-Encoding "x\ty", which Keyferry does not take: it asks for the plain body (turn that off in the store, or in the proxy in front of it; often a reverse proxy compresses although Keyferry sends `Accept-Encoding: identity`)
    Corrupt: intranet/shop/db: ORIGIN: its answer (200 OK) has Content-Type "multipart/mixed", which Keyferry does not take: it asks for the plain body (the answer has several bodies: use an address, or a form of it, that answers with one body)
    Corrupt: intranet/shop/db: the store answered 202 Accepted: the store has only started to work on the request (check the address; a secret comes with status 200)
    Corrupt: intranet/shop/db: the store answered 205 Reset Content: an answer with this status has no content (check the address; a secret comes with status 200)
    Corrupt: intranet/shop/db: the store answered 206 Partial Content: the answer is only one part (check the address; a secret comes with status 200)
    Corrupt: intranet/shop/db: the store answered 207 Multi-Status: the answer holds several answers (check the address; a secret comes with status 200)
    Corrupt: intranet/shop/db: the answer has the charset "iso-8859-1": JSON must be UTF-8 (check the store's Content-Type)
    Corrupt: intranet/shop/db: the answer has the charset "UTF-16": JSON must be UTF-8 (check the store's Content-Type)
    "#);
    let fine = [
        told(200, &[("content-encoding", "identity")], "").await,
        told(200, &[("content-encoding", "")], "").await,
        told(200, &[("content-encoding", "aws-chunked")], "").await,
        told(203, &[("content-type", "application/json; charset=utf-8")], "").await,
    ];
    assert_eq!(fine, ["value=hunter2"; 4]);
    assert_eq!(told(200, &[("content-type", "text/plain; charset=latin1")], "format: raw").await, r#"value={"value":"hunter2"}"#);
}

#[tokio::test]
async fn a_member_that_finds_nothing_is_no_null() {
    let body = r#"{"data":{"user":"u","password":null}}"#;
    let told = async |rest: &str| Bench::saying(200, body).fails(rest).await;
    insta::assert_snapshot!(told("fields: '{u: data.usr}'").await, @r#"NotFound: intranet/shop/db: fields "{u: data.usr}": its member data.usr finds nothing (did you mean "user"? correct the backend's `fields`; if it may be absent, write data.usr || `""`)"#);
    insta::assert_snapshot!(told("fields: '[data.user, data.password]'").await, @r#"NotFound: intranet/shop/db: fields "[data.user, data.password]": its member data.password finds nothing (correct the backend's `fields`; if it may be absent, write data.password || `""`)"#);
    assert_eq!(read(body, "fields: '{u: data.user, p: data.password || `\"\"`}'").await, "p= u=u");
}

#[tokio::test]
async fn what_is_not_json_says_where() {
    for (body, place) in [
        ("{\"a\":\n  hunter2}", "line 2, column 3"),
        ("\u{feff}{,}", "line 1, column 2"),
        ("\u{feff}\u{feff}{}", "line 1, column 1"),
        ("{\"a\":1", "line 1, column 6"),
        ("{} {}", "line 1, column 4"),
    ] {
        let told = Bench::saying(200, body).fails("").await;
        assert!(told.contains(place) && !told.contains("hunter2"), "{body:?}: {told}");
    }
}

/// The mark that servers on Windows write. If the body is the secret, the mark is a part of it.
#[tokio::test]
async fn a_byte_order_mark_is_no_part_of_json() {
    assert_eq!(read("\u{feff}{\"a\": \"\u{feff}b\"}", "").await, "a=\u{feff}b");
    assert_eq!(read("\u{feff}{\"a\": \"b\"}", "format: raw").await, "value=\u{feff}{\"a\": \"b\"}");
    let told = Bench::saying(200, "{\0\"\0a\0\"\0:\0[\0]\0}\0").fails("").await;
    insta::assert_snapshot!(told, @"Corrupt: intranet/shop/db: the answer is UTF-16, but JSON must be UTF-8 (correct that in the store; `format: raw` delivers any body as it is)");
}

#[tokio::test]
async fn a_whole_name_may_be_one_element() {
    let bench = Bench::saying(200, r#"{"v":"1"}"#);
    fetch(&bench.backend_at("/projects/7/variables/{nameEscaped}", ""), "shop/db").await.unwrap();
    fetch(&bench.backend_at("/x", "method: POST\nbody: '{\"path\": \"{nameEscaped}\", \"name\": \"{name}\"}'"), "shop/db").await.unwrap();
    let asked = bench.server.asked();
    assert_eq!(asked[0].line, "GET /projects/7/variables/shop%2Fdb");
    assert_eq!(asked[1].body, r#"{"path": "shop%2Fdb", "name": "shop/db"}"#);
}

#[tokio::test]
async fn a_blank_at_the_end_of_a_name_is_seen() {
    let bench = Bench::saying(404, "{}");
    let error = fetch(&bench.backend(""), "shop/db ").await.unwrap_err();
    insta::assert_snapshot!(bench.told(&error), @r#"NotFound: "intranet/shop/db ": the store has no such secret: 404 Not Found (write it, or correct the name; `url` of the backend says where Keyferry looks for it)"#);
}

/// Keyferry does not replace it and does not leave it out: the store has no such secret.
#[tokio::test]
async fn half_a_character_is_corrupt_whichever_way_it_is_selected() {
    for (body, rest) in [
        (r#"{"data":{"pw":"\ud800"}}"#, "fields: data"),
        (r#"{"data":{"pw":"\ud800"}}"#, "fields: data.pw"),
        (r#"{"data":{"pw":"\ud800"}}"#, "fields: \"data.{pw: pw}\""),
        (r#"{"data":{"pw":"\ud800"}}"#, "fields: \"data | @\""),
        (r#"{"data":{"pw":"\ud800"}}"#, ""),
        (r#"{"data":{"pw":"a\udc00b"}}"#, "fields: to_string(data)"),
        (r#"{"data":{"pw":"\ude00\ud83d"}}"#, "fields: data.pw"),
        (r#"{"data":"\ud800"}"#, "fields: data"),
        (r#""\ud800""#, ""),
        (r#"{"data":{"pw":["x",{"y":"\ud800"}]}}"#, "fields: data"),
        (r#"{"data":{"pw":["x",{"y":"\ud800"}]}}"#, "fields: data.pw[1]"),
        (r#"{"data":{"\ud800":"x"}}"#, "fields: data"),
        (r#"{"data":{"\ud800":"x","pw":"y"}}"#, "fields: \"data | @\""),
        (r#"{"data":{"pw":{"\ud800":"x"}}}"#, "fields: data"),
        (r#"{"\ud800":"x","data":{"pw":"y"}}"#, "fields: data"),
        (r#"{"data":{"pw":"x"},"v":"\ud800"}"#, "fields: data\nversion: v"),
        (r#"{"data":{"pw":"x"},"meta":{"v":"\ud800"}}"#, "fields: data\nversion: meta.v"),
        (r#"{"data":{"pw":"x"},"v":"\ud800"}"#, "fields: data\nversion: \"join('-', [v])\""),
    ] {
        let told = Bench::saying(200, body).fails(rest).await;
        assert!(told.starts_with("Corrupt:") && told.contains("half a character"), "{body} with {rest:?}: {told}");
    }
}

/// What only looks like it, or is not asked for, is delivered. Nothing else is lost on the way either.
#[tokio::test]
async fn whole_characters_and_odd_values_come_as_they_are() {
    for (body, rest, shown) in [
        (r#"{"data":{"pw":"\ud83d\ude00"}}"#, "fields: \"data | @\"", "pw=\u{1f600}"),
        (r#"{"data":{"pw":"\\ud800"}}"#, "fields: \"data | @\"", "pw=\\ud800"),
        (r#"{"data":{"pw":"x"},"note":"\ud800"}"#, "fields: data", "pw=x"),
        (r#"{"data":{"pw":"a\u0000b"}}"#, "fields: \"data | @\"", "pw=a\0b"),
        (r#"{"data":{"n":1e999,"m":-0.0}}"#, "fields: \"data | @\"", "m=-0.0 n=1e999"),
        (r#"{"data":{"pw":"first","pw":"last"}}"#, "fields: data", "pw=last"),
        (r#"{"data":{"pw":"first","pw":"last"}}"#, "fields: \"data | @\"", "pw=last"),
    ] {
        assert_eq!(read(body, rest).await, shown, "{body} with {rest:?}");
    }
}

#[tokio::test]
async fn too_much_is_refused() {
    let bench = Bench::new(|asked| match asked.line.as_str() {
        "GET /v1/fields" => Answer::new(200, format!(r#"{{"a":"{}"}}"#, "x".repeat(65 * 1024))),
        _ => Answer::new(200, vec![b'x'; 400 * 1024]),
    });
    for (name, rest) in [("fields", ""), ("body", ""), ("fields", "format: raw")] {
        let error = fetch(&bench.backend(rest), name).await.unwrap_err();
        assert_eq!(error.fault, Fault::TooLarge, "{error}");
    }
}
