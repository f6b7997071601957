//! TLS: whom the client trusts, who it is, and what it says of a server's certificate.

use rcgen::{BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};

use super::log::Log;
use super::*;

fn shown(error: &HttpError, folder: &TempDir) -> String {
    error.to_string().replace(folder.path().to_str().unwrap(), "DIR")
}

#[tokio::test]
async fn a_refused_certificate_says_its_names_and_dates() {
    let (authority, folder) = (Authority::new("Test CA"), tempfile::tempdir().unwrap());
    fs::write(folder.path().join("ca.crt"), &authority.pem).unwrap();
    let dated = |names: &[&str], years: (i32, i32)| {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 2, 1));
        Manner { params, ..Manner::default() }
    };
    let refused = async |authority: &Authority, manner: Manner| {
        let server = Server::start(authority, &manner);
        let error = get(&client(server.address, config(&folder)), "/").await.unwrap_err();
        assert!(matches!(error, HttpError::Certificate(_)), "{error:?}");
        shown(&error, &folder)
    };
    insta::assert_snapshot!(refused(&authority, dated(&["a.example", "b.example", "10.0.0.1", "fd00::1"], (2020, 2090))).await, @"the server's certificate is for a.example, b.example, 10.0.0.1, fd00::1 (valid 2020-01-01 to 2090-02-01), not for 127.0.0.1");
    insta::assert_snapshot!(refused(&authority, dated(&["127.0.0.1"], (2020, 2021))).await, @"the server's certificate for 127.0.0.1 has expired (valid 2020-01-01 to 2021-02-01)");
    insta::assert_snapshot!(refused(&authority, dated(&["127.0.0.1"], (2090, 2091))).await, @"the server's certificate for 127.0.0.1 is not valid yet (valid 2090-01-01 to 2091-02-01)");
    insta::assert_snapshot!(refused(&Authority::new("Stranger"), dated(&["127.0.0.1"], (2020, 2090))).await, @"the server's certificate for 127.0.0.1 (valid 2020-01-01 to 2090-02-01), issued by CN=Stranger, does not lead to DIR/ca.crt");
    insta::assert_snapshot!(refused(&Authority::new("Test CA"), dated(&[], (2020, 2090))).await, @"the server's certificate for no name (valid 2020-01-01 to 2090-02-01), issued by CN=Test CA, does not lead to DIR/ca.crt");
    let many: Vec<_> = (0..10).map(|n| format!("{n}.example")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert!(refused(&authority, dated(&many, (2020, 2090))).await.contains("7.example and 2 more (valid"));
}

/// For errors without a text in the library, Keyferry has texts: nobody reads the form of an error in memory.
#[tokio::test]
async fn an_odd_certificate_is_refused_in_words() {
    let (authority, folder) = (Authority::new("Test CA"), tempfile::tempdir().unwrap());
    fs::write(folder.path().join("ca.crt"), &authority.pem).unwrap();
    let refused = async |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 2, 1));
        change(&mut params);
        let server = Server::start(&authority, &Manner { params, ..Manner::default() });
        shown(&get(&client(server.address, config(&folder)), "/").await.unwrap_err(), &folder)
    };
    let of_ca = refused(&|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)).await;
    insta::assert_snapshot!(of_ca, @"the server's certificate for localhost (valid 2020-01-01 to 2090-02-01), issued by CN=Test CA, is itself a CA's (CA:TRUE): give the server one with CA:FALSE");
    let for_clients = refused(&|params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]).await;
    insta::assert_snapshot!(for_clients, @"the server's certificate for localhost (valid 2020-01-01 to 2090-02-01) cannot be used: it is not for servers (its extended key usage is another)");
}

// === a server's certificate that is itself named as `ca` ===

/// As `openssl req -x509` makes them.
fn of_authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 2, 1));
    params
}

/// A folder with `ca.crt` of these certificates.
fn trusting(certificates: &[&Certificate]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca.crt"), certificates.iter().map(|certificate| certificate.pem()).collect::<String>()).unwrap();
    folder
}

/// What a client with these trusted certificates reports about a server with this chain.
async fn told(chain: &[&Certificate], key: &KeyPair, trusted: &[&Certificate]) -> String {
    let (server, folder) = (Server::showing(chain, key), trusting(trusted));
    get(&client(server.address, config(&folder)), "/").await.map_or_else(|error| shown(&error, &folder), |_| "taken".to_owned())
}

