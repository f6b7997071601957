//! The hosts of AWS's services: one for each service and region, by the rules of the region's partition.
//!
//! The rules come from the endpoint rule sets that AWS publishes with its SDKs (botocore 1.44.8).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::http::{Endpoint, InvalidEndpoint};
use crate::model::quoted;

/// A region, such as `eu-west-1`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Region(String);

/// A part of AWS that shares nothing with the others: no accounts, no names, no endpoints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Partition {
    /// As ARNs write it.
    pub(super) name: &'static str,
    /// What its regions begin with.
    regions: &'static [&'static str],
    suffix: &'static str,
    /// For hosts that also have IPv6 addresses.
    dual: &'static str,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Service {
    Parameters,
    SecretsManager,
    Tokens,
}

/// Which of a service's hosts is meant.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Variant {
    pub(super) dual_stack: bool,
    pub(super) fips: bool,
}

/// The longer beginning comes first.
const PARTITIONS: [Partition; 8] = [
    Partition { name: "aws-us-gov", regions: &["us-gov-"], suffix: "amazonaws.com", dual: "api.aws" },
    Partition { name: "aws-cn", regions: &["cn-"], suffix: "amazonaws.com.cn", dual: "api.amazonwebservices.com.cn" },
    Partition { name: "aws-eusc", regions: &["eusc-de-"], suffix: "amazonaws.eu", dual: "api.amazonwebservices.eu" },
    Partition { name: "aws-iso", regions: &["us-iso-"], suffix: "c2s.ic.gov", dual: "api.aws.ic.gov" },
    Partition { name: "aws-iso-b", regions: &["us-isob-"], suffix: "sc2s.sgov.gov", dual: "api.aws.scloud" },
    Partition { name: "aws-iso-e", regions: &["eu-isoe-"], suffix: "cloud.adc-e.uk", dual: "api.cloud-aws.adc-e.uk" },
    Partition { name: "aws-iso-f", regions: &["us-isof-"], suffix: "csp.hci.ic.gov", dual: "api.aws.hci.ic.gov" },
    Partition {
        name: "aws",
        regions: &["us-", "eu-", "ap-", "sa-", "ca-", "me-", "af-", "il-", "mx-"],
        suffix: "amazonaws.com",
        dual: "api.aws",
    },
];

/// A region of an unknown partition counts as a region of this one.
const DEFAULT: Partition = PARTITIONS[PARTITIONS.len() - 1];

// === impl Region ===

impl Region {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn partition(&self) -> Partition {
        self.known_partition().unwrap_or(DEFAULT)
    }

    /// `None`: the name does not show it, such as the name of a region that is newer than this list. After its beginning, a name has a word
    /// and a number.
    pub(super) fn known_partition(&self) -> Option<Partition> {
        let is_of = |head: &str| self.0.strip_prefix(head).is_some_and(|rest| rest.matches('-').count() == 1);
        PARTITIONS.into_iter().find(|partition| partition.regions.iter().any(|head| is_of(head)))
    }

    /// Checks that an ARN is of the region's partition, if that is known.
    ///
    /// # Errors
    /// It is of another one. The text continues a sentence that begins with the ARN.
    pub(super) fn check_arn(&self, arn: &str) -> Result<(), String> {
        let (partition, own) = (arn.split(':').nth(1).unwrap_or_default(), self.known_partition());
        match own.filter(|own| own.name != partition) {
            Some(Partition { name, .. }) => {
                Err(format!("is an ARN of the partition {}, and {self} is in {name} (begin it with arn:{name}:)", quoted(partition)))
            }
            None => Ok(()),
        }
    }

    /// AWS's own host for a service.
    pub(super) fn host(&self, service: Service, variant: Variant) -> String {
        let partition = self.partition();
        let Variant { dual_stack, fips } = variant;
        let is_gov = partition.name == "aws-us-gov";
        let keeps_suffix = service == Service::SecretsManager && (partition.name == "aws" || is_gov || partition.name == "aws-cn" && !fips);
        let is_plain = is_gov && service != Service::SecretsManager && !dual_stack;
        let marked = if fips && !is_plain { "-fips" } else { "" };
        let suffix = if dual_stack && !keeps_suffix { partition.dual } else { partition.suffix };
        format!("{service}{marked}.{}.{suffix}", self.0)
    }
}

