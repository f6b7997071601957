//! The examples of AWS: moto plays it, the overlay's configuration serves, and each class is mounted as its first lines promise.

use std::fs;

use serde_json::{Map, Value};

use super::{AWS, AWS_CONFIGURATION, at_home, examples, parts};
use crate::deploy::deploy;
use crate::moto::{self, Moto};
use crate::support::{House, connect, pod, request, tokens};

const REGION: &str = "eu-west-1";

/// A node with the overlay's configuration, and AWS with what the examples ask for. It differs from the manifests only in the addresses, the
/// account, and the peer's socket: the line that is a comment there is in force here.
async fn open() -> (House, Moto) {
    let (house, moto) = (House::bare(), Moto::start().await);
    moto.secret(REGION, "shop/db", r#"{"username":"app","password":"correct horse"}"#).await;
    moto.secret(REGION, "shop/api", "an API key").await;
    moto.parameter(REGION, "/shop/url", "postgres://db.shop/app").await;
    fs::write(house.path("version.key"), [7; 32]).unwrap();
    fs::create_dir_all(house.path("kubelet/pods")).unwrap();
    let mut text = fs::read_to_string(deploy(AWS_CONFIGURATION)).unwrap();
    let url = moto.url();
    let endpoints = format!("region: {REGION}\n    endpoints: {{ secretsmanager: \"{url}\", ssm: \"{url}\", sts: \"{url}\" }}");
    for (shipped, here) in [("region: eu-west-1", endpoints.as_str()), ("111122223333", moto::ACCOUNT), ("# providers: [", "providers: [")]
    {
        assert!(text.contains(shipped), "{shipped} is no longer in the configuration");
        text = text.replace(shipped, here);
    }
    fs::write(house.path("keyferry.yaml"), at_home(&house, &house.path("kubelet"), &text)).unwrap();
    (house, moto)
}

#[tokio::test]
async fn each_is_mounted_as_it_promises() {
    let (house, _moto) = open().await;
    let _provider = house.serve();
    let mut shown = Vec::new();
    for (name, file) in examples().into_iter().filter(|(name, _)| name.starts_with(AWS)) {
        let (class, manifest) = parts(&file);
        let pod = pod("shop", &name, "web");
        let (own, sts) = (house.token(&pod, "keyferry"), house.token(&pod, "sts.amazonaws.com"));
        let parameters = class["spec"]["parameters"].to_string().replace("111122223333", moto::ACCOUNT);
        let mut attributes: Map<String, Value> = serde_json::from_str(&parameters).unwrap();
        attributes.extend(manifest["spec"]["volumes"][0]["csi"]["volumeAttributes"].as_object().unwrap().clone());
        let tokens = tokens(&[("keyferry", &own), ("sts.amazonaws.com", &sts)]);
        attributes.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), tokens.into());
        let socket = house.path(&format!("sockets/{}.sock", class["spec"]["provider"].as_str().unwrap()));
        let mounted = connect(&socket).await.unwrap().mount(request(&pod, attributes.into())).await;
        let answer = mounted.unwrap_or_else(|status| panic!("{name}: {}", status.message())).into_inner();
        let files: Vec<_> = answer.files.iter().map(|file| format!("{} {:04o}", file.path, file.mode)).collect();
        shown.push(format!("{name}: {}", files.join(", ")));
    }
    insta::assert_snapshot!(shown.join("\n"), @"
    aws-provider-class: db.json 0644, username 0644, password 0444, url 0644, api-key 0644
    aws: username 0644, password 0400, db.json 0644, url 0644
    ");
}
