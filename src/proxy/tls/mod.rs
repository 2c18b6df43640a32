//! TLS on both sides: listeners that clients connect to, and connections to upstreams.
//!
//! Owns certificates, keys and authorities: reads them from bounded files, checks them before they are used, and takes
//! up changed ones without dropping a connection. Everything is rustls with ring and rustls' safe defaults: TLS 1.2 and
//! 1.3, forward secrecy and authenticated encryption only, no renegotiation, no compression, no early data.
//! Promises that key material appears in no error, no log and no `Debug`.

mod certificate;
mod client;
mod client_cert;
mod ends;
mod inspect;
mod pem;
mod server;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use thiserror::Error;
use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::CryptoProvider;

pub(super) use client::{ClientIdentity, ClientTls, ClientTlsOptions, ServerCheck, speaks_http2};
pub use inspect::{FileFinding, inspect_files};
pub(super) use server::{Accepted, Terminator};
pub(super) use watch::Watch;

/// ALPN names of HTTP/2 and HTTP/1.1 (RFC 7301 §6, RFC 9113 §3.1).
pub(super) const ALPN_HTTP2: &[u8] = b"h2";
pub(super) const ALPN_HTTP11: &[u8] = b"http/1.1";

/// The cryptography that both sides use.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Why TLS could not be set up. What was in force before still is.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("`{}` cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than any that makes sense.
    #[error("`{}` is larger than {max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        max: u64,
    },
    /// A file is not PEM.
    #[error("`{}` is no PEM: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never its content.
        source: rustls::pki_types::pem::Error,
    },
    /// A file lacks what it is for.
    #[error("`{}` holds no {what}", path.display())]
    Lacking {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// A certificate or authority cannot be used.
    #[error("`{}` holds a certificate that cannot be used: {why}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A private key cannot be used, or belongs to another certificate.
    #[error("the key in `{}` cannot be used with `{}`: {source}", key.display(), cert.display())]
    Key {
        /// The file with the key.
        key: PathBuf,
        /// The file with the certificate.
        cert: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The system's own authorities could not be loaded.
    #[error("the system trusts no certificate authority; name a file of them as `ca`")]
    NoSystemRoots,
    /// The parts do not go together.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}
