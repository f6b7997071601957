//! Reads a class in any format: the result is a plan, or every fault at once.
//!
//! Each format has its own module below, since each has its own keys and habits. All formats end in the same plan, so that later stages do
//! not know how a class was written.

use std::collections::BTreeMap;

use crate::model::{Catalogue, ClassFault, ClassFaults, Code, Plan, clean, quoted};
use crate::nearest::nearest;
use crate::steps::{Spent, Steps};

mod args;
mod arn;
mod aws;
mod class;
#[cfg(test)]
mod golden;
mod keys;
mod layout;
mod login;
mod native;
mod twice;
mod vault;

/// The native format.
pub const NATIVE: &str = "keyferry";

/// The peers whose classes Keyferry reads.
pub const PEERS: [&str; 3] = ["vault", "openbao", "aws"];

/// The peers of later versions.
pub const LATER: [&str; 2] = ["azure", "gcp"];

/// The longest problem in a fault, in characters: messages of other modules may quote the class.
const MAX_PROBLEM: usize = 400;

/// What a class may ask for at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClassLimits {
    pub objects: usize,
    /// Files of the volume, as far as the class names them.
    pub files: usize,
    /// Bytes of all parameters, keys and values.
    pub bytes: usize,
    /// Whether a file can have an owner: only the daemon itself can set it (`delivery: provider`), the driver cannot.
    pub owners: bool,
}

/// Parses a class from its parameters, as the driver merges them with the volume's attributes.
///
/// # Errors
/// Everything that is wrong with it: each fault has the object, the key and a remedy. A class that needs more than `steps` is too large.
pub fn parse(
    parameters: &BTreeMap<String, String>,
    catalogue: &dyn Catalogue,
    limits: ClassLimits,
    steps: &Steps,
) -> Result<Plan, ClassFaults> {
    let bytes: usize = parameters.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > limits.bytes {
        return Err(ClassFaults([too_large(bytes, limits.bytes)].into_iter().collect()));
    }
    match parameters.get("dialect").map(String::as_str) {
        None | Some("" | NATIVE) => native::parse(parameters, catalogue, limits, steps),
        Some("aws") => aws::parse(parameters, catalogue, limits, steps),
        Some("openbao") => vault::parse(&vault::OPENBAO, parameters, catalogue, limits, steps),
        Some("vault") => vault::parse(&vault::VAULT, parameters, catalogue, limits, steps),
        Some(dialect) => Err(ClassFaults([class_fault("dialect", unknown_dialect(dialect))].into_iter().collect())),
    }
}

/// The daemon also sees kubelet's keys, and refuses a call that is too large before this point. `keyferry check` has only the class.
fn too_large(bytes: usize, most: usize) -> ClassFault {
    let problem =
        format!("have {bytes} bytes: at most {most} are read on this node (split the class, or ask for a higher limits.classBytes)");
    ClassFault { code: Code::TooLarge, ..class_fault("parameters", problem) }
}

fn too_much_work(spent: Spent) -> ClassFault {
    ClassFault { code: Code::TooLarge, ..class_fault("objects", format!("{spent} (split the class)")) }
}

fn unknown_dialect(dialect: &str) -> String {
    if LATER.contains(&dialect) {
        return format!("`{dialect}` is not yet supported (write the class in the native format, and leave the key out)");
    }
    let dialect_shown = quoted(dialect);
    match nearest(dialect, LATER.into_iter().chain(PEERS).chain([NATIVE])) {
        Some(near) => format!("there is no dialect {dialect_shown} (did you mean `{near}`?)"),
        None => format!("there is no dialect {dialect_shown} (leave the key out for the native format)"),
    }
}

/// A fault of the class as a whole.
fn class_fault(key: &str, problem: impl AsRef<str>) -> ClassFault {
    ClassFault { object: None, key: clean(key), problem: bounded(problem.as_ref()), code: Code::InvalidRequest, at: None }
}

/// One line of limited length, even if it quotes a long text.
fn bounded(problem: &str) -> String {
    problem.chars().take(MAX_PROBLEM).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
