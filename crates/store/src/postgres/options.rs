//! Where the database is and how it is used: a URL, and the environment that `psql` reads too.

use super::tls::{SslMode, TlsOptions};
use super::{hosts, passfile};
use crate::waiters::WaiterCaps;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::time::Duration;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::Config;

/// Where nothing else is said.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How a PostgreSQL store is opened.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// One for each host, in their order.
    pub(super) hosts: Vec<Config>,
    pub(super) tls: TlsOptions,
    /// Most connections of this process, without the one that listens for notifications.
    pub pool_size: usize,
    /// Most batches of operations on their way at one time; calls beyond them travel together.
    pub lanes: usize,
    /// Longest time that the server works on one statement.
    pub statement_timeout: Duration,
    /// Longest time that a statement waits for another one's row.
    pub lock_timeout: Duration,
    /// How long a call waits for a free connection.
    pub checkout_timeout: Duration,
    /// How long a call goes on trying when connections are lost or the server is not there.
    pub retry_budget: Duration,
    /// How often waiters look without having been notified.
    pub poll_interval: Duration,
    /// High-water mark: above this size of table and indexes, new keys are refused.
    pub max_bytes: Option<u64>,
    /// Most waits at one time.
    pub waiters: WaiterCaps,
}

/// The password must not get into a log.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field(
                "hosts",
                &self.hosts.iter().map(Config::get_hosts).collect::<Vec<_>>(),
            )
            .field("dbname", &self.hosts.first().map(Config::get_dbname))
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

impl PostgresOptions {
    /// Where the servers are, for logs: hosts and ports, separated by commas, or a socket's directory; no names and
    /// passwords.
    pub fn addresses(&self) -> String {
        let mut all = Vec::new();
        for config in &self.hosts {
            let port = config.get_ports().first().copied().unwrap_or(5432);
            for host in config.get_hosts() {
                all.push(match host {
                    Host::Tcp(name) => format!("{name}:{port}"),
                    Host::Unix(directory) => directory.display().to_string(),
                });
            }
        }
        all.join(",")
    }

    /// Reads `postgres://[user[:password]@][host][:port][/database][?parameter=value…]`. What it
    /// does not say is taken from the environment (`PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`,
    /// `PGPASSFILE`, `PGDATABASE`, `PGSSLMODE`, `PGSSLROOTCERT`, `PGSSLCERT`, `PGSSLKEY`,
    /// `PGOPTIONS`, `PGAPPNAME`, `PGCONNECT_TIMEOUT`), as `psql` does.
    ///
    /// Several hosts are separated by commas, each with a port of its own or all with one; the
    /// store uses the one that takes writes, and follows a failover.
    ///
    /// Parameters: those of the driver, `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, and for the
    /// store itself `pool_size`, `lanes`, `statement_timeout_ms`, `lock_timeout_ms`, `checkout_timeout_ms`,
    /// `retry_budget_ms`, `poll_interval_ms`.
    ///
    /// # Errors
    ///
    /// What is wrong, without the URL: it may hold a password.
    pub fn from_url(url: &str) -> Result<PostgresOptions, String> {
        PostgresOptions::from_url_and(url, |name| std::env::var(name).ok())
    }

