//! Where clients connect: the `listen` setting, with TLS and the PROXY protocol.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::error::{At, Origin, Report, did_you_mean};
use super::read::{Element, Found, Section};
use super::scalars::{Wrong, boolean, shown, socket_addr, wrong};
use super::syntax::{is_host_name, path};
use super::{ProxyConfig, defaults};

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The address; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What secures connections; without it they are plain.
    pub tls: Option<TlsConfig>,
    /// Whether every connection begins with a PROXY protocol header, which names the client. Only trusted proxies may
    /// connect then.
    pub proxy_protocol: bool,
}

/// TLS of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// At least one; the first is for clients that ask for no name or an unknown one.
    pub certificates: Vec<CertificateConfig>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Whether and how clients prove who they are (mutual TLS).
    pub client_auth: Option<ClientAuthConfig>,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateConfig {
    /// The certificate, followed by its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The names that it is served for, in lower case, `*.` for any one label; empty: those that it says itself.
    pub hosts: Vec<String>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// How clients prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuthConfig {
    /// The authorities whose certificates are accepted, as a PEM file.
    pub ca: PathBuf,
    /// Whether a client may come without one.
    pub mode: ClientAuth,
    /// Whether upstreams are told of the certificate, by `X-Forwarded-Client-Cert`.
    pub forward: bool,
}

/// Whether a client may come without a certificate. One that is shown has to be valid in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// It may not.
    Required,
    /// It may.
    Optional,
}

impl From<SocketAddr> for ListenerConfig {
    /// A plain listener.
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            tls: None,
            proxy_protocol: false,
        }
    }
}

/// Reads `listen`: addresses, and sections that say more than an address.
pub(super) fn read(root: &mut Section<'_>, report: &Report) -> Vec<Found<ListenerConfig>> {
    let Some(elements) = root.values_or_sections("listen", socket_addr) else {
        let at = At {
            origin: Origin::Nowhere,
            key: "listen".to_owned(),
        };
        let value = defaults::LISTEN.into();
        return vec![Found { value, at }];
    };
    root.require_elements("listen", "give an address, such as `127.0.0.1:8000`");
    let mut listeners: Vec<Found<ListenerConfig>> = Vec::new();
    for element in elements {
        let found = match element {
            Element::Value(Found { value, at }) => Some(Found {
                value: value.into(),
                at,
            }),
            Element::Section(section) => listener(section, report),
        };
        let Some(found) = found else { continue };
        let address = found.value.address;
        if listeners.iter().any(|other| clash(other.value.address, address)) {
            report.wrong(
                &found.at,
                format!("`{address}` is listened on twice"),
                "keep one of the two",
            );
        }
        listeners.push(found);
    }
    listeners
}

/// Whether two listeners cannot both have their address.
pub(super) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let same_host = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_host
}

/// A listener that takes PROXY headers from trusted proxies only is of no use without any.
pub(super) fn check_trust(listeners: &[Found<ListenerConfig>], proxy: &ProxyConfig, report: &Report) {
    if !proxy.trusted_proxies.is_empty() {
        return;
    }
    for found in listeners.iter().filter(|found| found.value.proxy_protocol) {
        report.wrong(
            &found.at,
            "a PROXY header is only taken from trusted proxies, and there is none",
            "set `proxy.trusted_proxies` to the addresses of what stands before this listener",
        );
    }
}

fn listener(mut section: Section<'_>, report: &Report) -> Option<Found<ListenerConfig>> {
    section.require("address", "give one, such as `0.0.0.0:8443`");
    let address = section.value("address", socket_addr);
    let tls = if section.has("tls") {
        Some(tls(section.section("tls"), report))
    } else {
        section.expect_key("tls");
        None
    };
    let proxy_protocol = section.value_or("proxy_protocol", boolean, false);
    section.finish();
    let Found { value: address, at } = address?;
    Some(Found {
        value: ListenerConfig {
            address,
            tls: match tls {
                Some(tls) => Some(tls?),
                None => None,
            },
            proxy_protocol,
        },
        at,
    })
}

