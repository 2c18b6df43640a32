//! TLS of listeners, with certificates made on the spot and clients of rustls.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, SignatureVerificationAlgorithm,
};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    self, ClientConfig, HandshakeKind, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};

use super::*;
use crate::proxy::{ReloadError, ReloadOutcome, TransportFailure};

static NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];
static OLDER: &[&SupportedProtocolVersion] = &[&TLS12];
static BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

pub(super) const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// An authority, and the folder that its certificates are put into.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(super) folder: TempDir,
}

/// A certificate and its key as PEM.
pub(super) struct Issued {
    pub(super) cert: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "Weir test authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// A certificate for `names`; with `://` in it, a name is a URI.
    pub(super) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_for(names, &KeyPair::generate().unwrap())
    }

    fn issue_for(&self, names: &[&str], key: &KeyPair) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        let name = |name: &&str| {
            if name.contains("://") {
                SanType::URI((*name).try_into().unwrap())
            } else {
                SanType::DnsName((*name).try_into().unwrap())
            }
        };
        params.subject_alt_names = names.iter().map(name).collect();
        let cert = params.signed_by(key, &self.issuer).unwrap();
        Issued {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Puts a certificate for `names` into the folder as `NAME.pem` and `NAME.key`, and answers what it is.
    pub(super) fn place(&self, name: &str, names: &[&str]) -> CertificateDer<'static> {
        self.put(name, &self.issue(names))
    }

    fn put(&self, name: &str, issued: &Issued) -> CertificateDer<'static> {
        std::fs::write(self.path(&format!("{name}.pem")), &issued.cert).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), &issued.key).unwrap();
        CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap()
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// A client that trusts this authority.
    pub(super) fn client(&self) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Client {
            roots,
            versions: BOTH,
            schemes: None,
            alpn: Vec::new(),
            identity: None,
        }
    }
}

/// What a client brings to its handshakes.
pub(super) struct Client {
    roots: RootCertStore,
    versions: &'static [&'static SupportedProtocolVersion],
    schemes: Option<Schemes>,
    alpn: Vec<Vec<u8>>,
    identity: Option<Issued>,
}

/// The kinds of signatures that a client can check.
type Schemes = &'static [(
    SignatureScheme,
    &'static [&'static dyn SignatureVerificationAlgorithm],
)];

impl Client {
    pub(super) fn with_alpn(mut self, alpn: &[&str]) -> Self {
        self.alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    pub(super) fn with_identity(mut self, identity: Issued) -> Self {
        self.identity = Some(identity);
        self
    }

    fn with_version(mut self, version: &'static [&'static SupportedProtocolVersion]) -> Self {
        self.versions = version;
        self
    }

