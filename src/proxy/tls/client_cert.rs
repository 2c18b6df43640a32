//! What upstreams are told of a verified client certificate: the field `X-Forwarded-Client-Cert` in Envoy's format.
//! Pure.
//!
//! `Hash` is the SHA-256 of the certificate, `Subject` its subject as RFC 4514 writes it, then its `URI` and `DNS` names.
//! Whoever got a certificate from an authority that Weir trusts may have chosen the names in it, so nothing in a name
//! can end its value and begin another: what could is escaped, or left out.

use std::fmt::Write as _;

use http::HeaderValue;
use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_cert::ext::pkix::name::GeneralName;

use super::certificate::{alternative_names, parse};

/// Longest value: an eighth of what upstreams commonly take as a whole head; names beyond it are left out.
const BYTES_MAX: usize = 4096;

/// The value for `certificate`, which has been verified.
pub(super) fn header_value(certificate: &CertificateDer<'_>) -> HeaderValue {
    let mut text = String::from("Hash=");
    for byte in Sha256::digest(certificate) {
        write!(text, "{byte:02x}").expect("a String takes every text");
    }
    // What has been verified can be read; where this reader is stricter, the hash still names it.
    if let Ok(parsed) = parse(certificate) {
        let subject = parsed.tbs_certificate().subject().to_string();
        add(&mut text, &format!(";Subject=\"{}\"", escape_subject(&subject)));
        for name in alternative_names(&parsed) {
            match &name {
                GeneralName::UniformResourceIdentifier(uri) => {
                    add(&mut text, &format!(";URI={}", escape_uri(uri.as_str())));
                }
                GeneralName::DnsName(host) if is_host(host.as_str()) => {
                    add(&mut text, &format!(";DNS={}", host.as_str()));
                }
                _ => {}
            }
        }
    }
    HeaderValue::try_from(text).expect("what is not visible ASCII has been escaped")
}

fn add(text: &mut String, part: &str) {
    if text.len() + part.len() <= BYTES_MAX {
        text.push_str(part);
    }
}

/// Writes quotes and what is not visible ASCII as `\XX` (RFC 4514 §2.4), so that the subject stays what it was and a
/// quote can only be the one that ends it.
fn escape_subject(subject: &str) -> String {
    let mut escaped = String::with_capacity(subject.len());
    // `\"` already is an escape; as `\22` it needs no second look.
    for byte in subject.replace("\\\"", "\"").bytes() {
        match byte {
            b' '..=b'~' if byte != b'"' => escaped.push(char::from(byte)),
            _ => write!(escaped, "\\{byte:02X}").expect("a String takes every text"),
        }
    }
    escaped
}

/// Percent-encodes what could end the value (RFC 3986 §2.1).
fn escape_uri(uri: &str) -> String {
    let mut escaped = String::with_capacity(uri.len());
    for byte in uri.bytes() {
        match byte {
            b'"' | b',' | b';' | b'\\' => {
                write!(escaped, "%{byte:02X}").expect("a String takes every text");
            }
            b'!'..=b'~' => escaped.push(char::from(byte)),
            _ => write!(escaped, "%{byte:02X}").expect("a String takes every text"),
        }
    }
    escaped
}

fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._*".contains(&b))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn value(subject: &str, names: Vec<SanType>) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "Weir");
        params.distinguished_name.push(DnType::CommonName, subject);
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        header_value(certificate.der()).to_str().unwrap().to_owned()
    }

    fn after_hash(value: &str) -> &str {
        let (hash, rest) = value.split_once(';').unwrap();
        assert_eq!(hash.len(), "Hash=".len() + 64);
        rest
    }

    #[test]
    fn subject_and_names_are_told_in_the_format_of_envoy() {
        let names = vec![
            SanType::URI("spiffe://weir.test/ns/a".try_into().unwrap()),
            SanType::DnsName("client.weir.test".try_into().unwrap()),
        ];
        let value = value("client-1", names);
        assert_eq!(
            after_hash(&value),
            "Subject=\"O=Weir,CN=client-1\";URI=spiffe://weir.test/ns/a;DNS=client.weir.test"
        );
    }

    #[test]
    fn no_name_can_claim_to_be_another_element() {
        let names = vec![
            SanType::URI("x:a\";DNS=admin.test,Hash=0".try_into().unwrap()),
            SanType::DnsName("a;URI=b".try_into().unwrap()),
        ];
        let value = value("a\";URI=spiffe://admin\u{e9}\n", names);
        assert_eq!(
            after_hash(&value),
            "Subject=\"O=Weir,CN=a\\22\\;URI=spiffe://admin\\C3\\A9\\0a\";\
             URI=x:a%22%3BDNS=admin.test%2CHash=0"
        );
    }

    #[test]
    fn names_beyond_the_bound_are_left_out() {
        let names = (0..200).map(|n| SanType::DnsName(format!("name-{n}.weir.test").try_into().unwrap()));
        let value = value("client", names.collect());
        assert!((BYTES_MAX - 100..=BYTES_MAX).contains(&value.len()));
    }
}
