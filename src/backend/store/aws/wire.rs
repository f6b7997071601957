//! The calls of Secrets Manager and Parameter Store: in JSON, only so many at once. The one who asks pays for the call.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::config::AwsConfig;
use super::credentials::Credentials;
use super::endpoint::Service;
use super::error::request_id;
use super::line::{Ask, Line};
use crate::backend::Fault;
use crate::backend::remote::refusal::Refusal;
use crate::budget::{Payer, Spent};
use crate::clock::Clock;
use crate::http::TRIES;
use crate::model::{SecretBytes, Tenant};
use crate::turns::Turns;

const JSON: &str = "application/x-amz-json-1.1";

/// The largest answers in bytes: 20 secrets of 64 KiB, which JSON makes up to six times as long; and 10 parameters of 8 KiB.
const MAX_SECRETS: usize = 8 * 1024 * 1024;
const MAX_PARAMETERS: usize = 1024 * 1024;

/// The clients of both services.
#[derive(Debug)]
pub(super) struct Wire {
    secrets: Line,
    parameters: Line,
    /// How many calls run at once. The secrets that wait above are counted apart: one call may have many.
    calls: Turns,
    /// Whether messages may show AWS's words.
    pub(super) words: bool,
}

/// What is asked, with which login, and who pays.
pub(super) struct Call<'c> {
    pub(super) service: Service,
    pub(super) operation: &'static str,
    /// JSON; it holds names, not secrets.
    pub(super) body: String,
    pub(super) credentials: &'c Credentials,
    pub(super) tenant: &'c Tenant,
    pub(super) payer: Option<Payer>,
    pub(super) deadline: Instant,
}

/// An answer of success.
pub(super) struct Reply {
    pub(super) body: SecretBytes,
    pub(super) request: Option<String>,
    /// The memory that the answer takes, and what is made of it.
    _cost: Option<Arc<Spent>>,
}

// === impl Wire ===

impl Wire {
    /// Nothing is connected before the first call.
    ///
    /// # Errors
    /// The CA cannot be used.
    pub(super) fn open(config: &AwsConfig, calls: usize, clock: &Arc<dyn Clock>) -> Result<Self, Refusal> {
        let line = |service, max_body| {
            let line = Line::open(config, service, max_body, clock);
            line.map_err(|error| Refusal::unanswered(config.endpoint(service), &error, ""))
        };
        Ok(Self {
            secrets: line(Service::SecretsManager, MAX_SECRETS)?,
            parameters: line(Service::Parameters, MAX_PARAMETERS)?,
            calls: Turns::with_firsts(calls),
            words: config.store_words,
        })
    }

    fn line(&self, service: Service) -> &Line {
        if service == Service::Parameters { &self.parameters } else { &self.secrets }
    }

    /// # Errors
    /// There was no turn before the deadline, there was no answer, or AWS answered with an error.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Reply, Refusal> {
        let Some(_turn) = self.calls.take(call.tenant, call.deadline).await else {
            let reason = "the request waited for other calls to AWS until its time was up (the store is slow, or many Pods ask; kubelet tries \
                 again by itself)";
            return Err(Refusal::new(Fault::NoTurn, reason));
        };
        let space = if call.service == Service::Parameters { "AmazonSSM" } else { "secretsmanager" };
        let ask = Ask {
            operation: call.operation,
            kind: JSON,
            target: Some(format!("{space}.{}", call.operation)),
            body: Bytes::from(call.body),
            credentials: Some(call.credentials),
            hidden: None,
            payer: call.payer,
            // The rate for batches is a hundredth of the rate for single calls: so the next try is single calls.
            tries: if call.operation == "BatchGetSecretValue" { 1 } else { TRIES },
        };
        let (head, body) = self.line(call.service).ask(&ask, call.deadline).await?.into_parts();
        Ok(Reply { body, request: request_id(&head.headers), _cost: head.extensions.get().cloned() })
    }

    #[cfg(test)]
    pub(super) fn skew(&self, service: Service) -> i64 {
        self.line(service).ahead()
    }

    /// As [`Line::reach`].
    ///
    /// # Errors
    /// The errors of [`Line::reach`].
    pub(super) async fn reach(&self, service: Service, deadline: Instant) -> Result<Option<i64>, Refusal> {
        self.line(service).reach(JSON, b"{}", deadline).await
    }
}
