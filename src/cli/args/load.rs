//! `weir run`'s flags and file, and what is read of the surroundings, to a checked configuration.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::{RunArgs, UnknownVariables};
use crate::config::{Config, ConfigError, ConfigErrors, FILE_BYTES_MAX, Layer, Origin, Surroundings};

/// Holds the gossip keys themselves. No flag does: other users can read the arguments of a process.
pub(super) const GOSSIP_KEY: &str = "WEIR_GOSSIP_KEY";

/// Holds the secret that client identities are hashed with; no flag does, for the same reason.
pub(super) const IDENTITY_SECRET: &str = "WEIR_IDENTITY_SECRET";

impl RunArgs {
    /// Reads the file that `--config` names, if any, lays the environment and the flags over it, and
    /// checks the whole.
    ///
    /// # Errors
    /// When the file cannot be read, or everything that is wrong with what was read.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        Config::resolve(self.merged()?, &surroundings())
    }

    /// [`RunArgs::load`], with where each setting was written.
    ///
    /// # Errors
    /// As there.
    pub fn load_with_origins(&self) -> Result<(Config, Layer), ConfigErrors> {
        let layer = self.merged()?;
        Ok((Config::resolve(layer.clone(), &surroundings())?, layer))
    }

    /// What file, environment and flags say, unchecked.
    fn merged(&self) -> Result<Layer, ConfigErrors> {
        let mut upper = self.layer();
        for (variable, path) in [
            (GOSSIP_KEY, ["cluster", "key"]),
            (IDENTITY_SECRET, ["cluster", "identity_secret"]),
        ] {
            if let Some(value) = variable_value(variable) {
                upper.set(&path, Origin::Variable(variable.into()), &value);
            }
        }
        for (name, meant) in UnknownVariables::of_process().misspelt {
            let remedy = format!("did you mean `{meant}`?");
            upper.refuse(Origin::Variable(name.into()), "unknown variable", &remedy);
        }
        Ok(match &self.config {
            Some(path) => upper.over(read_file(path)?),
            None => upper,
        })
    }

    /// What the flags and their variables say. An empty value says nothing: it is how a compose file or
    /// a chart leaves a variable unset.
    fn layer(&self) -> Layer {
        let mut layer = Layer::default();
        for (path, flag, variable, value) in self.single_values() {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                layer.set(path, Origin::Flag { flag, variable }, value);
            }
        }
        let listen = Origin::Flag {
            flag: "--listen",
            variable: "WEIR_LISTEN",
        };
        let seeds = Origin::Flag {
            flag: "--seed",
            variable: "WEIR_SEED",
        };
        let trusted = Origin::Flag {
            flag: "--trusted-proxy",
            variable: "WEIR_TRUSTED_PROXY",
        };
        for (path, origin, values) in [
            (&["listen"] as &[&str], listen, &self.listen),
            (&["cluster", "seeds"], seeds, &self.seeds),
            (&["proxy", "trusted_proxies"], trusted, &self.trusted_proxies),
        ] {
            let values = written(values);
            if !values.is_empty() {
                layer.set_list(path, &origin, &values);
            }
        }
        self.add_traffic(&mut layer);
        layer
    }

    /// The rule and the upstream that flags can say.
    fn add_traffic(&self, layer: &mut Layer) {
        let origin = |flag, variable| Origin::Flag { flag, variable };
        let count_by = self.limit_by.as_deref().filter(|text| !text.is_empty());
        let count_by = count_by.map(|text| (origin("--limit-by", "WEIR_LIMIT_BY"), text));
        let windows = written(&self.limits);
        if !windows.is_empty() {
            layer.set_rule((origin("--limit", "WEIR_LIMIT"), &windows), count_by);
        } else if let Some((origin, _)) = count_by {
            layer.refuse(
                origin,
                "says what to count by, and there is no --limit",
                "add --limit, such as `--limit 5/minute`",
            );
        }
        let targets = written(&self.upstreams);
        if !targets.is_empty() {
            layer.set_upstream(origin("--upstream", "WEIR_UPSTREAM"), &targets);
        }
    }

    /// Each flag that holds one value: its path in the configuration, names, and value.
    fn single_values(&self) -> Vec<SingleValue<'_>> {
        fn row<'a>(
            path: &'static [&'static str],
            flag: &'static str,
            variable: &'static str,
            value: &'a Option<String>,
        ) -> SingleValue<'a> {
            (path, flag, variable, value.as_deref())
        }
        // A path that is no UTF-8 becomes one that its reader refuses.
        let key_file = self
            .gossip_key_file
            .as_deref()
            .map(|path| path.to_str().unwrap_or("\0"));
        vec![
            row(&["node_id"], "--node-id", "WEIR_NODE_ID", &self.node_id),
            row(&["admin", "listen"], "--admin", "WEIR_ADMIN", &self.admin),
            row(
                &["admin", "token"],
                "--admin-token",
                "WEIR_ADMIN_TOKEN",
                &self.admin_token,
            ),
            row(
                &["ratelimit", "listen"],
                "--ratelimit-listen",
                "WEIR_RATELIMIT_LISTEN",
                &self.ratelimit_listen,
            ),
            row(
                &["ratelimit", "token"],
                "--ratelimit-token",
                "WEIR_RATELIMIT_TOKEN",
                &self.ratelimit_token,
            ),
            row(
                &["cluster", "id"],
                "--cluster-id",
                "WEIR_CLUSTER_ID",
                &self.cluster_id,
            ),
            row(&["cluster", "gossip"], "--gossip", "WEIR_GOSSIP", &self.gossip),
            row(
                &["cluster", "advertise"],
                "--advertise",
                "WEIR_ADVERTISE",
                &self.advertise,
            ),
            (
                &["cluster", "key_file"],
                "--gossip-key-file",
                "WEIR_GOSSIP_KEY_FILE",
                key_file,
            ),
            row(
                &["cluster", "insecure_gossip"],
                "--insecure-gossip",
                "WEIR_INSECURE_GOSSIP",
                &self.insecure_gossip,
            ),
            row(
                &["cluster", "gossip_interval"],
                "--gossip-interval",
                "WEIR_GOSSIP_INTERVAL",
                &self.gossip_interval,
            ),
            row(
                &["cluster", "join_grace"],
                "--join-grace",
                "WEIR_JOIN_GRACE",
                &self.join_grace,
            ),
            row(
                &["sync", "mode"],
                "--sync-mode",
                "WEIR_SYNC_MODE",
                &self.sync_mode,
            ),
            row(&["sync", "tick"], "--tick", "WEIR_TICK", &self.tick),
            row(&["sync", "alpha"], "--alpha", "WEIR_ALPHA", &self.alpha),
            row(&["sync", "epsilon"], "--epsilon", "WEIR_EPSILON", &self.epsilon),
            row(
                &["sync", "min_replicas"],
                "--min-replicas",
                "WEIR_MIN_REPLICAS",
                &self.min_replicas,
            ),
            row(
                &["sync", "datagram_bytes"],
                "--datagram-bytes",
                "WEIR_DATAGRAM_BYTES",
                &self.datagram_bytes,
            ),
            row(
                &["sync", "frame_version"],
                "--frame-version",
                "WEIR_FRAME_VERSION",
                &self.frame_version,
            ),
            row(
                &["sync", "max_clock_skew"],
                "--max-clock-skew",
                "WEIR_MAX_CLOCK_SKEW",
                &self.max_clock_skew,
            ),
            row(
                &["limits", "max_keys"],
                "--max-keys",
                "WEIR_MAX_KEYS",
                &self.max_keys,
            ),
            row(
                &["limits", "hide_headers"],
                "--hide-headers",
                "WEIR_HIDE_HEADERS",
                &self.hide_headers,
            ),
            row(&["proxy", "workers"], "--workers", "WEIR_WORKERS", &self.workers),
            row(
                &["proxy", "connections_max"],
                "--connections-max",
                "WEIR_CONNECTIONS_MAX",
                &self.connections_max,
            ),
            row(
                &["proxy", "drain_delay"],
                "--drain-delay",
                "WEIR_DRAIN_DELAY",
                &self.drain_delay,
            ),
            row(
                &["proxy", "drain_timeout"],
                "--drain-timeout",
                "WEIR_DRAIN_TIMEOUT",
                &self.drain_timeout,
            ),
            row(
                &["proxy", "debug_headers"],
                "--debug-headers",
                "WEIR_DEBUG_HEADERS",
                &self.debug_headers,
            ),
            row(
                &["reload", "interval"],
                "--reload-interval",
                "WEIR_RELOAD_INTERVAL",
                &self.reload_interval,
            ),
            row(&["log", "filter"], "--log", "WEIR_LOG", &self.log),
            row(&["log", "json"], "--log-json", "WEIR_LOG_JSON", &self.log_json),
        ]
    }
}

