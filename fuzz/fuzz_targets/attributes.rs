//! The driver's request: no text makes parsing panic, and what is parsed keeps to what later stages rely on.

#![no_main]

use keyferry::model::{MountCall, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (String, String, String, String)| {
    let (attributes, secrets, target_path, permission) = input;
    let Ok(request) = Request::parse(MountCall { attributes, secrets, target_path, permission }, 64 * 1024) else { return };
    // These stand in policy patterns and paths.
    for name in [&request.claims.namespace, &request.claims.name, &request.claims.uid, &request.claims.service_account] {
        assert!(!name.is_empty() && !name.contains(['/', '*', '$', '\0']));
    }
    assert!(request.target_path.starts_with('/') && !request.target_path.contains("/../"));
});
