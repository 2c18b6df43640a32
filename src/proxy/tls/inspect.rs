//! What is wrong with the files of TLS that a configuration names, setting by setting, before anything is started.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_cert::Certificate;

use super::certificate::{ServedCertificate, parse};
use super::ends::WARN_BEFORE;
use super::pem::PemFile;
use super::server::Terminator;
use super::{TlsError, client};
use crate::config::{Config, TlsConfig, UpstreamConfig};

/// Something about a file that a configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFinding {
    /// The setting that names it, such as `listen[0].tls.certificates[0].key`.
    pub key: String,
    /// Whether a node would refuse to start for it.
    pub is_fault: bool,
    /// What it is. Never holds key material.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

/// Reads all files of TLS that `config` names, and judges them as a start at `now` would; blocks.
#[must_use]
pub fn inspect_files(config: &Config, now: SystemTime) -> Vec<FileFinding> {
    let mut inspection = Inspection {
        now: now.duration_since(UNIX_EPOCH).unwrap_or_default(),
        findings: Vec::new(),
    };
    for (index, listener) in config.listen.iter().enumerate() {
        if let Some(tls) = &listener.tls {
            inspection.listener(&format!("listen[{index}].tls"), tls);
        }
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        inspection.upstream(&format!("upstreams[{index}].tls"), upstream);
    }
    inspection.findings
}

/// A setting that names a file.
struct Named<'a> {
    key: String,
    path: &'a Path,
}

struct Inspection {
    /// Since 1970.
    now: Duration,
    findings: Vec<FileFinding>,
}

impl Inspection {
    fn listener(&mut self, section: &str, tls: &TlsConfig) {
        let before = self.findings.len();
        for (index, pair) in tls.certificates.iter().enumerate() {
            let named = |setting: &str, path| Named {
                key: format!("{section}.certificates[{index}].{setting}"),
                path,
            };
            self.pair(&named("cert", &pair.cert), &named("key", &pair.key));
        }
        if let Some(auth) = &tls.client_auth {
            self.authorities(format!("{section}.client_ca"), &auth.ca);
        }
        let faults = self.findings.iter().skip(before).any(|finding| finding.is_fault);
        // Each file by itself is fine: do they go together?
        if !faults && let Err(error) = Terminator::load(tls) {
            self.fault(section.to_owned(), &error);
        }
    }

    fn upstream(&mut self, section: &str, upstream: &UpstreamConfig) {
        if !upstream.targets.iter().any(|target| target.tls) {
            return;
        }
        let tls = &upstream.tls;
        let key = |setting: &str| format!("{section}.{setting}");
        match &tls.ca_file {
            Some(file) => self.authorities(key("ca_file"), file),
            None if tls.insecure_accept_any_certificate => {}
            None => {
                if let Err(error) = client::system_roots() {
                    self.fault(section.to_owned(), &error);
                }
            }
        }
        if let (Some(certificate), Some(private)) = (&tls.certificate, &tls.key) {
            let named = |setting, path| Named {
                key: key(setting),
                path,
            };
            self.pair(&named("certificate", certificate), &named("key", private));
        }
    }

    /// A certificate and its key: each by itself, then together.
    fn pair(&mut self, cert: &Named<'_>, key: &Named<'_>) {
        let cert_file = self.read(cert);
        let key_file = self.read(key);
        let certificate = cert_file.as_ref().and_then(|file| self.certificate(cert, file));
        let private = key_file.as_ref().and_then(|file| {
            let private = file.private_key();
            private.map_err(|error| self.fault(key.key.clone(), &error)).ok()
        });
        if let (Some(cert_file), Some(key_file), Some(_), Some(_)) =
            (&cert_file, &key_file, &certificate, &private)
            && let Err(error) = ServedCertificate::new(cert_file, key_file, &[])
        {
            self.fault(key.key.clone(), &error);
        }
    }

    /// The certificate that `file` begins with. One that has ended, or has not begun, starts all the same.
    fn certificate(&mut self, named: &Named<'_>, file: &PemFile) -> Option<Certificate> {
        let chain = file.chain().and_then(|chain| {
            let first = chain.first().map(parse);
            let first = first.unwrap_or_else(|| Err("there is none".to_owned()));
            first.map_err(|why| file.unusable(why))
        });
        let certificate = chain
            .map_err(|error| self.fault(named.key.clone(), &error))
            .ok()?;
        let validity = certificate.tbs_certificate().validity();
        let begins = validity.not_before.to_unix_duration();
        let ends = validity.not_after.to_unix_duration();
        let of = format!("the certificate in `{}`", named.path.display());
        if ends <= self.now {
            let problem = format!("{of} ended on {}: clients refuse it", validity.not_after);
            self.warn(named, problem, "renew it");
        } else if begins > self.now {
            let problem = format!("{of} is not valid before {}", validity.not_before);
            self.warn(named, problem, "check the clock, or wait");
        } else if ends.saturating_sub(self.now) < WARN_BEFORE {
            let problem = format!("{of} ends on {}", validity.not_after);
            self.warn(named, problem, "renew it");
        }
        Some(certificate)
    }

    fn authorities(&mut self, key: String, path: &Path) {
        let named = Named { key, path };
        if let Some(file) = self.read(&named)
            && let Err(error) = file.authorities()
        {
            self.fault(named.key, &error);
        }
    }

    fn read(&mut self, named: &Named<'_>) -> Option<PemFile> {
        let file = PemFile::read(named.path);
        file.map_err(|error| self.fault(named.key.clone(), &error)).ok()
    }

    fn fault(&mut self, key: String, error: &TlsError) {
        self.findings.push(FileFinding {
            key,
            is_fault: true,
            problem: error.to_string(),
            remedy: remedy(error),
        });
    }

    fn warn(&mut self, named: &Named<'_>, problem: String, remedy: &'static str) {
        self.findings.push(FileFinding {
            key: named.key.clone(),
            is_fault: false,
            problem,
            remedy,
        });
    }
}

fn remedy(error: &TlsError) -> &'static str {
    match error {
        TlsError::Read { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => "put the file there, or correct the path",
            io::ErrorKind::PermissionDenied => "let the user that Weir runs as read it",
            _ => "",
        },
        TlsError::TooLarge { .. } => "keep what this gateway needs of it",
        TlsError::Pem { .. } | TlsError::Lacking { .. } => {
            "give a PEM file, `-----BEGIN …`; keys without a passphrase"
        }
        TlsError::Key { .. } => "give the key that the certificate was issued for",
        TlsError::NoSystemRoots => "install the system's authorities (ca-certificates), or set `ca_file`",
        TlsError::Certificate { .. } | TlsError::Setup(_) => "",
    }
}
