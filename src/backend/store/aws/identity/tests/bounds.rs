//! Limits for what a namespace can make large: it may name any number of roles and ServiceAccounts.

use super::*;

fn made_up(n: usize) -> String {
    format!("arn:aws:iam::123456789012:role/r-{n}")
}

#[tokio::test]
async fn made_up_roles_push_out_their_own_namespaces_sessions() {
    let sts = fake::sts();
    let identities = open(&sts.url(), "auth: { method: irsa }");
    let one = identities.session(&secret(Some(ROLE)), &cx(&web())).await.unwrap();
    let evil = pod("evil", "x", "x");
    for n in 0..MAX_SESSIONS + 50 {
        key_of(&identities, Some(&made_up(n)), &evil).await.unwrap();
    }
    assert!(identities.lock().weight() <= MAX_SESSIONS * SESSION);
    assert!(Arc::ptr_eq(&one, &identities.session(&secret(Some(ROLE)), &cx(&web())).await.unwrap()));
    let long = format!("arn:aws:iam::123456789012:role/{}x", "p/".repeat(900));
    for n in 0..50 {
        key_of(&identities, Some(&format!("{long}{n}")), &evil).await.unwrap();
    }
    assert!(identities.lock().weight() <= MAX_SESSIONS * SESSION);
    assert!(identities.lock().weight_of("shop") < 2 * SESSION);
}

#[tokio::test]
async fn refused_roles_are_as_few() {
    let sts = Server::plain(|_| fake::error(403, "AccessDenied", "no"));
    let identities = open(&sts.url(), "auth: { method: irsa }");
    for n in 0..MAX_SESSIONS + 50 {
        refused(&identities, Some(&made_up(n)), &pod("evil", "x", "x")).await;
    }
    assert!(identities.lock().weight() <= MAX_SESSIONS * SESSION);
}
