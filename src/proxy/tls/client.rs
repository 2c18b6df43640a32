//! TLS towards upstreams.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore, SignatureScheme,
};

use super::pem::PemFile;
use super::{ALPN_HTTP2, ALPN_HTTP11, TlsError, provider};

/// How connections to an upstream are secured.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct ClientTlsOptions<'a> {
    /// How the upstream proves who it is.
    pub(in crate::proxy) check: ServerCheck<'a>,
    /// What Weir proves itself with, if it has to (mutual TLS).
    pub(in crate::proxy) identity: Option<ClientIdentity<'a>>,
    /// Whether HTTP/2 is offered (ALPN), beside HTTP/1.1.
    pub(in crate::proxy) http2: bool,
}

/// How an upstream proves who it is.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) enum ServerCheck<'a> {
    /// By a chain to an authority that the system trusts.
    System,
    /// By a chain to an authority in this file.
    Authorities(&'a Path),
    /// Not at all: whoever answers is believed. For test environments.
    None,
}

/// The files of a client certificate.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct ClientIdentity<'a> {
    /// The certificate and its chain.
    pub(in crate::proxy) cert: &'a Path,
    /// Its private key.
    pub(in crate::proxy) key: &'a Path,
}

/// Secures connections to one upstream. Shared by its connections, which resume each other's sessions.
#[derive(Clone)]
pub(in crate::proxy) struct ClientTls {
    connector: TlsConnector,
}

impl ClientTls {
    /// Reads the files that `options` name; blocks.
    ///
    /// # Errors
    /// A file cannot be read or used, or the system has no authorities.
    pub(in crate::proxy) fn load(options: &ClientTlsOptions<'_>) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Setup(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier(options.check)?);
        let mut config = match options.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let cert = PemFile::read(identity.cert)?;
                let key = PemFile::read(identity.key)?;
                let authenticated = builder.with_client_auth_cert(cert.chain()?, key.private_key()?);
                authenticated.map_err(|source| TlsError::Key {
                    key: key.path,
                    cert: cert.path,
                    source,
                })?
            }
        };
        config.alpn_protocols = if options.http2 {
            vec![ALPN_HTTP2.to_vec(), ALPN_HTTP11.to_vec()]
        } else {
            vec![ALPN_HTTP11.to_vec()]
        };
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { connector })
    }

    /// Secures `stream`, whose other end has to prove that it is `host`: a DNS name or an address, without brackets.
    ///
    /// # Errors
    /// `host` is no name, the other end did not prove itself, or the connection broke.
    pub(in crate::proxy) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?
            .to_owned();
        self.connector.connect(name, stream).await
    }
}

/// Whether both ends agreed on HTTP/2.
pub(in crate::proxy) fn speaks_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2)
}

fn verifier(check: ServerCheck<'_>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let roots = match check {
        ServerCheck::None => return Ok(Arc::new(AnyServer::new())),
        ServerCheck::Authorities(path) => PemFile::read(path)?.authorities()?,
        ServerCheck::System => system_roots()?,
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
    Ok(verifier.map_err(|error| TlsError::Setup(error.to_string()))?)
}

/// What `SSL_CERT_FILE` and `SSL_CERT_DIR` name, or else the system's own store.
pub(super) fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    // Stores hold certificates that nobody should trust any more; those are skipped.
    let (added, _) = store.add_parsable_certificates(loaded.certs);
    if added == 0 {
        return Err(TlsError::NoSystemRoots);
    }
    Ok(Arc::new(store))
}

/// Believes every certificate, but still that the other end holds its key.
#[derive(Debug)]
struct AnyServer {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyServer {
    fn new() -> Self {
        Self {
            algorithms: provider().signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