impl FromStr for Region {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('-').collect();
        let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
        let is_region = match parts.as_slice() {
            [words @ .., number] => {
                let is_number = !number.is_empty() && number.len() <= 2 && number.bytes().all(|byte| byte.is_ascii_digit());
                words.len() >= 2 && words.iter().all(is_word) && is_number && text.len() <= 32
            }
            [] => false,
        };
        if is_region { Ok(Self(text.to_owned())) } else { Err(format!("{text:?} is not a region (write for example eu-west-1)")) }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Service ===

impl Service {
    /// The name in hosts, in scopes of signatures and in ARNs.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Parameters => "ssm",
            Self::SecretsManager => "secretsmanager",
            Self::Tokens => "sts",
        }
    }

    /// The name for people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Parameters => "Parameter Store",
            Self::SecretsManager => "Secrets Manager",
            Self::Tokens => "STS",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address of a service from the configuration. Requests go to its `/`, and no one on the way may read them.
pub(super) fn own(text: &str) -> Result<Endpoint, String> {
    const OPEN: &str = "does not begin with https:// (write https://; http:// is only for this machine's own addresses, such as 127.0.0.1)";
    let endpoint: Endpoint = text.parse().map_err(|cause: InvalidEndpoint| match cause {
        InvalidEndpoint::Scheme => OPEN.to_owned(),
        InvalidEndpoint::Fragment
        | InvalidEndpoint::Host
        | InvalidEndpoint::Port
        | InvalidEndpoint::Query
        | InvalidEndpoint::Socket
        | InvalidEndpoint::SocketLength
        | InvalidEndpoint::User => cause.to_string(),
    })?;
    if !endpoint.is_https() && !is_loopback(&endpoint) {
        return Err(OPEN.to_owned());
    }
    rootless(endpoint)
}

/// Checks that the host accepts signatures for the region: AWS's own hosts have the region in their names, except for the global ones.
///
/// # Errors
/// It does not. The text continues a sentence that begins with the key.
pub(super) fn check_region(endpoint: &Endpoint, service: Service, region: &Region) -> Result<(), String> {
    let host = endpoint.host().unwrap_or_default().to_ascii_lowercase();
    let is_below = |suffix: &str| host.strip_suffix(suffix).is_some_and(|head| head.ends_with('.'));
    let is_of_aws = PARTITIONS.iter().any(|partition| is_below(partition.suffix) || is_below(partition.dual));
    if !is_of_aws || host.split('.').any(|part| part == region.as_str()) {
        return Ok(());
    }
    let own = region.host(service, Variant::default());
    Err(format!("is not an address of {region}, and AWS refuses what is signed for another region (write https://{own}, or remove it)"))
}

/// An address at which a node gives credentials over HTTP, or one of this machine's own addresses.
pub(super) fn link_local(text: &str, known: &[&str]) -> Result<Endpoint, String> {
    let endpoint: Endpoint = text.parse().map_err(|cause: InvalidEndpoint| cause.to_string())?;
    if !is_loopback(&endpoint) && !endpoint.host().is_some_and(|host| known.contains(&host)) {
        let known: Vec<_> =
            known.iter().map(|host| if host.contains(':') { format!("http://[{host}]") } else { format!("http://{host}") }).collect();
        return Err(format!("is not an address of this node (write {}, or one of 127.0.0.1)", known.join(" or ")));
    }
    rootless(endpoint)
}

fn rootless(endpoint: Endpoint) -> Result<Endpoint, String> {
    let has_path = endpoint.uri("/").map_or(true, |uri| uri.path() != "/");
    if has_path { Err("has a path, and Keyferry asks AWS only at `/` (write only scheme, host and port)".to_owned()) } else { Ok(endpoint) }
}

