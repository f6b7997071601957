//! One file with a key, its certificates and trusted certificates, encrypted with a password; and reading such a file.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::formatted::{CERTIFICATE, code_of_pem, read};
use super::{LOOK, Over, Problem, Renderer, select, too_large};
use crate::formats::pem::Bundle;
use crate::formats::pkcs12::{self, Certificate, Fault, MAX_CERTIFICATES, Opened, PrivateKey, Undone};
use crate::model::{Code, Field, FieldName, FieldOf, FilePath, Keystore, Object, Parse, PasswordOf, Secret, SecretBytes};
use crate::steps::Spent;

/// The steps to read a key and to compare it with a certificate.
const KEY: u64 = 500_000;

/// A field that goes into the file.
struct Chosen<'p> {
    /// Its secret, in the plan.
    place: usize,
    name: &'p FieldName,
    field: Field,
}

/// The secrets of an object, each with its place in the plan; `None`: absent, and may be.
type Sources<'s> = [(usize, Option<&'s Secret>)];

/// What is wrong, and with which secret.
type Faulty = (usize, Problem);

// === impl Renderer ===

impl<'p> Renderer<'p> {
    pub(super) fn keystore(
        &mut self,
        object: &'p Object,
        keystore: &'p Keystore,
        path: &FilePath,
        secrets: &[Option<&Secret>],
    ) -> Result<(), Over> {
        let Some((found, parsed)) = self.sources(object, secrets)? else { return Ok(()) };
        let sources: Vec<_> = found.iter().zip(&parsed).map(|((place, secret), parsed)| (*place, parsed.as_deref().or(*secret))).collect();
        let key = self.all_of(object, keystore.key.as_slice(), &sources)?;
        let chain = self.all_of(object, &keystore.chain, &sources)?;
        let trust = self.all_of(object, &keystore.trust, &sources)?;
        let password = self.all_of(object, std::slice::from_ref(&keystore.password), &sources)?;
        let (Some(key), Some(chain), Some(trust), Some(password)) = (key, chain, trust, password) else { return Ok(()) };
        let blocks = [&key, &chain, &trust].into_iter().flatten();
        let bytes: u64 = blocks.map(|chosen| chosen.field.bytes.len() as u64).sum();
        self.steps.charge(LOOK + CERTIFICATE * bytes + if key.is_empty() { 0 } else { KEY })?;
        match self.written(keystore, &key, &chain, &trust, &password)? {
            Ok(contents) => self.file(object, path.clone(), None, Ok(contents)),
            Err((place, problem)) => {
                self.fault_at(object, place, || problem);
                Ok(())
            }
        }
    }

