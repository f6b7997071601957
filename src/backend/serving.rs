//! Which backend serves the classes of a dialect of another provider. These classes name an address or nothing at all, and never a backend. So the
//! node's configuration decides.

use std::collections::BTreeMap;

use super::{BackendConfig, Kind};
use crate::http::Endpoint;
use crate::model::{BackendName, LoginKey, Serving, Unresolved};

/// What is configured for the dialects.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServedDialects {
    candidates: Vec<Candidate>,
    /// `dialects.<name>.backend`.
    named: BTreeMap<String, BackendName>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Candidate {
    name: BackendName,
    address: Option<Endpoint>,
    /// Set if its addresses differ by region. Then a class names a region, and never an address.
    region: Option<String>,
    /// How Keyferry logs in to it, if the dialect's classes choose between several ways.
    way: Option<&'static str>,
    dialects: &'static [&'static str],
    names_audience: bool,
    /// Whether Keyferry logs in to it as the Pod: the classes of dialects know no other way.
    as_pod: bool,
    /// Whether it serves only the dialects that name it.
    if_named: bool,
}

// === impl ServedDialects ===

impl ServedDialects {
    pub fn new(configs: &BTreeMap<BackendName, BackendConfig>, named: &BTreeMap<String, BackendName>) -> Self {
        let candidate = |(name, config): (&BackendName, &BackendConfig)| {
            // A failover has the address of its first member.
            let (stores, if_named) = stores(config);
            let audiences: Vec<_> = stores.iter().map(|store| store.facts().audience).collect();
            Candidate {
                name: name.clone(),
                address: stores.first().and_then(|store| store.facts().address.cloned()),
                region: stores.first().and_then(|store| store.facts().region.map(str::to_owned)),
                way: stores.first().and_then(|store| store.facts().way),
                dialects: config.kind().facts().dialects,
                names_audience: audiences.iter().all(|audience| audience.is_some_and(|audience| audience.named)),
                as_pod: logs_in_as_pod(config),
                if_named,
            }
        };
        Self { candidates: configs.iter().map(candidate).collect(), named: named.clone() }
    }

    /// The backend with exactly this address or region; otherwise the one that the configuration names for the dialect; otherwise the only one that
    /// serves the dialect. A backend where Keyferry does not log in as the Pod serves no such class; it is chosen only if there is no other. If
    /// some backends of a region use this `way` to log in, one of them is chosen.
    ///
    /// If no backend has the region, there is no backend: other regions have other secrets.
    ///
    /// # Errors
    /// There is no backend, nothing says which of several, or Keyferry does not log in as the Pod to the one that is meant.
    pub(super) fn find(&self, dialect: &str, address: Option<&str>, way: Option<&str>) -> Result<Serving, Unresolved> {
        let named = self.named.get(dialect);
        let is_meant = |candidate: &&Candidate| !candidate.if_named || named == Some(&candidate.name);
        let speaks = |candidate: &&Candidate| candidate.dialects.contains(&dialect);
        let speakers: Vec<&Candidate> = self.candidates.iter().filter(speaks).filter(is_meant).collect();
        // A class without a region uses the region of the backend that the configuration names.
        let region = named.and_then(|named| speakers.iter().find(|speaker| speaker.name == *named)?.region.as_deref());
        let at_address = at_address(&speakers, address.or(region));
        if let Some(region) = address.filter(|_| at_address.is_empty() && speakers.iter().any(|speaker| speaker.region.is_some())) {
            return Err(Unresolved::Backend(no_region(dialect, region, &speakers)));
        }
        let is_narrowed = !at_address.is_empty();
        let by_address = is_narrowed && address.is_some();
        let at_hand = if is_narrowed { &at_address } else { &speakers };
        let left: Vec<&Candidate> = at_hand.iter().copied().filter(|candidate| candidate.as_pod).collect();
        if left.is_empty() && !at_hand.is_empty() {
            return Err(no_login(dialect, at_hand));
        }
        // Two regions have different secrets, so the way does not choose between regions.
        let is_one_region = left.windows(2).all(|pair| pair[0].region == pair[1].region);
        let left = if is_one_region { this_way(left, way) } else { left };
        let named = named.filter(|named| !is_narrowed || left.iter().any(|candidate| candidate.name == **named));
        let chosen = |backend: &BackendName| match speakers.iter().find(|speaker| speaker.name == *backend) {
            Some(speaker) if !speaker.as_pod => Err(no_login(dialect, &[*speaker])),
            speaker => {
                let names_audience = speaker.is_some_and(|speaker| speaker.names_audience);
                Ok(Serving { backend: backend.clone(), by_address, names_audience })
            }
        };
        match (named, left.as_slice()) {
            (Some(named), _) => chosen(named),
            (None, [only]) => chosen(&only.name),
            (None, []) => Err(Unresolved::Backend(format!(
                "no backend of this node serves classes of the dialect `{dialect}` (the cluster's admin can add one of the kind {})",
                if dialect == "aws" { "aws" } else { "vault" }
            ))),
            (None, several) => Err(Unresolved::Backend(several_could(dialect, several, by_address))),
        }
    }
}

