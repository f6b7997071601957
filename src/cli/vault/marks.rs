//! Recognizes texts that are not yet a secret's value: ciphertext, and references that another program replaces with a value.
//!
//! A mark of a document is about the whole document, and is always a fault. A mark of a value counts only if the whole value fits.

use crate::cli::manifest::field;
use crate::text;
use crate::yaml::{Node, Value, parse_all};

/// What a text is, and what to do about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    /// Completes "is ...".
    pub what: &'static str,
    /// An order: what to run first.
    pub remedy: &'static str,
    /// It may be intended: an application may decrypt it itself.
    pub legal: bool,
}

const SOPS: Mark = fault("encrypted by SOPS", "run `sops decrypt` first");
const EYAML: Mark = fault("encrypted by hiera-eyaml", "run `eyaml decrypt` first");
const ANSIBLE: Mark = fault("encrypted by Ansible Vault", "run `ansible-vault decrypt` first");
const AGE: Mark = fault("encrypted by age", "run `age --decrypt` first");
const PGP: Mark = fault("encrypted by PGP", "run `gpg --decrypt` first");
const DOTENV_VAULT: Mark = fault("encrypted by dotenv-vault", "run `npx dotenv-vault decrypt` first");
const AZURE: Mark = fault("a reference to Azure Key Vault", "run `az keyvault secret show` first");
const TEMPLATE: Mark = fault("a template", "first run the program that fills it in, such as `helm template`");
const ONE_PASSWORD: &str = "run `op inject` first";

/// A predicate over a value without blanks at its ends, and the mark if it is true.
type Rule = (fn(&str) -> bool, Mark);

const VALUES: [Rule; 27] = [
    (|text| text.starts_with("ENC[PKCS7,") || text.starts_with("ENC[GPG,"), EYAML),
    (|text| is_within(text, "ENC[", "]"), SOPS),
    (|text| text.strip_prefix("encrypted:").is_some_and(is_base64), fault("encrypted by dotenvx", "run `dotenvx decrypt` first")),
    (|text| is_one_line(text) && text.starts_with("{cipher}"), fault("encrypted by Spring Cloud Config", "run `spring decrypt` first")),
    (|text| is_within(text, "ENC(", ")"), fault("encrypted by Jasypt", "run Jasypt's `decrypt` first")),
    (is_transit, fault("encrypted by Vault's transit engine", "run `vault write transit/decrypt/KEY` first")),
    (is_vault_reference, fault("a reference to a field in Vault", "write the value that `vault kv get -field=KEY PATH` prints")),
    (
        |text| is_one_line(text) && text.strip_prefix("op://").is_some_and(|path| path.contains('/')),
        fault("a reference of 1Password", ONE_PASSWORD),
    ),
    (is_reference_by_scheme, fault("a reference to a secret in another store", "write the value itself")),
    (
        |text| is_within(text, "$__vault{", "}") || is_within(text, "$__file{", "}") || is_within(text, "$__env{", "}"),
        fault("a reference of Grafana", "write the value itself"),
    ),
    (|text| is_word(text) && is_within(text, "((", "))"), fault("a reference of CredHub", "run `credhub interpolate` first")),
    (|text| is_within(text, "EJ[1:", "]"), fault("encrypted by ejson", "run `ejson decrypt` first")),
    (
        |text| text.starts_with("-----BEGIN PKCS7-----") || text.starts_with("-----BEGIN CMS-----"),
        fault("encrypted as PKCS#7", "run `openssl cms -decrypt` first"),
    ),
    (is_version_of_google, legal("the name of a secret of Google Cloud", "write the value that `gcloud secrets versions access` prints")),
    (is_vals_reference, fault("a reference of vals", "run `vals eval` first")),
    (is_template, TEMPLATE),
    (is_argocd_placeholder, fault("a placeholder of argocd-vault-plugin", "run `argocd-vault-plugin generate` first")),
    (
        |text| is_word(text) && (text.starts_with("berglas://") || text.starts_with("sm://")),
        fault("a reference of Berglas", "run `berglas access` first"),
    ),
    (
        |text| is_word(text) && text.starts_with("gcp:secretmanager:"),
        fault("a reference of Bank-Vaults", "run `gcloud secrets versions access` first"),
    ),
    (|text| is_word(text) && (text.ends_with("@azurekeyvault") || text.starts_with("azure:keyvault:")), AZURE),
    (|text| is_within(text, "@Microsoft.KeyVault(", ")"), AZURE),
    (|text| is_word(text) && text.starts_with("keeper://"), fault("a reference of Keeper", "run `ksm interpolate` first")),
    (|text| is_word(text) && text.starts_with("akeyless:/"), fault("a reference of Akeyless", "run `akeyless get-secret-value` first")),
    (
        |text| is_word(text) && text.starts_with("arn:") && text.contains(":secretsmanager:") && text.contains(":secret:"),
        legal("the name of a secret of AWS", "write the value that `aws secretsmanager get-secret-value` prints"),
    ),
    (is_variable, legal("a reference to a variable", "write its value")),
    (|text| is_within(text, "$(", ")"), legal("a command for a shell", "write what it prints")),
    (is_placeholder, legal("a placeholder", "write the value itself")),
];

