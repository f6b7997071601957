//! Classes of the Vault and OpenBao providers at their own sockets, against a real server.

use keyferry::model::PodClaims;
use keyferry::server::proto::{MountRequest, MountResponse};
use serde_json::{Value, json};

use crate::bao::Bao;
use crate::support::{House, Provider, connect, request, tokens, web};

/// A node that serves the peers' classes, a server, and what each Pod may do.
struct Peers {
    house: House,
    provider: Provider,
    bao: Bao,
}

impl Peers {
    async fn open() -> Self {
        let bao = Bao::dev().await;
        let house = House::new("");
        house.configure(
            "{ pods: { namespace: shop, serviceAccount: web }, read: [\"bao/kv/data/shop/*\"], update: [\"bao/pki/issue/web\"] }",
            "providers: [keyferry, vault, openbao, aws]",
        );
        let backend = format!("bao: {{ kind: vault, address: \"{}\", auth: {{ method: jwt, mount: kubernetes }} }}, files: {{", bao.url());
        house.reconfigure("files: {", &backend);
        bao.jwt("kubernetes", &std::fs::read_to_string(house.path("jwks.json")).unwrap()).await;
        bao.policy("web", "path \"kv/data/shop/*\" { capabilities = [\"read\"] }").await;
        for audience in ["vault", "openbao"] {
            bao.jwt_role("kubernetes", audience, audience, json!({ "policies": ["web"] })).await;
        }
        bao.kv2("kv").await;
        bao.must("POST", "kv/data/shop/db", json!({ "data": { "password": "former", "port": 5432, "key": "aGk=" } })).await;
        bao.must("POST", "kv/data/shop/db", json!({ "data": { "password": "hunter2", "port": 5432, "key": "aGk=" } })).await;
        let provider = house.serve();
        Self { house, provider, bao }
    }

    /// What the driver sends: the class's parameters, and a token for each audience that the CSIDriver object names.
    fn asking(&self, pod: &PodClaims, parameters: &Value) -> MountRequest {
        let jwts: Vec<(&str, String)> = ["keyferry", "vault", "openbao"].map(|audience| (audience, self.house.token(pod, audience))).into();
        let pairs: Vec<(&str, &str)> = jwts.iter().map(|(audience, jwt)| (*audience, jwt.as_str())).collect();
        let mut attributes = json!({ "csi.storage.k8s.io/serviceAccount.tokens": tokens(&pairs) });
        attributes.as_object_mut().unwrap().extend(parameters.as_object().unwrap().clone());
        request(pod, attributes)
    }

    /// Mounts at the socket of a provider: the answer, or the code and the message.
    async fn mount(&self, provider: &str, parameters: &Value) -> Result<MountResponse, String> {
        let mut client = connect(&self.house.path(&format!("sockets/{provider}.sock"))).await.unwrap();
        let answer = client.mount(self.asking(&web(), parameters)).await;
        answer.map(tonic::Response::into_inner).map_err(|status| {
            let address = self.bao.url();
            format!("{:?} {}", status.code(), status.message().replace(&address, "<bao>"))
        })
    }
}

fn shown(answer: &MountResponse) -> String {
    let files = answer.files.iter().map(|file| format!("{} {:04o} {}", file.path, file.mode, String::from_utf8_lossy(&file.contents)));
    let versions = answer.object_version.iter().map(|object| format!("{} = {}", object.id, object.version));
    files.chain(versions).collect::<Vec<_>>().join("\n")
}

const OBJECTS: &str = "
- { objectName: db/password, secretPath: /v1/kv/data/shop/db, secretKey: password, filePermission: 0400 }
- { objectName: former, secretPath: 'kv/data/shop/db?version=1', secretKey: password }
- { objectName: port, secretPath: kv/data/shop/db, secretKey: port }
- { objectName: key, secretPath: v1/kv/data/shop/db, secretKey: key, encoding: BASE64 }
";

