//! The classes of the provider's own end-to-end tests, byte for byte (`peer/README.md`), and what those tests expect in the volume.

use std::collections::BTreeMap;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Incoming;
use keyferry::server::proto::MountResponse;
use keyferry::yaml::{Node, Value as Yaml, parse_all};
use serde_json::{Value, json};

use crate::moto::{ACCOUNT, Moto};
use crate::support::{House, Provider, TOKENS, connect, pod, request, tokens};
use crate::tenants::store::{Answer, Server};

const BASIC: &str = include_str!("peer/BasicTestMountSPC.yaml");
const TEMPLATE: &str = include_str!("peer/BasicTestMountSPC.yaml.template");
const EXAMPLES: [&str; 2] =
    [include_str!("peer/ExampleSecretProviderClass-IRSA.yaml"), include_str!("peer/ExampleSecretProviderClass-PodIdentity.yaml")];

const REGION: &str = "us-west-2";
const FAILOVER: &str = "us-east-2";

const IRSA: &str = "irsa";
const POD_IDENTITY: &str = "pod-identity";

/// A node whose Pods log in one way, with a backend for each of the two regions.
struct Cluster {
    house: House,
    provider: Provider,
    moto: Moto,
    /// Where Pods log in by it.
    _agent: Option<Server>,
}

impl Cluster {
    fn open(moto: &Moto, way: &str) -> Self {
        let house = House::new("");
        let rules = ["near", "far"].map(|backend| format!("\"{backend}/secretsmanager/*\", \"{backend}/ssm/*\"")).join(", ");
        house.configure(
            &format!("{{ pods: {{ namespace: kube-system }}, read: [{rules}] }}"),
            "providers: [keyferry, aws]\ndialects: { aws: { backend: near } }",
        );
        let agent = (way == POD_IDENTITY).then(|| Server::start(Arc::new(()), agent));
        let auth = match &agent {
            Some(agent) => format!("method: podIdentity, address: \"http://{}\"", agent.address),
            None => format!("method: irsa, role: \"arn:aws:iam::{ACCOUNT}:role/web\""),
        };
        let backend = |name: &str, region: &str| {
            let url = moto.url();
            format!(
                "{name}: {{ kind: aws, region: {region}, account: \"{ACCOUNT}\", auth: {{ {auth} }}, cache: {{ fresh: 0 }}, \
                 endpoints: {{ secretsmanager: \"{url}\", ssm: \"{url}\", sts: \"{url}\" }} }}, "
            )
        };
        house.reconfigure("files: {", &(backend("near", REGION) + &backend("far", FAILOVER) + "files: {"));
        let provider = house.serve();
        Self { house, provider, moto: moto.clone(), _agent: agent }
    }

    /// As the driver asks for it: every file by its name.
    async fn mount(&self, class: &Class) -> BTreeMap<String, String> {
        let who = pod("kube-system", "basic-test-mount", "basic-test-mount-sa");
        let token = |audience: &'static str| (audience, self.house.token(&who, audience));
        let all = ["keyferry", "sts.amazonaws.com", "pods.eks.amazonaws.com"].map(token);
        let all = all.each_ref().map(|(audience, token)| (*audience, token.as_str()));
        let mut attributes = json!({ TOKENS: tokens(&all) });
        attributes.as_object_mut().unwrap().extend(class.parameters.iter().map(|(key, text)| (key.clone(), json!(text))));
        let mut client = connect(&self.house.path("sockets/aws.sock")).await.unwrap();
        let answer = client.mount(request(&who, attributes)).await;
        let answer: MountResponse = answer.unwrap_or_else(|status| panic!("{}\n{}", status.message(), self.provider.log())).into_inner();
        assert_eq!(answer.files.len(), answer.object_version.len());
        answer.files.into_iter().map(|file| (file.path, String::from_utf8(file.contents.to_vec()).unwrap())).collect()
    }