/// Objects of Kubernetes from which a controller makes a Secret: groups of their API, and kinds.
const MAKERS: [(&str, &[&str]); 14] = [
    ("bitnami.com", &["SealedSecret"]),
    ("external-secrets.io", &["ClusterExternalSecret", "ExternalSecret"]),
    ("secrets.hashicorp.com", &["VaultDynamicSecret", "VaultPKISecret", "VaultStaticSecret"]),
    ("isindir.github.com", &["SopsSecret"]),
    ("onepassword.com", &["OnePasswordItem"]),
    ("secrets.infisical.com", &["InfisicalSecret"]),
    ("secrets.doppler.com", &["DopplerSecret"]),
    ("k8s.bitwarden.com", &["BitwardenSecret"]),
    ("spv.no", &["AzureKeyVaultSecret"]),
    ("kubernetes-client.io", &["ExternalSecret"]),
    ("koudingspawn.de", &["Vault"]),
    ("redhatcop.redhat.io", &["VaultSecret"]),
    ("ricoberger.de", &["VaultSecret"]),
    ("viaduct.ai", &["ksops"]),
];

/// A file or a value that begins like this is encrypted or a pointer, whatever follows.
const STARTS: [(&[u8], Mark); 6] = [
    (b"$ANSIBLE_VAULT;", ANSIBLE),
    (b"age-encryption.org/", AGE),
    (b"-----BEGIN AGE ENCRYPTED FILE-----", AGE),
    (b"-----BEGIN PGP MESSAGE-----", PGP),
    (b"\0GITCRYPT\0", fault("encrypted by git-crypt", "run `git-crypt unlock` first")),
    (b"version https://git-lfs.github.com/", fault("a pointer of Git LFS", "run `git lfs pull` first")),
];

/// The mark of a whole file, by its first bytes.
pub fn of_file(bytes: &[u8]) -> Option<Mark> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    STARTS.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, mark)| *mark)
}

/// The mark of a YAML or JSON document. SOPS puts its own mapping beside the encrypted values.
pub fn of_document(node: &Node) -> Option<Mark> {
    let sops = field(node, "sops")?;
    matches!(sops.value, Value::Mapping(_)).then_some(SOPS)
}

/// The mark of a dotenv file, by the names in it.
pub fn of_names<'n>(mut names: impl Iterator<Item = &'n str>) -> Option<Mark> {
    names.find_map(|name| {
        let is_sops = name.starts_with("sops_");
        let is_dotenv_vault = name == "DOTENV_VAULT" || name.starts_with("DOTENV_VAULT_");
        if is_sops { Some(SOPS) } else { is_dotenv_vault.then_some(DOTENV_VAULT) }
    })
}

/// Whether a controller makes a Secret from objects of this kind.
pub fn makes_a_secret(api_version: &str, kind: &str) -> bool {
    let group = api_version.split('/').next().unwrap_or_default();
    MAKERS.iter().any(|(of, kinds)| *of == group && kinds.contains(&kind))
}

