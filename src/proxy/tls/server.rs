//! TLS of one listener: what it offers to clients, and the handshake.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::Ticketer;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ServerConfig, SupportedProtocolVersion};
use tokio_rustls::server::TlsStream;

use super::certificate::{CertificatesByName, ServedCertificate};
use super::client_cert::header_value;
use super::pem::PemFile;
use super::{ALPN_HTTP2, ALPN_HTTP11, TlsError, provider};
use crate::config::{ClientAuth, TlsConfig, TlsVersion};

const TLS13_ONLY: &[&SupportedProtocolVersion] = &[&TLS13];
const TLS12_AND_13: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Ends TLS for one listener, on all workers. Connections keep what they began with while it changes.
pub(in crate::proxy) struct Terminator {
    section: TlsConfig,
    config: ArcSwap<ServerConfig>,
}

/// A client that has finished its handshake.
pub(in crate::proxy) struct Accepted {
    /// What it sends and receives.
    pub(in crate::proxy) stream: TlsStream<TcpStream>,
    /// What upstreams are told of its certificate, if it has one and they are to be told.
    pub(in crate::proxy) certificate: Option<HeaderValue>,
}

/// What the files of a listener hold, ready to be put in force.
pub(super) struct Loaded {
    config: Arc<ServerConfig>,
    /// The files with certificates, and when those end.
    pub(super) ends: Vec<(PathBuf, u64)>,
    /// Tells whether a file has changed.
    pub(super) digest: [u8; 32],
}

impl Terminator {
    /// Reads the files that `section` names; blocks.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub(super) fn load(section: &TlsConfig) -> Result<(Self, Loaded), TlsError> {
        let loaded = Files::read(section)?.load(section)?;
        let terminator = Self {
            section: section.clone(),
            config: ArcSwap::new(Arc::clone(&loaded.config)),
        };
        Ok((terminator, loaded))
    }

    /// Reads the files again; blocks. `None` when they are those of `digest`.
    ///
    /// # Errors
    /// A file cannot be read or used. What is in force stays.
    pub(super) fn reload(&self, digest: &[u8; 32]) -> Result<Option<Loaded>, TlsError> {
        let files = Files::read(&self.section)?;
        if files.digest() == *digest {
            return Ok(None);
        }
        let loaded = files.load(&self.section)?;
        self.config.store(Arc::clone(&loaded.config));
        Ok(Some(loaded))
    }

    /// Performs the handshake. A client that fails it is told why by an alert.
    ///
    /// # Errors
    /// What the client sent is no TLS, or nothing that both can agree on, or the connection broke.
    pub(in crate::proxy) async fn accept(&self, stream: TcpStream) -> io::Result<Accepted> {
        let stream = TlsAcceptor::from(self.config.load_full()).accept(stream).await?;
        let forwards = self.section.client_auth.as_ref().is_some_and(|auth| auth.forward);
        let chain = stream.get_ref().1.peer_certificates().filter(|_| forwards);
        Ok(Accepted {
            certificate: chain.and_then(<[_]>::first).map(header_value),
            stream,
        })
    }
}

/// The files of a listener as they are now.
struct Files {
    /// Each certificate with its key.
    pairs: Vec<(PemFile, PemFile)>,
    client_ca: Option<PemFile>,
}

impl Files {
    fn read(section: &TlsConfig) -> Result<Self, TlsError> {
        let pairs = section.certificates.iter();
        let pairs = pairs.map(|pair| Ok((PemFile::read(&pair.cert)?, PemFile::read(&pair.key)?)));
        let client_ca = section.client_auth.as_ref();
        Ok(Self {
            pairs: pairs.collect::<Result<_, TlsError>>()?,
            client_ca: client_ca.map(|auth| PemFile::read(&auth.ca)).transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let pairs = self.pairs.iter().flat_map(|(cert, key)| [cert, key]);
        for file in pairs.chain(&self.client_ca) {
            hasher.update((file.text().len() as u64).to_be_bytes());
            hasher.update(file.text());
        }
        hasher.finalize().into()
    }

    fn load(&self, section: &TlsConfig) -> Result<Loaded, TlsError> {
        let pairs = self.pairs.iter().zip(&section.certificates);
        let served = pairs.map(|((cert, key), config)| ServedCertificate::new(cert, key, &config.hosts));
        let served: Vec<_> = served.collect::<Result<_, _>>()?;
        Ok(Loaded {
            config: self.server_config(section, &served)?,
            ends: served.into_iter().map(|one| (one.path, one.not_after)).collect(),
            digest: self.digest(),
        })
    }

    fn server_config(
        &self,
        section: &TlsConfig,
        served: &[ServedCertificate],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let setup = |error: &dyn std::fmt::Display| TlsError::Setup(error.to_string());
        let versions = match section.min_version {
            TlsVersion::Tls12 => TLS12_AND_13,
            TlsVersion::Tls13 => TLS13_ONLY,
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|error| setup(&error))?;
        let builder = match self.client_verifier(section)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let certificates = CertificatesByName::new(served);
        let certificates = certificates.ok_or_else(|| setup(&"there is no certificate"))?;
        let mut config = builder.with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP11.to_vec()];
        if self.client_ca.is_none() {
            // Tickets carry a session to whichever worker the client meets next, and no state is kept for them.
            config.ticketer = Ticketer::new().map_err(|error| setup(&error))?;
        } else {
            // A resumed session would let a client in whose certificate has ended meanwhile.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }

    fn client_verifier(&self, section: &TlsConfig) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let (Some(file), Some(auth)) = (&self.client_ca, &section.client_auth) else {
            return Ok(None);
        };
        let builder = WebPkiClientVerifier::builder_with_provider(file.authorities()?, provider());
        let builder = match auth.mode {
            ClientAuth::Required => builder,
            ClientAuth::Optional => builder.allow_unauthenticated(),
        };
        let verifier = builder.build();
        verifier
            .map(Some)
            .map_err(|error| file.unusable(error.to_string()))
    }
}
