//! What is kept in mind of the first member's denials is bounded, and nothing is asked of the second because something was forgotten.

use super::*;
use crate::backend::stack::asked::Asked;

const BYTES: usize = 64 * 1024;

fn asked(scope: &Scope, name: &str) -> Asked {
    Asked { scope: scope.clone(), secret: both(name).with(|parts| parts.backend = "bao".parse().unwrap()) }
}

fn own(pod: &str) -> Scope {
    Scope::Pod(format!("uid-{pod}").into())
}

/// Whether the second may be asked.
fn may(denials: &Denials, scope: &Scope, tenant: &str, name: &str) -> bool {
    denials.allow(&asked(scope, name), &tenant.into())
}

fn deny(denials: &Denials, scope: &Scope, tenant: &str, name: &str) {
    denials.denied(&asked(scope, name), &tenant.into());
}

fn answer(denials: &Denials, scope: &Scope, tenant: &str, name: &str) {
    let begun = denials.begin();
    denials.allowed(&asked(scope, name), &tenant.into(), begun);
}

#[tokio::test]
async fn whoever_has_many_denials_loses_the_second_member_for_what_is_not_answered_since_and_nobody_else_does() {
    let denials = Denials::new(BYTES);
    let [evil, shop] = ["evil", "shop"].map(own);
    deny(&denials, &shop, "shop", "kv/secret");
    deny(&denials, &evil, "evil", "kv/wanted");
    for n in 0..10_000 {
        deny(&denials, &evil, "evil", &format!("kv/none-{n}"));
    }
    let (own_weight, weight) = denials.weight("evil");
    assert!(weight <= BYTES && own_weight < weight, "{own_weight} of {weight}");
    assert!(!may(&denials, &evil, "evil", "kv/wanted"), "it had to go, and is not asked for all the same");
    assert!(!may(&denials, &evil, "evil", "kv/never-asked"));
    assert!(!may(&denials, &shop, "shop", "kv/secret") && may(&denials, &shop, "shop", "kv/other"));
    assert!(may(&denials, &own("bank"), "bank", "kv/wanted"));
    answer(&denials, &evil, "evil", "kv/good");
    assert!(may(&denials, &evil, "evil", "kv/good"), "the first has answered it since");
    deny(&denials, &evil, "evil", "kv/good");
    assert!(!may(&denials, &evil, "evil", "kv/good"));
    assert_eq!(denials.marks(), 1);
}

#[tokio::test]
async fn a_smaller_table_forgets_nothing_either() {
    let denials = Denials::new(BYTES);
    for n in 0..20 {
        deny(&denials, &own("shop"), "shop", &format!("kv/{n}"));
    }
    denials.resize(1);
    assert_eq!((denials.weight("shop"), denials.marks()), ((0, 0), 1));
    assert!((0..20).all(|n| !may(&denials, &own("shop"), "shop", &format!("kv/{n}"))));
}

/// Pods come and go, each with an optional secret that is not there.
#[tokio::test(start_paused = true)]
async fn pods_that_are_gone_take_their_denials_along() {
    let denials = Denials::new(BYTES);
    for n in 0..5_000 {
        deny(&denials, &own(&format!("job-{n}")), "shop", "kv/optional");
        advance(MINUTE).await;
    }
    assert_eq!(denials.marks(), 0);
    assert!(!may(&denials, &own("job-4999"), "shop", "kv/optional") && may(&denials, &own("job-5000"), "shop", "kv/optional"));
    for n in 0..5_000 {
        deny(&denials, &own(&format!("crowd-{n}")), "shop", "kv/optional");
    }
    assert_eq!(denials.marks(), 1, "these are all there");
}

/// More namespaces than are told apart: nobody is asked for, rather than somebody too many.
#[tokio::test]
async fn marks_are_bounded_too() {
    let denials = Denials::new(1);
    for n in 0..5_000 {
        let tenant = format!("team-{n}");
        deny(&denials, &own(&tenant), &tenant, "kv/x");
        assert!(!may(&denials, &own(&tenant), &tenant, "kv/x"));
    }
    assert_eq!((denials.marks(), denials.weight("team-0")), (1024, (0, 0)));
    assert!(!may(&denials, &own("bank"), "bank", "kv/x"));
}

/// All are one to the store: who logs in is the daemon.
#[tokio::test]
async fn a_denial_of_all_holds_for_each_and_one_tenants_room_is_its_own() {
    let (denials, all) = (Denials::new(BYTES), Scope::Node);
    deny(&denials, &all, "evil", "kv/secret");
    assert!(!may(&denials, &all, "shop", "kv/secret"), "nobody is asked for it");
    deny(&denials, &all, "shop", "kv/secret");
    for n in 0..10_000 {
        deny(&denials, &all, "evil", &format!("kv/none-{n}"));
    }
    assert!(!may(&denials, &all, "shop", "kv/secret") && !may(&denials, &all, "evil", "kv/secret"));
    assert!(may(&denials, &all, "shop", "kv/other"));
    answer(&denials, &all, "shop", "kv/secret");
    assert!(may(&denials, &all, "shop", "kv/secret") && !may(&denials, &all, "evil", "kv/secret"));
}

#[tokio::test]
async fn long_names_and_arguments_weigh_what_they_are() {
    let denials = Denials::new(BYTES);
    for n in 0..1_000 {
        let mut long = asked(&own("evil"), &format!("kv/{n}-{}", "x".repeat(900)));
        long.secret = long.secret.with(|parts| {
            parts.args.insert("a", &"y".repeat(4_000).into());
            parts.login.role = Some("z".repeat(2_000));
        });
        denials.denied(&long, &"evil".into());
        let (own, all) = denials.weight("evil");
        assert!(all <= BYTES && own == all);
    }
    assert!(denials.weight("evil").0 / 14_000 <= 4, "a handful");
}
