//! Logins with services of the node: the agent of Pod Identity, and an instance's role.

use serde_json::json;

use super::*;

const ENDS: &str = "2099-01-01T00:00:00.123456789Z";

fn key(id: &str) -> String {
    json!({ "AccessKeyId": id, "SecretAccessKey": format!("secret-of-{id}"), "Token": "t", "AccountId": "1", "Expiration": ENDS })
        .to_string()
}

fn pod_identity(url: &str) -> Arc<Identities> {
    open("http://127.0.0.1:9", &format!("auth: {{ method: podIdentity, address: \"{url}\" }}"))
}

fn instance(url: &str) -> Arc<Identities> {
    open("http://127.0.0.1:9", &format!("auth: {{ method: instance, address: \"{url}\" }}"))
}

#[tokio::test]
async fn the_agent_gives_a_key_for_the_pods_token() {
    let agent = Server::plain(|asked| Answer::new(200, key(&format!("ASIA{}", asked.before))));
    let identities = pod_identity(&agent.url());
    for n in 0..5 {
        assert_eq!(key_of(&identities, None, &pod("shop", &format!("web-{n}"), "web")).await.unwrap(), "ASIA0");
    }
    let calls = agent.asked();
    let call = &calls[0];
    let said = (calls.len(), call.line.as_str(), call.header("authorization"), call.header("accept"));
    assert_eq!(said, (1, "GET /v1/credentials", "jwt-of-web-0-for-pods.eks.amazonaws.com", "application/json"));
    assert!(matches!(identities.scope(&secret(None), &web()), Scope::Account(_)));
    let apart = open("http://127.0.0.1:9", &format!("auth: {{ method: podIdentity, address: \"{}\" }}\nshare: pod", agent.url()));
    key_of(&apart, None, &web()).await.unwrap();
    key_of(&apart, None, &pod("shop", "web-1", "web")).await.unwrap();
    assert_eq!(agent.asked().len(), 2, "a policy may look at the Pod itself");
}

/// moto simulates the metadata of an instance too. The id of its key has a `-`.
#[tokio::test]
async fn an_instance_of_moto_has_a_role() {
    let moto = Moto::start().await;
    assert_eq!(key_of(&instance(&moto.url()), None, &web()).await.unwrap(), "test-key");
}

/// Fault 6 of the AWS provider: it never tries the agent's other address.
#[tokio::test]
async fn the_agent_is_asked_at_its_other_address_if_there_is_no_answer_at_the_first() {
    let asked = async |addresses: [&str; 2]| {
        let agent = Agent::at(addresses.iter().map(|address| address.parse().unwrap()).collect(), true).unwrap();
        let token = SecretBytes::new(b"a.b.c".to_vec());
        agent.log_in(&token, &web(), &SystemClock, cx(&web()).deadline).await.map(|issued| issued.credentials.id().to_owned())
    };
    let agent = Server::plain(|_| Answer::new(200, key("ASIA6")));
    let nobody = "http://127.0.0.1:9";
    assert_eq!(asked([nobody, &agent.url()]).await.unwrap(), "ASIA6");
    assert_eq!(asked([&agent.url(), nobody]).await.unwrap(), "ASIA6");
    let neither = asked([nobody, "http://127.0.0.1:19"]).await.unwrap_err();
    assert!(neither.reason.contains("127.0.0.1:9: ") && neither.reason.contains("127.0.0.1:19: "), "{}", neither.reason);
    let refusing = Server::plain(|_| Answer::new(404, "[1-2]: (ResourceNotFoundException): no association, fault: client"));
    agent.asked();
    assert_eq!(asked([&refusing.url(), &agent.url()]).await.unwrap_err().fault, Fault::Unauthenticated, "a refusal is an answer");
    assert!(agent.asked().is_empty());
}