#[tokio::test]
async fn a_servers_certificate_may_be_its_own_ca_byte_for_byte() {
    let (key, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let signed = |params: CertificateParams| params.self_signed(&key).unwrap();
    let changed = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = of_authority("127.0.0.1");
        change(&mut params);
        signed(params)
    };
    let good = signed(of_authority("127.0.0.1"));
    let another = of_authority("127.0.0.1").self_signed(&stranger).unwrap();
    assert_eq!(told(&[&good], &key, &[&good]).await, "taken");
    assert_eq!(told(&[&good], &key, &[&another, &good]).await, "taken");
    let for_servers =
        changed(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(told(&[&for_servers], &key, &[&for_servers]).await, "taken");

    let expired = changed(&|params| params.not_after = date_time_ymd(2021, 2, 1));
    let early = changed(&|params| params.not_before = date_time_ymd(2089, 2, 1));
    let other_name = signed(of_authority("other.example"));
    let no_name = changed(&|params| params.subject_alt_names.clear());
    let for_clients = changed(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let for_any = changed(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]);
    let other_bytes = changed(&|params| params.not_after = date_time_ymd(2090, 2, 2));
    let refused = [
        ("expired", told(&[&expired], &key, &[&expired]).await),
        ("not yet valid", told(&[&early], &key, &[&early]).await),
        ("other name", told(&[&other_name], &key, &[&other_name]).await),
        ("no name", told(&[&no_name], &key, &[&no_name]).await),
        ("for clients", told(&[&for_clients], &key, &[&for_clients]).await),
        ("for any use", told(&[&for_any], &key, &[&for_any]).await),
        ("same key, other bytes", told(&[&good], &key, &[&other_bytes]).await),
        ("another's key", told(&[&good], &key, &[&another]).await),
        ("signed by another key", told(&[&good], &stranger, &[&good]).await),
        ("second in the chain", told(&[&another, &good], &stranger, &[&good]).await),
    ];
    let refused: Vec<_> = refused.iter().map(|(what, told)| format!("{what}: {told}")).collect();
    insta::assert_snapshot!(refused.join("\n"), @"
    expired: the server's certificate for 127.0.0.1 has expired (valid 2020-01-01 to 2021-02-01)
    not yet valid: the server's certificate for 127.0.0.1 is not valid yet (valid 2089-02-01 to 2090-02-01)
    other name: the server's certificate is for other.example (valid 2020-01-01 to 2090-02-01), not for 127.0.0.1
    no name: the server's certificate (valid 2020-01-01 to 2090-02-01) has no subjectAltName, so it is not for 127.0.0.1
    for clients: the server's certificate for 127.0.0.1 (valid 2020-01-01 to 2090-02-01) cannot be used: it is not for servers (its extended key usage is another)
    for any use: the server's certificate for 127.0.0.1 (valid 2020-01-01 to 2090-02-01) cannot be used: it is not for servers (its extended key usage is another)
    same key, other bytes: the server's certificate for 127.0.0.1 (valid 2020-01-01 to 2090-02-01) is a CA's own (CA:TRUE), and not byte for byte in DIR/ca.crt: name this very certificate there, or give the server one with CA:FALSE
    another's key: the server's certificate for 127.0.0.1 (valid 2020-01-01 to 2090-02-01) is a CA's own (CA:TRUE), and not byte for byte in DIR/ca.crt: name this very certificate there, or give the server one with CA:FALSE
    signed by another key: no secure connection: the certificate cannot be used: the server does not prove that it has its key
    second in the chain: the server's certificate for 127.0.0.1 (valid 2020-01-01 to 2090-02-01) is a CA's own (CA:TRUE), and not byte for byte in DIR/ca.crt: name this very certificate there, or give the server one with CA:FALSE
    ");
}

#[tokio::test]
async fn it_is_taken_for_the_endpoint_alone_whose_ca_it_is_in() {
    let (key, other_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (certificate, other) =
        (of_authority("127.0.0.1").self_signed(&key).unwrap(), of_authority("127.0.0.1").self_signed(&other_key).unwrap());
    let (server, own, others) = (Server::showing(&[&certificate], &key), trusting(&[&certificate]), trusting(&[&other]));
    let (first, second) = (client(server.address, config(&own)), client(server.address, config(&others)));
    assert!(get(&first, "/").await.is_ok());
    assert!(matches!(get(&second, "/").await, Err(HttpError::Certificate(_))), "what one endpoint trusts is nothing to another");
    // It is also refused when it is taken out of the file.
    fs::copy(others.path().join("ca.crt"), own.path().join("ca.crt")).unwrap();
    assert!(matches!(get(&first, "/").await, Err(HttpError::Certificate(_))));
}

#[tokio::test]
async fn a_certificate_in_ca_that_is_no_cas_is_told_so() {
    let authority = Authority::new("Test CA");
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 2, 1));
    let (leaf, key) = authority.issue(&params);
    insta::assert_snapshot!(told(&[&leaf], &key, &[&leaf]).await, @"the server's certificate for 127.0.0.1 (valid 2020-01-01 to 2090-02-01), issued by CN=Test CA, is itself in DIR/ca.crt, but is not a CA's (CA:FALSE): name the one that issued it");
    let own_key = KeyPair::generate().unwrap();
    let own = params.self_signed(&own_key).unwrap();
    insta::assert_snapshot!(told(&[&own], &own_key, &[&own]).await, @"taken");
    let fault = |problem| {
        let names = vec!["bao.example".to_owned()];
        CertificateFault { problem, names, issuer: "CN=x".into(), valid: None, wanted: "bao.example".into(), trusted: None }
    };
    let without_ca = fault(CertificateProblem::Authority { is_own: true });
    insta::assert_snapshot!(without_ca, @"the server's certificate for bao.example is a CA's own (CA:TRUE), and no `ca` is configured: name this very certificate as the backend's `ca`, or give the server one with CA:FALSE");
    insta::assert_snapshot!(without_ca.remedy(), @"name this very certificate as the backend's `ca`, or issue one with CA:FALSE");
}

#[tokio::test]
async fn a_ca_below_another_ca_is_no_server() {
    let authority = Authority::new("Test CA");
    let (below, key) = authority.issue(&of_authority("127.0.0.1"));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca.crt"), &authority.pem).unwrap();
    let server = Server::showing(&[&below], &key);
    let refused = get(&client(server.address, config(&folder)), "/").await.unwrap_err();
    insta::assert_snapshot!(shown(&refused, &folder), @"the server's certificate for 127.0.0.1 (valid 2020-01-01 to 2090-02-01), issued by CN=Test CA, is itself a CA's (CA:TRUE): give the server one with CA:FALSE");
}

#[tokio::test]
async fn what_is_no_certificate_in_a_ca_file_is_named_and_left_out() {
    let scene = Scene::new();
    let (ca, good) = (scene.folder.path().join("ca.crt"), &scene.authority.pem);
    let broken = "-----BEGIN CERTIFICATE-----\nTm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
    let endless = "-----BEGIN CERTIFICATE-----\nTm90IGEg\n";
    let no_base64 = "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----\n";
    for (content, numbers) in [
        (format!("{broken}{good}"), vec![1]),
        (format!("{good}{broken}"), vec![2]),
        (format!("{endless}{good}{no_base64}{broken}"), vec![1, 3, 4]),
        (format!("a comment\n{good}\n-----BEGIN PRIVATE KEY-----\n???\n"), vec![]),
    ] {
        fs::write(&ca, content).unwrap();
        let (log, _logging) = Log::start();
        assert!(get(&client(scene.server.address, config(&scene.folder)), "/").await.is_ok());
        assert_eq!(log.count("a certificate of a CA file cannot be used"), numbers.len(), "{}", log.text());
        for number in numbers {
            assert_eq!(log.count(&format!("certificate={number} ")), 1, "{}", log.text());
        }
    }
    fs::write(&ca, format!("{broken}{endless}")).unwrap();
    let refused = HttpClient::new("https://localhost".parse().unwrap(), config(&scene.folder)).unwrap_err();
    insta::assert_snapshot!(shown(&refused, &scene.folder), @"the CA cannot be read: DIR/ca.crt: certificate 1 of DIR/ca.crt: not a usable certificate: the certificate cannot be used: it cannot be read (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)");
}

#[tokio::test]
async fn a_certificate_is_not_asked_for_again() {
    let scene = Scene::new();
    fs::write(scene.folder.path().join("ca.crt"), Authority::new("Stranger").pem).unwrap();
    assert!(matches!(scene.try_get("/", Repeat::Safe).await, (Err(HttpError::Certificate(_)), 1)));
}

#[tokio::test]
async fn a_server_may_go_by_another_name() {
    let scene = Scene::of(&Manner::named("store.example"));
    let named = HttpConfig { server_name: Some("store.example".to_owned()), ..config(&scene.folder) };
    assert!(get(&client(scene.server.address, named.clone()), "/").await.is_ok());
    let impossible = HttpConfig { server_name: Some("not a name".to_owned()), ..named };
    let refused = HttpClient::new("https://localhost".parse().unwrap(), impossible).unwrap_err();
    insta::assert_snapshot!(refused, @r#"no secure connection: "not a name" is not a name that a server's certificate could be for"#);
}

#[tokio::test]
async fn without_verification_anybody_will_do() {
    let scene = Scene::of(&Manner::named("store.example"));
    let (log, _logging) = Log::start();
    let client = client(scene.server.address, HttpConfig { verify: false, ..HttpConfig::default() });
    assert!(get(&client, "/").await.is_ok() && get(&client.clone(), "/").await.is_ok());
    assert_eq!(log.count("the server's certificate is not verified"), 1);
}

#[tokio::test]
async fn what_speaks_no_tls_is_told() {
    let server = Server::plain();
    let insecure = HttpConfig { verify: false, ..HttpConfig::default() };
    let refused = get(&client(server.address, insecure), "/").await.unwrap_err();
    insta::assert_snapshot!(refused, @"no secure connection: the server does not speak TLS (should the address begin with http://?)");
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_who_asks() {
    for alpn in [&["h2"] as &[_], &["http/1.1"]] {
        let scene = Scene::of(&Manner { alpn, asks: true, ..Manner::default() });
        let without = scene.get("/").await.unwrap_err();
        insta::allow_duplicates! { insta::assert_snapshot!(without, @"no secure connection: the server refused: CertificateRequired: it needs a client certificate, and none is configured"); }
        let certificate = scene.authority.write_client(scene.folder.path(), "client.example");
        let with = HttpConfig { certificate: Some(certificate), ..config(&scene.folder) };
        let client = client(scene.server.address, with);
        assert!(get(&client, "/").await.is_ok());
        // A stranger's is refused; the right one, once it is there again, is not.
        Authority::new("Stranger").write_client(scene.folder.path(), "client.example");
        let stranger = get(&client, "/").await.unwrap_err();
        assert!(matches!(&stranger, HttpError::Tls(words) if words.contains("does not take the client certificate")), "{stranger}");
        scene.authority.write_client(scene.folder.path(), "client.example");
        assert!(get(&client, "/").await.is_ok());
    }
}

#[tokio::test]
async fn a_changed_ca_is_taken_up_and_a_faulty_one_is_not_at_first() {
    let scene = Scene::new();
    let (ca, stranger) = (scene.folder.path().join("ca.crt"), Authority::new("Stranger"));
    assert!(scene.get("/").await.is_ok());
    fs::write(&ca, &stranger.pem).unwrap();
    assert!(scene.get("/").await.is_err(), "no old connection is used either");
    fs::write(&ca, &scene.authority.pem).unwrap();
    assert!(scene.get("/").await.is_ok());
    for faulty in [Some("-----BEGIN CERTIFICATE-----\ngarbage"), Some("# moved\n"), None] {
        match faulty {
            Some(content) => fs::write(&ca, content).unwrap(),
            None => fs::remove_file(&ca).unwrap(),
        }
        let (log, _logging) = Log::start();
        assert!(scene.get("/").await.is_ok() && scene.get("/").await.is_ok());
        assert_eq!(log.count("the TLS files cannot be used; the last ones stay in force for 10 s, then calls fail"), 1, "{}", log.text());
        assert!(matches!(scene.client.check_files().await, Err(HttpError::Ca { .. })), "not ready meanwhile");
    }
    fs::write(&ca, &stranger.pem).unwrap();
    assert!(scene.get("/").await.is_err());
    scene.client.check_files().await.unwrap();
}

/// Nothing but the clock moves: the calls themselves take real time.
async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_ca_that_is_gone_is_out_of_force_after_ten_seconds() {
    for manner in [Manner::default(), Manner { alpn: &["http/1.1"], ..Manner::default() }] {
        let scene = Scene::of(&manner);
        let ca = scene.folder.path().join("ca.crt");
        let (mut told, faulty) = (Vec::new(), [None, Some(""), Some("-----BEGIN CERTIFICATE-----\ngarbage"), Some("\u{1}")]);
        for content in faulty {
            assert!(scene.get("/").await.is_ok());
            match content {
                None => fs::remove_file(&ca).unwrap(),
                Some(content) => fs::write(&ca, content).unwrap(),
            }
            assert!(scene.get("/").await.is_ok(), "{content:?}");
            later(Duration::from_secs(8)).await;
            assert!(scene.get("/").await.is_ok(), "{content:?}");
            later(Duration::from_secs(2)).await;
            told.push(shown(&scene.get("/").await.unwrap_err(), &scene.folder));
            assert!(scene.client.check_files().await.is_err());
            fs::write(&ca, &scene.authority.pem).unwrap();
        }
        assert!(scene.get("/").await.is_ok());
        insta::allow_duplicates! { insta::assert_snapshot!(told.join("\n"), @"
        the CA cannot be read: DIR/ca.crt: No such file or directory (os error 2) (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)
        the CA cannot be read: DIR/ca.crt: holds no certificate (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)
        the CA cannot be read: DIR/ca.crt: certificate 1 of DIR/ca.crt: it is not PEM (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)
        the CA cannot be read: DIR/ca.crt: holds no certificate (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)
        "); }
    }
}

#[test]
fn files_are_read_before_anything_is_sent() {
    let (authority, folder) = (Authority::new("Test CA"), tempfile::tempdir().unwrap());
    let refused = |config: HttpConfig| shown(&HttpClient::new("https://localhost".parse().unwrap(), config).unwrap_err(), &folder);
    let ca = HttpConfig { ca: Some(folder.path().to_owned()), ..HttpConfig::default() };
    insta::assert_snapshot!(refused(ca.clone()), @"the CA cannot be read: DIR: holds no certificate: *.crt, *.cer and *.pem are read, and what c_rehash makes (0a1b2c3d.0) (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)");
    fs::write(folder.path().join("a.pem"), &authority.pem).unwrap();
    assert!(HttpClient::new("https://localhost".parse().unwrap(), ca.clone()).is_ok(), "a folder of certificates");
    insta::assert_snapshot!(refused(HttpConfig { ca: Some(folder.path().join("missing")), ..ca.clone() }), @"the CA cannot be read: DIR/missing: No such file or directory (os error 2) (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)");

    let certificate = authority.write_client(folder.path(), "client.example");
    let with = HttpConfig { certificate: Some(certificate.clone()), ..ca };
    fs::write(&certificate.key, "-----BEGIN PRIVATE KEY-----\ncanary").unwrap();
    insta::assert_snapshot!(refused(with.clone()), @"the client certificate cannot be used: DIR/tls.key: it is not PEM (name PEM files: the certificate with its chain, and its private key)");
    fs::write(&certificate.key, &authority.pem).unwrap();
    insta::assert_snapshot!(refused(with.clone()), @"the client certificate cannot be used: DIR/tls.key: nothing of that kind is in it (name PEM files: the certificate with its chain, and its private key)");
    fs::write(&certificate.key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    insta::assert_snapshot!(refused(with.clone()), @"the client certificate cannot be used: DIR/tls.crt: DIR/tls.key is not its private key (name PEM files: the certificate with its chain, and its private key)");
    fs::remove_file(&certificate.chain).unwrap();
    insta::assert_snapshot!(refused(with), @"the client certificate cannot be used: DIR/tls.crt: No such file or directory (os error 2) (name PEM files: the certificate with its chain, and its private key)");
}

/// A bad file does not stop the use of the others: here one that is too long is read.
#[tokio::test]
async fn a_folder_of_cas_goes_on_without_a_file_that_cannot_be_read() {
    let (authority, folder) = (Authority::new("Test CA"), tempfile::tempdir().unwrap());
    let cas = folder.path().join("ca.crt");
    fs::create_dir(&cas).unwrap();
    fs::write(cas.join("a.pem"), " ".repeat(crate::files::MAX_FILE + 1)).unwrap();
    let server = Server::start(&authority, &Manner::default());
    assert!(HttpClient::new("https://localhost".parse().unwrap(), config(&folder)).is_err(), "nothing is left");
    fs::write(cas.join("b.pem"), &authority.pem).unwrap();
    get(&client(server.address, config(&folder)), "/").await.unwrap();
}

/// By their names, in either case, and by those that `openssl rehash` gives.
#[tokio::test]
async fn a_folder_of_cas_says_what_it_does_not_read() {
    let (authority, folder) = (Authority::new("Test CA"), tempfile::tempdir().unwrap());
    let cas = folder.path().join("ca.crt");
    fs::create_dir(&cas).unwrap();
    let server = Server::start(&authority, &Manner::default());
    for name in ["CA.PEM", "Root.Crt", "x.cER", "0a1b2c3d.0", "0A1B2C3D.12"] {
        fs::write(cas.join(name), &authority.pem).unwrap();
        get(&client(server.address, config(&folder)), "/").await.unwrap();
        fs::remove_file(cas.join(name)).unwrap();
    }
    let refused = || shown(&HttpClient::new("https://localhost".parse().unwrap(), config(&folder)).unwrap_err(), &folder);
    let mut told = vec![refused()];
    for name in ["README", "ca.txt", "0a1b2c3d.r0", "a1b2c3d.0", "..data"] {
        fs::write(cas.join(name), &authority.pem).unwrap();
    }
    told.push(refused());
    fs::write(cas.join("big.pem"), " ".repeat(crate::files::MAX_FILE + 1)).unwrap();
    told.push(refused());
    insta::assert_snapshot!(told.join("\n"), @r#"
    the CA cannot be read: DIR/ca.crt: holds no certificate: *.crt, *.cer and *.pem are read, and what c_rehash makes (0a1b2c3d.0) (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)
    the CA cannot be read: DIR/ca.crt: holds no certificate: *.crt, *.cer and *.pem are read, and what c_rehash makes (0a1b2c3d.0), not "0a1b2c3d.r0", "README", "a1b2c3d.0" and 1 more (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)
    the CA cannot be read: DIR/ca.crt: DIR/ca.crt/big.pem is 1048577 bytes long; at most 1048576 are read (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)
    "#);
    fs::write(cas.join("good.pem"), &authority.pem).unwrap();
    fs::write(cas.join("empty.crt"), "# none\n").unwrap();
    let (log, _logging) = Log::start();
    let client = client(server.address, config(&folder));
    assert!(get(&client, "/").await.is_ok() && get(&client, "/").await.is_ok());
    assert_eq!(log.count("a file of the CA folder holds no certificate in PEM"), 1, "{}", log.text());
}

/// As editors on Windows write them.
#[tokio::test]
async fn a_byte_order_mark_and_crlf_are_not_the_certificates() {
    let (authority, folder) = (Authority::new("Test CA"), tempfile::tempdir().unwrap());
    let marked = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n"));
    fs::write(folder.path().join("ca.crt"), marked(&authority.pem)).unwrap();
    let certificate = authority.write_client(folder.path(), "client.example");
    for file in [&certificate.chain, &certificate.key] {
        let text = fs::read_to_string(file).unwrap();
        fs::write(file, marked(&text)).unwrap();
    }
    let server = Server::start(&authority, &Manner::default());
    let config = HttpConfig { certificate: Some(certificate), ..config(&folder) };
    get(&client(server.address, config.clone()), "/").await.unwrap();
    let utf16: Vec<u8> = authority.pem.encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(folder.path().join("ca.crt"), utf16).unwrap();
    let refused = HttpClient::new("https://localhost".parse().unwrap(), config).unwrap_err();
    insta::assert_snapshot!(shown(&refused, &folder), @r#"the CA cannot be read: DIR/ca.crt: is UTF-16, as PowerShell writes it (save it as UTF-8) (name PEM certificates; kubelet mounts them from a ConfigMap or Secret)"#);
}
