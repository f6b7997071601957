//! gRPC on Unix sockets.

pub mod authority;
pub mod proto;
