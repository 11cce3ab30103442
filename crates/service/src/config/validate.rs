//! Settings to configuration: defaults, and everything that can be wrong found at once.

use super::otel;
use super::{Config, Limits, Listen, Millis, SettingError, Settings, TokenFiles};
use crate::api::door::Hosts;
use crate::auth::{Role, Tokens, Way};
use crate::backend::StoreChoice;
use crate::encryption::{KeyKeeper, KeySource};
use crate::tls::{Loaded, TlsOptions};
use idempotency_protocol::MAX_OPERATIONS;
use idempotency_store::{Quotas, WaiterCaps};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

struct Check {
    errors: Vec<SettingError>,
}

impl Check {
    fn fail(&mut self, field: &str, message: impl Into<String>) {
        self.errors.push(SettingError {
            field: field.into(),
            message: message.into(),
        });
    }

    fn positive(&mut self, field: &str, value: Option<usize>, default: usize) -> usize {
        let value = value.unwrap_or(default);
        // Semaphores hold at most usize::MAX >> 3 permits; no real limit is near that.
        if value == 0 || value > 1 << 40 {
            self.fail(field, "must be at least 1 (and not absurdly large)");
        }
        value.clamp(1, 1 << 40)
    }

    fn time(&mut self, field: &str, value: Option<Millis>, default: u64) -> Duration {
        let value = value.map_or(default, |m| m.0);
        if value == 0 || value > 86_400_000 {
            self.fail(field, "must be between 1ms and 24h");
        }
        Duration::from_millis(value)
    }
}

impl Settings {
    /// Checks the settings; on failure, everything that is wrong with them. Reads the files of tokens,
    /// certificates and keys, and nothing else.
    pub fn check(self) -> Result<Config, Vec<SettingError>> {
        let mut check = Check { errors: Vec::new() };
        let default = ["127.0.0.1:7480".to_owned()];
        let listen = match self.listen.as_slice() {
            [] => listeners("listen", &default, &[], &mut check),
            written => listeners("listen", written, &[], &mut check),
        };
        let ui_listen = listeners("ui_listen", &self.ui_listen, &listen, &mut check);
        let insecure_no_auth = self.insecure_no_auth.unwrap_or(false);
        let token_files = TokenFiles {
            gateway: self.gateway_token_files.clone(),
            upstream: self.upstream_token_files.clone(),
            operator: self.operator_token_files.clone(),
        };
        let inline_tokens = inline_tokens(&self, &mut check);
        let mut tokens = inline_tokens.clone();
        for (field, message) in tokens.add_files(&token_files) {
            check.fail(&field, message);
        }
        let store = match StoreChoice::from_settings(&self) {
            Ok(store) => store,
            Err((field, message)) => {
                check.fail(&field, message);
                StoreChoice::Memory
            }
        };
        let tls = tls(&self, &listen, &ui_listen, &mut check);
        let source = KeySource::from_settings(
            self.encryption_keys.as_ref(),
            self.encryption_key_command.as_ref(),
        );
        let source = source.unwrap_or_else(|error| {
            check.errors.push(error);
            None
        });
        let made_token = if insecure_no_auth || tokens.has(Role::Gateway) {
            None
        } else {
            // Where certificates have the role, a listener with TLS is closed to everybody else.
            let by_certificate = tls.as_ref().is_some_and(|(_, loaded)| {
                let roles = loaded.roles.as_ref();
                roles.is_some_and(|roles| roles.give(Role::Gateway))
            });
            let open = listen.iter().filter(|listen| match listen {
                Listen::Tcp(_) => !by_certificate,
                Listen::Plain(_) | Listen::Unix(_) => true,
            });
            made_token(&open.cloned().collect::<Vec<_>>(), &store, &mut check)
        };
        let limits = limits(&self, &mut check);
        if !ui_listen.is_empty() && !tokens.has(Role::Operator) {
            check.fail("ui_listen", "needs an operator token, to sign in with");
        }
        let config = Config {
            hosts: hosts(self.allowed_hosts, listen.iter().chain(&ui_listen)),
            listen,
            ui_listen,
            ui_read_only: self.ui_read_only.unwrap_or(false),
            tls,
            socket_mode: self.socket_mode.map_or(0o660, |m| m.0),
            ready_file: self.ready_file,
            store,
            keys: source.map(KeyKeeper::new),
            tokens,
            inline_tokens,
            token_files,
            made_token,
            insecure_no_auth,
            limits,
            sweep_interval: check.time("sweep_interval", self.sweep_interval, 1_000),
            sweep_batch: check.positive("sweep_batch", self.sweep_batch, 512),
            census_interval: match self.census_interval {
                Some(Millis(0)) => None,
                written => Some(check.time("census_interval", written, 60_000)),
            },
            shutdown_timeout: check.time("shutdown_timeout", self.shutdown_timeout, 10_000),
            audit_log: self.audit_log,
            traces: self.otlp_endpoint.and_then(|url| match otel::target(&url) {
                Ok(target) => Some(target),
                Err(message) => {
                    check.fail("otlp_endpoint", message);
                    None
                }
            }),
        };
        if self.threads == Some(0) {
            check.fail("threads", "must be at least 1");
        }
        if check.errors.is_empty() {
            Ok(config)
        } else {
            Err(check.errors)
        }
    }
}