    fn written(
        &self,
        keystore: &Keystore,
        key: &[Chosen<'_>],
        chain: &[Chosen<'_>],
        trust: &[Chosen<'_>],
        password: &[Chosen<'_>],
    ) -> Result<Result<Arc<SecretBytes>, Faulty>, Spent> {
        let content = || {
            let private = key.first().map(private_key).transpose()?;
            Ok((private, bundle(chain)?, bundle(trust)?, text_of(password)?))
        };
        let (private, chained, trusted, text) = match content() {
            Ok(content) => content,
            Err(faulty) => return Ok(Err(faulty)),
        };
        let [issued, trusted] = [&chained, &trusted].map(|bundle| bundle.certificates().filter_map(Certificate::of).collect::<Vec<_>>());
        let place = |chosen: &[Chosen<'_>]| chosen.first().map_or(0, |first| first.place);
        if let Some(at) = issued.windows(2).position(|pair| !pair[0].is_issued_by(&pair[1])) {
            return Ok(Err((place(chain), out_of_order(at + 1))));
        }
        let bytes = issued.iter().chain(&trusted).map(|certificate| certificate.der.len()).sum();
        if bytes > self.limits.secret_bytes {
            return Ok(Err((place(password), too_large(bytes, self.limits.secret_bytes))));
        }
        let keystore = pkcs12::Keystore { key: private.as_ref(), chain: &issued, trust: &trusted, alias: &keystore.alias };
        match pkcs12::write(&keystore, text, self.salts, self.steps) {
            Ok(bytes) => Ok(Ok(Arc::new(SecretBytes::from(bytes)))),
            Err(Undone::Spent(spent)) => Err(spent),
            Err(Undone::Fault(Fault::Unfit)) => Ok(Err(key.first().map_or((0, problem(&Fault::Unfit)), unfit))),
            Err(Undone::Fault(fault)) => Ok(Err(password.first().map_or((0, problem(&fault)), |chosen| faulty(chosen, &fault)))),
        }
    }

    /// Fields of the secrets, each decoded. `None`: some are absent or cannot be decoded, and a fault says so.
    fn all_of(&mut self, object: &'p Object, fields: &'p [FieldOf], sources: &Sources<'_>) -> Result<Option<Vec<Chosen<'p>>>, Over> {
        let (mut chosen, mut is_whole) = (Vec::with_capacity(fields.len()), true);
        for FieldOf { part, field: name } in fields {
            let (place, Some(secret)) = sources[*part] else { continue };
            let found = match self.present(object, place, secret, name)? {
                Some(field) => self.decoded(object, place, name, &field)?,
                None => None,
            };
            is_whole &= found.is_some();
            chosen.extend(found.map(|field| Chosen { place, name, field }));
        }
        Ok(is_whole.then_some(chosen))
    }

    /// A field of a secret. `None`: it is absent, and a fault says so.
    fn present(&mut self, object: &'p Object, place: usize, secret: &Secret, name: &FieldName) -> Result<Option<Field>, Spent> {
        self.steps.charge(LOOK + name.as_str().len() as u64)?;
        match secret.fields.get(name.as_str()) {
            Some(field) if field.is_null() => self.absent_at(object, place, Some(name.as_str()), || select::null(name)),
            Some(field) => return Ok(Some(field.clone())),
            None => {
                let (named, steps) = (!object.optional && self.names_fields(), self.steps);
                let text = || select::no_field(secret, name.as_str(), None, named.then_some(steps));
                self.absent_at(object, place, Some(name.as_str()), text);
            }
        }
        Ok(None)
    }

    /// The content of a stored keystore as a secret; `None`: there is none, and a fault says why. Each is opened once for all objects.
    pub(super) fn opened(
        &mut self,
        object: &'p Object,
        place: usize,
        secret: &Secret,
        parse: &'p Parse,
        secrets: &[Option<&Secret>],
    ) -> Result<Option<Arc<Secret>>, Spent> {
        let Parse::Pkcs12 { field: name, password } = parse else { return Ok(None) };
        self.steps.charge(LOOK)?;
        if let Some((_, _, known)) = self.opened.iter().find(|(other, known, _)| *other == place && *known == parse) {
            return Ok(known.clone());
        }
        let Some(stored) = self.present(object, place, secret, name)? else { return Ok(None) };
        let password = match password {
            None => None,
            Some(password) => match self.password(object, password, secrets)? {
                Some(password) => Some(password),
                None => return Ok(None),
            },
        };
        let opened = match self.open(&stored, password.as_ref()) {
            Ok(opened) => {
                Some(Arc::new(Secret { fields: fields_of(opened), response: None, version: secret.version.clone(), lease: None }))
            }
            Err(Undone::Spent(spent)) => return Err(spent),
            Err(Undone::Fault(fault)) => {
                self.fault_at(object, place, || problem(&fault).of_field_itself(name));
                None
            }
        };
        self.opened.push((place, parse, opened.clone()));
        Ok(opened)
    }

    fn open(&self, stored: &Field, password: Option<&Field>) -> Result<Opened, Undone> {
        let text = password.map(|password| str::from_utf8(password.bytes.expose())).transpose().map_err(|_| Fault::Password)?;
        pkcs12::open(stored.bytes.expose(), text, self.steps)
    }

    fn password(&mut self, object: &'p Object, password: &PasswordOf, secrets: &[Option<&Secret>]) -> Result<Option<Field>, Spent> {
        let PasswordOf { secret: place, field } = password;
        if let Some(secret) = secrets[*place] {
            return self.present(object, *place, secret, field);
        }
        self.absent_secret(object, *place);
        Ok(None)
    }
}

fn private_key(chosen: &Chosen<'_>) -> Result<PrivateKey, Faulty> {
    let bundle = bundle(std::slice::from_ref(chosen))?;
    let Some((label, bytes)) = bundle.key() else {
        let text = "has no private key in PEM (name the field that has it)".to_owned();
        return Err((chosen.place, Problem { code: Code::SecretNotFound, text }.of_field_itself(chosen.name)));
    };
    if label == "ENCRYPTED PRIVATE KEY" {
        let text =
            "has an encrypted key, and its password is not known (store it as `openssl pkcs8 -in OLD -out NEW` writes it)".to_owned();
        return Err((chosen.place, Problem { code: Code::InvalidRequest, text }.of_field_itself(chosen.name)));
    }
    PrivateKey::of_pem(label, bytes).map_err(|fault| faulty(chosen, &fault))
}

/// The blocks of some fields, in their order. A field without any is a fault.
fn bundle(fields: &[Chosen<'_>]) -> Result<Bundle, Faulty> {
    let mut bundle = Bundle::of_at_most(MAX_CERTIFICATES);
    for chosen in fields {
        let of_pem = |fault| (chosen.place, Problem { code: code_of_pem(fault), text: fault.to_string() }.of_field(chosen.name));
        if read(&mut bundle, &chosen.field).map_err(of_pem)? == 0 {
            let text = "has no PEM block (name a field that has a key or certificates)".to_owned();
            return Err((chosen.place, Problem { code: Code::InvalidRequest, text }.of_field_itself(chosen.name)));
        }
    }
    Ok(bundle)
}

fn text_of<'c>(password: &'c [Chosen<'_>]) -> Result<&'c str, Faulty> {
    let Some(chosen) = password.first() else { return Ok("") };
    str::from_utf8(chosen.field.bytes.expose()).map_err(|_| faulty(chosen, &Fault::PasswordSign))
}

fn unfit(chosen: &Chosen<'_>) -> Faulty {
    let text = "does not fit the first certificate under `chain` (store the certificate that was issued for the key)".to_owned();
    (chosen.place, Problem { code: Code::InvalidRequest, text }.of_field_itself(chosen.name))
}

fn faulty(chosen: &Chosen<'_>, fault: &Fault) -> Faulty {
    (chosen.place, problem(fault).of_field_itself(chosen.name))
}

fn problem(fault: &Fault) -> Problem {
    let code = match fault {
        Fault::Ber
        | Fault::Certificate
        | Fault::Cipher
        | Fault::Damaged
        | Fault::Key
        | Fault::KeyKind
        | Fault::NotPkcs12
        | Fault::Password => Code::SecretCorrupt,
        Fault::Iterations(_) | Fault::TooManyCertificates => Code::TooLarge,
        Fault::Library => Code::Internal,
        Fault::Locked | Fault::NoPassword | Fault::PasswordLength | Fault::PasswordSign | Fault::TwoKeys | Fault::Unfit => {
            Code::InvalidRequest
        }
    };
    Problem { code, text: fault.to_string() }
}

fn out_of_order(place: usize) -> Problem {
    let text = format!(
        "the certificates under `chain` are out of order: certificate {place} was not issued by the one that follows it (write the key's own \
         certificate first, then its issuer, and so on to the root; what is trusted goes under `trust`)"
    );
    Problem { code: Code::InvalidRequest, text }
}

/// An empty part does not become a field.
fn fields_of(opened: Opened) -> BTreeMap<FieldName, Field> {
    let Opened { key, leaf, chain, trust } = opened;
    let all = [("key", key), ("leaf", leaf), ("chain", chain), ("trust", trust)];
    let there = all.into_iter().filter(|(_, bytes)| !bytes.is_empty());
    there.map(|(name, bytes)| (FieldName::new(name), Field::of_bytes(SecretBytes::from(bytes)))).collect()
}
