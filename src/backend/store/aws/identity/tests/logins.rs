use super::*;

const IRSA: &str = "auth: { method: irsa }";

#[tokio::test]
async fn a_hundred_pods_of_a_service_account_log_in_once() {
    let sts = Server::plain(|asked| {
        assert_eq!(asked.parameter("Action").as_deref(), Some("AssumeRoleWithWebIdentity"));
        fake::key("AssumeRoleWithWebIdentity", &format!("ASIA{}", asked.before)).after(Duration::from_millis(50))
    });
    let identities = open(&sts.url(), IRSA);
    let pods = |count: usize| (0..count).map(|n| pod("shop", &format!("web-{n}"), "web")).collect::<Vec<_>>();
    assert_eq!(keys_at_once(&identities, pods(100)).await, 1);
    let calls = sts.asked();
    assert_eq!(calls.len(), 1);
    let said = |name: &str| calls[0].parameter(name).unwrap();
    assert_eq!((said("RoleArn"), said("RoleSessionName"), said("Version")), (ROLE.into(), "shop.web".into(), "2011-06-15".into()));
    assert!(said("WebIdentityToken").starts_with("jwt-of-web-"));
    assert_eq!(calls[0].header("authorization"), "", "this call is not signed");

    let apart = open(&sts.url(), &format!("{IRSA}\nshare: pod"));
    assert_eq!(keys_at_once(&apart, pods(5)).await, 5);
    let names: std::collections::BTreeSet<_> = sts.asked().iter().map(|call| call.parameter("RoleSessionName").unwrap()).collect();
    assert_eq!(names.into_iter().next().unwrap(), "shop.web@web-0");
    let other = pod("bank", "web-0", "web");
    let (one, two) = (key_of(&identities, Some(ROLE), &web()).await.unwrap(), key_of(&identities, Some(ROLE), &other).await.unwrap());
    assert_ne!(one, two, "another namespace is another login");
    let again = PodIdentity { service_account_uid: Some("another".into()), ..web() };
    assert_ne!(one, key_of(&identities, Some(ROLE), &again).await.unwrap(), "a ServiceAccount made again is another one");
    assert_ne!(one, key_of(&identities, Some("arn:aws:iam::123456789012:role/api"), &web()).await.unwrap(), "so is another role");
}

#[tokio::test]
async fn a_template_names_the_role_and_a_name_that_is_none_is_refused() {
    let sts = fake::sts();
    let identities =
        open(&sts.url(), "auth: { method: irsa, role: \"arn:aws:iam::123456789012:role/k8s/${namespace}-${serviceAccount}\" }");
    key_of(&identities, None, &web()).await.unwrap();
    assert_eq!(sts.asked()[0].parameter("RoleArn").unwrap(), "arn:aws:iam::123456789012:role/k8s/shop-web");
    key_of(&identities, Some(ROLE), &web()).await.unwrap();
    assert_eq!(sts.asked()[0].parameter("RoleArn").unwrap(), ROLE, "a class that names one has it");
    let long = refused(&identities, None, &pod("shop", "x", &"a".repeat(60))).await;
    assert_eq!(long.fault, Fault::Unauthenticated);
    insta::assert_snapshot!(long.reason, @"auth.role of the backend: arn:aws:iam::123456789012:role/k8s/shop-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: has a name of 65 characters, and at most 64 are allowed (choose a shorter one), or name a `role` in the class");
    for role in [
        "web",
        "arn:aws:iam::123456789012:user/web",
        "arn:aws:iam::123456789012:role/a b",
        "",
        "arn:aws:iam::123456789012:role/web&Action=x",
    ] {
        assert_eq!(refused(&identities, Some(role), &web()).await.fault, Fault::Invalid, "{role}");
    }
    assert!(sts.asked().is_empty(), "none of these is sent");
}