type SingleValue<'a> = (
    &'static [&'static str],
    &'static str,
    &'static str,
    Option<&'a str>,
);

fn written(values: &[String]) -> Vec<String> {
    values.iter().filter(|value| !value.is_empty()).cloned().collect()
}

fn read_file(path: &Path) -> Result<Layer, ConfigErrors> {
    let name = path.display().to_string();
    let refuse = |problem: String| {
        ConfigErrors::from(ConfigError {
            origin: Origin::File {
                file: name.as_str().into(),
                line: 1,
                column: 1,
            },
            key: String::new(),
            problem,
            remedy: String::new(),
        })
    };
    let mut bytes = Vec::new();
    File::open(path)
        // One byte above the bound tells a file that is too large from one that just fits.
        .and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| refuse(format!("cannot read the file: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| refuse(format!("the file is no text: {error}")))?;
    Layer::from_yaml(&name, &text)
}

fn surroundings() -> Surroundings {
    Surroundings {
        pod_name: variable_value("POD_NAME"),
        pod_ip: variable_value("POD_IP").and_then(|text| text.parse().ok()),
        host_name: host_name(),
        processors: std::thread::available_parallelism().ok().map(usize::from),
    }
}

fn variable_value(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn host_name() -> Option<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = kernel
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty());
    name.or_else(|| variable_value("HOSTNAME"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use clap::{CommandFactory as _, Parser as _};

    use super::super::{Cli, Command};
    use super::*;
    use crate::config::RouteMatch;
    use crate::limit::SyncMode;

    fn run_args(args: &[&str]) -> RunArgs {
        match Cli::try_parse_from(["weir", "run"].iter().chain(args))
            .unwrap()
            .command
        {
            Command::Run(args) => *args,
            other => panic!("parsed as {other:?}"),
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_manual_names_every_flag_variable_and_key() {
        let manual = include_str!("../../../docs/configuration.md");
        let named = |name: &str| assert!(manual.contains(&format!("`{name}`")), "{name}");
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for arg in run.get_arguments().filter(|arg| arg.get_id() != "help") {
            named(&format!("--{}", arg.get_long().unwrap()));
            named(arg.get_env().unwrap().to_str().unwrap());
        }
        named(GOSSIP_KEY);
        named(IDENTITY_SECRET);
        let json = Config::from_yaml("w.yaml", include_str!("../../../docs/examples/routes.yaml"));
        let json = json.unwrap().to_json();
        for (section, value) in json.as_object().unwrap() {
            match value.as_array() {
                Some(elements) if elements[0].is_object() => {
                    each_key(manual, &format!("{section}[]"), &elements[0]);
                }
                _ => each_key(manual, section, value),
            }
        }
    }

    /// A section within is named itself, with what it holds beside it, or by its keys.
    fn each_key(manual: &str, path: &str, value: &serde_json::Value) {
        if manual.contains(&format!("`{path}`")) {
            return;
        }
        let keys = value.as_object().unwrap_or_else(|| panic!("{path} is not named"));
        keys.iter()
            .for_each(|(key, value)| each_key(manual, &format!("{path}.{key}"), value));
    }

    #[test]
    fn flags_alone_make_a_node_of_one_upstream_and_one_rule() {
        let args = "--listen 127.0.0.1:8000 --admin 127.0.0.1:8001 --gossip 127.0.0.1:7946 --node-id a \
                    --seed 127.0.0.1:7947,h:1 --upstream http://127.0.0.1:9000 --upstream http://h/b \
                    --limit 5/minute --limit 9/hour --limit-by header:X-Key --sync-mode local --debug-headers";
        let config = run_args(&args.split_whitespace().collect::<Vec<_>>())
            .load()
            .unwrap();
        assert_eq!(config.cluster.seeds, ["127.0.0.1:7947", "h:1"]);
        assert_eq!(config.sync.mode, SyncMode::Local);
        assert!(config.proxy.debug_headers);
        let rule = &config.limits.rules[0];
        assert_eq!(
            (rule.windows.len(), rule.count_by.to_string()),
            (2, "header:x-key".to_owned())
        );
        assert_eq!(config.upstreams[0].targets.len(), 2);
        let route = &config.routes[0];
        assert_eq!((route.matches.len(), route.upstream()), (1, Some("default")));
        assert_eq!(route.matches[0], RouteMatch::default());
    }

    #[test]
    fn a_flag_beats_the_file_and_leaves_its_other_keys() {
        let file = file(
            "node_id: a\nlisten: [127.0.0.1:1, 127.0.0.1:2]\nsync: {tick: 1s, alpha: 0.5}\n\
             log: {json: true}\nupstreams: [{name: u, targets: ['http://h']}]",
        );
        let path = file.path().to_str().unwrap();
        let args = [
            "--config",
            path,
            "--listen",
            "127.0.0.1:3",
            "--tick",
            "2s",
            "--log-json=false",
            "--node-id",
            "",
        ];
        let config = run_args(&args).load().unwrap();
        let address: std::net::SocketAddr = "127.0.0.1:3".parse().unwrap();
        assert_eq!(config.listen, [address.into()]);
        assert_eq!(config.sync.tick, std::time::Duration::from_secs(2));
        assert_eq!(config.sync.significance.alpha_permille, 500);
        assert_eq!((config.node_id.as_str(), config.log.json), ("a", false));
    }

    #[test]
    fn flags_that_a_file_contradicts_are_named_with_all_other_errors() {
        let file = file(
            "node_id: a\nupstreams: [{name: u, targets: ['http://h']}]\nrules: [{name: r, windows: 5/day}]\nx: y\n",
        );
        let path = file.path().to_str().unwrap();
        let args = [
            "--config",
            path,
            "--upstream",
            "http://h",
            "--limit",
            "5/day",
            "--tick",
            "soon",
        ];
        let error = run_args(&args).load().unwrap_err().to_string();
        let expected = [
            format!("{path}:4:1: x: unknown key `x`"),
            format!(
                "--limit (or WEIR_LIMIT): cannot be combined with `rules` of {path}:3:1; keep one of the two"
            ),
            "--tick (or WEIR_TICK): sync.tick: `soon` is no duration".to_owned(),
            format!("--upstream (or WEIR_UPSTREAM): cannot be combined with `upstreams` of {path}:2:1"),
        ];
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{error}");
        for (line, start) in lines.iter().zip(&expected) {
            assert!(line.starts_with(start), "{error}");
        }
        let alone = run_args(&["--limit-by", "ip", "--node-id", "a", "--upstream", "http://h"]).load();
        assert_eq!(
            alone.unwrap_err().to_string(),
            "--limit-by (or WEIR_LIMIT_BY): says what to count by, and there is no --limit; \
             add --limit, such as `--limit 5/minute`"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_says_why() {
        let missing = run_args(&["--config", "/nonexistent/w.yaml"]).load().unwrap_err();
        assert!(
            missing
                .to_string()
                .starts_with("/nonexistent/w.yaml:1:1: cannot read the file: "),
            "{missing}"
        );
        let mut binary = tempfile::NamedTempFile::new().unwrap();
        binary.write_all(b"node_id: \xff").unwrap();
        let error = run_args(&["--config", binary.path().to_str().unwrap()])
            .load()
            .unwrap_err();
        assert!(error.to_string().contains("the file is no text: "), "{error}");
    }
}
