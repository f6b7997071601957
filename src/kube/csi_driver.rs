//! The `CSIDriver` object (storage.k8s.io/v1) of the Secrets Store CSI driver: which tokens kubelet gets for it, and when kubelet calls it.

use http::{Method, StatusCode};
use serde::Deserialize;

use super::{KubeClient, KubeError};
use crate::model::CSI_DRIVER;

/// What the daemon needs after a 403.
const RIGHT: &str = "the daemon's ServiceAccount needs a ClusterRole with the verb `get` on csidrivers of storage.k8s.io, and a \
                     ClusterRoleBinding to it";

/// What the doctor needs from it (CSIDriverSpec).
#[derive(Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct CsiDriver {
    pub pod_info_on_mount: bool,
    pub requires_republish: bool,
    pub token_requests: Vec<TokenRequest>,
}

#[derive(Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct TokenRequest {
    /// Empty: the API server's own audience.
    pub audience: String,
}

impl KubeClient {
    /// Reads it; `None`: there is none.
    ///
    /// # Errors
    /// The API server could not be asked, does not let us read it, or gave another answer.
    pub async fn csi_driver(&self) -> Result<Option<CsiDriver>, KubeError> {
        #[derive(Deserialize)]
        struct Answer {
            spec: CsiDriver,
        }
        let path = format!("/apis/storage.k8s.io/v1/csidrivers/{CSI_DRIVER}");
        let fault = |(problem, remedy)| KubeError { call: self.name_of(&Method::GET, &path), problem, remedy };
        let answer = self.exchange(Method::GET, &path, bytes::Bytes::new()).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = self.body(answer, RIGHT).map_err(fault)?;
        let unreadable = |_| {
            ("it answered with something other than a CSIDriver".to_owned(), "check that the address is that of an API server".to_owned())
        };
        serde_json::from_slice::<Answer>(body.expose()).map(|answer| Some(answer.spec)).map_err(|error| fault(unreadable(error)))
    }
}
