//! The configuration reader: no text makes it panic, and a valid configuration reads back from its JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::config::Config;

fuzz_target!(|text: &str| {
    match Config::from_yaml("w.yaml", text) {
        Ok(config) => assert_reads_back(&config),
        Err(errors) => {
            assert!(!errors.as_slice().is_empty());
            let _ = errors.to_string();
        }
    }
});

fn assert_reads_back(config: &Config) {
    let _ = (config.digest(), config.identity_key());
    let cluster = &config.cluster;
    let has_secret =
        config.admin.token.is_some() || cluster.key.is_some() || cluster.identity_secret.is_some();
    // Secrets are left out of the JSON.
    if !has_secret {
        let json = config.to_json().to_string();
        let read = Config::from_yaml("json", &json).unwrap_or_else(|errors| panic!("{json}\n{errors}"));
        assert_eq!(&read, config, "{json}");
    }
}
