//! The metrics endpoint: whether Prometheus can reach it as the manifests promise.

use std::net::SocketAddr;

use crate::model::Diagnosis;

/// Set by the component `metrics` of the manifests: the port that it opens.
pub const PORT: &str = "KEYFERRY_METRICS_PORT";

const WHAT: &str = "metrics";

/// Compares `metrics.listen` with the port that the manifests open. `None`: they open none.
pub fn examine(listen: Option<SocketAddr>, port: Option<&str>) -> Vec<Diagnosis> {
    let Some(port) = port.filter(|port| !port.is_empty()) else {
        return match listen {
            // Without the component, Keyferry does not know who should reach the endpoint.
            Some(at) if !at.ip().is_loopback() => vec![Diagnosis::ok(WHAT, format!("served at {at}"))],
            Some(_) | None => Vec::new(),
        };
    };
    let remedy = format!("set metrics.listen to 0.0.0.0:{port}, or remove the component `metrics` from the manifests");
    vec![match listen {
        None => {
            Diagnosis::warn(WHAT, format!("the manifests open port {port}, and metrics.listen is missing: nothing listens there"), remedy)
        }
        Some(at) if at.ip().is_loopback() => {
            Diagnosis::warn(WHAT, format!("the manifests open port {port}, and {at} cannot be reached from outside the Pod"), remedy)
        }
        Some(at) if at.port().to_string() != port => {
            Diagnosis::warn(WHAT, format!("the manifests open port {port}, and metrics.listen is {at}"), remedy)
        }
        Some(at) => Diagnosis::ok(WHAT, format!("served at {at}, the port that the manifests open")),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_the_manifests_is_compared() {
        let say = |listen: Option<&str>, port| {
            let found = examine(listen.map(|at| at.parse().unwrap()), port);
            found.iter().map(|one| format!("{:?}: {}", one.level, one.why)).collect::<String>()
        };
        assert_eq!((say(None, None), say(Some("127.0.0.1:1"), None)), (String::new(), String::new()));
        assert_eq!(say(Some("0.0.0.0:1"), None), "Ok: served at 0.0.0.0:1");
        assert_eq!(say(None, Some("8095")), "Warn: the manifests open port 8095, and metrics.listen is missing: nothing listens there");
        assert_eq!(
            say(Some("127.0.0.1:8095"), Some("8095")),
            "Warn: the manifests open port 8095, and 127.0.0.1:8095 cannot be reached from outside the Pod"
        );
        assert_eq!(say(Some("0.0.0.0:80"), Some("8095")), "Warn: the manifests open port 8095, and metrics.listen is 0.0.0.0:80");
        assert_eq!(say(Some("[::]:8095"), Some("8095")), "Ok: served at [::]:8095, the port that the manifests open");
    }
}
