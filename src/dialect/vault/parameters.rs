//! The parameters of a class as a whole: their names, and what they say of the login.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use crate::dialect::class::Class;
use crate::dialect::keys::{Keys, go_boolean};
use crate::dialect::login;
use crate::model::{Login, LoginKey, LoginTls};

/// A peer, and the parameter names that its classes use.
#[derive(Debug)]
pub(in crate::dialect) struct Peer {
    /// The dialect.
    pub name: &'static str,
    /// The server's name, for messages.
    pub title: &'static str,
    /// The audience of a Pod's token if nobody names one; it is the peers' default.
    pub audience: &'static str,
    /// For each [`Parameter`]: all its names, first the one with priority.
    names: [&'static [&'static str]; 11],
    /// The names that messages list.
    shown: &'static [&'static str],
    foreign: &'static [(&'static str, &'static str)],
    /// What to do about a name that only the other peer has.
    of_others: fn(&str) -> Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Parameter {
    Role,
    Address,
    Namespace,
    AuthMount,
    KubernetesMount,
    CaFile,
    CaFolder,
    ServerName,
    ClientCertificate,
    ClientKey,
    SkipVerify,
}

/// The names that both have.
const SHARED: [&str; 3] = ["objects", "audience", "dialect"];

pub(in crate::dialect) const VAULT: Peer = Peer {
    name: "vault",
    title: "Vault",
    audience: "vault",
    names: [
        &["roleName"],
        &["vaultAddress"],
        &["vaultNamespace"],
        &["vaultAuthMountPath"],
        &["vaultKubernetesMountPath"],
        &["vaultCACertPath"],
        &["vaultCADirectory"],
        &["vaultTLSServerName"],
        &["vaultTLSClientCertPath"],
        &["vaultTLSClientKeyPath"],
        &["vaultSkipTLSVerify"],
    ],
    shown: &[
        "roleName",
        "objects",
        "audience",
        "vaultAddress",
        "vaultNamespace",
        "vaultAuthMountPath",
        "vaultCACertPath",
        "vaultCADirectory",
        "vaultTLSServerName",
        "vaultTLSClientCertPath",
        "vaultTLSClientKeyPath",
        "vaultSkipTLSVerify",
    ],
    foreign: &[
        ("address", "here it is `vaultAddress`"),
        ("backend", "here the address or the node's configuration chooses the backend"),
        ("fresh", "only classes in the native format have this key"),
        ("maxStale", "only classes in the native format have this key"),
        ("mode", "here each object has its `filePermission`"),
        ("mount", "here it is `vaultAuthMountPath`"),
        ("namespace", "here it is `vaultNamespace`"),
        ("role", "here it is `roleName`"),
        ("vaultCAPem", "here it is `vaultCACertPath`, a file"),
        ("vaultRole", "here it is `roleName`"),
        ("vaultRoleName", "here it is `roleName`"),
    ],
    of_others: of_openbao,
};

/// It also accepts the former names, so that classes of the other peer work with it.
pub(in crate::dialect) const OPENBAO: Peer = Peer {
    name: "openbao",
    title: "OpenBao",
    audience: "openbao",
    names: [
        &["baoRoleName", "openbaoRoleName", "vaultRoleName", "roleName"],
        &["baoAddress", "openbaoAddress", "vaultAddress"],
        &["baoNamespace", "openbaoNamespace", "vaultNamespace"],
        &["baoAuthMountPath", "openbaoAuthMountPath", "vaultAuthMountPath"],
        &["baoKubernetesMountPath", "openbaoKubernetesMountPath", "vaultKubernetesMountPath"],
        &["baoCACertPath", "openbaoCACertPath", "vaultCACertPath"],
        &["baoCADirectory", "openbaoCADirectory", "vaultCADirectory"],
        &["baoTLSServerName", "openbaoTLSServerName", "vaultTLSServerName"],
        &["baoTLSClientCertPath", "openbaoTLSClientCertPath", "vaultTLSClientCertPath"],
        &["baoTLSClientKeyPath", "openbaoTLSClientKeyPath", "vaultTLSClientKeyPath"],
        &["baoSkipTLSVerify", "openbaoSkipTLSVerify", "vaultSkipTLSVerify"],
    ],
    shown: &[
        "roleName",
        "objects",
        "audience",
        "baoAddress",
        "baoNamespace",
        "baoAuthMountPath",
        "baoCACertPath",
        "baoCADirectory",
        "baoTLSServerName",
        "baoTLSClientCertPath",
        "baoTLSClientKeyPath",
        "baoSkipTLSVerify",
    ],
    foreign: &[
        ("address", "here it is `baoAddress`"),
        ("baoCAPem", "here it is `baoCACertPath`, a file"),
        ("baoRole", "here it is `roleName`"),
        ("backend", "here the address or the node's configuration chooses the backend"),
        ("fresh", "only classes in the native format have this key"),
        ("maxStale", "only classes in the native format have this key"),
        ("mode", "here each object has its `filePermission`"),
        ("mount", "here it is `baoAuthMountPath`"),
        ("namespace", "here it is `baoNamespace`"),
        ("openbaoCAPem", "here it is `openbaoCACertPath`, a file"),
        ("openbaoRole", "here it is `roleName`"),
        ("role", "here it is `roleName`"),
        ("vaultCAPem", "here it is `vaultCACertPath`, a file"),
        ("vaultRole", "here it is `roleName`"),
    ],
    of_others: |_| None,
};