#[tokio::test]
async fn what_the_store_refuses_is_not_given_again() {
    let sts = fake::sts();
    let identities = open(&sts.url(), IRSA);
    let one = identities.session(&secret(Some(ROLE)), &cx(&web())).await.unwrap();
    let same = identities.session(&secret(Some(ROLE)), &cx(&web())).await.unwrap();
    assert!(Arc::ptr_eq(&one, &same));
    identities.refused(&one);
    identities.refused(&same);
    let two = identities.session(&secret(Some(ROLE)), &cx(&web())).await.unwrap();
    identities.refused(&two);
    assert!(Arc::ptr_eq(&two, &identities.session(&secret(Some(ROLE)), &cx(&web())).await.unwrap()), "another login would not help");
    assert_eq!((one.credentials().id(), two.credentials().id()), ("ASIA0", "ASIA1"));
    identities.refused(&one);
    assert!(
        Arc::ptr_eq(&two, &identities.session(&secret(Some(ROLE)), &cx(&web())).await.unwrap()),
        "after several late refusals, the new one stays"
    );
}

#[tokio::test]
async fn the_last_pod_takes_its_session_with_it() {
    let sts = fake::sts();
    let identities = open(&sts.url(), IRSA);
    let other = pod("shop", "web-1", "web");
    for pod in [&web(), &other] {
        assert_eq!(key_of(&identities, Some(ROLE), pod).await.unwrap(), "ASIA0");
    }
    identities.forget(&web().uid);
    assert_eq!(key_of(&identities, Some(ROLE), &other).await.unwrap(), "ASIA0");
    identities.forget(&other.uid);
    assert_eq!(key_of(&identities, Some(ROLE), &other).await.unwrap(), "ASIA1");
}

#[tokio::test]
async fn real_logins_give_keys_that_sign() {
    let (moto, folder) = (Moto::start().await, Folder::new());
    let [first, second] = [moto.role("first", &["sts:AssumeRole"]).await, moto.role("second", &["sts:GetCallerIdentity"]).await];
    let key = moto.user("node", &["sts:AssumeRole", "sts:GetCallerIdentity"]).await;
    let chained =
        open(&moto.url(), &format!("auth: {{ method: irsa, role: \"{first}\", assumeRole: [{{ role: \"{second}\", externalId: x-1 }}] }}"));
    let own = open(&moto.url(), &format!("{} }}", folder.keys(&key.id, &key.secret)));
    // Only the login without a signature is not checked.
    moto.check_after(1).await;
    let session = chained.session(&secret(None), &cx(&web())).await.unwrap();
    let caller = chained.sts.caller(&session.credentials(), cx(&web()).deadline).await.unwrap();
    assert_eq!(caller, "arn:aws:sts::123456789012:assumed-role/second/shop.web");
    assert_eq!(own.check(cx(&web()).deadline).await.unwrap().unwrap(), "arn:aws:iam::123456789012:user/node");

    let wrong = open(&moto.url(), &format!("{} }}", folder.keys(&key.id, "wrong-canary")));
    let refusal = wrong.check(cx(&web()).deadline).await.unwrap_err();
    assert!(refusal.fault == Fault::Unauthenticated && refusal.reason.contains("SignatureDoesNotMatch"), "{refusal:?}");
    assert!(!refusal.reason.contains("canary"));
}

