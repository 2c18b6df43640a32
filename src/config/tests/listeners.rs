//! Listeners, and who their clients are: what is read, and what is said of what is wrong.

use super::{errors, with_base};
use crate::config::{ClientAuth, ClientIpHeader, Config, TlsVersion};

const PAIR: &str = "certificates: [{cert: c, key: k}]";

#[test]
fn an_address_may_be_a_section_that_says_more() {
    let text = with_base(
        "listen:\n- 127.0.0.1:80\n- address: '[::1]:443'\n  proxy_protocol: true\n  tls:\n    \
         certificates:\n    - {cert: a.pem, key: a.key}\n    - {cert: b.pem, key: b.key, hosts: ['*.B.test', c.test]}\n    \
         min_version: 1.3\n    client_ca: ca.pem\n    client_auth: optional\n    forward_client_cert: true\n\
         proxy: {trusted_proxies: [10.0.0.0/8, '::ffff:192.0.2.0/120', '::ffff:192.0.3.1'], client_ip_header: Forwarded}\n\
         limits: {ipv4_prefix: 24, ipv6_prefix: 56}\n",
    );
    let config = Config::from_yaml("w.yaml", &text).unwrap();
    let [plain, secure] = config.listen.as_slice() else {
        panic!("{:?}", config.listen)
    };
    assert_eq!((plain.tls.as_ref(), plain.proxy_protocol), (None, false));
    assert!(secure.proxy_protocol && secure.address.port() == 443);
    let tls = secure.tls.as_ref().unwrap();
    assert_eq!(tls.certificates[1].hosts, ["*.b.test", "c.test"]);
    assert_eq!(tls.min_version, TlsVersion::Tls13);
    let auth = tls.client_auth.as_ref().unwrap();
    assert_eq!((auth.mode, auth.forward), (ClientAuth::Optional, true));
    assert_eq!(config.proxy.client_ip_header, ClientIpHeader::Forwarded);
    let trusted: Vec<_> = config
        .proxy
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(trusted, ["10.0.0.0/8", "192.0.2.0/24", "192.0.3.1/32"]);
    assert_eq!(
        (config.limits.ip_prefixes.v4, config.limits.ip_prefixes.v6),
        (24, 56)
    );
    assert_eq!(
        Config::from_yaml("json", &config.to_json().to_string()).unwrap(),
        config
    );

    let alone = format!("listen: {{address: '127.0.0.1:443', tls: {{{PAIR}, client_ca: x}}}}");
    let config = Config::from_yaml("w.yaml", &with_base(&alone)).unwrap();
    let tls = config.listen[0].tls.as_ref().unwrap();
    let auth = tls.client_auth.as_ref().unwrap();
    assert_eq!(
        (auth.mode, auth.forward, tls.min_version),
        (ClientAuth::Required, false, TlsVersion::Tls12)
    );
}

#[test]
fn each_wrong_listener_is_reported() {
    for (text, expected) in [
        (
            "listen: [{tls: {certificates: [{cert: c, key: k}]}}]".to_owned(),
            "w.yaml:3:10: listen[0].address: missing; give one, such as `0.0.0.0:8443`",
        ),
        (
            "listen: [{address: '127.0.0.1:1', tsl: {}}]".to_owned(),
            "w.yaml:3:35: listen[0].tsl: unknown key `tsl`; did you mean `tls`?",
        ),
        (
            "listen: [{address: '127.0.0.1:1'}, '0.0.0.0:1']".to_owned(),
            "w.yaml:3:36: listen[1]: `0.0.0.0:1` is listened on twice; keep one of the two",
        ),
        (
            "listen: [{address: '127.0.0.1:8001'}]".to_owned(),
            "w.yaml:3:20: listen[0].address: clients and the admin API both listen on port 8001; \
             give each a port of its own",
        ),
        (
            "listen: [[a]]".to_owned(),
            "w.yaml:3:10: listen[0]: expected a single value, this is a list",
        ),
        (
            "listen: [{address: '127.0.0.1:1', tls: {}}]".to_owned(),
            "w.yaml:3:40: listen[0].tls.certificates: missing; give at least one, with `cert` and `key`",
        ),
        (
            "listen: [{address: '127.0.0.1:1', tls: {certificates: [{cert: c}]}}]".to_owned(),
            "w.yaml:3:56: listen[0].tls.certificates[0].key: missing; \
             give the PEM file with its private key",
        ),
        (
            "listen: [{address: '127.0.0.1:1', tls: {certificates: {cert: c, key: k, hosts: 'a.*'}}}]"
                .to_owned(),
            "w.yaml:3:55: listen[0].tls.certificates: expected a list, this is a section of keys; \
             begin each element with `- `",
        ),
        (
            "listen: [{address: '127.0.0.1:1', tls: {certificates: [{cert: c, key: k, hosts: 'a.*'}]}}]"
                .to_owned(),
            "w.yaml:3:81: listen[0].tls.certificates[0].hosts: `a.*` is no host; \
             write a name such as `example.com` or `*.example.com`",
        ),
        (
            format!("listen: [{{address: '127.0.0.1:1', tls: {{{PAIR}, min_version: 1.1}}}}]"),
            "w.yaml:3:89: listen[0].tls.min_version: `1.1` is no version of TLS that is spoken; \
             use `1.2` or `1.3`",
        ),
        (
            format!(
                "listen: [{{address: '127.0.0.1:1', tls: {{{PAIR}, client_ca: x, client_auth: requird}}}}]"
            ),
            "w.yaml:3:103: listen[0].tls.client_auth: `requird` is no way to treat clients; \
             did you mean `required`?",
        ),
        (
            format!("listen: [{{address: '127.0.0.1:1', tls: {{{PAIR}, client_auth: required}}}}]"),
            "w.yaml:3:89: listen[0].tls.client_auth: \
             there is no `client_ca` that a client's certificate could be from; \
             set `client_ca` to a file with the authorities",
        ),
        (
            "listen: [{address: '127.0.0.1:1', proxy_protocol: true}]".to_owned(),
            "w.yaml:3:20: listen[0].address: a PROXY header is only taken from trusted proxies, \
             and there is none; \
             set `proxy.trusted_proxies` to the addresses of what stands before this listener",
        ),
        (
            "proxy: {client_ip_header: forwarder}".to_owned(),
            "w.yaml:3:27: proxy.client_ip_header: `forwarder` is no header that names clients; \
             did you mean `forwarded`?",
        ),
        (
            "limits: {ipv6_prefix: 129}".to_owned(),
            "w.yaml:3:23: limits.ipv6_prefix: `129` is out of range; use 1 to 128",
        ),
    ] {
        assert_eq!(errors(&with_base(&text)), [expected], "{text}");
    }
}