/// The name that a class for Vault has for a parameter of OpenBao's provider.
fn of_openbao(key: &str) -> Option<String> {
    let place = OPENBAO.names.iter().position(|names| names.contains(&key))?;
    Some(format!("here it is `{}`; with the provider `openbao` this name works", VAULT.names[place][0]))
}

static VAULT_KEYS: LazyLock<Vec<&'static str>> = LazyLock::new(|| VAULT.all());
static OPENBAO_KEYS: LazyLock<Vec<&'static str>> = LazyLock::new(|| OPENBAO.all());

/// What a class says about the store's address and the login.
#[derive(Debug)]
pub(super) struct Entry {
    pub login: Login,
    /// The parameter in which the class names the address.
    pub address_word: Option<&'static str>,
    /// The parameters in which the class gives TLS settings.
    pub tls_words: Vec<&'static str>,
}

// === impl Peer ===

impl Peer {
    pub(super) fn keys(&'static self) -> Keys {
        let known: &'static [&'static str] = if self.name == OPENBAO.name { &OPENBAO_KEYS } else { &VAULT_KEYS };
        Keys { known, shown: self.shown, later: &[], foreign: self.foreign, of_others: self.of_others }
    }

    fn all(&self) -> Vec<&'static str> {
        self.names.concat().into_iter().chain(SHARED).collect()
    }

    /// The names for the parts of a login that the class does not give.
    fn login_words(&self) -> BTreeMap<LoginKey, String> {
        let words = [
            (LoginKey::Role, "roleName"),
            (LoginKey::Address, self.names(Parameter::Address)[0]),
            (LoginKey::Mount, self.names(Parameter::AuthMount)[0]),
            (LoginKey::Namespace, self.names(Parameter::Namespace)[0]),
            (LoginKey::Tls, self.names(Parameter::CaFile)[0]),
            (LoginKey::TlsDir, self.names(Parameter::CaFile)[0]),
        ];
        words.map(|(key, word)| (key, word.to_owned())).into()
    }

    fn names(&self, parameter: Parameter) -> &'static [&'static str] {
        self.names[parameter as usize]
    }
}

// === impl Entry ===

impl Entry {
    pub(super) fn read(peer: &'static Peer, parameters: &BTreeMap<String, String>, class: &mut Class<'_>) -> Self {
        class.login_words = peer.login_words();
        let mut words = Words { peer, parameters, class };
        let role = words.text(Parameter::Role, Some(LoginKey::Role), login::text);
        let address = words.text(Parameter::Address, Some(LoginKey::Address), login::text);
        let namespace = words.text(Parameter::Namespace, Some(LoginKey::Namespace), login::path);
        let (tls, tls_words) = words.tls();
        let login = Login {
            role: role.map(|(_, role)| role),
            namespace: namespace.map(|(_, namespace)| namespace),
            mount: words.mount(),
            audience: words.class.parsed_login(parameters, "audience", login::text),
            tls: tls.map(Box::new),
            address: address.as_ref().map(|(_, address)| address.clone()),
        };
        Self { login, address_word: address.map(|(word, _)| word), tls_words }
    }

    /// Checked when a backend is known that needs a login with a role.
    pub(super) fn check_role(&self, class: &mut Class<'_>) {
        if self.login.role.is_none() {
            class.fault("roleName", "is missing (add it: the role that the Pod's ServiceAccount logs in with)");
        }
    }
}

/// Reads parameters under any of their names.
struct Words<'w, 'c> {
    peer: &'static Peer,
    parameters: &'w BTreeMap<String, String>,
    class: &'w mut Class<'c>,
}