#[tokio::test]
async fn the_agents_refusals_say_what_to_do() {
    let mut said = Vec::new();
    for (status, body) in [
        (400, "[1-2]: (AccessDeniedException): User: x is not authorized, fault: client"),
        (400, "[1-2]: (InvalidTokenException): token jwt-of-web-0-for-pods.eks.amazonaws.com, fault: client"),
        (400, "[1-2]: (ExpiredTokenException): expired, fault: client"),
        (404, "[1-2]: (ResourceNotFoundException): no association, fault: client"),
        (403, "Access Denied. Called agent through invalid address"),
        (429, "slow down"),
        (400, "[1-2]: (ThrottlingException): slow down, fault: client"),
        (500, "[1-2]: (InternalServerException): x, fault: server"),
        (200, "<html>"),
        (200, r#"{"AccessKeyId":"A","SecretAccessKey":"canary"}"#),
        (200, r#"{"AccessKeyId":"A","SecretAccessKey":"canary","Token":"t"}"#),
        (200, r#"{"AccessKeyId":"A","SecretAccessKey":"can ary","Token":"t","Expiration":"2099-01-01T00:00:00Z"}"#),
    ] {
        let agent = Server::plain(move |_| Answer::new(status, body));
        let refusal = refused(&pod_identity(&agent.url()), None, &web()).await;
        said.push(format!("{:?}: {}", refusal.fault, refusal.reason.replace(&agent.url(), "[agent]")));
    }
    insta::assert_snapshot!(said.join("\n"), @"
    Unauthenticated: the EKS Pod Identity agent does not log in ServiceAccount shop/web: 400: [1-2]: (AccessDeniedException): User: x is not authorized, fault: client (the node's role needs eks-auth:AssumeRoleForPodIdentity, and the association's role must trust pods.eks.amazonaws.com)
    Unauthenticated: the EKS Pod Identity agent does not log in ServiceAccount shop/web: 400: [1-2]: (InvalidTokenException): token [redacted], fault: client (is the token's audience the one of EKS, pods.eks.amazonaws.com? check auth.audience)
    Unauthenticated: the EKS Pod Identity agent does not log in ServiceAccount shop/web: 400: [1-2]: (ExpiredTokenException): expired, fault: client (kubelet renews the token; check the node's clock)
    Unauthenticated: the EKS Pod Identity agent does not log in ServiceAccount shop/web: 404: [1-2]: (ResourceNotFoundException): no association, fault: client (EKS has no role for ServiceAccount shop/web: `aws eks create-pod-identity-association --namespace shop --service-account web --cluster-name ... --role-arn ...`; a new one takes some seconds)
    Unhelpful: the EKS Pod Identity agent does not log in ServiceAccount shop/web: 403: Access Denied. Called agent through invalid address (the agent answers only at http://169.254.170.23 and http://[fd00:ec2::23]: correct auth.address of the backend)
    Throttled: the EKS Pod Identity agent does not log in ServiceAccount shop/web: 429: slow down (kubelet tries again by itself)
    Throttled: the EKS Pod Identity agent does not log in ServiceAccount shop/web: 400: [1-2]: (ThrottlingException): slow down, fault: client (kubelet tries again by itself)
    Unavailable: the EKS Pod Identity agent does not log in ServiceAccount shop/web: 500: [1-2]: (InternalServerException): x, fault: server (see its log; kubelet tries again by itself)
    Unhelpful: the answer of the EKS Pod Identity agent is not JSON with an access key (is the server the agent? check auth.address)
    Unhelpful: the answer of the EKS Pod Identity agent has no access key (is the server the agent? check auth.address)
    Unhelpful: the answer of the EKS Pod Identity agent does not say when its key ends (is the server the agent? check auth.address)
    Unhelpful: the answer of the EKS Pod Identity agent has a secret access key that is not valid (one line of ASCII characters, without blanks) (is the server the agent? check auth.address)
    ");
    let nowhere = refused(&pod_identity("http://127.0.0.1:9"), None, &web()).await;
    assert_eq!(nowhere.fault, Fault::Unavailable);
    assert!(nowhere.reason.contains("is the add-on eks-pod-identity-agent installed"), "{}", nowhere.reason);
}

#[tokio::test]
async fn the_agent_is_asked_once_more_where_it_fails() {
    let agent = Server::plain(|asked| if asked.before == 0 { Answer::new(500, "x") } else { Answer::new(200, key("ASIA1")) });
    assert_eq!(key_of(&pod_identity(&agent.url()), None, &web()).await.unwrap(), "ASIA1");
}

/// An instance that answers like EC2, or has another answer for one path.
fn metadata(path: &'static str, status: u16, body: &'static str) -> Server {
    Server::plain(move |asked| {
        let path_of = asked.path().trim_start_matches("/latest/meta-data/iam/security-credentials/");
        match path_of {
            _ if asked.path() == path || path_of == path && !path.is_empty() => Answer::new(status, body),
            "/latest/api/token" if asked.line.starts_with("PUT ") && asked.header("x-aws-ec2-metadata-token-ttl-seconds") == "60" => {
                Answer::new(200, "tok")
            }
            _ if asked.header("x-aws-ec2-metadata-token") != "tok" => Answer::new(401, ""),
            "" => Answer::new(200, "node-role\n"),
            "node-role" => {
                let mut key: serde_json::Value = serde_json::from_str(&key("ASIANODE")).unwrap();
                key["Code"] = json!("Success");
                Answer::new(200, key.to_string())
            }
            _ => Answer::new(404, ""),
        }
    })
}

#[tokio::test]
async fn an_instance_gives_its_roles_key_to_all_pods_once() {
    let ec2 = metadata("nothing", 0, "");
    let identities = instance(&ec2.url());
    for namespace in ["shop", "bank"] {
        assert_eq!(key_of(&identities, None, &pod(namespace, "web-0", "web")).await.unwrap(), "ASIANODE");
    }
    assert_eq!(ec2.asked().len(), 3);
    assert_eq!(identities.scope(&secret(None), &web()), Scope::Node);
    let session = identities.session(&secret(None), &cx(&web())).await.unwrap();
    assert!(identities.is_in(&session, &answer("secret-of-ASIANODE"), cx(&web()).deadline).await);
}

#[tokio::test]
async fn an_instance_without_a_role_says_so() {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let mut said = Vec::new();
    for (path, status, body) in [
        ("/latest/api/token", 403, ""),
        ("/latest/api/token", 200, "\u{1}"),
        (ROLES, 404, ""),
        (ROLES, 200, "../../x"),
        (ROLES, 200, ""),
        ("node-role", 401, ""),
        ("node-role", 500, ""),
        ("node-role", 200, r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role"}"#),
        ("node-role", 200, "<html>"),
    ] {
        let ec2 = metadata(path, status, body);
        let refusal = refused(&instance(&ec2.url()), None, &web()).await;
        said.push(format!("{:?}: {}", refusal.fault, refusal.reason.replace(&ec2.url(), "[ec2]")));
    }
    insta::assert_snapshot!(said.join("\n"), @r#"
    Unauthenticated: the instance's metadata service, [ec2]: it answered 403 Forbidden (the instance's metadata service is turned off: check its metadata options)
    Unhelpful: the instance's metadata service, [ec2]: its token is not valid (is the node an instance of EC2?)
    Unauthenticated: the instance's metadata service, [ec2]: the instance has no role (give it an instance profile)
    Unhelpful: the instance's metadata service, [ec2]: it does not name a role (is the node an instance of EC2?)
    Unhelpful: the instance's metadata service, [ec2]: it does not name a role (is the node an instance of EC2?)
    Unavailable: the instance's metadata service, [ec2]: it answered 401 Unauthorized (its token expired: kubelet tries again by itself)
    Unavailable: the instance's metadata service, [ec2]: it answered 500 Internal Server Error (kubelet tries again by itself)
    Unavailable: the instance's metadata service, [ec2]: its answer says "AssumeRoleUnauthorizedAccess" (check the instance's role in EC2 and IAM)
    Unavailable: the instance's metadata service, [ec2]: its answer is not JSON with an access key (check the instance's role in EC2 and IAM)
    "#);
}

/// With a hop limit of 1 a Pod gets no answer at all.
#[tokio::test]
async fn an_instance_that_is_silent_is_given_two_seconds() {
    let ec2 = Server::plain(|_| Answer::new(200, "x").after(Duration::from_mins(1)));
    let began = Instant::now();
    let refusal = refused(&instance(&ec2.url()), None, &web()).await;
    assert!((2_000..3_500).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(refusal.fault, Fault::Unavailable);
    assert!(refusal.reason.contains("hop limit"), "{}", refusal.reason);
    assert_eq!(ec2.asked().len(), 2);
}