/// The files of TLS, and what they hold.
fn tls(
    settings: &Settings,
    listen: &[Listen],
    pages: &[Listen],
    check: &mut Check,
) -> Option<(TlsOptions, Arc<Loaded>)> {
    let (cert, key) = match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        (cert, key) => {
            let [given, missing] = match (cert, key) {
                (Some(_), None) => ["tls_cert", "tls_key"],
                (None, Some(_)) => ["tls_key", "tls_cert"],
                _ => ["", ""],
            };
            if !given.is_empty() {
                check.fail(given, format!("goes together with {missing}"));
            }
            for (field, is_set) in [
                ("tls_client_ca", settings.tls_client_ca.is_some()),
                ("tls_client_auth", settings.tls_client_auth.is_some()),
                ("tls_roles", settings.tls_roles.is_some()),
                ("tls_min_version", settings.tls_min_version.is_some()),
            ] {
                if is_set {
                    check.fail(field, "needs tls_cert and tls_key");
                }
            }
            return None;
        }
    };
    for (field, is_set) in [
        ("tls_client_auth", settings.tls_client_auth.is_some()),
        ("tls_roles", settings.tls_roles.is_some()),
    ] {
        if is_set && settings.tls_client_ca.is_none() {
            check.fail(
                field,
                "needs tls_client_ca: no client is asked for a certificate",
            );
        }
    }
    let all = [("listen", listen), ("ui_listen", pages)];
    let plain = |listen: &&Listen| matches!(listen, Listen::Plain(_));
    for (field, listeners) in all {
        for plain in listeners.iter().filter(plain) {
            if plain.way() == Way::Network {
                check.fail(
                    field,
                    format!("{plain} can be reached from other machines: there it speaks TLS"),
                );
            }
        }
    }
    let options = TlsOptions {
        cert,
        key,
        client_ca: settings.tls_client_ca.clone(),
        client_auth: settings.tls_client_auth.unwrap_or_default(),
        roles: settings.tls_roles.clone(),
        min_version: settings.tls_min_version.unwrap_or_default(),
    };
    match options.open() {
        Ok(loaded) => Some((options, loaded)),
        Err(wrong) => {
            for (field, message) in wrong {
                check.fail(field, message);
            }
            None
        }
    }
}

/// Where the token is kept that the service makes because nobody configured one: next to the
/// records of the embedded store, if nobody else needs to know it. Over Unix sockets alone none is
/// needed: their permissions say who may call.
fn made_token(listen: &[Listen], store: &StoreChoice, check: &mut Check) -> Option<PathBuf> {
    let tcp = |l: &&Listen| l.way() != Way::Unix;
    let open = listen.iter().find(tcp)?;
    let remedy =
        "configure a gateway token, listen on a Unix socket alone, or say insecure_no_auth";
    if let Some(open) = listen.iter().find(|l| l.way() == Way::Network) {
        let message = format!("{open} can be reached from other machines: {remedy}");
        check.fail("gateway_tokens", message);
        return None;
    }
    match store.directory() {
        Some(directory) => Some(directory.join("gateway-token")),
        None => {
            let message = format!(
                "{open} can be reached by every program and every web page on this machine, and \
                 the services that share this store must agree on their tokens: {remedy}"
            );
            check.fail("gateway_tokens", message);
            None
        }
    }
}

/// The names that are configured, and the addresses that are listened on.
fn hosts<'l>(allowed: Vec<String>, listen: impl Iterator<Item = &'l Listen>) -> Hosts {
    let addresses = listen.filter_map(Listen::tcp).map(|address| address.ip());
    let addresses = addresses.filter(|ip| !ip.is_unspecified());
    let addresses = addresses.map(|ip| ip.to_string());
    Hosts::new(allowed.into_iter().chain(addresses))
}

/// Addresses of one setting, none of which is among those of another one.
fn listeners(field: &str, written: &[String], others: &[Listen], check: &mut Check) -> Vec<Listen> {
    let mut listen = Vec::with_capacity(written.len());
    for (i, text) in written.iter().enumerate() {
        match text.trim().parse::<Listen>() {
            Ok(address) => {
                let free_port = address.tcp().is_some_and(|address| address.port() == 0);
                let taken = listen.contains(&address) || others.contains(&address);
                if !free_port && taken {
                    check.fail(&format!("{field}[{i}]"), format!("`{text}` is there twice"));
                }
                listen.push(address);
            }
            Err(message) => check.fail(&format!("{field}[{i}]"), message),
        }
    }
    listen
}

