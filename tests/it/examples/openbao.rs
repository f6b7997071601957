//! The examples of a store over the network: the script sets up a real OpenBao, the overlay's configuration serves, and each class is mounted as its
//! first lines promise.

use std::fs;

use keyferry::model::PodClaims;
use keyferry::server::proto::MountResponse;
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::Status;

use super::{OPENBAO, OPENBAO_CONFIGURATION, at_home, examples, parts};
use crate::bao::{Bao, Options, Postgres, Reviews, program};
use crate::deploy::deploy;
use crate::support::{House, Provider, apart, connect, pod, request, tokens, web};

/// A node with the overlay's configuration, and what is around it.
struct Shop {
    house: House,
    bao: Bao,
    postgres: Postgres,
    _reviews: Reviews,
}

impl Shop {
    /// It differs from the manifests only in addresses, and in the peers' sockets: the line that is a comment there is in force here.
    async fn open() -> Self {
        let (house, bao, postgres) =
            (House::bare(), Bao::configured(Options { tls: true, ..Options::default() }).await, Postgres::start().await);
        let reviews = Reviews::start();
        bao.kubernetes("kubernetes", &reviews).await;
        fs::write(house.path("version.key"), [7; 32]).unwrap();
        fs::write(house.path("cache.key"), [8; 32]).unwrap();
        fs::copy(bao.ca_file(), house.path("bao-ca.crt")).unwrap();
        fs::create_dir_all(house.path("kubelet/pods")).unwrap();
        let shop = Self { house, bao, postgres, _reviews: reviews };
        let mut text = fs::read_to_string(deploy(OPENBAO_CONFIGURATION)).unwrap();
        for (shipped, here) in [("https://bao.bao.svc:8200", shop.bao.url().as_str()), ("# providers: [", "providers: [")] {
            assert!(text.contains(shipped), "{shipped} is no longer in the configuration");
            text = text.replace(shipped, here);
        }
        fs::write(shop.house.path("keyferry.yaml"), at_home(&shop.house, &shop.house.path("kubelet"), &text)).unwrap();
        shop.fill();
        shop
    }

    /// Runs the examples' script.
    fn fill(&self) {
        let password = self.house.path("postgres-password");
        fs::write(&password, &self.postgres.password).unwrap();
        let made = apart("sh")
            .arg(deploy("examples/openbao.sh"))
            .arg(self.postgres.address().to_string())
            .arg(password)
            .env("BAO", program())
            .env("BAO_ADDR", self.bao.url())
            .env("BAO_CACERT", self.bao.ca_file())
            .env("BAO_TOKEN", &self.bao.token)
            .output()
            .unwrap();
        assert!(made.status.success(), "openbao.sh: {}", String::from_utf8_lossy(&made.stderr));
    }

    /// Mounts an example for its own Pod, at the socket of the provider that its class names.
    async fn mount(&self, example: &str) -> Result<MountResponse, Status> {
        self.mount_for(&pod("shop", example, "web"), example).await
    }

    /// The message about the database login's first object.
    async fn refusal(&self, pod: &PodClaims) -> String {
        let refused = self.mount_for(pod, "openbao-database").await.unwrap_err();
        refused.message().split("; object 2").next().unwrap().to_owned()
    }

    async fn mount_for(&self, pod: &PodClaims, example: &str) -> Result<MountResponse, Status> {
        let (class, manifest) = parts(&deploy(&format!("examples/{example}.yaml")));
        let (own, store) = (self.house.token(pod, "keyferry"), self.house.token(pod, "bao"));
        let mut attributes = class["spec"]["parameters"].as_object().unwrap().clone();
        attributes.extend(manifest["spec"]["volumes"][0]["csi"]["volumeAttributes"].as_object().unwrap().clone());
        attributes.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), tokens(&[("keyferry", &own), ("bao", &store)]).into());
        let socket = self.house.path(&format!("sockets/{}.sock", class["spec"]["provider"].as_str().unwrap()));
        connect(&socket).await.unwrap().mount(request(pod, attributes.into())).await.map(tonic::Response::into_inner)
    }
}