impl<'w> Words<'w, '_> {
    /// The first name that is present, even with an empty text, and its value.
    fn found(&mut self, parameter: Parameter) -> Option<(&'static str, &'w str)> {
        let parameters = self.parameters;
        let mut found = self.peer.names(parameter).iter().filter_map(|name| Some((*name, parameters.get(*name)?.as_str())));
        let (word, value) = found.next()?;
        for (other, _) in found.filter(|(_, other)| *other != value) {
            self.class.warn(None, other, format!("is not used: `{word}` has another value, and Keyferry uses that (remove one)"));
        }
        Some((word, value))
    }

    /// A parameter with a value. Messages of later stages use its name.
    fn text(
        &mut self,
        parameter: Parameter,
        key: Option<LoginKey>,
        parse: fn(&str) -> Result<Option<String>, String>,
    ) -> Option<(&'static str, String)> {
        let (word, value) = self.found(parameter)?;
        if let Some(key) = key {
            self.class.login_words.insert(key, word.to_owned());
        }
        match parse(value.trim()) {
            Ok(text) => text.map(|text| (word, text)),
            Err(problem) => {
                self.class.fault(word, problem);
                None
            }
        }
    }

    fn mount(&mut self) -> Option<String> {
        let present = |parameter| self.peer.names(parameter).iter().find(|name| self.parameters.contains_key(**name)).copied();
        let (word, former) = (present(Parameter::AuthMount), present(Parameter::KubernetesMount));
        if let (Some(word), Some(former)) = (word, former) {
            self.class.fault(former, format!("cannot be used together with `{word}`: both mean the same (remove `{former}`)"));
        }
        let parameter = if former.is_some() { Parameter::KubernetesMount } else { Parameter::AuthMount };
        let (word, mount) = self.text(parameter, Some(LoginKey::Mount), login::path)?;
        if let Some(problem) = login::doubt_of_mount(&mount) {
            self.class.warn(None, word, problem);
        }
        Some(mount)
    }

    fn tls(&mut self) -> (Option<LoginTls>, Vec<&'static str>) {
        let [ca_file, ca_folder, server_name, certificate, key] =
            [Parameter::CaFile, Parameter::CaFolder, Parameter::ServerName, Parameter::ClientCertificate, Parameter::ClientKey]
                .map(|parameter| self.text(parameter, None, login::text));
        let skip_verify = self.skip_verify();
        let texts = [&ca_file, &ca_folder, &server_name, &certificate, &key].into_iter().flatten().map(|(word, _)| *word);
        let words: Vec<&'static str> = texts.chain(skip_verify).collect();
        if let Some(word) = words.first() {
            self.class.login_words.insert(LoginKey::Tls, (*word).to_owned());
        }
        // The name of the file that is refused first: the CA, or else the certificate.
        if let Some((word, _)) = ca_file.as_ref().or(ca_folder.as_ref()).or(certificate.as_ref()) {
            self.class.login_words.insert(LoginKey::TlsDir, (*word).to_owned());
        }
        if let (Some((file, _)), Some((folder, _))) = (&ca_file, &ca_folder) {
            self.class.warn(None, folder, format!("is not used: the class has `{file}` too, and Keyferry uses that (remove one)"));
        }
        self.check_pair(certificate.as_ref(), Parameter::ClientKey, key.is_some());
        self.check_pair(key.as_ref(), Parameter::ClientCertificate, certificate.is_some());
        let path = |text: (&'static str, String)| PathBuf::from(text.1);
        let tls = LoginTls {
            ca: ca_file.or(ca_folder).map(path),
            client: certificate.map(path).zip(key.map(path)),
            server_name: server_name.map(|(_, name)| name),
            skip_verify: skip_verify.is_some(),
        };
        (Some(tls).filter(|tls| *tls != LoginTls::default()), words)
    }

    fn check_pair(&mut self, one: Option<&(&'static str, String)>, other: Parameter, other_is_there: bool) {
        if let Some((word, _)) = one.filter(|_| !other_is_there) {
            let other = self.peer.names(other)[0];
            self.class.fault(word, format!("needs `{other}`: a certificate and its key belong together (add `{other}`, or remove it)"));
        }
    }

    /// The parameter, if it says yes.
    fn skip_verify(&mut self) -> Option<&'static str> {
        let (word, value) = self.found(Parameter::SkipVerify)?;
        match go_boolean(value) {
            Ok(said) => said.then_some(word),
            Err(problem) => {
                self.class.fault(word, problem);
                None
            }
        }
    }
}