/// Checks the signatures with those that botocore would make: a fake might accept anything.
#[tokio::test]
async fn chains_are_signed_by_what_came_before() {
    let folder = Folder::new();
    let sts = fake::sts();
    let chain = "assumeRole: [{ role: \"arn:aws:iam::123456789012:role/one\" }, { role: \"arn:aws:iam::444455556666:role/${namespace}\", \
                 externalId: \"a:b/c\" }] }";
    let identities = open(&sts.url(), &format!("{}, {chain}", folder.keys("AKIAOWN", "own-secret-access-key")));
    assert_eq!(key_of(&identities, None, &web()).await.unwrap(), "ASIA1");
    let calls = sts.asked();
    let shown = |at: usize| {
        let call = &calls[at];
        let by = call.header("authorization").split(['=', '/']).nth(1).unwrap().to_owned();
        let said = |name| call.parameter(name).unwrap_or_default();
        format!(
            "{by}: {} {} {} {:?} {:?}",
            said("Action"),
            said("RoleArn"),
            said("RoleSessionName"),
            said("ExternalId"),
            call.header("x-amz-security-token")
        )
    };
    assert_eq!(calls.len(), 2);
    insta::assert_snapshot!([shown(0), shown(1)].join("\n"), @r#"
    AKIAOWN: AssumeRole arn:aws:iam::123456789012:role/one shop.web "" ""
    ASIA0: AssumeRole arn:aws:iam::444455556666:role/shop shop.web "a:b/c" "token-of-ASIA0"
    "#);
    assert!(matches!(identities.scope(&secret(None), &web()), Scope::Account(_)), "each namespace has its own role");
    key_of(&identities, None, &pod("bank", "web-0", "web")).await.unwrap();
    assert_eq!(sts.asked()[1].parameter("RoleArn").unwrap(), "arn:aws:iam::444455556666:role/bank");
    let session = identities.session(&secret(None), &cx(&web())).await.unwrap();
    for text in ["x own-secret-access-key", "secret-of-ASIA1", "x token-of-ASIA1", "b3duLXNlY3JldC1hY2Nlc3Mta2V5"] {
        assert!(identities.is_in(&session, &answer(text), cx(&web()).deadline).await, "{text}: neither key is anybody's secret");
    }
    for text in ["AKIAOWN", ""] {
        assert!(!identities.is_in(&session, &answer(text), cx(&web()).deadline).await, "{text}");
    }
}

#[tokio::test]
async fn the_daemons_own_key_serves_no_role_of_a_class() {
    let folder = Folder::new();
    let sts = fake::sts();
    let keys = folder.keys("AKIAOWN", "own-secret-access-key");
    let fixed = "assumeRole: { role: \"arn:aws:iam::123456789012:role/one\" } }";
    for rest in [
        format!("{keys} }}"),
        format!("{keys}, {fixed}"),
        "auth: { method: podIdentity }".into(),
        format!("auth: {{ method: irsa, {fixed}"),
    ] {
        let refusal = refused(&open(&sts.url(), &rest), Some(ROLE), &web()).await;
        assert_eq!(refusal.fault, Fault::Denied, "{rest}");
        assert!(refusal.reason.starts_with("role: a class cannot choose it: "), "{}", refusal.reason);
    }
    assert!(sts.asked().is_empty());
    let node = open(&sts.url(), &format!("{keys}, {fixed}"));
    assert_eq!(keys_at_once_unnamed(&node).await, 1, "one login for all Pods of the node");
    assert!(sts.asked()[0].parameter("RoleSessionName").unwrap().starts_with("keyferry@"));
    assert_eq!(node.scope(&secret(None), &web()), Scope::Node);
}

async fn keys_at_once_unnamed(identities: &Identities) -> usize {
    let mut keys = std::collections::BTreeSet::new();
    for namespace in ["shop", "bank"] {
        keys.insert(key_of(identities, None, &pod(namespace, "web-0", "web")).await.unwrap());
    }
    keys.len()
}

#[tokio::test(start_paused = true)]
async fn a_key_in_files_is_read_again() {
    let folder = Folder::new();
    let identities = open("http://127.0.0.1:9", &format!("{} }}", folder.keys("AKIAOLD", "old-secret")));
    let one = identities.session(&secret(None), &cx(&web())).await.unwrap();
    tokio::time::advance(Duration::from_mins(1)).await;
    let same = identities.session(&secret(None), &cx(&pod("bank", "a", "b"))).await.unwrap();
    assert!(Arc::ptr_eq(&one, &same), "the same key is the same session");
    folder.file("id", "AKIANEW\n");
    folder.file("secret", "new-secret\n");
    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(key_of(&identities, None, &web()).await.unwrap(), "AKIANEW");
    folder.file("secret", "newest-secret");
    let newest = identities.session(&secret(None), &cx(&web())).await.unwrap();
    assert_eq!(newest.credentials().secret(), "new-secret");
    identities.refused(&newest);
    let newest = identities.session(&secret(None), &cx(&web())).await.unwrap();
    assert_eq!(newest.credentials().secret(), "newest-secret", "at once, if the last one was refused");
    std::fs::remove_file(folder.0.path().join("secret")).unwrap();
    identities.refused(&newest);
    assert_eq!(refused(&identities, None, &web()).await.fault, Fault::Unauthenticated);
}