/// What is in a file of an answer.
fn text(answer: &MountResponse, path: &str) -> String {
    let file = answer.files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path}"));
    String::from_utf8(file.contents.to_vec()).unwrap()
}

fn killed(mut provider: Provider) {
    provider.signal(Signal::KILL);
    provider.wait();
}

#[tokio::test]
async fn each_is_mounted_as_it_promises() {
    let shop = Shop::open().await;
    let provider = shop.house.serve();
    let mut shown = Vec::new();
    for (name, _) in examples().into_iter().filter(|(name, _)| name.starts_with(OPENBAO)) {
        let answer = shop.mount(&name).await.unwrap_or_else(|status| panic!("{name}: {}", status.message()));
        assert_eq!(shop.mount(&name).await.unwrap(), answer, "{name}: a poll changes nothing");
        let files: Vec<_> = answer.files.iter().map(|file| format!("{} {:04o}", file.path, file.mode)).collect();
        shown.push(format!("{name}: {}", files.join(", ")));
    }
    insta::assert_snapshot!(shown.join("\n"), @r"
    openbao-certificate: tls.crt 0644, tls.key 0644, ca.crt 0644
    openbao-database: db/username 0644, db/password 0644
    openbao-static: username 0644, password 0444, first-password 0644
    openbao-vault-class: db/password 0644, username 0444, db.json 0644
    ");

    let first = text(&shop.mount("openbao-static").await.unwrap(), "password");
    let login = shop.mount("openbao-database").await.unwrap();
    assert!(shop.postgres.lets_in(&text(&login, "db/username"), &text(&login, "db/password")));
    let certificate = shop.mount("openbao-certificate").await.unwrap();
    for (path, kind) in [("tls.crt", "CERTIFICATE"), ("tls.key", "EC PRIVATE KEY"), ("ca.crt", "CERTIFICATE")] {
        assert!(text(&certificate, path).starts_with(&format!("-----BEGIN {kind}-----")), "{path}");
    }
    let class = shop.mount("openbao-vault-class").await.unwrap();
    assert_eq!((text(&class, "db/password"), text(&class, "username").as_str()), (first.clone(), "app"));
    let whole: Value = serde_json::from_str(&text(&class, "db.json")).unwrap();
    assert_eq!(whole["data"]["data"]["password"], first.as_str());

    // The daemon may write in the overlay's sealed folder: it finds what was issued again.
    killed(provider);
    let provider = shop.house.serve();
    assert_eq!(shop.mount("openbao-database").await.unwrap().files, login.files);
    shop.bao.put("kv", "shop/db", json!({ "username": "app", "password": "next" })).await;
    // Another process has none of the former one's answers.
    killed(provider);
    let _provider = shop.house.serve();
    let changed = shop.mount("openbao-static").await.unwrap();
    assert_eq!((text(&changed, "password").as_str(), text(&changed, "first-password")), ("next", first));
}

#[tokio::test]
async fn nobody_else_is_let_in() {
    let shop = Shop::open().await;
    let _provider = shop.house.serve();
    let mut told = Vec::new();
    for stranger in [pod("bank", "web-0", "web"), pod("shop", "job-0", "job")] {
        told.push(shop.refusal(&stranger).await);
    }
    shop.bao.policy("shop", "path \"kv/data/shop/*\" { capabilities = [\"read\"] }").await;
    told.push(shop.refusal(&web()).await);
    insta::assert_snapshot!(told.join("\n"), @r#"
    PolicyDenied: object 1 (db/username): bao/database/creds/shop: no rule of the policy allows ServiceAccount bank/web to read it (the cluster's admin can add a rule with read: ["bao/database/creds/shop"])
    BackendLoginFailed: object 1 (db/username): bao/database/creds/shop: the store refuses to log in role csi at auth/kubernetes with the Pod's token for bao: service account name not authorized (does role csi exist at auth/kubernetes, bound to ServiceAccount shop/job and audience bao? the store also says no when it cannot reach the cluster's API server)
    BackendDenied: object 1 (db/username): bao/database/creds/shop: bao refused the read: permission denied for role csi (does the policy of role csi allow read on database/creds/shop?)
    "#);
}
