//! Names: `secretsmanager/NAME` and `ssm/NAME`, and what is sent for them. An ARN is another spelling of a name, and policy sees only one
//! spelling.
//!
//! A name of another account than the backend's begins with that account, as in `secretsmanager/111122223333:NAME-XXXXXX`: names in AWS
//! have no colon. A secret's name may have an empty element, which is written `~` here: `/a` and `a` are two secrets. AWS may read the sent
//! name in another way. But its answer has the name: [`Named::is`] compares that with what was asked for.

use super::config::AwsConfig;
use super::endpoint::Service;
use super::role::is_account;
use crate::model::{InvalidName, SecretName, quoted};

/// The longest names in bytes: in Secrets Manager, and in Parameter Store. There a name and the beginning of its ARN have at most 1,011, and the
/// shortest beginning has 44.
const MAX_SECRET: usize = 512;
const MAX_PARAMETER: usize = 967;

/// The most levels of a parameter's name.
const MAX_LEVELS: usize = 15;

/// Under this path Parameter Store reads from Secrets Manager.
const REFERENCE: &str = "aws/reference/secretsmanager/";

/// How many characters Secrets Manager adds to a name in its ARN, after a `-`.
const SUFFIX: usize = 6;

/// An example of an ARN's end: names of another account have such an end.
pub(super) const ENDING: &str = "-AbCdEf";

/// A name taken apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Named<'n> {
    pub(super) service: Service,
    /// `None`: the backend's own.
    pub(super) account: Option<&'n str>,
    /// Without service and account. A secret of another account has the end of its ARN. An empty element is `~`.
    pub(super) name: &'n str,
}

/// The one spelling of a name or an ARN.
///
/// # Errors
/// It is not a secret or parameter that this backend could ask for.
pub(super) fn canonical(config: &AwsConfig, text: &str) -> Result<SecretName, InvalidName> {
    let mut name = if text.starts_with("arn:") { of_arn(config, text)? } else { text.to_owned() };
    let whole = name.clone();
    let (service, rest) = whole.split_once('/').unwrap_or((&whole, ""));
    let checked = match service {
        "secretsmanager" | "ssm" if rest.starts_with("arn:") => Err(format!("has an ARN after `{service}/` (write only the ARN)")),
        "secretsmanager" if rest.is_empty() => Err("has no name of a secret after `secretsmanager/` (write it there)".to_owned()),
        "secretsmanager" => {
            let rest = SecretName::without_empty(rest);
            let checked = check_secret(&rest);
            name = format!("secretsmanager/{rest}");
            checked
        }
        "ssm" => match rest.strip_prefix(REFERENCE) {
            // The same secret in another way: a rule for one name is a rule for the other.
            Some(secret) => return canonical(config, &format!("secretsmanager/{secret}")),
            None => check_parameter(rest),
        },
        _ => {
            let problem = format!(
                "does not begin with `secretsmanager/` or `ssm/` (write for example {})",
                quoted(&format!("secretsmanager/{whole}"))
            );
            Err(problem)
        }
    };
    let name: SecretName = name.parse()?;
    // An account that does not belong there matters before the name behind it.
    check_account(config, &name).map_err(InvalidName::Store)?;
    checked.map_err(InvalidName::Store)?;
    Ok(name)
}

