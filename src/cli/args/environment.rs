//! Variables that begin like Weir's own and say nothing to it: misspelt ones would be ignored in silence.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::{Command, CommandFactory as _};

use super::Cli;
use super::load::{GOSSIP_KEY, IDENTITY_SECRET};
use crate::config::nearest;

const PREFIX: &str = "WEIR_";

/// Variables of the environment that begin with `WEIR_`, and that no command reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnknownVariables {
    /// Those that are nearly the name of one that is read, with that name.
    pub misspelt: Vec<(String, String)>,
    /// The others.
    pub strange: Vec<String>,
}

impl UnknownVariables {
    /// Those of the environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self::among(std::env::vars_os())
    }

    /// Empty ones count as not set.
    fn among(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let known = known();
        let mut unknown = Self::default();
        for (name, value) in variables {
            let (Ok(name), false) = (name.into_string(), value.is_empty()) else {
                continue;
            };
            let Some(word) = name.strip_prefix(PREFIX) else {
                continue;
            };
            if known.contains(word) || is_service_link(word, &value.to_string_lossy()) {
                continue;
            }
            // Without the prefix, which would make all of them alike.
            let words: Vec<String> = known.iter().map(|word| word.to_lowercase()).collect();
            match nearest(word, words.iter().map(String::as_str)) {
                Some(meant) => {
                    let meant = format!("{PREFIX}{}", meant.to_uppercase());
                    unknown.misspelt.push((name, meant));
                }
                None => unknown.strange.push(name),
            }
        }
        unknown.misspelt.sort_unstable();
        unknown.strange.sort_unstable();
        unknown
    }
}

/// What follows the prefix in each variable that some command reads.
fn known() -> BTreeSet<String> {
    fn add(command: &Command, names: &mut BTreeSet<String>) {
        let variables = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str());
        names.extend(variables.map(str::to_owned));
        command.get_subcommands().for_each(|command| add(command, names));
    }
    let mut names = BTreeSet::from([GOSSIP_KEY.to_owned(), IDENTITY_SECRET.to_owned()]);
    add(&Cli::command(), &mut names);
    let words = names.iter().filter_map(|name| name.strip_prefix(PREFIX));
    words.map(str::to_owned).collect()
}

/// Whether Kubernetes made it for a Service called `weir`, or `weir-` and more: `WEIR_SERVICE_HOST`,
/// `WEIR_PORT=tcp://10.0.0.1:80`, `WEIR_ADMIN_PORT_8001_TCP_ADDR`, and so on for each Service of the namespace. `word` is
/// what follows `WEIR_`.
fn is_service_link(word: &str, value: &str) -> bool {
    let parts: Vec<&str> = word.split('_').collect();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_protocol = |part: &str| matches!(part, "TCP" | "UDP" | "SCTP");
    match parts.as_slice() {
        [.., "SERVICE", "HOST"] => true,
        // The port of the Service, or one of its ports by name.
        [.., "PORT", number, protocol] | [.., "PORT", number, protocol, "PROTO" | "PORT" | "ADDR"]
            if is_number(number) && is_protocol(protocol) =>
        {
            true
        }
        parts if parts.windows(2).any(|pair| pair == ["SERVICE", "PORT"]) => is_number(value),
        [.., "PORT"] => value.contains("://"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(variables: &[(&str, &str)]) -> UnknownVariables {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        UnknownVariables::among(variables)
    }

    #[test]
    fn a_misspelt_variable_is_told_from_one_of_somebody_else() {
        let unknown = among(&[
            ("WEIR_LISTEN", "127.0.0.1:1"),
            ("WEIR_GOSSIP_KEY", "k"),
            ("WEIR_LISTENS", "127.0.0.1:1"),
            ("WEIR_ADMIN_TOKN", "t"),
            ("WEIR_HOME", "/opt"),
            ("WEIR_BIN", "weir"),
            ("WEIR_TIK", ""),
            ("HOME", "/root"),
        ]);
        let misspelt = [
            ("WEIR_ADMIN_TOKN", "WEIR_ADMIN_TOKEN"),
            ("WEIR_LISTENS", "WEIR_LISTEN"),
        ];
        let misspelt = misspelt.map(|(name, meant)| (name.to_owned(), meant.to_owned()));
        assert_eq!(unknown.misspelt, misspelt);
        assert_eq!(unknown.strange, ["WEIR_BIN", "WEIR_HOME"]);
    }

    #[test]
    fn what_kubernetes_says_of_services_called_weir_is_nobodys_mistake() {
        let links = [
            ("WEIR_SERVICE_HOST", "10.0.0.1"),
            ("WEIR_SERVICE_PORT", "80"),
            ("WEIR_SERVICE_PORT_HTTP_ALT", "8080"),
            ("WEIR_PORT", "tcp://10.0.0.1:80"),
            ("WEIR_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
            ("WEIR_PORT_8000_TCP_PROTO", "tcp"),
            ("WEIR_PORT_8000_TCP_PORT", "8000"),
            ("WEIR_PORT_7946_UDP_ADDR", "10.0.0.1"),
            ("WEIR_ADMIN_SERVICE_HOST", "10.0.0.2"),
            ("WEIR_ADMIN_PORT", "tcp://10.0.0.2:8001"),
            ("WEIR_ADMIN_PORT_8001_TCP_ADDR", "10.0.0.2"),
        ];
        assert_eq!(among(&links), UnknownVariables::default());
        // Of a person.
        let port = among(&[("WEIR_PORT", "8000"), ("WEIR_SERVICE_PORTS", "1")]);
        assert_eq!(port.strange, ["WEIR_PORT", "WEIR_SERVICE_PORTS"]);
    }
}
