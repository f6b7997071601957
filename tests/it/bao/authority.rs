//! A CA of a test's own: certificates for servers and clients, good ones and bad ones.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd};

/// A CA, made again each time.
pub struct Authority {
    /// Its certificate (PEM).
    pub ca: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key (PEM).
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
    /// The same certificate, as it goes over the network.
    pub der: Vec<u8>,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Life {
    /// Until 2001-01-01.
    Expired,
    Good,
    /// From 2100-01-01.
    NotYet,
}

impl Authority {
    /// `name` distinguishes it from another in messages.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let ca = params.self_signed(&key).unwrap().pem();
        Self { ca, issuer: Issuer::new(params, key) }
    }

    /// For a server of these names and addresses.
    pub fn server(&self, names: &[&str], life: Life) -> Pair {
        self.sign(names, names[0], ExtendedKeyUsagePurpose::ServerAuth, life)
    }

    /// For a client of this name (CN).
    pub fn client(&self, name: &str) -> Pair {
        self.sign(&[name], name, ExtendedKeyUsagePurpose::ClientAuth, Life::Good)
    }

    fn sign(&self, names: &[&str], common_name: &str, purpose: ExtendedKeyUsagePurpose, life: Life) -> Pair {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![purpose];
        match life {
            Life::Expired => (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1)),
            Life::Good => {}
            Life::NotYet => (params.not_before, params.not_after) = (date_time_ymd(2100, 1, 1), date_time_ymd(2101, 1, 1)),
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }
}
