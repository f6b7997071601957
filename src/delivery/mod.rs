//! Delivery: how the rendered files reach the Pod.

pub mod volume;