fn tls(mut section: Section<'_>, report: &Report) -> Option<TlsConfig> {
    section.require_elements("certificates", "give at least one, with `cert` and `key`");
    let certificates = section.sections("certificates");
    let written = certificates.len();
    let certificates: Vec<_> = certificates.into_iter().filter_map(certificate).collect();
    let min_version = section.value_or("min_version", tls_version, TlsVersion::Tls12);
    let ca = section.value("client_ca", path);
    let mode = section.value("client_auth", client_auth);
    let forward = section.value("forward_client_cert", boolean);
    if ca.is_none() && !section.has("client_ca") {
        let without = "there is no `client_ca` that a client's certificate could be from";
        let places = [
            mode.as_ref().map(|found| &found.at),
            forward.as_ref().map(|found| &found.at),
        ];
        for at in places.into_iter().flatten() {
            report.wrong(at, without, "set `client_ca` to a file with the authorities");
        }
    }
    section.finish();
    let complete = !certificates.is_empty() && certificates.len() == written;
    complete.then(|| TlsConfig {
        certificates,
        min_version,
        client_auth: ca.map(|ca| ClientAuthConfig {
            ca: ca.value,
            mode: mode.map_or(ClientAuth::Required, |found| found.value),
            forward: forward.is_some_and(|found| found.value),
        }),
    })
}

fn certificate(mut section: Section<'_>) -> Option<CertificateConfig> {
    section.require("cert", "give a PEM file with the certificate and its chain");
    section.require("key", "give the PEM file with its private key");
    let cert = section.value("cert", path);
    let key = section.value("key", path);
    let hosts = section.values("hosts", certificate_host);
    section.finish();
    Some(CertificateConfig {
        cert: cert?.value,
        key: key?.value,
        hosts: hosts.map_or(Vec::new(), |list| {
            list.value.into_iter().map(|found| found.value).collect()
        }),
    })
}

/// Reads a host name in lower case, the first label of which may be `*`.
fn certificate_host(text: &str) -> Result<String, Wrong> {
    let host = text.to_ascii_lowercase();
    let name = host.strip_prefix("*.").unwrap_or(&host);
    if is_host_name(name) && !name.ends_with('.') {
        Ok(host)
    } else {
        wrong(
            format!("`{}` is no host", shown(text)),
            "write a name such as `example.com` or `*.example.com`",
        )
    }
}

fn tls_version(text: &str) -> Result<TlsVersion, Wrong> {
    match text {
        "1.2" => Ok(TlsVersion::Tls12),
        "1.3" => Ok(TlsVersion::Tls13),
        _ => wrong(
            format!("`{}` is no version of TLS that is spoken", shown(text)),
            "use `1.2` or `1.3`",
        ),
    }
}

fn client_auth(text: &str) -> Result<ClientAuth, Wrong> {
    match text {
        "required" => Ok(ClientAuth::Required),
        "optional" => Ok(ClientAuth::Optional),
        _ => {
            let mut remedy = did_you_mean(text, ["required", "optional"]);
            if remedy.is_empty() {
                remedy = "use `required` or `optional`".to_owned();
            }
            wrong(format!("`{}` is no way to treat clients", shown(text)), remedy)
        }
    }
}

impl ListenerConfig {
    /// As the file writes it.
    pub(super) fn to_json(&self) -> Value {
        if self.tls.is_none() && !self.proxy_protocol {
            return json!(self.address);
        }
        json!({
            "address": self.address,
            "tls": self.tls.as_ref().map(TlsConfig::to_json),
            "proxy_protocol": self.proxy_protocol,
        })
    }
}

impl TlsConfig {
    fn to_json(&self) -> Value {
        let certificate = |one: &CertificateConfig| {
            json!({
                "cert": one.cert,
                "key": one.key,
                "hosts": one.hosts,
            })
        };
        let auth = self.client_auth.as_ref();
        json!({
            "certificates": self.certificates.iter().map(certificate).collect::<Value>(),
            "min_version": match self.min_version {
                TlsVersion::Tls12 => "1.2",
                TlsVersion::Tls13 => "1.3",
            },
            "client_ca": auth.map(|auth| &auth.ca),
            "client_auth": auth.map(|auth| match auth.mode {
                ClientAuth::Required => "required",
                ClientAuth::Optional => "optional",
            }),
            "forward_client_cert": auth.map(|auth| auth.forward),
        })
    }
}