fn inline_tokens(settings: &Settings, check: &mut Check) -> Tokens {
    let mut tokens = Tokens::default();
    for (role, written) in [
        (Role::Gateway, &settings.gateway_tokens),
        (Role::Upstream, &settings.upstream_tokens),
        (Role::Operator, &settings.operator_tokens),
    ] {
        for (i, text) in written.iter().enumerate() {
            if let Err(message) = tokens.add(role, text) {
                check.fail(&format!("{}_tokens[{i}]", role.name()), message);
            }
        }
    }
    tokens
}

/// None is no limit; one of nothing would refuse every new key.
fn quotas(settings: &Settings, check: &mut Check) -> Quotas {
    let mut quota = |field: &str, most: Option<u64>| {
        // What every store can count to.
        if most.is_some_and(|most| !(1..1 << 53).contains(&most)) {
            check.fail(field, "must be at least 1 (and not absurdly large)");
        }
        most
    };
    Quotas {
        executions: quota(
            "max_executions_per_tenant",
            settings.max_executions_per_tenant,
        ),
        records: quota("max_records_per_tenant", settings.max_records_per_tenant),
        bytes: quota(
            "max_bytes_per_tenant",
            settings.max_bytes_per_tenant.map(|size| size.0),
        ),
    }
}

fn waiters(settings: &Settings, check: &mut Check) -> WaiterCaps {
    let default = WaiterCaps::default();
    WaiterCaps {
        total: check.positive("max_waiters", settings.max_waiters, default.total),
        per_tenant: check.positive(
            "max_waiters_per_tenant",
            settings.max_waiters_per_tenant,
            default.per_tenant,
        ),
        per_key: check.positive(
            "max_waiters_per_key",
            settings.max_waiters_per_key,
            default.per_key,
        ),
    }
}

