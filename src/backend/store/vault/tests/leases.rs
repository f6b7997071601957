use super::*;

const DYNAMIC: &str = "path \"database/creds/*\" { capabilities = [\"read\"] }\n\
                       path \"pki/issue/*\" { capabilities = [\"update\"] }\n\
                       path \"sys/leases/revoke\" { capabilities = [\"update\"] }";

async fn with_database(ttl: &str, max_ttl: &str) -> (Bench, Postgres) {
    let (bench, postgres) = tokio::join!(Bench::start(), Postgres::start());
    bench.bao.database("database", &postgres, "app", ttl, max_ttl).await;
    bench.bao.policy("dynamic", DYNAMIC).await;
    bench.role("csi", json!({ "policies": ["dynamic"], "ttl": "1h" })).await;
    bench.bao.requests();
    (bench, postgres)
}

fn lets_in(postgres: &Postgres, secret: &Secret) -> bool {
    postgres.lets_in(&field(secret, "username"), &field(secret, "password"))
}

fn left(lease: &Lease) -> i64 {
    lease.ends.as_second() - SystemClock.now().as_second()
}

#[tokio::test]
async fn a_credential_is_renewed_and_given_back() {
    let (bench, postgres) = with_database("20s", "1h").await;
    let backend = bench.as_pod();
    let issued = bench.read(&backend, "database/creds/app").await.unwrap();
    let lease = issued.lease.clone().unwrap();
    assert!(lets_in(&postgres, &issued) && lease.renewable && (18..=20).contains(&left(&lease)), "{lease:?}");
    assert!(!format!("{issued:?} {backend:?}").contains(&field(&issued, "password")));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let renewed = backend.renew(lease, soon()).await.unwrap();
    assert!(renewed.renewable && (19..=20).contains(&left(&renewed)), "{renewed:?}");

    // The Pod goes first: its token is kept, since the lease lives by it.
    let accessor = bench.bao.requests().remove(0).accessor;
    backend.forget(&web().uid, soon()).await;
    assert!(bench.bao.token_of(&accessor).await.is_some());
    backend.revoke(renewed.clone(), soon()).await.unwrap();
    eventually("the login is gone", async || !lets_in(&postgres, &issued)).await;
    assert!(bench.bao.token_of(&accessor).await.is_none(), "nothing lives by it any more");
    assert_eq!(bench.bao.requests().iter().map(ToString::to_string).collect::<Vec<_>>().len(), 2);
    let gone = backend.renew(renewed.clone(), soon()).await.unwrap_err();
    assert!(matches!(gone.fault, Fault::Denied | Fault::NotFound), "{gone}");
    backend.revoke(renewed, soon()).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_an_operator_revoked_is_not_found() {
    let (bench, _postgres) = with_database("1h", "1h").await;
    let backend = bench.as_pod();
    let lease = bench.read(&backend, "database/creds/app").await.unwrap().lease.clone().unwrap();
    bench.bao.revoke(str::from_utf8(lease.id.expose()).unwrap()).await;
    let error = backend.renew(lease, soon()).await.unwrap_err();
    assert_eq!(error.fault, Fault::NotFound);
    insta::assert_snapshot!(error, @"bao/database/creds/app: the store does not know the lease any more: lease not found (the next mount gets another)");
}

#[tokio::test]
async fn a_lease_ends_with_its_token() {
    let (bench, _postgres) = with_database("1h", "2h").await;
    bench.role("short", json!({ "policies": ["dynamic"], "ttl": "10s", "max_ttl": "15s" })).await;
    let backend = bench.backend("auth: { method: jwt, role: short, audience: bao }");
    let lease = bench.read(&backend, "database/creds/app").await.unwrap().lease.clone().unwrap();
    assert!((8..=10).contains(&left(&lease)) && lease.renewable, "{lease:?}");
    tokio::time::sleep(Duration::from_secs(7)).await;
    let renewed = backend.renew(lease, soon()).await.unwrap();
    assert!((5..=8).contains(&left(&renewed)) && !renewed.renewable, "the token met its last end: {renewed:?}");
    let counted = bench.bao.counted();
    assert_eq!(counted["update auth/token/renew-self"], 1, "{counted:?}");

    // What is asked for now does not live by a token near its end.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let replaced = bench.read(&backend, "database/creds/app").await.unwrap().lease.clone().unwrap();
    assert!(left(&replaced) >= 8 && replaced.token.expose() != renewed.token.expose(), "{replaced:?}");
}

#[tokio::test]
async fn leases_of_a_former_process_are_renewed_and_given_back() {
    let (bench, postgres) = with_database("1h", "2h").await;
    let former = bench.as_pod();
    let issued = bench.read(&former, "database/creds/app").await.unwrap();
    let lease = issued.lease.clone().unwrap();
    let accessor = bench.bao.requests().remove(0).accessor;
    drop(former);
    let backend = bench.as_pod();
    backend.adopt(&lease);
    let renewed = backend.renew(lease, soon()).await.unwrap();
    assert!(renewed.renewable && left(&renewed) > 3500, "{renewed:?}");
    backend.forget(&web().uid, soon()).await;
    assert!(bench.bao.token_of(&accessor).await.is_some());
    backend.revoke(renewed, soon()).await.unwrap();
    eventually("the login is gone", async || !lets_in(&postgres, &issued)).await;
    assert!(bench.bao.token_of(&accessor).await.is_none());
}

#[tokio::test]
async fn a_role_that_may_not_revoke_gives_the_whole_token_back_in_the_end() {
    let (bench, postgres) = with_database("1h", "2h").await;
    bench.bao.policy("dynamic", "path \"database/creds/*\" { capabilities = [\"read\"] }").await;
    let backend = bench.as_pod();
    let (first, second) =
        (bench.read(&backend, "database/creds/app").await.unwrap(), bench.read(&backend, "database/creds/app").await.unwrap());
    let lease = |secret: &Secret| secret.lease.clone().unwrap();
    backend.forget(&web().uid, soon()).await;
    let denied = backend.revoke(lease(&first), soon()).await.unwrap_err();
    insta::assert_snapshot!(denied, @"bao/database/creds/app: the store does not revoke the lease: 403 Forbidden (is its token revoked? else let the policy of its role allow update on sys/leases/renew and sys/leases/revoke)");
    assert!(lets_in(&postgres, &first) && lets_in(&postgres, &second));
    backend.revoke(lease(&second), soon()).await.unwrap();
    eventually("both logins are gone", async || !lets_in(&postgres, &first) && !lets_in(&postgres, &second)).await;
}

#[tokio::test]
async fn leases_in_namespaces_are_renewed_and_given_back_there() {
    let (bench, postgres) = tokio::join!(Bench::start(), Postgres::start());
    let team = bench.bao.namespace("team-a").await;
    team.database("database", &postgres, "app", "1h", "2h").await;
    team.policy("dynamic", DYNAMIC).await;
    team.jwt("jwt", &bench.issuer.jwks()).await;
    team.jwt_role("jwt", "csi", AUDIENCE, json!({ "policies": ["dynamic"] })).await;
    let backend = bench.backend("namespace: team-a\nauth: { method: jwt, role: csi, audience: bao }");
    let issued = bench.read(&backend, "database/creds/app").await.unwrap();
    let renewed = backend.renew(issued.lease.clone().unwrap(), soon()).await.unwrap();
    assert!(left(&renewed) > 3500);
    backend.revoke(renewed, soon()).await.unwrap();
    eventually("the login is gone", async || !lets_in(&postgres, &issued)).await;
}

#[tokio::test]
async fn certificates_end_by_themselves() {
    let bench = Bench::start().await;
    bench.bao.policy("dynamic", DYNAMIC).await;
    bench.role("csi", json!({ "policies": ["dynamic"] })).await;
    bench.bao.pki("pki", "web", "1h", false).await;
    let backend = bench.as_pod();
    let issue = posted(&backend, "pki/issue/web", &[("common_name", json!("web.example"))]);
    let issued = fetch(&backend, &issue, &bench.cx(&web())).await.unwrap();
    let lease = issued.lease.clone().unwrap();
    assert!(lease.id.is_empty() && !lease.renewable && (3500..=3600).contains(&left(&lease)), "{lease:?}");
    assert!(field(&issued, "private_key").starts_with("-----BEGIN"));
    assert_eq!(backend.renew(lease.clone(), soon()).await.unwrap_err().fault, Fault::Unsupported);
    bench.bao.requests();
    backend.adopt(&lease);
    backend.revoke(lease, soon()).await.unwrap();
    backend.forget(&web().uid, soon()).await;
    assert_eq!(json!(bench.bao.counted()), json!({ "update auth/token/revoke-self": 1 }), "a certificate does not live by a token");
}