/// Whether Keyferry logs in to it as the Pod: classes of a peer know no other way. To a failover's members it must log in so to both.
pub(crate) fn logs_in_as_pod(config: &BackendConfig) -> bool {
    stores(config).0.iter().all(|store| store.facts().audience.is_some())
}

/// The ways to log in as the Pod.
pub(crate) fn methods_as_pod(dialect: &str) -> &'static str {
    if dialect == "aws" { "irsa or podIdentity" } else { "kubernetes or jwt" }
}

/// The stores of a backend, and whether it is a failover.
fn stores(config: &BackendConfig) -> (Vec<&dyn Kind>, bool) {
    match config {
        BackendConfig::Failover(failover) => (failover.members.iter().map(|member| member.config.kind()).collect(), true),
        BackendConfig::Aws(_) | BackendConfig::File(_) | BackendConfig::Http(_) | BackendConfig::Vault(_) => (vec![config.kind()], false),
    }
}

fn at_address<'c>(speakers: &[&'c Candidate], address: Option<&str>) -> Vec<&'c Candidate> {
    let Some(address) = address else { return Vec::new() };
    let endpoint = address.parse::<Endpoint>().ok();
    let is_there = |speaker: &&&Candidate| match &speaker.region {
        Some(region) => region == address,
        None => endpoint.is_some() && speaker.address == endpoint,
    };
    speakers.iter().filter(is_there).copied().collect()
}

/// Those that log in this way, if there are any. If there are none, the others give an error message of their own.
fn this_way<'c>(candidates: Vec<&'c Candidate>, way: Option<&str>) -> Vec<&'c Candidate> {
    let fit: Vec<&Candidate> = candidates.iter().copied().filter(|candidate| candidate.way.is_some() && candidate.way == way).collect();
    if fit.is_empty() { candidates } else { fit }
}

fn no_region(dialect: &str, region: &str, speakers: &[&Candidate]) -> String {
    let there = speakers.iter().filter_map(|speaker| Some(format!("{} in {}", speaker.name, speaker.region.as_deref()?)));
    let there = there.collect::<Vec<_>>().join(", ");
    let region: String = region.chars().take(40).collect();
    format!(
        "no backend of this node serves classes of the dialect `{dialect}` in the region {region:?} (there is {there}; the cluster's admin can \
         add one of the kind {dialect} for that region)"
    )
}

fn no_login(dialect: &str, backends: &[&Candidate]) -> Unresolved {
    let names = backends.iter().map(|backend| backend.name.as_str()).collect::<Vec<_>>().join(", ");
    let methods = methods_as_pod(dialect);
    let problem = format!(
        "this class cannot be served by {names}: classes of the dialect `{dialect}` log in as the Pod, and Keyferry logs in there with a \
         credential of its own (write the class in the native format, with `provider: keyferry` and `backend`; or the cluster's admin can \
         add a backend with auth.method {methods}, and name it in dialects.{dialect}.backend)"
    );
    Unresolved::NoLogin { key: LoginKey::Role, problem }
}