#[tokio::test]
async fn classes_of_the_peers_work_unchanged() {
    let peers = Peers::open().await;
    let class = json!({ "roleName": "vault", "vaultAddress": peers.bao.url(), "vaultCACertPath": "/gone/ca.crt", "objects": OBJECTS });
    let answer = peers.mount("vault", &class).await.unwrap();
    insta::assert_snapshot!(shown(&answer), @"
    db/password 0400 hunter2
    former 0644 former
    port 0644 5432
    key 0644 hi
    db/password = 2
    former = 1
    port = 2
    key = 2
    ");
    let openbao = json!({ "baoRoleName": "openbao", "objects": OBJECTS });
    assert_eq!(shown(&peers.mount("openbao", &openbao).await.unwrap()), shown(&answer), "another audience, the same secrets");
    let own = json!({ "dialect": "vault", "roleName": "vault", "objects": OBJECTS });
    assert_eq!(shown(&peers.mount("keyferry", &own).await.unwrap()), shown(&answer));

    let whole = json!({ "roleName": "vault", "objects": "- { objectName: db.json, secretPath: kv/data/shop/db }" });
    let whole = peers.mount("vault", &whole).await.unwrap();
    let response: Value = serde_json::from_slice(&whole.files[0].contents).unwrap();
    assert_eq!(response["data"]["data"], json!({ "password": "hunter2", "port": 5432, "key": "aGk=" }));
    assert_eq!(whole.object_version[0].id, "db.json");

    let warned = peers.provider.log().matches("vaultCACertPath: is not used").count();
    peers.mount("vault", &class).await.unwrap();
    assert_eq!((warned, peers.provider.log().matches("vaultCACertPath: is not used").count()), (1, 1), "once a class");
}

/// The key comes before the object whose arguments say which certificate it is for.
#[tokio::test]
async fn a_certificate_and_its_key_are_one_request() {
    let peers = Peers::open().await;
    peers.bao.pki("pki", "web", "24h", false).await;
    let policy = "path \"pki/issue/web\" { capabilities = [\"update\"] }";
    peers.bao.policy("web", policy).await;
    let objects = "
- { objectName: tls.key, secretPath: pki/issue/web, secretKey: private_key, method: POST }
- { objectName: tls.crt, secretPath: v1/pki/issue/web, secretKey: certificate, method: POST, secretArgs: { common_name: web.shop, ttl: 1h } }
- { objectName: serial, secretPath: pki/issue/web, secretKey: serial_number, method: POST, secretArgs: {} }
";
    let _ = peers.bao.counted();
    peers.mount("vault", &json!({ "roleName": "vault", "objects": objects })).await.unwrap();
    assert_eq!(peers.bao.counted().get("update pki/issue/web"), Some(&1));
    let other = objects.replace("secretArgs: {} }", "secretArgs: { common_name: api.shop, ttl: 1h } }");
    peers.mount("vault", &json!({ "roleName": "vault", "objects": other })).await.unwrap();
    assert_eq!(peers.bao.counted().get("update pki/issue/web"), Some(&1), "one more: the arguments differ");
    let warned = peers.provider.log().matches("object 3 (serial): secretArgs: the store creates one thing").count();
    assert_eq!(warned, 1, "{}", peers.provider.log());
}

#[tokio::test]
async fn what_a_peers_class_may_not_is_told_in_its_own_words() {
    let peers = Peers::open().await;
    let objects = "- { objectName: a, secretPath: kv/data/shop/db, secretKey: password }";
    let mut told = Vec::new();
    for (what, provider, parameters) in [
        ("no such key", "vault", json!({ "roleName": "vault", "objects": objects.replace("secretKey: password", "secretKey: pasword") })),
        ("another role's audience", "vault", json!({ "roleName": "openbao", "objects": objects })),
        ("no rule", "vault", json!({ "roleName": "vault", "objects": objects.replace("shop", "other") })),
        ("no update", "vault", json!({ "roleName": "vault", "objects": "- { objectName: a, secretPath: pki/issue/api, method: PUT }" })),
        ("another address", "openbao", json!({ "roleName": "openbao", "baoAddress": "https://elsewhere:8200", "objects": objects })),
        ("another audience", "vault", json!({ "roleName": "vault", "audience": "elsewhere", "objects": objects })),
        ("the daemon's audience", "vault", json!({ "roleName": "vault", "audience": "keyferry", "objects": objects })),
        ("a misspelt parameter", "vault", json!({ "rolName": "vault", "objects": objects })),
        ("a provider without a backend", "aws", json!({ "objects": "- { objectName: a, objectType: secretsmanager }" })),
    ] {
        told.push(format!("# {what}\n{}", peers.mount(provider, &parameters).await.unwrap_err()));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    # no such key
    NotFound SecretNotFound: object 1 (a): bao/kv/data/shop/db: has no field "pasword" (did you mean "password"? It has "password", "key", "port")
    # another role's audience
    FailedPrecondition BackendLoginFailed: object 1 (a): bao/kv/data/shop/db: the store refuses to log in role openbao at auth/kubernetes with the Pod's token for vault: error validating token: invalid audience (aud) claim: audience claim does not match any expected audience (does role openbao exist at auth/kubernetes, with bound_audiences vault and claims that a token of ServiceAccount shop/web has?)
    # no rule
    PermissionDenied PolicyDenied: object 1 (a): bao/kv/data/other/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["bao/kv/data/other/db"])
    # no update
    PermissionDenied PolicyDenied: object 1 (a): bao/pki/issue/api: no rule of the policy allows ServiceAccount shop/web to update it (the cluster's admin can add a rule with update: ["bao/pki/issue/api"])
    # another address
    PermissionDenied PolicyDenied: object 1 (a): bao/kv/data/shop/db: the class sets baoAddress to "https://elsewhere:8200", and backends.bao.classMay.address does not grant that to ServiceAccount shop/web (leave baoAddress out; or the cluster's admin can add it there)
    # another audience
    PermissionDenied PolicyDenied: object 1 (a): bao/kv/data/shop/db: the class sets audience to "elsewhere", and backends.bao.classMay.audience does not grant that to ServiceAccount shop/web (leave audience out; or the cluster's admin can add it there)
    # the daemon's audience
    PermissionDenied PolicyDenied: object 1 (a): bao/kv/data/shop/db: the class sets audience to "keyferry", which is Keyferry's own audience (identity.audience): Keyferry gives no store a token for it (leave audience out, or name the store's audience)
    # a misspelt parameter
    InvalidArgument InvalidRequest: rolName: is not a known key (did you mean `roleName`?); roleName: is missing (add it: the role that the Pod's ServiceAccount logs in with)
    # a provider without a backend
    InvalidArgument InvalidRequest: dialect: no backend of this node serves classes of the dialect `aws` (the cluster's admin can add one of the kind aws)
    "#);
}
