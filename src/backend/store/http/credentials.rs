//! The part of a request that says who asks. It is gathered for each request, so that a new token, password or header in its file is used
//! at once.

use std::fmt;
use std::sync::Arc;

use data_encoding::BASE64;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::config::{Asking, Auth, Header, HttpBackendConfig};
use crate::backend::remote::refusal::{Needles, Refusal};
use crate::backend::remote::{credential, echo};
use crate::backend::{Fault, FetchContext};
use crate::files::Desk;
use crate::model::{PodIdentity, PodTokens, Secret, SecretBytes, clean};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The headers of one request, and what messages must not repeat of them.
pub(super) struct Credentials {
    pub(super) headers: HeaderMap,
    pub(super) needles: Needles,
    /// The secrets that protect the store: an answer with one of them in it is not delivered.
    secrets: Vec<Arc<SecretBytes>>,
}

impl Credentials {
    /// # Errors
    /// A file cannot be read or does not fit a header, or the Pod's token has not come.
    pub(super) async fn gather(desk: &Desk, config: &HttpBackendConfig, cx: &FetchContext) -> Result<Self, Refusal> {
        let mut credentials = Self { headers: HeaderMap::new(), needles: Needles::default(), secrets: Vec::new() };
        credentials.add_usual(config);
        for (name, header) in &config.headers {
            match header {
                Header::File(path) => {
                    let value = Arc::new(credential::read(desk, path, cx.deadline).await?);
                    credentials.add_secret(name, "", value, &path.display().to_string())?;
                }
                Header::Text(value) => credentials.add_text(name, value),
            }
        }
        match &config.auth {
            Auth::None => {}
            Auth::Basic { user, password } => {
                let whence = password.display().to_string();
                credentials.add_basic(user, Arc::new(credential::read_line(desk, password, cx.deadline).await?), &whence)?;
            }
            Auth::BearerFile(path) => {
                let token = Arc::new(credential::read(desk, path, cx.deadline).await?);
                credentials.add_secret(&AUTHORIZATION, "Bearer ", token, &path.display().to_string())?;
            }
            Auth::BearerPod(audience) => {
                let token = cx.tokens.find(audience).ok_or_else(|| no_token(audience, &cx.tokens))?;
                credentials.add_secret(&AUTHORIZATION, "Bearer ", Arc::clone(&token.jwt), "the Pod's token")?;
            }
        }
        Ok(credentials)
    }

    /// Whether all files are there that the daemon's own login needs.
    ///
    /// # Errors
    /// As [`Credentials::gather`].
    pub(super) async fn check(desk: &Desk, config: &HttpBackendConfig, deadline: Instant) -> Result<(), Refusal> {
        for (_, header) in &config.headers {
            if let Header::File(path) = header {
                check_signs(&credential::read(desk, path, deadline).await?, path.display())?;
            }
        }
        match &config.auth {
            Auth::Basic { password, .. } => check_signs(&credential::read_line(desk, password, deadline).await?, password.display()),
            Auth::BearerFile(path) => check_signs(&credential::read(desk, path, deadline).await?, path.display()),
            Auth::BearerPod(_) | Auth::None => Ok(()),
        }
    }

    /// Usual headers, which the headers of the configuration may replace.
    fn add_usual(&mut self, config: &HttpBackendConfig) {
        if config.format.is_json() {
            self.headers.insert(ACCEPT, JSON);
        }
        if matches!(config.asking, Asking::Post(Some(_))) {
            self.headers.insert(CONTENT_TYPE, JSON);
        }
    }

    /// Not a secret, but messages do not show it either. `Accept` and `Content-Type` only say how an answer is written.
    fn add_text(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.headers.insert(name, value.clone());
        if *name != ACCEPT && *name != CONTENT_TYPE {
            self.needles.add_secret(&SecretBytes::new(value.as_bytes().to_vec()));
        }
    }

    fn add_secret(&mut self, name: &HeaderName, before: &str, secret: Arc<SecretBytes>, whence: &str) -> Result<(), Refusal> {
        check_signs(&secret, whence)?;
        let bytes = Zeroizing::new([before.as_bytes(), secret.expose()].concat());
        let mut value = HeaderValue::from_bytes(&bytes).map_err(|_| unfit(whence))?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        self.needles.add_secret(&secret);
        self.secrets.push(secret);
        Ok(())
    }

    /// RFC 7617, section 2: neither part may have a control character. The configuration has checked the user's name.
    fn add_basic(&mut self, user: &str, password: Arc<SecretBytes>, whence: &str) -> Result<(), Refusal> {
        check_signs(&password, whence)?;
        let pair = Zeroizing::new([user.as_bytes(), b":", password.expose()].concat());
        let encoded = SecretBytes::new(BASE64.encode(&pair).into_bytes());
        self.needles.add_secret(&password);
        self.secrets.push(password);
        self.add_secret(&AUTHORIZATION, "Basic ", Arc::new(encoded), whence)
    }

    /// # Errors
    /// The delivered fields or version would hold a credential of the request.
    pub(super) fn check_answer(&self, read: &Secret) -> Result<(), Refusal> {
        if self.secrets.iter().any(|secret| echo::is_delivered(read, secret)) {
            let reason = "the answer holds the credential that Keyferry sent with the request, and is not delivered (remove the object from the \
                          class, or correct the store)";
            return Err(Refusal::new(Fault::Denied, reason));
        }
        Ok(())
    }
}

/// A header can carry a tab, and basic authentication can carry anything. But a credential has no control characters: with them it is
/// another kind of file, or has several lines.
fn check_signs(secret: &SecretBytes, whence: impl fmt::Display) -> Result<(), Refusal> {
    if secret.expose().iter().any(u8::is_ascii_control) { Err(unfit(whence)) } else { Ok(()) }
}

fn unfit(whence: impl fmt::Display) -> Refusal {
    let reason =
        format!("{whence}: holds a control character, such as a tab or a line's end within it (it must be one line, without tabs)");
    Refusal::new(Fault::Unauthenticated, reason)
}

/// Who asks, as messages name it: as in "may ... read it".
pub(super) fn whom(config: &HttpBackendConfig, pod: &PodIdentity) -> String {
    match &config.auth {
        Auth::Basic { user, .. } => format!("user {}", clean(user)),
        Auth::BearerFile(path) => format!("the token in {}", path.display()),
        Auth::BearerPod(audience) => {
            format!("the token of ServiceAccount {}/{} for {}", clean(&pod.namespace), clean(&pod.service_account), clean(audience))
        }
        Auth::None => match (config.headers.iter().find(|(_, header)| matches!(header, Header::File(_))), &config.tls.client) {
            (Some((name, _)), _) => format!("the header {name}"),
            (None, Some(_)) => "the client certificate".to_owned(),
            (None, None) => "a request without a login".to_owned(),
        },
    }
}

fn no_token(audience: &str, tokens: &PodTokens) -> Refusal {
    let audience = clean(audience);
    let sent: Vec<String> = tokens.audiences().map(|audience| format!("{audience:?}")).collect();
    let sent =
        if sent.is_empty() { "no verified token of it came".to_owned() } else { format!("verified tokens came for {}", sent.join(", ")) };
    let reason = format!(
        "the store needs the Pod's token for the audience {audience:?}, and {sent} (add audience: {audience} to tokenRequests of the \
         CSIDriver object secrets-store.csi.k8s.io; identity.verify must be jwks or token-review)"
    );
    Refusal::new(Fault::Unauthenticated, reason)
}