    /// The same with another environment.
    ///
    /// # Errors
    ///
    /// As [`PostgresOptions::from_url`].
    pub fn from_url_and(
        url: &str,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<PostgresOptions, String> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut options = PostgresOptions {
            hosts: Vec::new(),
            tls: TlsOptions::from_env(&env)?,
            pool_size: 16,
            lanes: 6,
            statement_timeout: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(2),
            checkout_timeout: Duration::from_secs(2),
            retry_budget: Duration::from_secs(3),
            poll_interval: Duration::from_secs(5),
            max_bytes: None,
            waiters: WaiterCaps::default(),
        };
        let (mut left, mut hosts) = (Vec::new(), Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| format!("{name}: not UTF-8"))?;
            if name == "host" {
                // The driver takes a list for one name here.
                hosts.extend(value.split(',').map(str::to_owned));
            } else if !options.own_parameter(name, &value)? {
                left.push(pair);
            }
        }
        let url = if left.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{}", left.join("&"))
        };
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let why =
                std::error::Error::source(&error).map_or(error.to_string(), |e| e.to_string());
            format!("not a URL of PostgreSQL: {why}")
        })?;
        for host in hosts {
            config.host(host);
        }
        options.fill(config, &env)?;
        Ok(options)
    }

    /// Longest time until a host has a session for us.
    pub(super) fn connect_timeout(&self) -> Duration {
        let told = self.hosts.first().and_then(Config::get_connect_timeout);
        told.copied().unwrap_or(CONNECT_TIMEOUT)
    }

    /// Takes a parameter that the driver does not know. False: it is none of these.
    fn own_parameter(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let millis = || {
            let ms = value
                .parse::<u64>()
                .ok()
                .filter(|ms| (1..=600_000).contains(ms));
            ms.map(Duration::from_millis)
                .ok_or_else(|| format!("{name}: must be a number of milliseconds, 1 to 600000"))
        };
        let number = || {
            let number = value.parse::<usize>().ok();
            number
                .filter(|number| (1..=1_000).contains(number))
                .ok_or_else(|| format!("{name}: must be a number from 1 to 1000"))
        };
        match name {
            "sslmode" => self.tls.mode = SslMode::parse(value)?,
            "sslrootcert" => self.tls.root_cert = Some(value.into()),
            "sslcert" => self.tls.cert = Some(value.into()),
            "sslkey" => self.tls.key = Some(value.into()),
            "statement_timeout_ms" => self.statement_timeout = millis()?,
            "lock_timeout_ms" => self.lock_timeout = millis()?,
            "checkout_timeout_ms" => self.checkout_timeout = millis()?,
            "retry_budget_ms" => self.retry_budget = millis()?,
            "poll_interval_ms" => self.poll_interval = millis()?,
            // A standby cannot do the work, and there is nothing to balance.
            "target_session_attrs" if ["read-write", "primary"].contains(&value) => {}
            "target_session_attrs" => return Err(format!("{name}: can only be read-write")),
            "load_balance_hosts" if value == "disable" => {}
            "load_balance_hosts" => return Err(format!("{name}: can only be disable")),
            "pool_size" => self.pool_size = number()?,
            "lanes" => self.lanes = number()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What the URL does not say.
    fn fill(
        &mut self,
        mut config: Config,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Result<(), String> {
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            match env("PGHOST") {
                Some(hosts) => hosts.split(',').for_each(|host| {
                    config.host(host);
                }),
                None if std::path::Path::new("/var/run/postgresql").is_dir() => {
                    config.host("/var/run/postgresql");
                }
                None => {
                    config.host("localhost");
                }
            }
        }
        if config.get_ports().is_empty() {
            for port in env("PGPORT").iter().flat_map(|ports| ports.split(',')) {
                config.port(port.parse().map_err(|_| "PGPORT: not a port".to_owned())?);
            }
        }
        if config.get_user().is_none_or(str::is_empty) {
            let user = env("PGUSER").or_else(|| env("USER"));
            config.user(user.ok_or("no user: name one in the URL or in PGUSER")?);
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            let user = config.get_user().unwrap_or_default().to_owned();
            config.dbname(env("PGDATABASE").unwrap_or(user));
        }
        if config.get_options().is_none() {
            if let Some(options) = env("PGOPTIONS") {
                config.options(options);
            }
        }
        if config.get_application_name().is_none() {
            config.application_name(env("PGAPPNAME").unwrap_or_else(|| "idempotencyd".to_owned()));
        }
        if config.get_connect_timeout().is_none() {
            let timeout = match env("PGCONNECT_TIMEOUT") {
                None => CONNECT_TIMEOUT,
                Some(text) => match text.parse() {
                    // For psql, for ever; no call of ours waits that long.
                    Ok(0) => CONNECT_TIMEOUT,
                    Ok(seconds) => Duration::from_secs(seconds),
                    Err(_) => return Err("PGCONNECT_TIMEOUT: not a number of seconds".to_owned()),
                },
            };
            config.connect_timeout(timeout);
        }
        if config.get_password().is_none() {
            if let Some(password) = env("PGPASSWORD") {
                config.password(password);
            }
        }
        // A standby cannot do the work. With several hosts, this is how a failover is followed.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        // A peer that is gone without a word is noticed in the time of a statement.
        config.keepalives_idle(Duration::from_secs(10));
        config.keepalives_interval(Duration::from_secs(3));
        config.keepalives_retries(3);
        config.tcp_user_timeout(self.statement_timeout + Duration::from_secs(5));
        let local = config
            .get_hosts()
            .iter()
            .all(|h| matches!(h, Host::Unix(_)));
        if local && config.get_hostaddrs().is_empty() {
            // A Unix socket has no TLS, whatever is asked for; libpq ignores it, too.
            self.tls.mode = SslMode::Disable;
        }
        config.ssl_mode(self.tls.mode.of_driver());
        self.hosts = hosts::split(&config)?;
        for host in &mut self.hosts {
            if host.get_password().is_none() {
                if let Some(password) = passfile::find(host, env) {
                    host.password(password);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str, env: &[(&str, &str)]) -> Result<PostgresOptions, String> {
        let env: Vec<(String, String)> = env
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        PostgresOptions::from_url_and(url, move |name| {
            env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
        })
    }

    #[test]
    fn the_url_wins_over_the_environment() {
        let env = [
            ("PGHOST", "h"),
            ("PGPORT", "1"),
            ("PGUSER", "u"),
            ("PGPASSWORD", "p"),
            ("PGDATABASE", "d"),
            ("PGSSLMODE", "verify-full"),
        ];
        let from_env = read("postgres://", &env).unwrap();
        assert_eq!(from_env.hosts[0].get_hosts(), [Host::Tcp("h".into())]);
        assert_eq!(from_env.hosts[0].get_ports(), [1]);
        assert_eq!(from_env.hosts[0].get_password(), Some(&b"p"[..]));
        assert_eq!(from_env.hosts[0].get_dbname(), Some("d"));
        assert_eq!(from_env.tls.mode, SslMode::VerifyFull);
        let url = "postgresql://a:b%40@x:2/y?sslmode=require&pool_size=3&application_name=me";
        let from_url = read(url, &env).unwrap();
        assert_eq!(from_url.hosts[0].get_hosts(), [Host::Tcp("x".into())]);
        assert_eq!(from_url.hosts[0].get_ports(), [2]);
        assert_eq!(from_url.hosts[0].get_user(), Some("a"));
        assert_eq!(from_url.hosts[0].get_password(), Some(&b"b@"[..]));
        assert_eq!(from_url.hosts[0].get_dbname(), Some("y"));
        assert_eq!(from_url.hosts[0].get_application_name(), Some("me"));
        assert_eq!(
            (from_url.tls.mode, from_url.pool_size),
            (SslMode::Require, 3)
        );
    }

    #[test]
    fn several_hosts_have_a_port_each_or_share_one() {
        let hosts = |url: &str| -> Vec<(Host, u16)> {
            let options = read(url, &[("PGPORT", "7")]).unwrap();
            let one = |c: &Config| (c.get_hosts()[0].clone(), c.get_ports()[0]);
            options.hosts.iter().map(one).collect()
        };
        let tcp = |name: &str| Host::Tcp(name.into());
        let both = [(tcp("a"), 1), (tcp("b"), 2)];
        let attrs = "target_session_attrs=read-write";
        assert_eq!(hosts(&format!("postgres://u@a:1,b:2/d?{attrs}")), both);
        assert_eq!(
            hosts(&format!("postgres://u@/d?host=a,b&port=1,2&{attrs}")),
            both
        );
        assert_eq!(
            hosts("postgres://u@/d?host=a,b&target_session_attrs=primary"),
            [(tcp("a"), 7), (tcp("b"), 7)]
        );
        assert!(read("postgres://u@/d?host=a,b,c&port=1,2", &[]).is_err());
    }

    #[test]
    fn a_unix_socket_needs_no_tls() {
        let url = "postgres://u@%2Frun%2Fpg/db?sslmode=require";
        let options = read(url, &[]).unwrap();
        assert_eq!(options.hosts[0].get_hosts(), [Host::Unix("/run/pg".into())]);
        assert_eq!(options.tls.mode, SslMode::Disable);
    }

    #[test]
    fn what_is_wrong_is_named_and_the_password_is_not() {
        for (url, name) in [
            ("postgres://u:secret@h/d?sslmode=maybe", "sslmode"),
            ("postgres://u:secret@h/d?pool_size=0", "pool_size"),
            (
                "postgres://u:secret@h/d?lock_timeout_ms=x",
                "lock_timeout_ms",
            ),
            ("postgres://u:secret@h/d?flavour=x", "flavour"),
            (
                "postgres://u:secret@h/d?target_session_attrs=any",
                "target_session_attrs",
            ),
            ("postgres://u:secret@h:port/d", "port"),
            ("postgres://:secret@h/d", "user"),
        ] {
            let error = read(url, &[]).unwrap_err();
            assert!(error.contains(name), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let options = read("postgres://u:secret@h/d", &[]).unwrap();
        assert!(!format!("{options:?}").contains("secret"));
    }
}
