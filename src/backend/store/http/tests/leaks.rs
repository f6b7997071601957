//! No secret is in a log of any level, in `Debug` or in an error.

use super::*;
use crate::http::tests::log::Log;

#[tokio::test]
async fn no_canary_sings() {
    let (log, _logging) = Log::start();
    let bench = Bench::new(|asked| {
        let echo = format!(r#"{{"error":"{} {} {}"}}"#, asked.header("authorization"), asked.header("x-api-key"), asked.header("x-plain"));
        match asked.line.rsplit('/').next().unwrap() {
            "denied" => Answer::new(403, echo),
            "broken" => Answer::new(500, echo),
            "odd" => Answer::new(200, "canary"),
            _ => Answer::new(200, r#"{"data":{"pw":"canary"},"v":1}"#),
        }
    });
    let key = bench.file("key", "canary-key");
    let headers = format!("headers: {{ X-Api-Key: {{ file: {} }}, X-Plain: canary-plain }}\n", key.display());
    let mut told = String::new();
    let canaries = FetchContext { tokens: Arc::new(tokens(&[("intranet", "canary-token")])), ..cx() };
    let basic = format!("{headers}fields: data\nauth: {{ basic: {{ user: app, passwordFile: {} }} }}", key.display());
    for rest in [format!("{headers}fields: data\nauth: {{ bearer: {{ podToken: intranet }} }}"), basic] {
        let backend = bench.backend(&rest);
        told += &format!("{backend:?} {:?}\n", backend.check().await);
        for name in ["fine", "denied", "broken", "odd"] {
            match backend.fetch(&secret(&backend, name, None), &canaries).await {
                Ok(fetched) => told += &format!("{fetched:?}\n"),
                Err(error) => told += &format!("{error} {error:?}\n"),
            }
        }
    }
    assert!(told.contains("[redacted]"), "{told}");
    let base64 = ["Y2FuYXJ5", "NhbmFye", "jYW5hcn"];
    for text in [&log.text(), &told] {
        let leak = text.lines().find(|line| line.contains("canary") || base64.iter().any(|part| line.contains(part)));
        assert_eq!(leak, None);
    }
}