fn of_arn(config: &AwsConfig, arn: &str) -> Result<String, InvalidName> {
    let problem = |problem: String| InvalidName::Store(problem);
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let [_, partition, service, region, account, resource] = parts.as_slice() else {
        return Err(problem("is not a whole ARN (copy it from AWS, or write secretsmanager/NAME or ssm/NAME)".to_owned()));
    };
    if *partition != config.region.partition().name {
        let own = config.region.partition().name;
        return Err(problem(format!(
            "is an ARN of the partition {}, and this backend is in {own} (use a backend of that partition)",
            quoted(partition)
        )));
    }
    if *region != config.region.as_str() {
        let own = config.region.as_str();
        return Err(problem(format!(
            "is an ARN of the region {}, and this backend is in {own} (use a backend of that region)",
            quoted(region)
        )));
    }
    if !is_account(account) {
        return Err(problem("is an ARN without the number of an account (copy the whole ARN from AWS)".to_owned()));
    }
    let Some(own) = &config.account else {
        let remedy = "write the name, as secretsmanager/NAME or ssm/NAME; or the cluster's admin can set `account` of the backend to its \
                      own account's number";
        return Err(problem(format!("is an ARN, and the backend has no `account`: without it, Keyferry reads no ARN ({remedy})")));
    };
    let is_own = own == account;
    match (*service, resource.split_once([':', '/'])) {
        ("secretsmanager" | "ssm", Some((_, ""))) => Err(problem("ends before the name (copy the whole ARN from AWS)".to_owned())),
        ("secretsmanager", Some(("secret", name))) if resource.starts_with("secret:") => {
            Ok(if is_own { format!("secretsmanager/{}", without_suffix(name)) } else { format!("secretsmanager/{account}:{name}") })
        }
        ("ssm", Some(("parameter", name))) if resource.starts_with("parameter/") => {
            Ok(if is_own { format!("ssm/{name}") } else { format!("ssm/{account}:{name}") })
        }
        _ => Err(problem("is not the ARN of a secret or a parameter (copy it from AWS)".to_owned())),
    }
}

/// An ARN has six random characters after the name. AWS also accepts an ARN without them, if it is unique. So this may take the end of a
/// name for them. Then the ARN means another secret here, the same one for policy and for AWS.
fn without_suffix(name: &str) -> &str {
    if has_suffix(name) { &name[..name.len() - SUFFIX - 1] } else { name }
}

fn has_suffix(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() > SUFFIX + 1 && {
        let (head, tail) = bytes.split_at(bytes.len() - SUFFIX);
        head.ends_with(b"-") && tail.iter().all(u8::is_ascii_alphanumeric)
    }
}

fn check_secret(rest: &str) -> Result<(), String> {
    let (account, name) = apart(rest);
    // AWS counts neither `~` nor the end of an ARN.
    let length = SecretName::with_empty(name).len() - if account.is_some() && has_suffix(name) { SUFFIX + 1 } else { 0 };
    // An element `~` is an empty one. Secrets that another service of AWS manages have a `!`, such as `rds!db-1a2b`.
    let elements = name.split('/').filter(|element| *element != "~");
    let unfit = elements.flat_map(str::chars).find(|c| !c.is_ascii_alphanumeric() && !"_+=.@!-".contains(*c));
    match () {
        () if name.is_empty() => Err("has no name of a secret after the account (write it there)".to_owned()),
        () if unfit == Some(':') => {
            Err("has a `:`, which the name of a secret cannot have (write a part of the secret as `field`)".to_owned())
        }
        () if unfit.is_some() => {
            Err(format!("has {:?}, which the name of a secret cannot have (letters, digits and /_+=.@!-)", unfit.unwrap_or_default()))
        }
        () if length > MAX_SECRET => {
            Err(format!("is over {MAX_SECRET} characters, which is too long for the name of a secret (check its spelling)"))
        }
        () if account.is_some() && !has_suffix(name) => {
            Err("is of another account, and does not end like an ARN, such as with -AbCdEf (write the whole ARN)".to_owned())
        }
        () => Ok(()),
    }
}

fn check_parameter(rest: &str) -> Result<(), String> {
    let (_, name) = apart(rest);
    let unfit = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"/_.-".contains(*c));
    match () {
        () if name.is_empty() => Err("has no name of a parameter after `ssm/` (write it there)".to_owned()),
        () if unfit == Some(':') => {
            Err("has a `:`, which the name of a parameter cannot have (write a version or a label as `version`)".to_owned())
        }
        () if unfit.is_some() => {
            Err(format!("has {:?}, which the name of a parameter cannot have (letters, digits and /_.-)", unfit.unwrap_or_default()))
        }
        () if is_reference(name) => {
            Err("begins with another spelling of `aws/reference/secretsmanager/` (write secretsmanager/NAME)".to_owned())
        }
        () if name.split('/').count() > MAX_LEVELS => {
            Err(format!("has over {MAX_LEVELS} levels, which is too many for a parameter (check its spelling)"))
        }
        () if name.len() > MAX_PARAMETER => {
            Err(format!("is over {MAX_PARAMETER} characters, which is too long for the name of a parameter (check its spelling)"))
        }
        () => Ok(()),
    }
}

