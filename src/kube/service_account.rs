//! The parts of a ServiceAccount (v1) that stores need: its uid and its annotations.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde::Deserialize;
use thiserror::Error;

use super::{KubeClient, KubeError};
use crate::http::escape_element;

/// What the daemon needs after a 403.
const RIGHT: &str = "the daemon's ServiceAccount needs a ClusterRole with the verb `get` on serviceaccounts, and a ClusterRoleBinding to it: \
                     components/service-account-annotations has both";

#[derive(Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct ServiceAccount {
    pub uid: String,
    pub annotations: BTreeMap<String, String>,
}

/// Why a ServiceAccount was not read.
#[derive(Debug, Error)]
pub enum ServiceAccountError {
    /// No connection, no answer in time, or an API server that fails or is overloaded: another try may succeed.
    #[error(transparent)]
    Passing(KubeError),
    #[error(transparent)]
    Wrong(KubeError),
}

impl KubeClient {
    /// Reads it; `None`: there is none.
    ///
    /// # Errors
    /// The API server could not be asked, does not let us read it, or gave another answer.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<Option<ServiceAccount>, ServiceAccountError> {
        #[derive(Deserialize)]
        struct Answer {
            kind: String,
            metadata: ServiceAccount,
        }
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}", escape_element(namespace), escape_element(name));
        let fault = |(problem, remedy)| KubeError { call: self.name_of(&Method::GET, &path), problem, remedy };
        let answer = self.exchange(Method::GET, &path, bytes::Bytes::new()).await.map_err(ServiceAccountError::Passing)?;
        let status = answer.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let passes = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        let why = if passes { ServiceAccountError::Passing } else { ServiceAccountError::Wrong };
        let body = self.body(answer, RIGHT).map_err(|problem| why(fault(problem)))?;
        match serde_json::from_slice::<Answer>(body.expose()) {
            Ok(answer) if answer.kind == "ServiceAccount" => Ok(Some(answer.metadata)),
            Ok(_) | Err(_) => {
                let problem = "the answer is not a ServiceAccount".to_owned();
                Err(ServiceAccountError::Wrong(fault((problem, "check that the address is that of an API server".to_owned()))))
            }
        }
    }
}
