//! When an SSH certificate ends. The `ssh` engine signs keys without a lease, and its answer has no end: only the certificate has it.
//! The format is OpenSSH's (its PROTOCOL.certkeys).

use data_encoding::BASE64;
use jiff::Timestamp;

/// The valid-before of a certificate as a file has it: its type, a blank, base64. `None`: it is not a certificate.
pub(super) fn valid_before(line: &str) -> Option<Timestamp> {
    let mut words = line.split_ascii_whitespace();
    let (kind, encoded) = (words.next()?, words.next()?);
    let blob = BASE64.decode(encoded.as_bytes()).ok()?;
    let mut rest = blob.as_slice();
    if text(&mut rest)? != kind.as_bytes() {
        return None;
    }
    // The nonce, then what the key is made of.
    for _ in 0..=parts_of_key(kind)? {
        text(&mut rest)?;
    }
    let (_serial, _type) = (number::<8>(&mut rest)?, number::<4>(&mut rest)?);
    let (_id, _principals) = (text(&mut rest)?, text(&mut rest)?);
    let (_after, before) = (number::<8>(&mut rest)?, number::<8>(&mut rest)?);
    // All ones: for ever.
    let seconds = i64::try_from(u64::from_be_bytes(before)).unwrap_or(i64::MAX);
    Some(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}

fn parts_of_key(kind: &str) -> Option<usize> {
    Some(match kind.strip_suffix("-cert-v01@openssh.com")? {
        "ssh-ed25519" => 1,
        "ssh-rsa" | "sk-ssh-ed25519" => 2,
        "sk-ecdsa-sha2-nistp256" => 3,
        ecdsa if ecdsa.starts_with("ecdsa-sha2-") => 2,
        _ => return None,
    })
}

/// A length of four bytes, and that many bytes.
fn text<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(u32::from_be_bytes(number(rest)?)).ok()?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(text)
}

fn number<const BYTES: usize>(rest: &mut &[u8]) -> Option<[u8; BYTES]> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(kind: &str, parts: usize, before: u64) -> String {
        let text = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
        let mut blob = text(kind.as_bytes());
        for _ in 0..=parts {
            blob.extend(text(b"part"));
        }
        blob.extend(7_u64.to_be_bytes());
        blob.extend(1_u32.to_be_bytes());
        blob.extend([text(b"id"), text(b"principals")].concat());
        blob.extend(1_000_u64.to_be_bytes());
        blob.extend(before.to_be_bytes());
        format!("{kind} {} comment\n", BASE64.encode(&blob))
    }

    #[test]
    fn each_kind_of_key_tells_its_end() {
        let kinds = [("ssh-ed25519", 1), ("ssh-rsa", 2), ("ecdsa-sha2-nistp384", 2), ("sk-ssh-ed25519", 2), ("sk-ecdsa-sha2-nistp256", 3)];
        for (kind, parts) in kinds {
            let line = certificate(&format!("{kind}-cert-v01@openssh.com"), parts, 2_000);
            assert_eq!(valid_before(&line), Timestamp::from_second(2_000).ok(), "{kind}");
        }
        assert_eq!(valid_before(&certificate("ssh-rsa-cert-v01@openssh.com", 2, u64::MAX)), Some(Timestamp::MAX));
    }

    #[test]
    fn what_is_no_certificate_tells_none() {
        let good = certificate("ssh-ed25519-cert-v01@openssh.com", 1, 2_000);
        for cut in [0, 10, 40, 60, 100] {
            assert_eq!(valid_before(&good[..cut]), None, "{cut}");
        }
        for other in
            ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "nonsense", "ssh-x-cert-v01@openssh.com AAAA", "ssh-rsa-cert-v01@openssh.com AAAA"]
        {
            assert_eq!(valid_before(other), None, "{other}");
        }
    }
}
