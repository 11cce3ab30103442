//! What the environment says, checked before anything is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use idempotency_stack::{charges_rule, filter_config, ports, tools, Backend, Error, Tokens};
use serde_json::{json, Value};

pub(crate) struct Settings {
    pub(crate) gateway_port: u16,
    pub(crate) admin_port: u16,
    pub(crate) service_port: u16,
    pub(crate) upstream_port: u16,
    pub(crate) store: PathBuf,
    pub(crate) backend: Backend,
    pub(crate) logs: PathBuf,
    pub(crate) log_level: String,
    pub(crate) concurrency: u16,
    pub(crate) filter: Filter,
}

/// The filter's configuration and what the service must know of it.
pub(crate) struct Filter {
    pub(crate) text: String,
    pub(crate) tokens: Tokens,
}

impl Settings {
    pub(crate) fn from_env() -> Result<Self, Error> {
        let filter = Filter::from_env()?;
        let target = tools::target_dir().unwrap_or_else(|| PathBuf::from("target"));
        let data_dir = var("DATA_DIR").map_or_else(|| target.join("demo"), PathBuf::from);
        let settings = Self {
            gateway_port: number("GATEWAY_PORT", 10_000)?,
            admin_port: number("ENVOY_ADMIN_PORT", 9_901)?,
            service_port: number("SERVICE_PORT", 7_480)?,
            upstream_port: number("UPSTREAM_PORT", 7_481)?,
            logs: data_dir.join("logs"),
            store: data_dir.join("store"),
            backend: Backend::from_env()?,
            log_level: log_level()?,
            concurrency: number("CONCURRENCY", 1)?,
            filter,
        };
        settings.check_ports()?;
        fresh_directory(&settings.logs)?;
        Ok(settings)
    }

    fn check_ports(&self) -> Result<(), Error> {
        let ports = [
            ("GATEWAY_PORT", self.gateway_port),
            ("ENVOY_ADMIN_PORT", self.admin_port),
            ("SERVICE_PORT", self.service_port),
            ("UPSTREAM_PORT", self.upstream_port),
        ];
        for (index, (name, port)) in ports.iter().enumerate() {
            let earlier = ports.iter().take(index).find(|(_, other)| other == port);
            if let Some((other, _)) = earlier {
                return Err(Error::new(format!("{name} and {other} are both {port}")));
            }
            if !ports::is_free(*port) {
                let hint = format!("set {name} to a free one");
                return Err(Error::new(format!(
                    "port {port} ({name}) is in use: {hint}"
                )));
            }
        }
        Ok(())
    }
}

/// The service's own bound.
const MIN_TOKEN_BYTES: usize = 16;

impl Filter {
    fn from_env() -> Result<Self, Error> {
        let tokens = Tokens::default();
        let Some(path) = var("FILTER_CONFIG") else {
            let config = filter_config(&tokens, json!([charges_rule()]));
            return Ok(Self {
                text: config.to_string(),
                tokens,
            });
        };
        let wrong = |what: String| Error::new(format!("FILTER_CONFIG={path}: {what}"));
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        check_config(&path).map_err(wrong)?;
        let mut config: Value =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        for (pointer, name) in [
            ("/service/target", "idempotency"),
            ("/detached/cluster", "idempotency_execution"),
        ] {
            let found = config.pointer(pointer).and_then(Value::as_str);
            if found.is_some_and(|found| found != name) {
                let field = pointer.trim_start_matches('/').replace('/', ".");
                return Err(wrong(format!("{field}: this demo's cluster is `{name}`")));
            }
        }
        match config.pointer("/service/token").and_then(Value::as_str) {
            Some(token) if token.len() < MIN_TOKEN_BYTES => Err(wrong(format!(
                "service.token: the service takes no token under {MIN_TOKEN_BYTES} characters"
            ))),
            Some(token) => Ok(Self {
                tokens: Tokens {
                    gateway: token.to_owned(),
                    ..tokens
                },
                text,
            }),
            // A filter without a token is given the demo's: no service of ours goes without.
            None => {
                config["service"]["token"] = json!(tokens.gateway);
                Ok(Self {
                    tokens,
                    text: config.to_string(),
                })
            }
        }
    }
}

/// Has the service's own checker read the file; the error is its first line.
fn check_config(path: &str) -> Result<(), String> {
    let program = tools::idempotencyd().map_err(|error| error.to_string())?;
    let output = Command::new(program).arg("check-config").arg(path).output();
    let output = output.map_err(|error| format!("cannot run idempotencyd: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = if said.trim().is_empty() {
        String::from_utf8_lossy(&output.stdout)
    } else {
        said
    };
    let line = said
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("refused");
    // The path is said once.
    Err(line
        .strip_prefix(&format!("{path}: "))
        .unwrap_or(line)
        .to_owned())
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &str, default: u16) -> Result<u16, Error> {
    let Some(text) = var(name) else {
        return Ok(default);
    };
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| Error::new(format!("{name}={text} is not a number from 1 to 65535")))
}

fn log_level() -> Result<String, Error> {
    let level = var("LOG").unwrap_or_else(|| "info".to_owned());
    if ["trace", "debug", "info", "warn", "error"].contains(&level.as_str()) {
        return Ok(level);
    }
    Err(Error::new(format!(
        "LOG={level} is not one of trace, debug, info, warn, error"
    )))
}

/// Logs of an earlier run would only confuse.
fn fresh_directory(path: &Path) -> Result<(), Error> {
    let failed = |error| Error::new(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(path).map_err(failed)?;
    for entry in std::fs::read_dir(path).map_err(failed)?.flatten() {
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "log")
        {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}