fn is_loopback(endpoint: &Endpoint) -> bool {
    let host = endpoint.host().unwrap_or_default();
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The text for the `Host` header: without the usual port of the scheme.
pub(super) fn host_header(endpoint: &Endpoint) -> String {
    let text = endpoint.to_string();
    text.split_once("://").map_or(text.as_str(), |(_, host)| host).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain, dual-stack, FIPS, and both together: as in botocore's rule sets.
    #[test]
    fn hosts_are_those_of_the_rule_sets() {
        let mut hosts = String::new();
        let regions = [
            "eu-west-1",
            "us-gov-west-1",
            "cn-north-1",
            "eusc-de-east-1",
            "us-iso-east-1",
            "us-isob-east-1",
            "eu-isoe-west-1",
            "us-isof-south-1",
        ];
        for service in [Service::SecretsManager, Service::Parameters, Service::Tokens] {
            for region in regions {
                let region: Region = region.parse().unwrap();
                for (fips, dual_stack) in [(false, false), (false, true), (true, false), (true, true)] {
                    hosts += &format!("{} ", region.host(service, Variant { dual_stack, fips }));
                }
                hosts.truncate(hosts.trim_end_matches(' ').len());
                hosts += "\n";
            }
        }
        insta::assert_snapshot!(hosts.trim_end(), @"
        secretsmanager.eu-west-1.amazonaws.com secretsmanager.eu-west-1.amazonaws.com secretsmanager-fips.eu-west-1.amazonaws.com secretsmanager-fips.eu-west-1.amazonaws.com
        secretsmanager.us-gov-west-1.amazonaws.com secretsmanager.us-gov-west-1.amazonaws.com secretsmanager-fips.us-gov-west-1.amazonaws.com secretsmanager-fips.us-gov-west-1.amazonaws.com
        secretsmanager.cn-north-1.amazonaws.com.cn secretsmanager.cn-north-1.amazonaws.com.cn secretsmanager-fips.cn-north-1.amazonaws.com.cn secretsmanager-fips.cn-north-1.api.amazonwebservices.com.cn
        secretsmanager.eusc-de-east-1.amazonaws.eu secretsmanager.eusc-de-east-1.api.amazonwebservices.eu secretsmanager-fips.eusc-de-east-1.amazonaws.eu secretsmanager-fips.eusc-de-east-1.api.amazonwebservices.eu
        secretsmanager.us-iso-east-1.c2s.ic.gov secretsmanager.us-iso-east-1.api.aws.ic.gov secretsmanager-fips.us-iso-east-1.c2s.ic.gov secretsmanager-fips.us-iso-east-1.api.aws.ic.gov
        secretsmanager.us-isob-east-1.sc2s.sgov.gov secretsmanager.us-isob-east-1.api.aws.scloud secretsmanager-fips.us-isob-east-1.sc2s.sgov.gov secretsmanager-fips.us-isob-east-1.api.aws.scloud
        secretsmanager.eu-isoe-west-1.cloud.adc-e.uk secretsmanager.eu-isoe-west-1.api.cloud-aws.adc-e.uk secretsmanager-fips.eu-isoe-west-1.cloud.adc-e.uk secretsmanager-fips.eu-isoe-west-1.api.cloud-aws.adc-e.uk
        secretsmanager.us-isof-south-1.csp.hci.ic.gov secretsmanager.us-isof-south-1.api.aws.hci.ic.gov secretsmanager-fips.us-isof-south-1.csp.hci.ic.gov secretsmanager-fips.us-isof-south-1.api.aws.hci.ic.gov
        ssm.eu-west-1.amazonaws.com ssm.eu-west-1.api.aws ssm-fips.eu-west-1.amazonaws.com ssm-fips.eu-west-1.api.aws
        ssm.us-gov-west-1.amazonaws.com ssm.us-gov-west-1.api.aws ssm.us-gov-west-1.amazonaws.com ssm-fips.us-gov-west-1.api.aws
        ssm.cn-north-1.amazonaws.com.cn ssm.cn-north-1.api.amazonwebservices.com.cn ssm-fips.cn-north-1.amazonaws.com.cn ssm-fips.cn-north-1.api.amazonwebservices.com.cn
        ssm.eusc-de-east-1.amazonaws.eu ssm.eusc-de-east-1.api.amazonwebservices.eu ssm-fips.eusc-de-east-1.amazonaws.eu ssm-fips.eusc-de-east-1.api.amazonwebservices.eu
        ssm.us-iso-east-1.c2s.ic.gov ssm.us-iso-east-1.api.aws.ic.gov ssm-fips.us-iso-east-1.c2s.ic.gov ssm-fips.us-iso-east-1.api.aws.ic.gov
        ssm.us-isob-east-1.sc2s.sgov.gov ssm.us-isob-east-1.api.aws.scloud ssm-fips.us-isob-east-1.sc2s.sgov.gov ssm-fips.us-isob-east-1.api.aws.scloud
        ssm.eu-isoe-west-1.cloud.adc-e.uk ssm.eu-isoe-west-1.api.cloud-aws.adc-e.uk ssm-fips.eu-isoe-west-1.cloud.adc-e.uk ssm-fips.eu-isoe-west-1.api.cloud-aws.adc-e.uk
        ssm.us-isof-south-1.csp.hci.ic.gov ssm.us-isof-south-1.api.aws.hci.ic.gov ssm-fips.us-isof-south-1.csp.hci.ic.gov ssm-fips.us-isof-south-1.api.aws.hci.ic.gov
        sts.eu-west-1.amazonaws.com sts.eu-west-1.api.aws sts-fips.eu-west-1.amazonaws.com sts-fips.eu-west-1.api.aws
        sts.us-gov-west-1.amazonaws.com sts.us-gov-west-1.api.aws sts.us-gov-west-1.amazonaws.com sts-fips.us-gov-west-1.api.aws
        sts.cn-north-1.amazonaws.com.cn sts.cn-north-1.api.amazonwebservices.com.cn sts-fips.cn-north-1.amazonaws.com.cn sts-fips.cn-north-1.api.amazonwebservices.com.cn
        sts.eusc-de-east-1.amazonaws.eu sts.eusc-de-east-1.api.amazonwebservices.eu sts-fips.eusc-de-east-1.amazonaws.eu sts-fips.eusc-de-east-1.api.amazonwebservices.eu
        sts.us-iso-east-1.c2s.ic.gov sts.us-iso-east-1.api.aws.ic.gov sts-fips.us-iso-east-1.c2s.ic.gov sts-fips.us-iso-east-1.api.aws.ic.gov
        sts.us-isob-east-1.sc2s.sgov.gov sts.us-isob-east-1.api.aws.scloud sts-fips.us-isob-east-1.sc2s.sgov.gov sts-fips.us-isob-east-1.api.aws.scloud
        sts.eu-isoe-west-1.cloud.adc-e.uk sts.eu-isoe-west-1.api.cloud-aws.adc-e.uk sts-fips.eu-isoe-west-1.cloud.adc-e.uk sts-fips.eu-isoe-west-1.api.cloud-aws.adc-e.uk
        sts.us-isof-south-1.csp.hci.ic.gov sts.us-isof-south-1.api.aws.hci.ic.gov sts-fips.us-isof-south-1.csp.hci.ic.gov sts-fips.us-isof-south-1.api.aws.hci.ic.gov
        ");
    }

    #[test]
    fn regions_have_a_shape_and_most_a_known_partition() {
        for (region, partition) in [
            ("eu-west-1", Some("aws")),
            ("ap-southeast-7", Some("aws")),
            ("us-gov-east-1", Some("aws-us-gov")),
            ("us-isob-east-1", Some("aws-iso-b")),
            ("cn-northwest-1", Some("aws-cn")),
            ("xx-north-12", None),
        ] {
            assert_eq!(region.parse::<Region>().unwrap().known_partition().map(|partition| partition.name), partition, "{region}");
        }
        for text in [
            "",
            "eu",
            "eu-west",
            "eu-west-",
            "eu-west1",
            "EU-WEST-1",
            "eu-west-1a",
            "eu-west-1 ",
            "eu-west-1.evil.example/x-1",
            "-a-1",
            "eu-west-123",
        ] {
            assert!(text.parse::<Region>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses_of_their_own_are_https_or_this_machine() {
        for (text, host) in [
            ("https://vpce-1.secretsmanager.eu-west-1.vpce.amazonaws.com", "vpce-1.secretsmanager.eu-west-1.vpce.amazonaws.com"),
            ("https://x:443/", "x"),
            ("https://x:8443", "x:8443"),
            ("http://127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://localhost", "localhost"),
            ("http://[::1]:80", "[::1]"),
        ] {
            assert_eq!(host_header(&own(text).unwrap()), host);
        }
        let refused = [
            "http://aws.example",
            "http://127.0.0.1.evil.example",
            "unix:///run/x",
            "https://x/base",
            "https://u@x",
            "x",
            "http://10.0.0.1",
        ];
        let refused: Vec<_> = refused.into_iter().map(|text| format!("{text} {}", own(text).unwrap_err())).collect();
        insta::assert_snapshot!(refused.join("\n"), @"
        http://aws.example does not begin with https:// (write https://; http:// is only for this machine's own addresses, such as 127.0.0.1)
        http://127.0.0.1.evil.example does not begin with https:// (write https://; http:// is only for this machine's own addresses, such as 127.0.0.1)
        unix:///run/x does not begin with https:// (write https://; http:// is only for this machine's own addresses, such as 127.0.0.1)
        https://x/base has a path, and Keyferry asks AWS only at `/` (write only scheme, host and port)
        https://u@x has a user in it (leave out what is before the @)
        x does not begin with https:// (write https://; http:// is only for this machine's own addresses, such as 127.0.0.1)
        http://10.0.0.1 does not begin with https:// (write https://; http:// is only for this machine's own addresses, such as 127.0.0.1)
        ");
        assert!(link_local("http://169.254.170.23", &["169.254.170.23", "fd00:ec2::23"]).is_ok());
        assert!(link_local("http://[fd00:ec2::23]", &["169.254.170.23", "fd00:ec2::23"]).is_ok());
        assert!(link_local("http://127.0.0.1:99", &["169.254.170.23"]).is_ok());
        insta::assert_snapshot!(link_local("http://169.254.169.254", &["169.254.170.23", "fd00:ec2::23"]).unwrap_err(), @"is not an address of this node (write http://169.254.170.23 or http://[fd00:ec2::23], or one of 127.0.0.1)");
    }
}
