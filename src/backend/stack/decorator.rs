//! A decorator is a Backend around another Backend, and implements only what it does differently. Everything else goes to the inner one, and this
//! is written only here.

use std::fmt::Debug;

use async_trait::async_trait;
use tokio::time::{Duration, Instant};

use crate::backend::{Backend, BackendError, FetchContext, Scope};
use crate::files::Located;
use crate::model::{Fetched, Lease, PodIdentity, SecretName, SecretPrefix, SecretRef};

/// The methods mean the same as those of [`Backend`]. It is named by its path where it is implemented, so that a call means [`Backend`].
#[async_trait]
pub trait Decorator: Debug + Send + Sync {
    fn inner(&self) -> &dyn Backend;

    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError>;

    /// This does not call the inner one: a decorator may have to act on each answer.
    fn recall(&self, _secret: &SecretRef, _cx: &FetchContext, _now: Instant) -> Option<Fetched> {
        None
    }

    fn is_out(&self, secret: &SecretRef, cx: &FetchContext) -> bool {
        self.inner().is_out(secret, cx)
    }

    async fn stale_age(&self, secret: &SecretRef, cx: &FetchContext) -> Option<Duration> {
        self.inner().stale_age(secret, cx).await
    }

    fn keeps(&self, secret: &SecretRef, cx: &FetchContext) -> bool {
        self.inner().keeps(secret, cx)
    }

    async fn stale(&self, secret: &SecretRef, cx: &FetchContext, cause: &str) -> Option<Fetched> {
        self.inner().stale(secret, cx, cause).await
    }

    async fn list(&self, prefix: &SecretPrefix, cx: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        self.inner().list(prefix, cx).await
    }

    async fn renew(&self, lease: Lease, deadline: Instant) -> Result<Lease, BackendError> {
        self.inner().renew(lease, deadline).await
    }

    async fn revoke(&self, lease: Lease, deadline: Instant) -> Result<(), BackendError> {
        self.inner().revoke(lease, deadline).await
    }

    async fn forget(&self, pod: &str, deadline: Instant) {
        self.inner().forget(pod, deadline).await;
    }
}

#[async_trait]
impl<D: Decorator> Backend for D {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        Decorator::fetch(self, secret, cx).await
    }

    fn recall(&self, secret: &SecretRef, cx: &FetchContext, now: Instant) -> Option<Fetched> {
        Decorator::recall(self, secret, cx, now)
    }

    fn is_out(&self, secret: &SecretRef, cx: &FetchContext) -> bool {
        Decorator::is_out(self, secret, cx)
    }

    async fn stale_age(&self, secret: &SecretRef, cx: &FetchContext) -> Option<Duration> {
        Decorator::stale_age(self, secret, cx).await
    }

    fn keeps(&self, secret: &SecretRef, cx: &FetchContext) -> bool {
        Decorator::keeps(self, secret, cx)
    }

    async fn stale(&self, secret: &SecretRef, cx: &FetchContext, cause: &str) -> Option<Fetched> {
        Decorator::stale(self, secret, cx, cause).await
    }

    async fn list(&self, prefix: &SecretPrefix, cx: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        Decorator::list(self, prefix, cx).await
    }

    async fn renew(&self, lease: Lease, deadline: Instant) -> Result<Lease, BackendError> {
        Decorator::renew(self, lease, deadline).await
    }

    async fn revoke(&self, lease: Lease, deadline: Instant) -> Result<(), BackendError> {
        Decorator::revoke(self, lease, deadline).await
    }

    fn adopt(&self, lease: &Lease) {
        self.inner().adopt(lease);
    }

    async fn forget(&self, pod: &str, deadline: Instant) {
        Decorator::forget(self, pod, deadline).await;
    }

    async fn check(&self) -> Result<(), BackendError> {
        self.inner().check().await
    }

    async fn probe(&self, server: &str) -> Result<(), BackendError> {
        self.inner().probe(server).await
    }

    fn file(&self, secret: &SecretRef) -> Option<Located> {
        self.inner().file(secret)
    }

    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope {
        self.inner().scope(secret, pod)
    }
}