/// The mark of a text that is not YAML, by its lines: tags of other programs, and places of templates.
pub fn of_broken(text: &str) -> Option<Mark> {
    let has = |mark: &str| text.lines().any(|line| line.contains(mark));
    if has("!vault |") || has("!vault-encrypted") { Some(ANSIBLE) } else { has("{{").then_some(TEMPLATE) }
}

/// The mark of a value.
pub fn of_value(value: &[u8]) -> Option<Mark> {
    if let Some(mark) = of_file(value) {
        return Some(if mark == AGE { legal(AGE.what, AGE.remedy) } else { mark });
    }
    let text = text::read(value).ok()?;
    if text.lines().any(|line| line.trim_start().starts_with("AGE-SECRET-KEY-")) {
        return Some(legal("an age identity", "Pods need what it decrypts, and seldom the identity"));
    }
    if is_encrypted_document(text) {
        return Some(legal("a document that is encrypted by SOPS", SOPS.remedy));
    }
    let text = text.trim_ascii();
    VALUES.iter().find(|(fits, _)| fits(text)).map(|(_, mark)| *mark)
}

const fn fault(what: &'static str, remedy: &'static str) -> Mark {
    Mark { what, remedy, legal: false }
}

const fn legal(what: &'static str, remedy: &'static str) -> Mark {
    Mark { what, remedy, legal: true }
}

/// Whether a value is a whole file of SOPS: an application may decrypt it itself.
fn is_encrypted_document(text: &str) -> bool {
    // Most values end here, without a parser.
    text.contains("ENC[") && text.contains("sops") && {
        let is_dotenv = || of_names(text.lines().filter_map(|line| Some(line.split_once('=')?.0))).is_some();
        // An INI file that SOPS encrypted has its own section.
        is_dotenv()
            || text.lines().any(|line| line.trim() == "[sops]")
            || parse_all(text).is_ok_and(|documents| documents.iter().any(|document| of_document(document).is_some()))
    }
}

fn is_one_line(text: &str) -> bool {
    !text.contains('\n')
}

fn is_word(text: &str) -> bool {
    !text.contains(|c: char| c.is_ascii_whitespace())
}

fn is_within(text: &str, start: &str, end: &str) -> bool {
    is_one_line(text) && text.strip_prefix(start).is_some_and(|rest| rest.ends_with(end))
}

fn is_base64(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
}

/// `vault:v1:...`: <https://developer.hashicorp.com/vault/docs/secrets/transit>
fn is_transit(text: &str) -> bool {
    let versioned = text.strip_prefix("vault:v").and_then(|rest| rest.split_once(':'));
    versioned.is_some_and(|(version, rest)| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()) && is_base64(rest))
}

/// `vault:path#key`, as Bank-Vaults reads it, which takes `${vault:path#key}` too: <https://bank-vaults.dev/docs/mutating-webhook/annotations/>
fn is_vault_reference(text: &str) -> bool {
    let text = text.strip_prefix("${").and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    let text = text.strip_prefix(">>").unwrap_or(text);
    let text = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text);
    let path = ["vault:", "bao:", "openbao:"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let parts = path.and_then(|path| path.split_once('#'));
    is_one_line(text) && parts.is_some_and(|(path, key)| !path.is_empty() && is_word(path) && !key.is_empty())
}

/// Schemes of references that programs replace by a value: <https://external-secrets.io>, <https://www.serverless.com>, <https://infisical.com>, and
/// others that have the store's name in them.
fn is_reference_by_scheme(text: &str) -> bool {
    const SCHEMES: [&str; 18] = [
        "awssecretsmanager",
        "awssm",
        "awsssm",
        "azurekeyvault",
        "azkv",
        "bws",
        "conjur",
        "doppler",
        "gcpsecretmanager",
        "gcpsm",
        "gopass",
        "infisical",
        "keepass",
        "keepassxc",
        "pass",
        "secretsmanager",
        "ssm",
        "ssmparameter",
    ];
    let parts = text.split_once(':');
    is_word(text) && parts.is_some_and(|(scheme, rest)| SCHEMES.contains(&scheme) && rest.starts_with('/') && rest.len() > 2)
}

