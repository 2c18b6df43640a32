//! Certificates, keys and authorities from PEM files (RFC 7468), bounded.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// Largest file: four times the bundle of all public authorities.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most certificates of one chain: an authority of the web has two or three.
const CHAIN_MAX: usize = 16;

/// A file that was read, and what it is called in errors.
pub(super) struct PemFile {
    pub(super) path: PathBuf,
    text: Vec<u8>,
}

impl PemFile {
    /// Reads `path`; blocks.
    ///
    /// # Errors
    /// It cannot be read or is larger than 1 MiB.
    pub(super) fn read(path: &Path) -> Result<Self, TlsError> {
        let mut text = Vec::new();
        let read =
            std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text));
        match read {
            Ok(length) if length as u64 <= FILE_BYTES_MAX => Ok(Self {
                path: path.to_owned(),
                text,
            }),
            Ok(_) => Err(TlsError::TooLarge {
                path: path.to_owned(),
                max: FILE_BYTES_MAX,
            }),
            Err(source) => Err(TlsError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// What the file holds.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The certificates, a server's or client's own first.
    pub(super) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let chain = self.certificates()?;
        if chain.len() > CHAIN_MAX {
            let why = format!("a chain of {} is too long, keep at most {CHAIN_MAX}", chain.len());
            return Err(self.unusable(why));
        }
        Ok(chain)
    }

    /// The first private key: PKCS #8, PKCS #1 or SEC 1.
    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|error| match error {
            PemError::NoItemsFound => self.lacking("private key"),
            source => self.no_pem(source),
        })
    }

    /// The certificates as authorities.
    pub(super) fn authorities(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in self.certificates()? {
            store
                .add(certificate)
                .map_err(|error| self.unusable(error.to_string()))?;
        }
        Ok(Arc::new(store))
    }

    pub(super) fn unusable(&self, why: String) -> TlsError {
        TlsError::Certificate {
            path: self.path.clone(),
            why,
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.text).collect();
        let all = all.map_err(|source| self.no_pem(source))?;
        if all.is_empty() {
            return Err(self.lacking("certificate"));
        }
        Ok(all)
    }

    fn lacking(&self, what: &'static str) -> TlsError {
        TlsError::Lacking {
            path: self.path.clone(),
            what,
        }
    }

    fn no_pem(&self, source: PemError) -> TlsError {
        TlsError::Pem {
            path: self.path.clone(),
            source,
        }
    }
}
