//! Through the proxies of an environment.

use super::server::Middle;
use super::*;

fn via(endpoint: &str, config: HttpConfig, proxy: &str) -> Result<HttpClient, HttpError> {
    let variable = |name: &str| (name == "HTTPS_PROXY" || name == "http_proxy").then(|| proxy.to_owned());
    HttpClient::tuned(endpoint.parse().unwrap(), config, Names::default(), hurried(), variable)
}

#[tokio::test]
async fn https_goes_through_a_tunnel() {
    let scene = Scene::of(&Manner::named("store.example"));
    let proxy = Middle::proxy(scene.server.address, "200 Connection established");
    let client = via("https://store.example", config(&scene.folder), &format!("http://ann:p%40ss@{}", proxy.address)).unwrap();
    assert_eq!(get(&client, "/a").await.unwrap(), (200, "/a".to_owned()));
    let asked = proxy.asked.lock().unwrap().join("").to_ascii_lowercase();
    insta::assert_snapshot!(asked.trim_end(), @r#"
connect store.example:443 http/1.1
host: store.example:443
proxy-authorization: basic yw5uonbac3m=
"#);
    assert_eq!(scene.server.requests(), ["HTTP/2.0 GET /a"], "the proxy's password is the proxy's");
    let direct = HttpConfig { proxy: false, ..config(&scene.folder) };
    assert!(get(&via("https://store.invalid", direct, &proxy.address.to_string()).unwrap(), "/").await.is_err());
}

#[tokio::test]
async fn http_is_passed_on_by_the_proxy() {
    let proxy = Server::plain();
    let client = via("http://store.example:8080", HttpConfig::default(), &format!("ann:pass@{}", proxy.address)).unwrap();
    assert!(get(&client, "/a").await.is_ok());
    insta::assert_snapshot!(proxy.requests().join("\n"), @"HTTP/1.1 GET /a proxy-authorization=Basic YW5uOnBhc3M= absolute");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named() {
    let scene = Scene::new();
    let refused = async |status| {
        let proxy = Middle::proxy(scene.server.address, status);
        let address = format!("http://ann:canary@{}", proxy.address);
        let client = via("https://store.example", config(&scene.folder), &address).unwrap();
        let outcome = client.call(request("/"), Repeat::Safe, soon()).await;
        let words = outcome.answer.unwrap_err().to_string().replace(&proxy.address.to_string(), "PROXY");
        format!("{} tries: {words}", outcome.tries)
    };
    insta::assert_snapshot!(refused("407 Proxy Authentication Required").await, @"1 tries: the proxy PROXY: it answered 407 Proxy Authentication Required to CONNECT store.example:443");
    insta::assert_snapshot!(refused("503 Service Unavailable").await, @"3 tries: no connection: the proxy PROXY: it answered 503 Service Unavailable to CONNECT store.example:443");
    let nobody = Server::plain().stop().await;
    let client = via("https://store.example", config(&scene.folder), &nobody.to_string()).unwrap();
    let words = get(&client, "/").await.unwrap_err().to_string().replace(&nobody.to_string(), "PROXY");
    insta::assert_snapshot!(words, @"no connection: the proxy PROXY: tcp connect error: Connection refused (os error 111)");
    let unusable = via("https://store.example", config(&scene.folder), "socks5://ann:canary@proxy").unwrap_err();
    insta::assert_snapshot!(unusable, @"HTTPS_PROXY names no proxy that can be used (write http://[user:password@]host:port)");
}
