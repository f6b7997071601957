//! What an object names: a secret of Secrets Manager or a parameter, by name or by ARN, and a version of it.

use crate::dialect::arn::ARN;
use crate::dialect::class::position;
use crate::model::{SecretName, quoted};
use crate::yaml::{Faults, Position, Reader};

/// The lengths of a secret's VersionId (API reference of GetSecretValue).
const VERSION_ID: std::ops::RangeInclusive<usize> = 32..=64;

/// These prefixes make a text a label, and a VersionId.
const LABEL: &str = "stage:";
const ID: &str = "id:";

/// The two stores of AWS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Service {
    /// SSM Parameter Store.
    Parameters,
    SecretsManager,
}

/// A secret, as the backend is asked for it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Target {
    pub service: Service,
    pub ask: String,
}

/// What is wrong, at the key that says it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Fault {
    pub key: &'static str,
    pub problem: String,
}

// === impl Service ===

impl Service {
    /// In a secret's name.
    const fn element(self) -> &'static str {
        match self {
            Self::Parameters => "ssm",
            Self::SecretsManager => "secretsmanager",
        }
    }

    /// Besides letters and digits: the characters that a name may have. In Secrets Manager, services of AWS give names with a `!`.
    const fn signs(self) -> &'static str {
        match self {
            Self::Parameters => "/_.-",
            Self::SecretsManager => "/_+=.@!-",
        }
    }

    const fn noun(self) -> &'static str {
        match self {
            Self::Parameters => "parameter",
            Self::SecretsManager => "secret",
        }
    }
}

// === impl Target ===

impl Target {
    /// `service`: what the class says. `region`: the region that an ARN must have, if it is known here.
    pub(super) fn of(name: &str, service: Option<Service>, region: Option<&str>) -> Result<Self, Fault> {
        if name.starts_with(ARN) {
            return Self::of_arn(name, service, region);
        }
        if name.get(..ARN.len()).is_some_and(|head| head.eq_ignore_ascii_case(ARN)) {
            return Err(name_fault(name, "is not an ARN, which begins with `arn:` in small letters (copy it from AWS)"));
        }
        let Some(service) = service else {
            return Err(fault("objectType", "is missing (write `secretsmanager` or `ssmparameter`)".to_owned()));
        };
        let plain = match service {
            Service::Parameters => parameter(name)?.to_owned(),
            Service::SecretsManager => secret(name)?,
        };
        Ok(Self { service, ask: format!("{}/{plain}", service.element()) })
    }

    /// For an ARN of its own account, the backend uses the name instead.
    fn of_arn(arn: &str, service: Option<Service>, region: Option<&str>) -> Result<Self, Fault> {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let [_, partition, of_service, of_region, _, resource] = parts.as_slice() else {
            let problem = "is not an ARN (write for example arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf)";
            return Err(name_fault(arn, problem));
        };
        if !partition.starts_with("aws") {
            return Err(name_fault(arn, "has no partition after `arn:` (write arn:aws:..., as AWS shows it)"));
        }
        let own = match *of_service {
            "secretsmanager" => Service::SecretsManager,
            "ssm" => Service::Parameters,
            other => {
                let problem =
                    format!("is an ARN of the service {}, which is not a store of secrets (use secretsmanager or ssm)", quoted(other));
                return Err(name_fault(arn, &problem));
            }
        };
        if service.is_some_and(|service| service != own) {
            let problem =
                format!("is the ARN of a {}, but the object's `objectType` says something else (correct one of them)", own.noun());
            return Err(name_fault(arn, &problem));
        }
        if let Some(region) = region.filter(|region| region != of_region) {
            let problem =
                format!("is an ARN of the region {}, but Keyferry asks for it in {region} (correct one of them)", quoted(of_region));
            return Err(name_fault(arn, &problem));
        }
        let name = check_resource(own, resource).map_err(|problem| name_fault(arn, problem))?;
        check_characters(own, name).map_err(|problem| name_fault(arn, &problem))?;
        Ok(Self { service: own, ask: arn.to_owned() })
    }
}

