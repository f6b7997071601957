//! What Keyferry knows about a configured region of AWS before the first call.

use std::sync::Arc;

use async_trait::async_trait;

use super::config::{Auth, AwsConfig, KeyFiles, Share};
use super::endpoint::Service;
use super::name::{self, Named};
use super::pin::{self, Pin};
use super::{AwsBackend, role, secretsmanager};
use crate::backend::{Backend, BackendError, Facts, HangsOn, Inadmissible, Kind, StoreLimits, Visitor, check_read};
use crate::clock::Clock;
use crate::model::{BackendName, Diagnosis, InvalidName, Login, LoginKey, Method, RefParts, SecretName, Version, quoted};
use crate::policy::Bounds;

#[async_trait]
impl Kind for AwsConfig {
    fn facts(&self) -> Facts<'_> {
        Facts {
            dialects: &["aws"],
            address: Some(self.endpoint(Service::SecretsManager)),
            audience: self.audience(),
            batch: secretsmanager::BATCH,
            bounds: Bounds { class_may: Some(self.class_may.clone()), ..Bounds::default() },
            cache: Some(self.cache),
            ending: name::ENDING,
            files: self.files(),
            firsts: &["secretsmanager", "ssm"],
            region: Some(self.region.as_str()),
            way: Some(self.auth.method()),
            // A network may have a way to only one of them.
            servers: &["secretsmanager", "ssm"],
            ..Facts::default()
        }
    }

    fn hangs_on(&self) -> HangsOn {
        let services = [Service::SecretsManager, Service::Parameters, Service::Tokens];
        let mut on = HangsOn::default().and("kind", "aws").and("region", &self.region).and_some("account", self.account.as_ref());
        for service in services {
            on = on.and(service.as_str(), self.endpoint(service));
        }
        on = on.and("method", self.auth.method()).and_some("ca", self.ca.as_ref().map(|path| path.display().to_string()));
        on = match &self.auth {
            Auth::Irsa { audience, role, share } => {
                on.and("audience", audience).and_some("role", role.as_ref()).and_some("share", shared(*share))
            }
            Auth::PodIdentity { audience, address, share } => {
                on.and("audience", audience).and_some("address", address.as_ref()).and_some("share", shared(*share))
            }
            Auth::Instance { address } => on.and_some("address", address.as_ref()),
            Auth::Keys(KeyFiles::Apart { id, secret, token }) => on
                .and("accessKeyIdFile", id.display())
                .and("secretAccessKeyFile", secret.display())
                .and_some("sessionTokenFile", token.as_ref().map(|token| token.display())),
            Auth::Keys(KeyFiles::Profile { file, profile }) => on.and("credentialsFile", file.display()).and("profile", profile),
        };
        for assume in &self.assume {
            on = on.and("assumeRole", &assume.role).and_some("externalId", assume.external_id.as_ref());
        }
        on
    }

    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName> {
        name::canonical(self, name)
    }

    /// Which versions are valid depends on the service: [`Kind::admit`] checks that.
    fn pin(&self, version: &str) -> Result<Version, String> {
        pin::check(version)?;
        Ok(Version::new(version))
    }

    fn admit(&self, mut asked: RefParts) -> Result<RefParts, Inadmissible> {
        check_request(&asked)?;
        if let Some(version) = &asked.version
            && let Some(named) = Named::of(&asked.name)
        {
            let pinned = Pin::of(named.service, version.as_str());
            pinned.map_err(|problem| Inadmissible::Request { key: "version", problem })?;
        }
        let login = std::mem::take(&mut asked.login);
        asked.login = self.admitted(&login)?;
        Ok(asked)
    }

    fn own_login(&self, login: &Login) -> Login {
        self.admitted(login).unwrap_or_else(|_| login.clone())
    }

    fn open(&self, name: &BackendName, limits: StoreLimits, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Backend>, BackendError> {
        Ok(Arc::new(AwsBackend::open(name.clone(), self, limits, Arc::clone(clock))?))
    }

    async fn examine(
        &self,
        name: &BackendName,
        limits: StoreLimits,
        clock: &Arc<dyn Clock>,
        visitor: Option<Visitor>,
    ) -> Result<Vec<Diagnosis>, BackendError> {
        let backend = AwsBackend::open(name.clone(), self, limits, Arc::clone(clock))?;
        Ok(backend.examine(visitor).await)
    }
}

// === impl AwsConfig ===

impl AwsConfig {
    /// What a class says about the login, without what the configuration says as well.
    fn admitted(&self, login: &Login) -> Result<Login, Inadmissible> {
        let mut own = Login::default();
        for (key, value) in login.said() {
            match key {
                LoginKey::Role => own.role = self.role(value)?,
                LoginKey::Mount => self.check_mount(value)?,
                LoginKey::Address if value == self.region.as_str() => {}
                LoginKey::Audience if self.audience().is_some_and(|audience| audience.text == value) => {}
                LoginKey::Address | LoginKey::Audience | LoginKey::Namespace | LoginKey::Tls | LoginKey::TlsDir => {
                    let problem = "means nothing to AWS: a class can choose only the role of a login (remove it)";
                    return Err(refused(key, problem));
                }
            }
        }
        Ok(own)
    }

    /// AWS gives a role only if the role trusts the Pod's own token. For every other login, Keyferry's configuration or EKS chooses the
    /// role.
    fn role(&self, role: &str) -> Result<Option<String>, Inadmissible> {
        let Auth::Irsa { role: own, .. } = &self.auth else {
            let method = self.auth.method();
            let problem = format!("cannot be chosen by a class, because this backend has auth.method {method} (remove it)");
            return Err(refused(LoginKey::Role, problem));
        };
        if !self.assume.is_empty() {
            return Err(refused(LoginKey::Role, "cannot be chosen by a class, because this backend has auth.assumeRole (remove it)"));
        }
        let checked = role::check(role).and_then(|()| self.region.check_arn(role));
        checked.map_err(|problem| refused(LoginKey::Role, format!("{} {problem}", quoted(role))))?;
        let is_own = own.as_ref().is_some_and(|own| own.is_fixed() && own.as_str() == role);
        Ok((!is_own).then(|| role.to_owned()))
    }

    /// Checks the way to log in, which classes of other providers name.
    fn check_mount(&self, way: &str) -> Result<(), Inadmissible> {
        let own = self.auth.method();
        if way == own {
            return Ok(());
        }
        let problem = format!(
            "means login by {}, and the backend that serves this class logs in by {own} (change that in the class; or the cluster's admin \
             can add a backend of this region with the other auth.method)",
            quoted(way)
        );
        Err(refused(LoginKey::Mount, problem))
    }
}

fn shared(share: Share) -> Option<&'static str> {
    match share {
        Share::Pod => Some("pod"),
        Share::ServiceAccount => None,
    }
}

fn refused(key: LoginKey, problem: impl Into<String>) -> Inadmissible {
    Inadmissible::Login { key, problem: problem.into() }
}

fn check_request(asked: &RefParts) -> Result<(), Inadmissible> {
    let is_folder = asked.name.is_folder();
    check_read(asked, if is_folder { Method::List } else { Method::Get }, "AWS")?;
    if is_folder && asked.version.is_some() {
        return Err(Inadmissible::Request {
            key: "version",
            problem: "works only with one secret, not with `prefix` (remove it)".to_owned(),
        });
    }
    Ok(())
}