/// Whether Parameter Store might read it from Secrets Manager. The usual spelling for the backend's own account has already become a
/// secret's name.
fn is_reference(name: &str) -> bool {
    name.get(..REFERENCE.len()).is_some_and(|head| head.eq_ignore_ascii_case(REFERENCE))
}

/// The account in front, and the rest.
fn apart(rest: &str) -> (Option<&str>, &str) {
    match rest.split_once(':') {
        Some((account, name)) if is_account(account) => (Some(account), name),
        _ => (None, rest),
    }
}

fn check_account(config: &AwsConfig, name: &SecretName) -> Result<(), String> {
    match (Named::of(name).and_then(|named| named.account), &config.account) {
        (Some(account), None) => Err(format!(
            "has the account {account}, and the backend has no `account`: without it, Keyferry reads no ARN, and no name of another account \
             (the cluster's admin can set `account` of the backend to its own account's number)"
        )),
        (Some(account), Some(own)) if account == own => Err("has the backend's own account (leave it out)".to_owned()),
        (None, _) | (Some(_), Some(_)) => Ok(()),
    }
}

// === impl Named ===

impl<'n> Named<'n> {
    /// Takes apart a name in its one spelling, or a folder. `None`: another backend made it.
    pub(super) fn of(name: &'n SecretName) -> Option<Self> {
        let (service, rest) = name.as_str().split_once('/')?;
        let service = match service {
            "secretsmanager" => Service::SecretsManager,
            "ssm" => Service::Parameters,
            _ => return None,
        };
        let (account, name) = apart(rest);
        Some(Self { service, account, name })
    }

    /// What is sent: the name, or the ARN for another account.
    pub(super) fn id(&self, config: &AwsConfig) -> String {
        let (name, region) = (self.stored(), config.region.as_str());
        match (self.account, self.service) {
            (None, Service::Parameters) if name.contains('/') => format!("/{name}"),
            (None, _) => name,
            (Some(account), service) => {
                let kind = if service == Service::Parameters { "parameter/" } else { "secret:" };
                format!("arn:{}:{service}:{region}:{account}:{kind}{name}", config.region.partition().name)
            }
        }
    }

    /// As AWS lists it; a parameter's without the `/` in front.
    pub(super) fn stored(&self) -> String {
        if self.service == Service::SecretsManager { SecretName::with_empty(self.name) } else { self.name.to_owned() }
    }

    /// Whether an answer is about this name, by the name and the ARN in the answer. A public parameter's ARN has no account.
    pub(super) fn is(&self, config: &AwsConfig, id: &str, name: &str, arn: Option<&str>) -> bool {
        let mut parts = arn.into_iter().flat_map(|arn| arn.splitn(6, ':')).skip(4);
        let (account, resource) = (parts.next().unwrap_or_default(), parts.next());
        match (self.account, self.service) {
            (Some(_), Service::Parameters) => name == id || arn == Some(id),
            (Some(_), _) => arn == Some(id),
            (None, service) => {
                let is_named = name == id || service == Service::Parameters && name.strip_prefix('/') == Some(self.name);
                let is_own = account.is_empty() || config.account.as_ref().is_none_or(|own| own == account);
                is_named && is_own && resource.is_none_or(|resource| self.is_in(resource))
            }
        }
    }

    /// Whether the end of an ARN has this name.
    fn is_in(&self, resource: &str) -> bool {
        let stored = self.stored();
        match self.service {
            Service::Parameters => resource.strip_prefix("parameter/").map(|name| name.trim_start_matches('/')) == Some(&*stored),
            Service::SecretsManager | Service::Tokens => {
                resource.strip_prefix("secret:").is_some_and(|name| name == stored || without_suffix(name) == stored)
            }
        }
    }
}
