//! A mount's failure as a gRPC status: only this code knows both.
//!
//! Keyferry never answers UNAVAILABLE, ABORTED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED or CANCELLED: kubelet takes them for "still going
//! on", and on its next try the driver may report success for an empty folder (`docs/errors.md`: The trap).

use tonic::{Code as Grpc, Status};

use crate::model::Code;
use crate::pipeline::MountError;

impl From<MountError> for Status {
    fn from(error: MountError) -> Self {
        Self::new(grpc_code(error.code()), error.to_string())
    }
}

/// The codes that kubelet takes for "still going on".
pub const TRAP: [Grpc; 5] = [Grpc::Aborted, Grpc::Cancelled, Grpc::DeadlineExceeded, Grpc::ResourceExhausted, Grpc::Unavailable];

/// The gRPC code for each of our codes.
pub fn grpc_code(code: Code) -> Grpc {
    match code {
        Code::AuditUnavailable
        | Code::BackendLoginFailed
        | Code::BackendTimeout
        | Code::BackendUnavailable
        | Code::Overloaded
        | Code::TooLarge => Grpc::FailedPrecondition,
        Code::BackendDenied | Code::PolicyDenied => Grpc::PermissionDenied,
        Code::IdentityUnverified => Grpc::Unauthenticated,
        Code::Internal => Grpc::Internal,
        Code::InvalidRequest => Grpc::InvalidArgument,
        Code::SecretCorrupt => Grpc::DataLoss,
        Code::SecretNotFound => Grpc::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_makes_kubelet_keep_the_folder() {
        for code in Code::ALL {
            assert!(!TRAP.contains(&grpc_code(code)), "{code}");
            assert_ne!(grpc_code(code), Grpc::Ok);
        }
    }
}