fn several_could(dialect: &str, several: &[&Candidate], by_address: bool) -> String {
    let names = several.iter().map(|speaker| speaker.name.as_str()).collect::<Vec<_>>().join(", ");
    let own_remedy = match several.iter().any(|speaker| speaker.region.is_some()) {
        _ if by_address => "",
        true => "write the `region` of one of them; or ",
        false => "write the address of one of them, as it is configured; or ",
    };
    format!(
        "several backends of this node could serve this class of the dialect `{dialect}`: {names} ({own_remedy}the cluster's admin can \
         set dialects.{dialect}.backend)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, address: Option<&str>) -> Candidate {
        let dialects: &[&str] = if address.is_some() { &["openbao", "vault"] } else { &[] };
        Candidate {
            name: name.parse().unwrap(),
            address: address.map(|address| address.parse().unwrap()),
            region: None,
            way: None,
            dialects,
            if_named: name == "both",
            names_audience: name == "dr",
            as_pod: !name.starts_with("own"),
        }
    }

    /// The backend, with a `!` if the address chose it.
    fn found(candidates: &[Candidate], named: Option<&str>, address: Option<&str>) -> String {
        let named = named.map(|named| ("vault".to_owned(), named.parse().unwrap())).into_iter().collect();
        match (ServedDialects { candidates: candidates.to_vec(), named }).find("vault", address, None) {
            Ok(Serving { backend, by_address, names_audience }) => {
                assert_eq!(names_audience, backend.as_str() == "dr");
                format!("{backend}{}", if by_address { "!" } else { "" })
            }
            Err(problem) => problem.to_string(),
        }
    }

    #[test]
    fn the_address_comes_before_the_name_and_the_name_before_the_only_one() {
        let bao = candidate("bao", Some("https://bao:8200"));
        let dr = candidate("dr", Some("https://dr:8200"));
        let files = candidate("files", None);
        let both = [bao.clone(), dr, files.clone()];
        assert_eq!(found(&both, None, Some("HTTPS://DR:8200/")), "dr!");
        assert_eq!(found(&both, Some("bao"), Some("https://dr:8200")), "dr!");
        assert_eq!(found(&both, Some("bao"), Some("https://elsewhere:8200")), "bao");
        assert_eq!(found(&both, Some("dr"), None), "dr");
        assert_eq!(found(&[bao.clone(), files.clone()], None, None), "bao");
        assert_eq!(found(&[bao.clone(), files.clone()], None, Some("https://elsewhere")), "bao");
        let twice = [bao, candidate("tenants", Some("https://bao:8200")), candidate("x", Some("https://x"))];
        assert_eq!(found(&twice, Some("tenants"), Some("https://bao:8200")), "tenants!");
        let problems = [
            found(&both, None, None),
            found(&both, None, Some("https://elsewhere")),
            found(&twice, Some("x"), Some("https://bao:8200")),
            found(&[files], None, None),
        ];
        insta::assert_snapshot!(problems.join("\n"), @"
        several backends of this node could serve this class of the dialect `vault`: bao, dr (write the address of one of them, as it is configured; or the cluster's admin can set dialects.vault.backend)
        several backends of this node could serve this class of the dialect `vault`: bao, dr (write the address of one of them, as it is configured; or the cluster's admin can set dialects.vault.backend)
        several backends of this node could serve this class of the dialect `vault`: bao, tenants (the cluster's admin can set dialects.vault.backend)
        no backend of this node serves classes of the dialect `vault` (the cluster's admin can add one of the kind vault)
        ");
    }

    #[test]
    fn what_is_not_logged_in_to_as_the_pod_serves_no_class_of_a_peer() {
        let bao = candidate("bao", Some("https://bao:8200"));
        let [own, other] = ["own", "own2"].map(|name| candidate(name, Some("https://bao:8200")));
        let far = candidate("own-far", Some("https://far:8200"));
        assert_eq!(found(&[own.clone(), bao.clone()], None, None), "bao");
        assert_eq!(found(&[own.clone(), bao.clone()], None, Some("https://bao:8200")), "bao!");
        let problems = [
            found(std::slice::from_ref(&own), None, None),
            found(&[own.clone(), bao.clone()], Some("own"), None),
            found(&[bao, far], None, Some("https://far:8200")),
            found(&[own, other], None, None),
        ];
        insta::assert_snapshot!(problems.join("\n"), @"
        this class cannot be served by own: classes of the dialect `vault` log in as the Pod, and Keyferry logs in there with a credential of its own (write the class in the native format, with `provider: keyferry` and `backend`; or the cluster's admin can add a backend with auth.method kubernetes or jwt, and name it in dialects.vault.backend)
        this class cannot be served by own: classes of the dialect `vault` log in as the Pod, and Keyferry logs in there with a credential of its own (write the class in the native format, with `provider: keyferry` and `backend`; or the cluster's admin can add a backend with auth.method kubernetes or jwt, and name it in dialects.vault.backend)
        this class cannot be served by own-far: classes of the dialect `vault` log in as the Pod, and Keyferry logs in there with a credential of its own (write the class in the native format, with `provider: keyferry` and `backend`; or the cluster's admin can add a backend with auth.method kubernetes or jwt, and name it in dialects.vault.backend)
        this class cannot be served by own, own2: classes of the dialect `vault` log in as the Pod, and Keyferry logs in there with a credential of its own (write the class in the native format, with `provider: keyferry` and `backend`; or the cluster's admin can add a backend with auth.method kubernetes or jwt, and name it in dialects.vault.backend)
        ");
    }

    #[test]
    fn a_region_chooses_its_backend_and_no_other_stands_in_for_it() {
        let aws = |name: &str, region: &str| Candidate {
            region: Some(region.to_owned()),
            dialects: &["aws"],
            ..candidate(name, Some("https://secretsmanager.eu-west-1.amazonaws.com"))
        };
        let found = |candidates: &[Candidate], region| {
            let served = ServedDialects { candidates: candidates.to_vec(), named: BTreeMap::new() };
            served.find("aws", region, None).map_or_else(|problem| problem.to_string(), |serving| serving.backend.to_string())
        };
        let both = [aws("ireland", "eu-west-1"), aws("ohio", "us-east-2")];
        assert_eq!(found(&both, Some("us-east-2")), "ohio");
        assert_eq!(found(&both[..1], None), "ireland");
        let problems = [
            found(&both, Some("eu-central-1")),
            found(&both[..1], Some("https://secretsmanager.eu-west-1.amazonaws.com")),
            found(&both, None),
            found(&[candidate("bao", Some("https://bao:8200"))], Some("eu-west-1")),
            found(&[Candidate { as_pod: false, ..aws("own", "eu-west-1") }], Some("eu-west-1")),
        ];
        insta::assert_snapshot!(problems.join("\n"), @r#"
        no backend of this node serves classes of the dialect `aws` in the region "eu-central-1" (there is ireland in eu-west-1, ohio in us-east-2; the cluster's admin can add one of the kind aws for that region)
        no backend of this node serves classes of the dialect `aws` in the region "https://secretsmanager.eu-west-1.amazona" (there is ireland in eu-west-1; the cluster's admin can add one of the kind aws for that region)
        several backends of this node could serve this class of the dialect `aws`: ireland, ohio (write the `region` of one of them; or the cluster's admin can set dialects.aws.backend)
        no backend of this node serves classes of the dialect `aws` (the cluster's admin can add one of the kind aws)
        this class cannot be served by own: classes of the dialect `aws` log in as the Pod, and Keyferry logs in there with a credential of its own (write the class in the native format, with `provider: keyferry` and `backend`; or the cluster's admin can add a backend with auth.method irsa or podIdentity, and name it in dialects.aws.backend)
        "#);
    }

    #[test]
    fn of_several_in_a_region_the_way_to_log_in_decides() {
        let aws = |name: &str, region: &str, way| Candidate {
            region: Some(region.to_owned()),
            way: Some(way),
            dialects: &["aws"],
            ..candidate(name, Some("https://secretsmanager.eu-west-1.amazonaws.com"))
        };
        let all = [aws("roles", "eu-west-1", "irsa"), aws("pods", "eu-west-1", "podIdentity"), aws("ohio", "us-east-2", "irsa")];
        let found = |candidates: &[Candidate], named: Option<&str>, region, way| {
            let named = named.map(|named| ("aws".to_owned(), named.parse().unwrap())).into_iter().collect();
            let served = ServedDialects { candidates: candidates.to_vec(), named };
            served.find("aws", region, Some(way)).map_or_else(|problem| problem.to_string(), |serving| serving.backend.to_string())
        };
        assert_eq!(found(&all, None, Some("eu-west-1"), "irsa"), "roles");
        assert_eq!(found(&all, None, Some("eu-west-1"), "podIdentity"), "pods");
        assert_eq!(found(&all, Some("roles"), Some("eu-west-1"), "podIdentity"), "pods");
        assert_eq!(found(&all, Some("roles"), None, "podIdentity"), "pods", "the region of the named one");
        assert_eq!(found(&all, Some("pods"), None, "irsa"), "roles");
        assert_eq!(found(&all, None, Some("us-east-2"), "podIdentity"), "ohio", "its own message says that it does not");
        assert_eq!(found(&all[1..2], None, None, "irsa"), "pods", "a class that says nothing is content with it");
        assert!(found(&all[1..], None, None, "irsa").contains("write the `region` of one of them"), "two regions have different secrets");
        let twice = [all[0].clone(), aws("roles2", "eu-west-1", "irsa"), all[1].clone()];
        assert_eq!(found(&twice, Some("roles2"), Some("eu-west-1"), "irsa"), "roles2");
        assert!(found(&twice, None, Some("eu-west-1"), "irsa").contains("several backends of this node could serve this class"));
    }

    /// For the dialects that name it, a failover has the address of its first member.
    #[test]
    fn a_failover_serves_the_dialects_that_name_it_and_no_others() {
        let [bao, far, both] = [("bao", "https://bao:8200"), ("far", "https://far:8200"), ("both", "https://bao:8200")]
            .map(|(name, address)| candidate(name, Some(address)));
        let all = [bao.clone(), far, both.clone()];
        assert_eq!(found(&all, Some("both"), None), "both");
        assert_eq!(found(&all, Some("both"), Some("https://bao:8200")), "both!");
        assert_eq!(found(&all, Some("both"), Some("https://far:8200")), "far!", "the second member by its own address");
        assert_eq!(found(&all, Some("bao"), Some("https://bao:8200")), "bao!");
        assert_eq!(found(&all, None, Some("https://bao:8200")), "bao!");
        assert_eq!(found(&[bao, both], None, None), "bao");
    }
}