/// One or more places of a template, and nothing else.
fn is_template(text: &str) -> bool {
    let mut rest = text;
    while let Some(inner) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("${{")) {
        let Some((_, behind)) = inner.split_once("}}") else { return false };
        rest = behind.trim_start();
    }
    is_one_line(text) && rest.is_empty() && !text.is_empty()
}

/// `projects/shop/secrets/db/versions/latest`
fn is_version_of_google(text: &str) -> bool {
    let elements: Vec<&str> = text.split('/').collect();
    is_word(text) && matches!(elements.as_slice(), ["projects", _, "secrets", _, "versions", _])
}

/// `ref+vault://path#/key`: <https://github.com/helmfile/vals>
fn is_vals_reference(text: &str) -> bool {
    let reference = text.strip_prefix("ref+").or_else(|| text.strip_prefix("secretref+"));
    let scheme = reference.and_then(|reference| reference.split_once("://"));
    is_one_line(text) && scheme.is_some_and(|(scheme, path)| !path.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// `<path:kv/data/db#password>`
fn is_argocd_placeholder(text: &str) -> bool {
    is_within(text, "<path:", ">") && text.contains('#')
}

/// `${NAME}`, also with a default or a scheme: `${NAME:-x}`, `${ssm:/shop/db}`. Kubernetes writes `$(NAME)`.
fn is_variable(text: &str) -> bool {
    let named = |name: &str| name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && !name.contains(['{', '}', '\n']);
    let all_named = |name: &str| named(name) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let inside = |start, end| text.strip_prefix(start).and_then(|rest: &str| rest.strip_suffix(end));
    inside("${", '}').is_some_and(named) || inside("$(", ')').is_some_and(all_named)
}

/// `<password>`, and the `<no value>` of a template of Go.
fn is_placeholder(text: &str) -> bool {
    let name = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_. ".contains(c);
    name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(is_name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    #[test]
    fn what_is_not_a_value_is_told_apart() {
        for value in [
            "ENC[AES256_GCM,data:abc=,iv:def=,tag:ghi=,type:str]",
            "ENC[AES256_GCM,data:abc=,iv:def=,tag:ghi=,type:str]\n",
            "ENC[PKCS7,MIIBeQYJ]",
            "$ANSIBLE_VAULT;1.1;AES256\n6638\n",
            "\u{feff}ENC[AES256_GCM,data:x]",
            "\0GITCRYPT\0x",
            "version https://git-lfs.github.com/spec/v1\noid sha256:x\n",
            "-----BEGIN PGP MESSAGE-----\n\nhQEM\n-----END PGP MESSAGE-----\n",
            "encrypted:BD9hY3Jl/+=",
            "{cipher}682bc583f4641835fa2db009355293665d2647dade3375c0ee201de2a49f7bda",
            "ENC(nrmZtkF7T0kjG/VodDvBw93Ct8EgjCA+)",
            "vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zoCmHnSeDX9vyf7w==",
            "vault:path#key",
            "vault:secret/data/shop/db#password",
            ">>vault:secret/data/db#password",
            "vault://kv/db#password",
            "bao:kv/data/db#password",
            "op://Shop/db/password",
            "op://My Shop/db/password",
            "ref+vault://kv/shop/db#/password",
            "ref+awsssm://shop/db",
            "secretref+gcpsecrets://shop/db",
            "{{ .Values.password }}",
            "{{resolve:secretsmanager:shop:SecretString:password}}",
            "${{ secrets.PASSWORD }}",
            "<path:kv/data/db#password>",
            "berglas://bucket/db",
            "sm://shop/db",
            "${vault:secret/data/db#password}",
            "vault:secret/data/db#{{ .user | b64dec }}",
            "keeper://xpIQ/field/password",
            "akeyless:/shop/db",
            "azure:keyvault:db",
            "gcp:secretmanager:projects/shop/secrets/db/versions/1",
            "db@azurekeyvault",
            "EJ[1:abc=:def=:ghi=]",
            "-----BEGIN PKCS7-----\nMIIB\n-----END PKCS7-----\n",
            "<vault:secret/data/shop/db#password>",
            "openbao:kv/shop/db#password",
            "ssm:/shop/db",
            "ssm://shop/db",
            "awssm://shop/db",
            "azurekeyvault://shop/db",
            "doppler://shop/prd/DB",
            "infisical://shop/db",
            "$__vault{kv/shop/db:password}",
            "$__file{/etc/secrets/db}",
            "((credhub-name))",
            "{{a}}{{ b }}",
            "@Microsoft.KeyVault(SecretUri=https://shop.vault.azure.net/secrets/db)",
        ] {
            assert_eq!(of_value(value.as_bytes()).map(|mark| mark.legal), Some(false), "{value}");
        }
        for value in [
            "age-encryption.org/v1\n-> X25519 x",
            "# created: x\nAGE-SECRET-KEY-1X\n",
            "a: ENC[AES256_GCM,data:x]\nsops: { mac: x }\n",
            "A=ENC[AES256_GCM,data:x]\nsops_mac=x\n",
            "[db]\npassword = ENC[AES256_GCM,data:x]\n[sops]\nmac = ENC[x]\n",
            "projects/shop/secrets/db/versions/latest",
            "${DB_PASSWORD}",
            "${DB_PASSWORD:-none}",
            "${ssm:/shop/db}",
            "$(DB_PASSWORD)",
            "$(cat /run/password)",
            "<password>",
            "<no value>",
            "arn:aws:secretsmanager:eu-west-1:111122223333:secret:db-AbCdEf",
        ] {
            assert_eq!(of_value(value.as_bytes()).map(|mark| mark.legal), Some(true), "{value}");
        }
    }

    #[test]
    fn a_value_with_a_mark_somewhere_in_it_is_a_value() {
        for value in [
            "",
            "ENC",
            "ENC[",
            "x ENC[a]",
            "ENC[a] x",
            "ENC[a]\nx",
            "see op://Shop/db/password",
            "op://x",
            "vault:",
            "vault:hunter2",
            "vault: a#b",
            "#vault",
            "{{",
            "{{ a }} and more",
            "{{a}} and {{b}}",
            "ssm:",
            "pass:word",
            "pass://",
            "projects/shop/secrets",
            "((",
            "postgres://{{ user }}@db",
            "{\"a\":{}}",
            "ref+",
            "ref+x://",
            "encrypted: no",
            "<a/>",
            "<1>",
            "<a><b>",
            "vault:a b#c",
            "a: ENC[x]\nb: sops\n",
            "user@azurekeyvault.example",
            "${",
            "${1}",
            "a${DB}",
            "correct horse",
            "age1qqqq",
        ] {
            assert_eq!(of_value(value.as_bytes()), None, "{value}");
        }
        assert_eq!(of_value(&[0xff, 0]), None);
    }

    #[test]
    fn documents_are_known_by_what_is_beside_the_values() {
        for text in ["a: 1\nsops: { mac: x }", r#"{"data":"ENC[x]","sops":{"version":"3.9.0"}}"#] {
            assert_eq!(of_document(&parse(text).unwrap()), Some(SOPS), "{text}");
        }
        for text in ["sops: yes", "a: { sops: { mac: x } }", "- sops", ""] {
            assert_eq!(of_document(&parse(text).unwrap()), None, "{text}");
        }
        assert_eq!(of_names(["A", "sops_mac"].into_iter()), Some(SOPS));
        assert_eq!(of_names(["DOTENV_VAULT_PRODUCTION"].into_iter()), Some(DOTENV_VAULT));
        assert_eq!(of_names(["SOPS", "my_sops_key"].into_iter()), None);
        assert_eq!(of_file(b"\xef\xbb\xbf\n$ANSIBLE_VAULT;1.2;AES256;shop\n"), Some(ANSIBLE));
        assert!(makes_a_secret("external-secrets.io/v1beta1", "ExternalSecret") && !makes_a_secret("v1", "Secret"));
        assert!(!makes_a_secret("example.com/v1", "SealedSecret"));
    }
}