fn limits(settings: &Settings, check: &mut Check) -> Limits {
    let bytes = |size: Option<super::Size>| size.and_then(|s| usize::try_from(s.0).ok());
    let mut limits = Limits {
        max_body_bytes: check.positive(
            "max_body_bytes",
            bytes(settings.max_body_bytes),
            idempotency_protocol::limits::MAX_MESSAGE_BYTES,
        ),
        max_buffered_bytes: check.positive(
            "max_buffered_bytes",
            bytes(settings.max_buffered_bytes),
            512 << 20,
        ),
        max_batch: check.positive("max_batch", settings.max_batch, MAX_OPERATIONS),
        max_concurrent_calls: check.positive(
            "max_concurrent_calls",
            settings.max_concurrent_calls,
            4096,
        ),
        waiters: waiters(settings, check),
        quotas: quotas(settings, check),
        max_wait: check.time(
            "max_wait",
            settings.max_wait,
            idempotency_protocol::limits::MAX_WAIT_MS,
        ),
        max_connections: check.positive("max_connections", settings.max_connections, 10_000),
        max_stranger_bytes: check.positive(
            "max_stranger_bytes",
            bytes(settings.max_stranger_bytes),
            256 << 20,
        ),
        header_timeout: check.time("header_timeout", settings.header_timeout, 10_000),
        idle_timeout: check.time("idle_timeout", settings.idle_timeout, 65 * 60_000),
        write_timeout: check.time("write_timeout", settings.write_timeout, 30_000),
        request_timeout: Duration::ZERO,
        body_timeout: check.time("body_timeout", settings.body_timeout, 30_000),
    };
    let longest = limits.body_timeout + limits.max_wait;
    let default = (longest + Duration::from_secs(60)).max(Duration::from_secs(180));
    let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
    limits.request_timeout = check.time(
        "request_timeout",
        settings.request_timeout,
        default.min(86_400_000),
    );
    if settings.request_timeout.is_some() && limits.request_timeout <= longest {
        check.fail("request_timeout", "must be above body_timeout + max_wait");
    }
    // Fewer would be found out under load alone, when gateways share calls.
    if !(MAX_OPERATIONS..=usize::from(u16::MAX)).contains(&limits.max_batch) {
        check.fail(
            "max_batch",
            "must be between 64, which gateways and programs may send in one call, and 65535",
        );
    }
    if limits.max_buffered_bytes < limits.max_body_bytes {
        check.fail("max_buffered_bytes", "must not be below max_body_bytes");
    }
    // With HTTP/1.1 a wait holds its connection: were all connections allowed to wait, nobody
    // could connect to complete.
    if limits.waiters.total >= limits.max_connections {
        check.fail(
            "max_waiters",
            "must be below max_connections, or waits keep completes out",
        );
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a-token-that-is-long-enough";

    fn errors(settings: Settings) -> String {
        let errors = settings.check().unwrap_err();
        errors.iter().map(|e| format!("{e}\n")).collect()
    }

    #[test]
    fn defaults_are_fine() {
        let config = Settings::default().check().unwrap();
        assert_eq!(config.listen, ["127.0.0.1:7480".parse().unwrap()]);
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let text = errors(Settings {
            listen: vec!["nowhere".into(), "127.0.0.1:1".into(), "127.0.0.1:1".into()],
            store: Some("cassandra://x".into()),
            gateway_tokens: vec!["has space".into()],
            max_batch: Some(0),
            max_waiters: Some(10),
            max_connections: Some(10),
            ..Settings::default()
        });
        for part in [
            "listen[0]: ",
            "listen[2]: ",
            "store: ",
            "gateway_tokens[0]: ",
            "max_batch: ",
            "max_waiters: ",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(
            !text.contains("has space"),
            "a token must not be printed: {text}"
        );
    }

    #[test]
    fn a_call_of_a_gateway_is_never_too_long() {
        let with = |most| Settings {
            max_batch: Some(most),
            ..Settings::default()
        };
        for most in [1, 16, 63, 65_536] {
            let text = errors(with(most));
            assert!(text.contains("max_batch: "), "{most}: {text}");
        }
        for most in [64, 65_535] {
            assert_eq!(with(most).check().unwrap().limits.max_batch, most);
        }
    }

    #[test]
    fn reachable_from_elsewhere_needs_a_token_or_a_word() {
        let open = Settings {
            listen: vec!["0.0.0.0:1".into()],
            ..Settings::default()
        };
        assert!(errors(open.clone()).contains("gateway_tokens: 0.0.0.0:1"));
        let secure = Settings {
            gateway_tokens: vec![TOKEN.into()],
            ..open.clone()
        };
        assert!(secure.check().is_ok());
        let insecure = Settings {
            insecure_no_auth: Some(true),
            ..open
        };
        assert!(insecure.check().is_ok());
    }

    #[test]
    fn a_token_is_made_on_loopback_with_the_embedded_store_alone() {
        let settings = |listen: &str, store: &str| Settings {
            listen: vec![listen.into()],
            store: Some(store.into()),
            ..Settings::default()
        };
        let made = |settings: Settings| settings.check().unwrap().made_token;
        let loopback = settings("127.0.0.1:1", "embedded:/d");
        assert_eq!(made(loopback.clone()), Some("/d/gateway-token".into()));
        assert_eq!(made(settings("unix:/s", "embedded:/d")), None);
        assert_eq!(made(settings("unix:/s", "memory")), None);
        let with_token = Settings {
            gateway_tokens: vec![TOKEN.into()],
            ..settings("127.0.0.1:1", "memory")
        };
        assert_eq!(made(with_token), None);
        let insecure = Settings {
            insecure_no_auth: Some(true),
            ..loopback
        };
        assert_eq!(made(insecure), None);
        for (listen, store) in [
            ("127.0.0.1:1", "memory"),
            ("[::1]:1", "memory"),
            ("10.0.0.1:1", "embedded"),
        ] {
            let text = errors(settings(listen, store));
            assert!(
                text.contains("gateway_tokens: "),
                "{listen} {store}: {text}"
            );
        }
        let elsewhere_too = Settings {
            listen: vec!["127.0.0.1:1".into(), "0.0.0.0:2".into()],
            ..settings("", "embedded")
        };
        assert!(errors(elsewhere_too).contains("gateway_tokens: 0.0.0.0:2"));
    }

    #[test]
    fn a_request_may_last_as_long_as_its_parts() {
        let settings = |max_wait: &str, request: Option<&str>| Settings {
            max_wait: Some(max_wait.parse().unwrap()),
            request_timeout: request.map(|r| r.parse().unwrap()),
            ..Settings::default()
        };
        let limit = |s: Settings| s.check().unwrap().limits.request_timeout.as_secs();
        assert_eq!(limit(settings("60s", None)), 180);
        assert_eq!(limit(settings("10m", None)), 690);
        assert_eq!(limit(settings("60s", Some("91s"))), 91);
        assert!(errors(settings("60s", Some("90s"))).contains("request_timeout: "));
    }

    #[test]
    fn the_upper_layer_wins() {
        let upper = Settings {
            max_batch: Some(3),
            operator_token_files: vec!["/new".into()],
            ..Settings::default()
        };
        let lower = Settings {
            max_batch: Some(9),
            max_waiters: Some(7),
            operator_tokens: vec!["old".into()],
            ..Settings::default()
        };
        let merged = upper.over(lower);
        assert_eq!((merged.max_batch, merged.max_waiters), (Some(3), Some(7)));
        assert!(merged.operator_tokens.is_empty());
    }
}
