use super::*;

fn proxy(endpoint: &str, variables: &[(&str, &str)]) -> Result<Option<Proxy>, HttpError> {
    let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Proxy::of(&endpoint.parse().unwrap(), variable)
}

#[test]
fn each_scheme_has_its_own_variable() {
    let all = [("HTTPS_PROXY", "secure:1"), ("http_proxy", "http://plain:2/"), ("https_proxy", "unread:3")];
    let authority = |endpoint| proxy(endpoint, &all).unwrap().map(|proxy| proxy.authority);
    assert_eq!(authority("https://bao").as_deref(), Some("secure:1"));
    assert_eq!(authority("http://bao").as_deref(), Some("plain:2"));
    assert_eq!(authority("unix:///run/bao.sock"), None);
    assert_eq!(authority("https://localhost"), None);
    assert_eq!(authority("https://127.0.0.2"), None);
    assert_eq!(authority("https://[::1]:8200"), None);
    assert!(proxy("https://bao", &[("HTTPS_PROXY", " ")]).unwrap().is_none());
}

#[test]
fn exceptions_are_those_of_go() {
    let direct = |endpoint: &str, list: &str| proxy(endpoint, &[("HTTPS_PROXY", "proxy"), ("NO_PROXY", list)]).unwrap().is_none();
    for (endpoint, list) in [
        ("https://bao.example", "*"),
        ("https://bao.example", "other, bao.example"),
        ("https://bao.example", "EXAMPLE"),
        ("https://bao.example", ".example"),
        ("https://bao.example", "*.example"),
        ("https://bao.example:8200", "bao.example:8200"),
        ("https://10.1.2.3", "10.0.0.0/8"),
        ("https://10.1.2.3", "10.1.2.3"),
        ("https://10.1.2.3", "0.0.0.0/0"),
        ("https://[fd00::1]", "fd00::/8"),
        ("https://[fd00::1]:8200", "[fd00::1]:8200"),
        ("https://[fd00::1]", "::/0"),
    ] {
        assert!(direct(endpoint, list), "{endpoint} {list}");
    }
    for (endpoint, list) in [
        ("https://bao.example", ""),
        ("https://bao.example", ",bao, ao.example"),
        ("https://bao.example", ".bao.example"),
        ("https://bao.example:8201", "bao.example:8200"),
        ("https://11.1.2.3", "10.0.0.0/8"),
        ("https://10.1.2.3", "10.0.0.0/40, 10.0.0.0/x, fd00::/8, 1.2.3"),
    ] {
        assert!(!direct(endpoint, list), "{endpoint} {list}");
    }
}

#[test]
fn a_password_is_the_proxys_alone() {
    let authorization = |address: &str| proxy("https://bao", &[("https_proxy", address)]).unwrap().unwrap().authorization;
    assert_eq!(authorization("http://ann:p%40s%3As@proxy:3128").unwrap(), "Basic YW5uOnBAczpz");
    assert_eq!(authorization("ann@proxy").unwrap(), "Basic YW5uOg==");
    assert_eq!(authorization("proxy"), None);
    assert!(authorization("ann:canary@proxy").unwrap().is_sensitive());
}

#[test]
fn an_unusable_proxy_is_not_repeated() {
    for address in ["https://ann:canary@proxy", "socks5://canary", "http://ann:canary%4@proxy", "http://canary:99999", "canary canary"] {
        let refused = proxy("https://bao", &[("HTTPS_PROXY", address)]).err().unwrap().to_string();
        insta::allow_duplicates! { insta::assert_snapshot!(refused, @"HTTPS_PROXY names no proxy that can be used (write http://[user:password@]host:port)"); }
    }
    assert!(proxy("https://bao", &[("HTTPS_PROXY", "socks5://x"), ("NO_PROXY", "bao")]).unwrap().is_none());
}