    /// As `create_secrets_for_config` of `generate-test-files.py` makes them, in both regions.
    async fn create_secrets(&self, suffix: &str) {
        for region in [REGION, FAILOVER] {
            for (name, text) in [
                ("SecretsManagerTest1", "SecretsManagerTest1Value"),
                ("SecretsManagerTest2", "SecretsManagerTest2Value"),
                ("SecretsManagerSync", "SecretUser"),
                ("SecretsManagerRotationTest", "BeforeRotation"),
                ("secretsManagerJson", r#"{"username": "SecretsManagerUser", "password": "PasswordForSecretsManager"}"#),
            ] {
                self.moto.secret(region, &format!("{name}{suffix}"), text).await;
            }
            for (name, text) in [
                ("ParameterStoreTest1", "ParameterStoreTest1Value"),
                ("ParameterStoreTestWithLongName", "ParameterStoreTest2Value"),
                ("ParameterStoreRotationTest", "BeforeRotation"),
                ("jsonSsm", r#"{"username": "ParameterStoreUser", "password": "PasswordForParameterStore"}"#),
            ] {
                self.moto.parameter(region, &format!("{name}{suffix}"), text).await;
            }
        }
    }

    /// As the tests for rotation do, only in this region.
    async fn rotate(&self, suffix: &str) {
        self.moto.parameter(REGION, &format!("ParameterStoreRotationTest{suffix}"), "AfterRotation").await;
        self.moto.secret(REGION, &format!("SecretsManagerRotationTest{suffix}"), "AfterRotation").await;
        let json = r#"{"username": "ParameterStoreUserUpdated", "password": "PasswordForParameterStoreUpdated"}"#;
        self.moto.parameter(REGION, &format!("jsonSsm{suffix}"), json).await;
        let json = r#"{"username": "SecretsManagerUserUpdated", "password": "PasswordForSecretsManagerUpdated"}"#;
        self.moto.secret(REGION, &format!("secretsManagerJson{suffix}"), json).await;
    }
}

/// The agent of EKS Pod Identity: it takes the Pod's token for its own audience, and gives a key that moto takes.
async fn agent(asked: hyper::Request<Incoming>, _: Arc<()>) -> Answer {
    let token = asked.headers().get("authorization").and_then(|token| token.to_str().ok()).unwrap_or_default();
    if asked.uri().path() != "/v1/credentials" || token.split('.').count() != 3 {
        return Ok(hyper::Response::builder().status(400).body(Full::default()).unwrap());
    }
    let key = json!({
        "AccessKeyId": "ASIAAGENT", "SecretAccessKey": "an-agents-secret-access-key", "Token": "an-agents-session-token",
        "AccountId": ACCOUNT, "Expiration": "2100-01-01T00:00:00.123456789Z"
    });
    Ok(hyper::Response::new(Full::from(key.to_string())))
}

/// What a file says of one class.
struct Class {
    parameters: BTreeMap<String, String>,
    /// The files that the driver makes Kubernetes Secrets of.
    synced: Vec<String>,
}

impl Class {
    /// With what `envsubst` puts in.
    fn of(file: &str) -> Self {
        let filled = [("REGION", REGION), ("FAILOVERREGION", FAILOVER), ("ACCOUNT_NUMBER", ACCOUNT)]
            .into_iter()
            .fold(file.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
        let document = parse_all(&filled).unwrap().remove(0);
        let spec = member(&document, "spec").unwrap();
        assert_eq!(member(spec, "provider").unwrap().text(), Some("aws"));
        let Yaml::Mapping(parameters) = &member(spec, "parameters").unwrap().value else { panic!("no parameters in {file}") };
        let parameters = parameters.iter().map(|(key, node)| (key.text.clone(), node.text().unwrap().to_owned())).collect();
        let secrets = member(spec, "secretObjects").map(items).unwrap_or_default();
        let names = secrets.iter().flat_map(|secret| items(member(secret, "data").unwrap()));
        let synced = names.map(|data| member(data, "objectName").unwrap().text().unwrap().to_owned()).collect();
        Self { parameters, synced }
    }

    /// With what `generate-test-files.py` puts in.
    fn generated(arch: &str, way: &str) -> Self {
        let parameter = if way == POD_IDENTITY { "\n    usePodIdentity: \"true\"" } else { "" };
        let filled = TEMPLATE.replace("{{ARCH}}", arch).replace("{{AUTH_TYPE}}", way).replace("{{POD_IDENTITY_PARAM}}", parameter);
        assert!(!filled.contains("{{"));
        Self::of(&filled)
    }
}

fn member<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Yaml::Mapping(entries) = &node.value else { panic!("no mapping with {key}") };
    entries.iter().find(|(known, _)| known.text == key).map(|(_, node)| node)
}

fn items(node: &Node) -> Vec<&Node> {
    let Yaml::Sequence(items) = &node.value else { panic!("no list") };
    items.iter().collect()
}

/// What `integration.bats` (and `aws.bats`, without a suffix) reads with `cat`, before and after rotation.
fn expected(suffix: &str, rotated: bool) -> BTreeMap<String, String> {
    let (rotation, updated) = if rotated { ("AfterRotation", "Updated") } else { ("BeforeRotation", "") };
    let json = |who: &str| format!(r#"{{"username": "{who}User{updated}", "password": "PasswordFor{who}{updated}"}}"#);
    let named = |name: &str, text: &str| (format!("{name}{suffix}"), text.to_owned());
    let plain = |name: &str, text: String| (name.to_owned(), text);
    BTreeMap::from([
        named("ParameterStoreTest1", "ParameterStoreTest1Value"),
        plain("ParameterStoreTest2", "ParameterStoreTest2Value".to_owned()),
        named("ParameterStoreRotationTest", rotation),
        named("SecretsManagerRotationTest", rotation),
        named("SecretsManagerTest1", "SecretsManagerTest1Value"),
        plain("SecretsManagerTest2", "SecretsManagerTest2Value".to_owned()),
        named("SecretsManagerSync", "SecretUser"),
        named("jsonSsm", &json("ParameterStore")),
        plain("ssmUsername", format!("ParameterStoreUser{updated}")),
        plain("ssmPassword", format!("PasswordForParameterStore{updated}")),
        named("secretsManagerJson", &json("SecretsManager")),
        plain("secretsManagerUsername", format!("SecretsManagerUser{updated}")),
        plain("secretsManagerPassword", format!("PasswordForSecretsManager{updated}")),
    ])
}

async fn passes(cluster: &Cluster, class: &Class, suffix: &str) {
    cluster.create_secrets(suffix).await;
    let before = cluster.mount(class).await;
    assert_eq!(before, expected(suffix, false), "{suffix}");
    for synced in &class.synced {
        assert!(before.contains_key(synced), "{suffix}: the driver finds no {synced} to make a Secret of");
    }
    assert_eq!(class.synced.len(), 5);
    cluster.rotate(suffix).await;
    assert_eq!(cluster.mount(class).await, expected(suffix, true), "{suffix}");
}

#[tokio::test]
async fn the_providers_own_classes_mount_as_its_own_tests_expect() {
    let moto = Moto::start().await;
    for way in [IRSA, POD_IDENTITY] {
        let cluster = Cluster::open(&moto, way);
        for arch in ["x64", "arm"] {
            passes(&cluster, &Class::generated(arch, way), &format!("-{arch}-{way}")).await;
        }
        if way == IRSA {
            passes(&cluster, &Class::of(BASIC), "").await;
        }
    }
}

/// They name no region: the region of the node's backend counts.
#[tokio::test]
async fn the_providers_examples_mount() {
    let moto = Moto::start().await;
    moto.secret(REGION, "MySecret", r#"{"user":"correct horse"}"#).await;
    for (way, example) in [IRSA, POD_IDENTITY].into_iter().zip(EXAMPLES) {
        let files = Cluster::open(&moto, way).mount(&Class::of(example)).await;
        let expected: Value = json!({ "MySecret": r#"{"user":"correct horse"}"# });
        assert_eq!(json!(files), expected, "{way}");
    }
}