/// The end of an ARN: the kind of thing, and its name.
fn check_resource(service: Service, resource: &str) -> Result<&str, &'static str> {
    let name = match service {
        Service::Parameters => resource.strip_prefix("parameter/").ok_or("is not the ARN of a parameter (copy it from AWS)")?,
        Service::SecretsManager => resource.strip_prefix("secret:").ok_or("is not the ARN of a secret (copy it from AWS)")?,
    };
    match service {
        _ if name.is_empty() => Err("ends before the name (copy the whole ARN from AWS)"),
        Service::Parameters if name.contains(':') => {
            Err("has a version or label at its end (write it as `objectVersion` or `objectVersionLabel`)")
        }
        Service::SecretsManager if name.contains(':') => {
            Err("has more than the name at its end (write a part of the secret as `jmesPath`, and its version as `objectVersion`)")
        }
        Service::Parameters | Service::SecretsManager => Ok(name),
    }
}

/// AWS refuses a name with other characters, or removes blanks at its ends.
fn check_characters(service: Service, name: &str) -> Result<(), String> {
    let (noun, signs) = (service.noun(), service.signs());
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !signs.contains(*c)) {
        Some(unfit) => Err(format!("has {unfit:?}, which the name of a {noun} cannot have (letters, digits and {signs})")),
        None => Ok(()),
    }
}

/// A parameter's name without the `/` at its start: `/top` and `top` are one parameter.
fn parameter(name: &str) -> Result<&str, Fault> {
    if name.contains(':') {
        let problem =
            "has a `:`, which the name of a parameter cannot have (write a version or label as `objectVersion` or `objectVersionLabel`)";
        return Err(name_fault(name, problem));
    }
    check_characters(Service::Parameters, name).map_err(|problem| name_fault(name, &problem))?;
    match name.strip_prefix('/') {
        Some(rest) => Ok(rest),
        None if name.contains('/') => {
            Err(name_fault(name, &format!("is not the full name of a parameter: one with a `/` in it begins with a `/` (write /{name})")))
        }
        None => Ok(name),
    }
}

/// The one spelling that policy sees: an empty element, such as the one before a `/` at the start, is written `~`.
fn secret(name: &str) -> Result<String, Fault> {
    if name.contains(':') {
        return Err(name_fault(name, "has a `:`, which the name of a secret cannot have (write the name, or the whole ARN)"));
    }
    check_characters(Service::SecretsManager, name).map_err(|problem| name_fault(name, &problem))?;
    Ok(SecretName::without_empty(name))
}

/// The version that both keys mean, as the backend reads it.
pub(super) fn version(service: Service, version: Option<&str>, label: Option<&str>) -> Result<Option<String>, Fault> {
    match (service, version, label) {
        (Service::Parameters, Some(_), Some(_)) => {
            let problem = "cannot be used together with `objectVersion`: a parameter has only one of the two (remove one)";
            Err(fault("objectVersionLabel", problem.to_owned()))
        }
        (Service::Parameters, version, label) => Ok(version.or(label).map(str::to_owned)),
        (Service::SecretsManager, version, label) => {
            if let Some(version) = version.filter(|version| !is_any_id(version)) {
                let problem = format!(
                    "{} is not the VersionId of a secret, which has 32 to 64 ASCII characters without blanks and `:` (write a stage as \
                     `objectVersionLabel`)",
                    quoted(version)
                );
                return Err(fault("objectVersion", problem));
            }
            let version = version.map(|version| if is_id(version) { version.to_owned() } else { format!("{ID}{version}") });
            Ok(match (version, label) {
                (Some(version), Some(label)) => Some(format!("{version}:{LABEL}{label}")),
                (None, Some(label)) if is_ambiguous(label) => Some(format!("{LABEL}{label}")),
                (version, label) => version.or_else(|| label.map(str::to_owned)),
            })
        }
    }
}

/// The one who writes a version can choose its id. AWS only limits its length.
fn is_any_id(text: &str) -> bool {
    VERSION_ID.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

/// An id as AWS makes it.
fn is_id(text: &str) -> bool {
    VERSION_ID.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Whether a label would be read as something else.
fn is_ambiguous(label: &str) -> bool {
    is_id(label) || label.starts_with(LABEL) || label.starts_with(ID) || label.contains(&format!(":{LABEL}"))
}

fn fault(key: &'static str, problem: String) -> Fault {
    Fault { key, problem }
}

fn name_fault(name: &str, problem: &str) -> Fault {
    fault("objectName", format!("{} {problem}", quoted(name)))
}

// === impl Fault ===

impl Fault {
    pub(super) fn note(self, reader: &mut Reader<'_>, faults: &mut Faults) {
        faults.add(position(reader, self.key), self.key, self.problem);
    }

    /// A key of a mapping within the object.
    pub(super) fn note_at(self, at: Position, before: &str, faults: &mut Faults) {
        faults.add(at, format!("{before}{}", self.key), self.problem);
    }
}
