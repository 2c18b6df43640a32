//! The certificates of a listener, and which of them a client gets.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::pem::PemFile;
use super::{TlsError, provider};

/// One certificate, ready to be served.
pub(super) struct ServedCertificate {
    key: Arc<CertifiedKey>,
    /// The names that it is served for, in lower case; a wildcard begins with `*.`.
    hosts: Vec<String>,
    /// The file that it came from.
    pub(super) path: PathBuf,
    /// The second since 1970 (UTC) from which clients refuse it.
    pub(super) not_after: u64,
}

impl ServedCertificate {
    /// Puts a certificate together with its key. It is served for `hosts`, or without any for the DNS names that it
    /// says it is for.
    ///
    /// # Errors
    /// One of both cannot be used, or they do not belong together.
    pub(super) fn new(cert: &PemFile, key: &PemFile, hosts: &[String]) -> Result<Self, TlsError> {
        let chain = cert.chain()?;
        let own = chain
            .first()
            .ok_or_else(|| cert.unusable("there is none".to_owned()))?;
        let parsed = parse(own).map_err(|why| cert.unusable(why))?;
        let validity = parsed.tbs_certificate().validity();
        let hosts = if hosts.is_empty() {
            dns_names(&parsed)
        } else {
            hosts.to_vec()
        };
        let not_after = validity.not_after.to_unix_duration().as_secs();
        let certified = CertifiedKey::from_der(chain, key.private_key()?, &provider());
        let certified = certified.map_err(|source| TlsError::Key {
            key: key.path.clone(),
            cert: cert.path.clone(),
            source,
        })?;
        Ok(Self {
            key: Arc::new(certified),
            hosts,
            path: cert.path.clone(),
            not_after,
        })
    }
}

/// Reads a certificate from DER.
pub(super) fn parse(der: &CertificateDer<'_>) -> Result<Certificate, String> {
    Certificate::from_der(der).map_err(|error| format!("not valid X.509: {error}"))
}

/// The alternative names of the subject; none where there are none that can be read.
pub(super) fn alternative_names(certificate: &Certificate) -> Vec<GeneralName> {
    let names = certificate.tbs_certificate().get_extension::<SubjectAltName>();
    names.ok().flatten().map_or(Vec::new(), |(_, names)| names.0)
}

fn dns_names(certificate: &Certificate) -> Vec<String> {
    let names = alternative_names(certificate);
    let hosts = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(host) => Some(host.as_str().to_ascii_lowercase()),
        _ => None,
    });
    hosts.collect()
}

/// Chooses a certificate by the name that the client asks for (SNI, RFC 6066 §3): one for that very name, else one whose
/// wildcard covers it, else the first of all.
pub(super) struct CertificatesByName {
    by_host: HashMap<String, Vec<Arc<CertifiedKey>>>,
    first: Arc<CertifiedKey>,
}

impl CertificatesByName {
    /// `None` without a certificate.
    pub(super) fn new(served: &[ServedCertificate]) -> Option<Self> {
        let mut by_host = HashMap::<_, Vec<_>>::new();
        for certificate in served {
            for host in &certificate.hosts {
                let keys = by_host.entry(host.clone()).or_default();
                keys.push(Arc::clone(&certificate.key));
            }
        }
        let first = Arc::clone(&served.first()?.key);
        Some(Self { by_host, first })
    }

    /// Those for `host`, the best first.
    fn candidates(&self, host: Option<&str>) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let host = host.map(|host| host.trim_end_matches('.').to_ascii_lowercase());
        // A wildcard stands for exactly one label (RFC 6125 §6.4.3).
        let wildcard = host
            .as_deref()
            .and_then(|host| host.split_once('.'))
            .map(|(_, parent)| format!("*.{parent}"));
        let of = |host: Option<String>| host.and_then(|host| self.by_host.get(&host));
        let named = of(host).into_iter().chain(of(wildcard)).flatten();
        named.chain(std::iter::once(&self.first))
    }
}

/// Key material never shows in a log.
impl std::fmt::Debug for CertificatesByName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.by_host.keys()).finish()
    }
}

impl ResolvesServerCert for CertificatesByName {
    /// Several certificates for one name differ in their kind of key; the client gets one that it can check.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let mut candidates = self.candidates(hello.server_name());
        candidates.find(fits).or(Some(&self.first)).cloned()
    }
}
