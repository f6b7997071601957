use super::sts::Becoming;
use super::*;
use crate::backend::store::aws::credentials::Credentials;

const IRSA: &str = "auth: { method: irsa }";

/// One login, with the same answer each time.
async fn told(status: u16, code: &'static str, message: &'static str) -> (Refusal, usize) {
    let sts = Server::plain(move |_| fake::error(status, code, message));
    let refusal = refused(&open(&sts.url(), IRSA), Some(ROLE), &web()).await;
    (Refusal { reason: refusal.reason.replace(&sts.url(), "[sts]"), ..refusal }, sts.asked().len())
}

#[tokio::test]
async fn a_refusal_says_why_and_what_to_do() {
    let mut said = Vec::new();
    for (status, code, message) in [
        (403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"),
        (400, "InvalidIdentityToken", "No OpenIDConnect provider found in your account for https://oidc.example"),
        (400, "ExpiredTokenException", "Token expired: jwt-of-web-0-for-sts.amazonaws.com must not be told"),
        (403, "RegionDisabledException", "STS is not activated in this region"),
        (400, "IDPRejectedClaim", "The identity provider's claims were rejected"),
    ] {
        let (refusal, _) = told(status, code, message).await;
        assert_eq!(refusal.fault, Fault::Unauthenticated, "{code}");
        said.push(refusal.reason);
    }
    insta::assert_snapshot!(said.join("\n"), @"
    AWS STS refuses arn:aws:iam::123456789012:role/web with the Pod's token for sts.amazonaws.com: AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity (does the role exist, and does its trust policy allow sts:AssumeRoleWithWebIdentity to the cluster's OIDC provider, for the subject system:serviceaccount:shop:web and the audience sts.amazonaws.com?; AWS's request id is 3f2a-77)
    AWS STS refuses arn:aws:iam::123456789012:role/web with the Pod's token for sts.amazonaws.com: InvalidIdentityToken after 3 tries: No OpenIDConnect provider found in your account for https://oidc.example (the role's account needs the cluster's OIDC issuer as an identity provider, with sts.amazonaws.com among its audiences: `aws iam create-open-id-connect-provider`; AWS's request id is 3f2a-77)
    AWS STS refuses arn:aws:iam::123456789012:role/web with the Pod's token for sts.amazonaws.com: ExpiredTokenException: Token expired: [redacted] must not be told (kubelet renews the token; check the node's clock; AWS's request id is 3f2a-77)
    AWS STS refuses arn:aws:iam::123456789012:role/web with the Pod's token for sts.amazonaws.com: RegionDisabledException: STS is not activated in this region (turn STS on for this region in the role's account: IAM, account settings; AWS's request id is 3f2a-77)
    AWS STS refuses arn:aws:iam::123456789012:role/web with the Pod's token for sts.amazonaws.com: IDPRejectedClaim: The identity provider's claims were rejected (does the role exist, and does its trust policy allow sts:AssumeRoleWithWebIdentity to the cluster's OIDC provider, for the subject system:serviceaccount:shop:web and the audience sts.amazonaws.com?; AWS's request id is 3f2a-77)
    ");
}

#[tokio::test]
async fn what_passes_is_no_refusal() {
    for (status, code, message, fault, calls) in [
        (400, "IDPCommunicationError", "An error occurred", Fault::NoLogin, 3),
        (400, "InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider", Fault::NoLogin, 3),
        (400, "InvalidIdentityToken", "Incorrect token audience", Fault::Unauthenticated, 3),
        (500, "InternalFailure", "", Fault::NoLogin, 3),
        (503, "ServiceUnavailable", "", Fault::NoLogin, 3),
        (400, "LimitExceededException", "", Fault::Throttled, 3),
        (429, "", "", Fault::Throttled, 3),
        (400, "ValidationError", "1 validation error detected", Fault::Invalid, 1),
        (403, "AccessDenied", "", Fault::Unauthenticated, 1),
        (400, "", "", Fault::Unhelpful, 1),
        (401, "", "", Fault::Unhelpful, 1),
        (403, "", "", Fault::Unhelpful, 1),
        (404, "", "", Fault::Unhelpful, 1),
        (407, "", "", Fault::Unhelpful, 1),
    ] {
        let (refusal, asked) = told(status, code, message).await;
        assert_eq!((refusal.fault, asked), (fault, calls), "{code} {message}: {}", refusal.reason);
    }
}

#[tokio::test]
async fn once_is_forgiven() {
    for (status, code) in [(400, "InvalidIdentityToken"), (400, "IDPCommunicationError"), (400, "Throttling"), (503, "ServiceUnavailable")]
    {
        let sts = Server::plain(move |asked| match asked.before {
            0 => fake::error(status, code, "not now"),
            _ => fake::key("AssumeRoleWithWebIdentity", "ASIA1"),
        });
        assert_eq!(key_of(&open(&sts.url(), IRSA), Some(ROLE), &web()).await.unwrap(), "ASIA1", "{code}");
    }
}

/// There was no time to find out whether the trouble passes.
#[tokio::test]
async fn what_may_pass_is_no_refusal_if_there_is_no_time() {
    let sts = Server::plain(|_| fake::error(400, "InvalidIdentityToken", "x").after(Duration::from_millis(400)));
    let identities = open(&sts.url(), IRSA);
    let cx = FetchContext { deadline: Instant::now() + Duration::from_millis(401), ..cx(&web()) };
    let refusal = identities.session(&secret(Some(ROLE)), &cx).await.unwrap_err();
    assert!(matches!(refusal.fault, Fault::NoLogin | Fault::TimedOut), "{refusal:?}");
}

#[tokio::test]
async fn an_answer_that_is_none_of_stss_is_not_a_login() {
    for body in [
        "",
        "<html>",
        "{}",
        "<Credentials></Credentials>",
        "<Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>canary</SecretAccessKey></Credentials>",
        "<Credentials><AccessKeyId>A B</AccessKeyId><SecretAccessKey>canary</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>2030-01-01T00:00:00Z</Expiration></Credentials>",
        "<Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>canary&#10;x</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>2030-01-01T00:00:00Z</Expiration></Credentials>",
        "<Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>canary</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>soon</Expiration></Credentials>",
    ] {
        let sts = Server::plain(move |_| Answer::new(200, body));
        assert_eq!(refused(&open(&sts.url(), IRSA), Some(ROLE), &web()).await.fault, Fault::Unhelpful, "{body}");
    }
    let sts = Server::plain(|_| Answer::new(200, "x".repeat(MAX_ANSWER + 1)));
    assert_eq!(refused(&open(&sts.url(), IRSA), Some(ROLE), &web()).await.fault, Fault::TooLarge);
}

#[tokio::test]
async fn nothing_there_is_unavailable_and_a_missing_token_is_named() {
    let identities = open("http://127.0.0.1:9", IRSA);
    assert_eq!(refused(&identities, Some(ROLE), &web()).await.fault, Fault::Unavailable, "the store itself may well be up");
    let other = open("http://127.0.0.1:9", "auth: { method: irsa, audience: other }");
    insta::assert_snapshot!(refused(&other, Some(ROLE), &web()).await.reason, @r#"to log in to AWS, the Pod's token for the audience "other" is needed, and verified tokens came for "pods.eks.amazonaws.com", "sts.amazonaws.com" (add audience: other to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io; identity.verify must be jwks or token-review)"#);
}

#[tokio::test]
async fn a_refusal_is_asked_for_once_by_a_mount_of_many_objects() {
    let sts = Server::plain(|_| fake::error(403, "AccessDenied", "no").after(Duration::from_millis(20)));
    let identities = open(&sts.url(), IRSA);
    let mut running = JoinSet::new();
    for _ in 0..64 {
        let identities = Arc::clone(&identities);
        running.spawn(async move { refused(&identities, Some(ROLE), &web()).await });
    }
    assert_eq!(running.join_all().await.len(), 64);
    for _ in 0..64 {
        refused(&identities, Some(ROLE), &web()).await;
    }
    assert_eq!(sts.asked().len(), 1);
}

/// AWS refuses a signature because of our clock: Keyferry learns AWS's time from the answer, once.
#[tokio::test]
async fn a_clock_that_is_wrong_is_learnt() {
    let folder = Folder::new();
    let sts = Server::plain(|asked| {
        let signed = asked.header("x-amz-date");
        if signed.starts_with("20300101T1200") {
            return fake::key("AssumeRole", "ASIA1");
        }
        fake::error(403, "SignatureDoesNotMatch", "Signature expired: x is now earlier than y")
            .header("date", "Tue, 01 Jan 2030 12:00:05 GMT")
    });
    let keys = folder.keys("AKIAOWN", "own-secret-access-key");
    let identities = open(&sts.url(), &format!("{keys}, assumeRole: {{ role: \"{ROLE}\" }} }}"));
    assert_eq!(key_of(&identities, None, &web()).await.unwrap(), "ASIA1");
    assert_eq!(sts.asked().len(), 2);

    let wrong = Server::plain(|_| fake::error(403, "SignatureDoesNotMatch", "no"));
    let identities = open(&wrong.url(), &format!("{keys}, assumeRole: {{ role: \"{ROLE}\" }} }}"));
    assert_eq!(refused(&identities, None, &web()).await.fault, Fault::Unauthenticated, "a wrong key is one");
    assert_eq!(wrong.asked().len(), 1);
}

/// The daemon's own key expires in the middle: Keyferry reads it again, and assumes the role once more.
#[tokio::test]
async fn a_role_is_assumed_once_more_if_the_first_key_is_none_any_more() {
    let folder = Folder::new();
    let keys = folder.keys("AKIAOLD", "old-secret-access-key");
    let sts = Server::plain(|asked| {
        if asked.header("authorization").contains("AKIANEW") {
            return fake::key("AssumeRole", "ASIA1");
        }
        fake::error(403, "InvalidClientTokenId", "The security token included in the request is invalid.")
    });
    let identities = open(&sts.url(), &format!("{keys}, assumeRole: {{ role: \"{ROLE}\" }} }}"));
    identities.own(cx(&web()).deadline).await.unwrap();
    folder.file("id", "AKIANEW");
    assert_eq!(key_of(&identities, None, &web()).await.unwrap(), "ASIA1");
    folder.file("id", "AKIAWRONG");
    let fresh = open(&sts.url(), &format!("{}, assumeRole: {{ role: \"{ROLE}\" }} }}", folder.keys("AKIAWRONG", "x-secret")));
    assert!(refused(&fresh, None, &web()).await.reason.contains("is the key in the files of `auth` the right one"));
}

/// A proxy's page is not a refusal of the Pod, and the message does not say so.
#[tokio::test]
async fn what_a_proxy_says_is_not_said_in_awss_name() {
    for body in ["<html>blocked</html>", "", "{}"] {
        let sts = Server::plain(move |_| Answer::new(403, body));
        let refusal = refused(&open(&sts.url(), IRSA), Some(ROLE), &web()).await;
        assert_eq!(refusal.fault, Fault::Unhelpful);
        assert_eq!(
            refusal.reason,
            "the server that answers for STS is not AWS: it says 403 Forbidden (check `endpoints` of the backend, and the proxies on the way)"
        );
    }
}

/// A namespace chooses its role by the class or by an annotation, but cannot choose what the configuration sets.
#[tokio::test]
async fn what_nobody_can_say_of_a_role_is_the_stores_trouble_where_the_configuration_names_it() {
    let sts = Server::plain(|_| fake::error(400, "IDPCommunicationError", "x"));
    let fixed = open(&sts.url(), &format!("auth: {{ method: irsa, role: \"{ROLE}\" }}"));
    assert_eq!(refused(&fixed, None, &web()).await.fault, Fault::Unavailable);
    assert_eq!(refused(&fixed, Some("arn:aws:iam::999999999999:role/x"), &web()).await.fault, Fault::NoLogin);
}

/// Two calls are refused together: one finds out how far the clock is wrong, and the other uses that.
#[tokio::test]
async fn calls_that_are_refused_together_learn_the_clock_together() {
    let sts = Server::plain(|asked| {
        if asked.header("x-amz-date").starts_with("20300101T1200") {
            return fake::key("AssumeRole", "ASIA1");
        }
        let late = fake::error(403, "SignatureDoesNotMatch", "Signature expired").header("date", "Tue, 01 Jan 2030 12:00:05 GMT");
        late.after(Duration::from_millis(200))
    });
    let identities = open(&sts.url(), IRSA);
    let key = Credentials::new("AKIAEXAMPLE".into(), zeroize::Zeroizing::new("secret-access-key".into()), None, None).unwrap();
    let becoming = Becoming { role: ROLE, session: "x", external_id: None };
    let assume = || identities.sts.assume(becoming, &key, cx(&web()).deadline);
    let (one, other) = tokio::join!(assume(), assume());
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(sts.asked().len(), 4, "each twice");
}
