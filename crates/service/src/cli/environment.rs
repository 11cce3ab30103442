//! Environment variables that are meant for this program and that it does not know.

use clap::Command;
use std::collections::BTreeSet;
use std::ffi::OsString;

/// What all variables of this program begin with.
const PREFIX: &str = "IDEMPOTENCYD_";
/// By which scripts and tests find this program; they hand their environment on to it.
const OF_OTHERS: [&str; 1] = ["IDEMPOTENCYD_BIN"];
/// Names that are at least so alike are taken for a slip.
const ALIKE: f64 = 0.85;

/// What is wrong with the variables of the environment, one line for each; `command` tells which there are.
pub(super) fn unknown(
    command: &Command,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<String> {
    let known = known(command);
    let mut problems: Vec<String> = environment
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX) && !known.contains(name))
        .filter(|(name, _)| !OF_OTHERS.contains(&name.as_str()))
        .filter(|(name, value)| !is_kubernetes(name, value.to_str().unwrap_or_default()))
        .map(|(name, _)| match closest(&name, &known) {
            Some(meant) => format!("{name}: there is no such variable; did you mean {meant}?"),
            None => format!("{name}: there is no such variable (see --help)"),
        })
        .collect();
    problems.sort();
    problems
}

/// Every variable that an argument of a command can come from.
fn known(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_env());
    let own = own.map(|name| name.to_string_lossy().into_owned());
    let below = command.get_subcommands().flat_map(known);
    own.chain(below).collect()
}

fn closest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let stem = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    let name = stem(name);
    let alike = |other: &str| strsim::jaro_winkler(&name, &stem(other));
    let best = known
        .iter()
        .max_by(|a, b| alike(a).total_cmp(&alike(b)))
        .filter(|best| alike(best) >= ALIKE);
    best.map(String::as_str)
}

/// What Kubernetes puts into every container for a service of the name `idempotencyd`, or one that begins like
/// that: `…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_HTTP`, `…_PORT` with a URL, and
/// `…_PORT_7480_TCP` with what follows it.
fn is_kubernetes(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let is_url = || {
        let scheme = value.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|s| PROTOCOLS.contains(&s.to_ascii_uppercase().as_str()))
    };
    let is_of_a_port = || {
        let (_, behind) = name.split_once("_PORT_")?;
        let (port, behind) = behind.split_once('_')?;
        let (protocol, what) = behind.split_once('_').unwrap_or((behind, "ADDR"));
        let is = port.parse::<u16>().is_ok()
            && PROTOCOLS.contains(&protocol)
            && ["PROTO", "PORT", "ADDR"].contains(&what);
        Some(is)
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_url())
        || is_of_a_port().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
        let pairs = pairs.iter().map(|(n, v)| (n.into(), v.into()));
        unknown(&crate::cli::Cli::command(), pairs)
    }

    #[test]
    fn a_name_that_is_not_known_is_told_with_the_one_that_is_meant() {
        for (name, meant) in [
            ("IDEMPOTENCYD_GATEWAY_TOKEN", "IDEMPOTENCYD_GATEWAY_TOKENS"),
            ("IDEMPOTENCYD_LISTENS", "IDEMPOTENCYD_LISTEN"),
            ("IDEMPOTENCYD_DATADIR", "IDEMPOTENCYD_DATA_DIR"),
        ] {
            let said = problems(&[(name, "x")]);
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(
                said[0].contains(&format!("did you mean {meant}?")),
                "{said:?}"
            );
        }
        let said = problems(&[("IDEMPOTENCYD_XYZZY", "x")]);
        assert!(
            said[0].ends_with("there is no such variable (see --help)"),
            "{said:?}"
        );
    }

    #[test]
    fn what_is_known_and_what_is_of_others_passes() {
        let said = problems(&[
            ("IDEMPOTENCYD_STORE", "memory:"),
            ("IDEMPOTENCYD_URL", "unix:/x"),
            ("IDEMPOTENCYD", "x"),
            ("IDEMPOTENCYD_BIN", "/x"),
            ("PATH", "/bin"),
        ]);
        assert!(said.is_empty(), "{said:?}");
    }

    #[test]
    fn what_kubernetes_injects_for_a_service_of_that_name_passes() {
        let said = problems(&[
            ("IDEMPOTENCYD_SERVICE_HOST", "10.0.0.1"),
            ("IDEMPOTENCYD_SERVICE_PORT", "7480"),
            ("IDEMPOTENCYD_SERVICE_PORT_HTTP", "7480"),
            ("IDEMPOTENCYD_PORT", "tcp://10.0.0.1:7480"),
            ("IDEMPOTENCYD_PORT_7480_TCP", "tcp://10.0.0.1:7480"),
            ("IDEMPOTENCYD_PORT_7480_TCP_PROTO", "tcp"),
            ("IDEMPOTENCYD_PORT_7480_TCP_PORT", "7480"),
            ("IDEMPOTENCYD_PORT_7480_TCP_ADDR", "10.0.0.1"),
            ("IDEMPOTENCYD_METRICS_SERVICE_HOST", "10.0.0.1"),
            ("IDEMPOTENCYD_METRICS_PORT", "tcp://10.0.0.1:9090"),
        ]);
        assert!(said.is_empty(), "{said:?}");
        // Somebody who wants to choose a port is told that this does not do it.
        assert_eq!(problems(&[("IDEMPOTENCYD_PORT", "7480")]).len(), 1);
        assert_eq!(problems(&[("IDEMPOTENCYD_PORT_7480_X", "7480")]).len(), 1);
    }
}