    /// Connections of one connector resume each other's sessions.
    pub(super) fn connector(&self) -> TlsConnector {
        let mut provider = rustls::crypto::ring::default_provider();
        if let Some(schemes) = self.schemes {
            provider.signature_verification_algorithms.mapping = schemes;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(Issued { cert, key }) => {
                let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.clone();
        TlsConnector::from(Arc::new(config))
    }

    pub(super) async fn connect(
        &self,
        gateway: &Gateway,
        host: &str,
    ) -> std::io::Result<Peer<TlsStream<TcpStream>>> {
        secure(&self.connector(), gateway, host).await
    }
}

pub(super) async fn secure(
    connector: &TlsConnector,
    gateway: &Gateway,
    host: &str,
) -> std::io::Result<Peer<TlsStream<TcpStream>>> {
    secure_at(connector, gateway.address(), host).await
}

pub(super) async fn secure_at(
    connector: &TlsConnector,
    address: SocketAddr,
    host: &str,
) -> std::io::Result<Peer<TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    connector.connect(name, stream).await.map(Peer::new)
}

/// What the server has shown of itself.
pub(super) fn shown(peer: &Peer<TlsStream<TcpStream>>) -> CertificateDer<'static> {
    peer.stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

/// A gateway with TLS before an upstream that answers with what it gets; `tls` is the section, `FOLDER` in it the
/// authority's.
pub(super) async fn secured(authority: &Authority, tls: &str, proxy: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::mirror().await;
    let tls = tls.replace("FOLDER", &authority.folder.path().display().to_string());
    let yaml = format!(
        "node_id: n1\nlisten: [{{address: '127.0.0.1:0', tls: {{{tls}}}}}]\n\
         proxy: {{workers: 2, {proxy}}}\nupstreams: [{{name: up, targets: ['http://{}']}}]\n",
        upstream.address
    );
    (
        Gateway::run(&yaml, Arc::new(|| Box::pin(std::future::ready(())))),
        upstream,
    )
}

pub(super) const ONE: &str = "certificates: [{cert: FOLDER/a.pem, key: FOLDER/a.key}]";

/// Tries until `condition` holds; the deadline of the test bounds it.
pub(super) async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    within(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_gets_the_certificate_for_the_name_that_it_asks_for() {
    let authority = Authority::new();
    let first = authority.place("first", &["first.test", "other.test"]);
    let wildcard = authority.place("wildcard", &["*.wild.test"]);
    let exact = authority.place("exact", &["x.wild.test"]);
    let named = authority.place("named", &["hidden.test"]);
    let certificate =
        |name: &str, more: &str| format!("{{cert: FOLDER/{name}.pem, key: FOLDER/{name}.key{more}}}");
    let all = [
        certificate("first", ""),
        certificate("wildcard", ""),
        certificate("exact", ""),
        certificate("named", ", hosts: [Named.test, '*.named.test']"),
    ];
    let (gateway, _upstream) = secured(&authority, &format!("certificates: [{}]", all.join(", ")), "").await;
    within(async {
        for (host, expected) in [
            ("first.test", &first),
            ("FIRST.test", &first),
            ("other.test", &first),
            ("y.wild.test", &wildcard),
            ("x.wild.test", &exact),
            ("named.test", &named),
            ("a.named.test", &named),
        ] {
            // The name on the certificate is not that of the host where `hosts` says otherwise: look, then judge.
            let seen = served_for(&gateway, host).await;
            assert_eq!(&seen, expected, "{host}");
        }
        // A wildcard is one label; unknown names and none get the first.
        for host in [
            "a.y.wild.test",
            "wild.test",
            "hidden.test",
            "unknown.test",
            "127.0.0.1",
        ] {
            assert_eq!(served_for(&gateway, host).await, first, "{host}");
        }
        let mut client = authority.client().connect(&gateway, "y.wild.test").await.unwrap();
        client.send(GET).await;
        assert_eq!(client.receive().await.status(), 200);
    })
    .await;
}

/// The certificate that a client without an opinion of it gets.
async fn served_for(gateway: &Gateway, host: &str) -> CertificateDer<'static> {
    use crate::proxy::tls::{ClientTls, ClientTlsOptions, ServerCheck};
    let anyone = ClientTls::load(&ClientTlsOptions {
        check: ServerCheck::None,
        identity: None,
        http2: false,
    });
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let stream = anyone.unwrap().connect(host, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

#[tokio::test]
async fn of_two_certificates_for_a_name_a_client_gets_one_that_it_can_check() {
    let authority = Authority::new();
    let common = authority.place("a", &["a.test"]);
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let other = authority.put("b", &authority.issue_for(&["a.test"], &ed25519));
    let tls =
        "certificates: [{cert: FOLDER/a.pem, key: FOLDER/a.key}, {cert: FOLDER/b.pem, key: FOLDER/b.key}]";
    let (gateway, _upstream) = secured(&authority, tls, "").await;
    let all = rustls::crypto::ring::default_provider()
        .signature_verification_algorithms
        .mapping;
    let only = all
        .iter()
        .position(|(scheme, _)| *scheme == SignatureScheme::ED25519)
        .unwrap();
    let mut client = authority.client();
    within(async {
        assert_eq!(shown(&client.connect(&gateway, "a.test").await.unwrap()), common);
        client.schemes = Some(&all[only..=only]);
        client.versions = NEWEST;
        assert_eq!(shown(&client.connect(&gateway, "a.test").await.unwrap()), other);
    })
    .await;
}

#[tokio::test]
async fn both_versions_of_tls_are_served_unless_the_older_one_is_ruled_out() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let (both, _up) = secured(&authority, ONE, "").await;
    let (newest, upstream) = secured(&authority, &format!("{ONE}, min_version: 1.3"), "").await;
    within(async {
        for version in [OLDER, NEWEST] {
            let client = authority.client().with_version(version);
            let mut client = client.connect(&both, "a.test").await.unwrap();
            client.send(GET).await;
            let response = client.receive().await;
            assert!(
                response.text().contains("\r\nx-forwarded-proto: https\r\n"),
                "{}",
                response.text()
            );
        }
        let refused = authority
            .client()
            .with_version(OLDER)
            .connect(&newest, "a.test")
            .await;
        assert!(refused.is_err());
        assert!(authority.client().connect(&newest, "a.test").await.is_ok());
    })
    .await;
    assert_eq!((both.metrics().tls_handshakes, upstream.connections()), (2, 0));
    let failed = || newest.metrics().transport_failures[TransportFailure::TlsHandshake as usize];
    eventually(async || failed() == 1).await;
}

#[tokio::test]
async fn changed_certificates_are_taken_up_and_connections_go_on() {
    let authority = Authority::new();
    let old = authority.place("a", &["a.test"]);
    let (gateway, _upstream) = secured(&authority, ONE, "").await;
    let client = authority.client();
    let mut running = within(client.connect(&gateway, "a.test")).await.unwrap();
    assert_eq!(shown(&running), old);
    running.send(GET).await;
    running.receive().await;
    assert_eq!(gateway.metrics().certificates.len(), 1);

    // A certificate without its key changes nothing.
    let new = authority.issue(&["a.test"]);
    replace(&authority.path("a.pem"), &new.cert);
    let reloads = |outcome: ReloadOutcome| gateway.metrics().certificate_reloads[outcome as usize];
    eventually(async || reloads(ReloadOutcome::Refused) == 1).await;
    assert_eq!(
        shown(&within(client.connect(&gateway, "a.test")).await.unwrap()),
        old
    );

    replace(&authority.path("a.key"), &new.key);
    eventually(async || reloads(ReloadOutcome::Changed) == 1).await;
    let fresh = within(client.connect(&gateway, "a.test")).await.unwrap();
    assert_ne!(shown(&fresh), old);

    replace(&authority.path("a.pem"), "-----BEGIN CERTIFICATE-----\n");
    eventually(async || reloads(ReloadOutcome::Refused) == 2).await;
    assert_eq!(
        shown(&within(client.connect(&gateway, "a.test")).await.unwrap()),
        shown(&fresh)
    );

    within(async {
        running.send(GET).await;
        assert_eq!(running.receive().await.status(), 200);
    })
    .await;
    assert_eq!(gateway.metrics().transport_failures, [0; 2]);
}

#[tokio::test]
async fn tls_that_comes_with_a_reload_holds_for_new_connections_and_open_ones_go_on() {
    let authority = Authority::new();
    let a = authority.place("a", &["a.test"]);
    let b = authority.place("b", &["a.test"]);
    let (mut gateway, upstream) = secured(&authority, ONE, "").await;
    let folder = authority.folder.path().display().to_string();
    let with = |tls: &str| {
        let yaml = format!(
            "node_id: n1\nlisten: [{{address: '127.0.0.1:0'{tls}}}]\nproxy: {{workers: 2}}\n\
             upstreams: [{{name: up, targets: ['http://{}']}}]\n",
            upstream.address
        );
        let yaml = yaml.replace("FOLDER", &folder);
        Config::from_yaml("test", &yaml).unwrap_or_else(|errors| panic!("{errors}"))
    };
    let certificate = |name: &str| {
        format!(", tls: {{certificates: [{{cert: FOLDER/{name}.pem, key: FOLDER/{name}.key}}]}}")
    };
    let client = authority.client();
    within(async {
        let first = client.connect(&gateway, "a.test").await.unwrap();
        assert_eq!(shown(&first), a);

        gateway.proxy.reload(with(&certificate("b"))).await.unwrap();
        assert_eq!(shown(&client.connect(&gateway, "a.test").await.unwrap()), b);
        let error = gateway.proxy.reload(with(&certificate("missing"))).await;
        assert!(matches!(error, Err(ReloadError::Tls(_))), "{error:?}");
        let second = client.connect(&gateway, "a.test").await.unwrap();
        assert_eq!(shown(&second), b);

        gateway.proxy.reload(with("")).await.unwrap();
        let mut plain = gateway.connect().await;
        plain.send(GET).await;
        assert_eq!(plain.receive().await.status(), 200);
        gateway.proxy.reload(with(&certificate("a"))).await.unwrap();
        assert_eq!(shown(&client.connect(&gateway, "a.test").await.unwrap()), a);

        // What connections began with, they keep.
        plain.send(GET).await;
        assert_eq!(plain.receive().await.status(), 200);
        for mut secure in [first, second] {
            secure.send(GET).await;
            assert_eq!(secure.receive().await.status(), 200);
        }
    })
    .await;
}

/// As mounted secrets change: another file takes the name.
pub(super) fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("next");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

#[tokio::test]
async fn what_is_no_tls_is_answered_with_an_alert_and_closed() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let (gateway, upstream) = secured(&authority, ONE, "").await;
    // A handshake record that claims more than a record may hold, and one of an SSL 2 client.
    let oversized = b"\x16\x03\x01\xff\xff\x01\x00\x00\x00".to_vec();
    let ancient = b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10".to_vec();
    let garbage = [
        GET.as_bytes().to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        oversized,
        ancient,
    ];
    within(async {
        for bytes in &garbage {
            let mut client = gateway.connect().await;
            client.stream.write_all(bytes).await.unwrap();
            while client.fill().await {}
            // An alert record (RFC 8446 §5.1), fatal.
            assert_eq!((client.unread[0], client.unread[5]), (0x15, 2), "{bytes:x?}");
        }
    })
    .await;
    assert_eq!(upstream.connections(), 0);
    let failed = || gateway.metrics().transport_failures[TransportFailure::TlsHandshake as usize];
    eventually(async || failed() == garbage.len() as u64).await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_off_and_frees_its_slot() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let bounds = "header_read_timeout: 300ms, connections_max: 1";
    let (gateway, _upstream) = secured(&authority, ONE, bounds).await;
    within(async {
        for (turn, begun) in ["", "\x16\x03\x01\x02\x00\x01\x00"].into_iter().enumerate() {
            let mut stalled = gateway.connect().await;
            stalled.send(begun).await;
            // Each worker accepts for itself: the other client must not come first.
            eventually(async || gateway.metrics().accepted == 2 * turn as u64 + 1).await;
            // Waits for the only slot.
            let mut client = authority.client().connect(&gateway, "a.test").await.unwrap();
            client.send(GET).await;
            assert_eq!(client.receive().await.status(), 200);
            assert!(stalled.is_at_end().await);
        }
    })
    .await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_handshakes_that_never_end() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let (gateway, _upstream) = secured(&authority, ONE, "header_read_timeout: 5m").await;
    let mut stalled = gateway.connect().await;
    stalled.send("\x16\x03\x01").await;
    eventually(async || gateway.metrics().connections == 1).await;
    within(async {
        assert_eq!(gateway.proxy.stop(PATIENCE * 10).await, 0);
        assert!(stalled.is_at_end().await);
    })
    .await;
}

#[tokio::test]
async fn sessions_are_resumed() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let (gateway, _upstream) = secured(&authority, ONE, "").await;
    within(async {
        for version in [OLDER, NEWEST] {
            let connector = authority.client().with_version(version).connector();
            let mut kinds = Vec::new();
            for _ in 0..4 {
                let mut client = secure(&connector, &gateway, "a.test").await.unwrap();
                client.send(GET).await;
                client.receive().await;
                kinds.push(client.stream.get_ref().1.handshake_kind().unwrap());
            }
            assert_eq!(kinds[0], HandshakeKind::Full);
            assert_eq!(
                kinds[1..],
                [HandshakeKind::Resumed; 3],
                "whichever worker takes them"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_proxy_whose_certificates_cannot_be_used_does_not_start() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    authority.place("b", &["b.test"]);
    std::fs::write(authority.path("empty.pem"), "").unwrap();
    std::fs::write(authority.path("big.pem"), vec![b'#'; (1 << 20) + 1]).unwrap();
    for (cert, key, expected) in [
        ("none.pem", "a.key", "none.pem` cannot be read: "),
        ("empty.pem", "a.key", "empty.pem` holds no certificate"),
        ("a.key", "a.key", "a.key` holds no certificate"),
        ("a.pem", "a.pem", "a.pem` holds no private key"),
        ("big.pem", "a.key", "big.pem` is larger than 1048576 bytes"),
        ("a.pem", "b.key", "b.key` cannot be used with `"),
    ] {
        let folder = authority.folder.path().display();
        let yaml = format!(
            "node_id: n1\nlisten: [{{address: '127.0.0.1:0', tls: \
             {{certificates: [{{cert: {folder}/{cert}, key: {folder}/{key}}}]}}}}]\n\
             upstreams: [{{name: up, targets: ['http://127.0.0.1:1']}}]\n"
        );
        let config = Config::from_yaml("test", &yaml).unwrap();
        let limiter = Limiter::new(Vec::new(), config.sync.mode, config.sync.significance, 64);
        let on_due: OnDue = Arc::new(|| Box::pin(std::future::ready(())));
        let shared = ProxyShared::new(
            Arc::new(config),
            Arc::new(limiter),
            IdentityHasher::new([7; 16]),
            on_due,
        );
        let error = Proxy::start(&Arc::new(shared)).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
