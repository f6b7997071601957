//! gRPC on Unix sockets.

pub mod proto;
