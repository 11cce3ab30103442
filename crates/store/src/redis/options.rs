//! A Redis store as it is named: one URL.

use super::redlock::RedlockOptions;
use crate::waiters::WaiterCaps;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`super::RedisStore`]. [`RedisOptions::parse`] reads them from a URL.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisOptions {
    /// Where the servers are, and how they belong together.
    pub topology: Topology,
    /// ACL user.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Number of the database; 0 in a Cluster.
    pub database: i64,
    /// TLS, if it is used.
    pub tls: Option<Tls>,
    /// ACL user and password of the Sentinels themselves.
    pub sentinel_user: Option<String>,
    /// Password of the Sentinels themselves.
    pub sentinel_password: Option<String>,
    /// What all names of records begin with. Default: `idem:`.
    pub prefix: String,
    /// Longest wait for an answer of the server. Default: 1 s.
    pub timeout: Duration,
    /// Replicas that must have a write before it is acknowledged.
    pub wait: Option<WaitReplicas>,
    /// Be ready although the server may forget (evict, or keep nothing on disk).
    pub accept_loss: bool,
    /// Share of `maxmemory`, in percent, above which new keys are refused. Default: 90.
    pub high_water_percent: u64,
    /// Most waits at one time.
    pub waiters: WaiterCaps,
    /// Locks that must also be held on a majority of independent nodes. No part of the URL.
    pub guard: Option<RedlockOptions>,
}

/// How the servers belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server, or what looks like one.
    Single(Address),
    /// A master and its replicas, found through Sentinels.
    Sentinel {
        /// The Sentinels.
        sentinels: Vec<(String, u16)>,
        /// The master's name.
        master: String,
    },
    /// A Cluster; some of its nodes.
    Cluster(Vec<(String, u16)>),
}

/// Where a single server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host and port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Certificates; what is not named comes from the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates that the server's one must descend from (PEM).
    pub ca: Option<PathBuf>,
    /// Our own certificate (PEM).
    pub certificate: Option<PathBuf>,
    /// Our own key (PEM).
    pub key: Option<PathBuf>,
}

/// `WAIT`: how many replicas, how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitReplicas {
    /// How many must have it.
    pub count: u32,
    /// How long to wait for them.
    pub timeout: Duration,
}

/// Passwords are left out.
impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("topology", &self.topology)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("tls", &self.tls)
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .field("wait", &self.wait)
            .field("accept_loss", &self.accept_loss)
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

/// The schemes, for messages.
const SCHEMES: &str = "redis://, rediss://, redis+unix://, redis+sentinel://, rediss+sentinel://, \
                       redis+cluster://, rediss+cluster://";

impl RedisOptions {
    /// Where the servers are, for logs: hosts and ports, separated by commas, or a socket; no names and passwords.
    pub fn addresses(&self) -> String {
        let listed = |nodes: &[(String, u16)]| {
            let nodes = nodes.iter().map(|(host, port)| format!("{host}:{port}"));
            nodes.collect::<Vec<_>>().join(",")
        };
        match &self.topology {
            Topology::Single(Address::Tcp(host, port)) => format!("{host}:{port}"),
            Topology::Single(Address::Unix(path)) => path.display().to_string(),
            Topology::Sentinel { sentinels, .. } => listed(sentinels),
            Topology::Cluster(nodes) => listed(nodes),
        }
    }

    /// The defaults.
    pub fn new(topology: Topology) -> RedisOptions {
        RedisOptions {
            topology,
            user: None,
            password: None,
            database: 0,
            tls: None,
            sentinel_user: None,
            sentinel_password: None,
            prefix: "idem:".into(),
            timeout: Duration::from_secs(1),
            wait: None,
            accept_loss: false,
            high_water_percent: 90,
            waiters: WaiterCaps::default(),
            guard: None,
        }
    }

    /// Reads a URL:
    ///
    /// ```text
    /// redis://[user[:password]@]host[:port][/database][?settings]     rediss:// with TLS
    /// redis+unix://[user[:password]@]/path/of/the/socket[?settings]
    /// redis+sentinel://[user[:password]@]host[:port],…/master[/database][?settings]
    /// redis+cluster://[user[:password]@]host[:port],…[?settings]
    /// ```
    ///
    /// Settings: `prefix`, `timeout_ms`, `wait_replicas`, `wait_timeout_ms`, `accept_loss`,
    /// `high_water_percent`, `password_file`, `database`, `ca`, `cert`, `key`, `sentinel_user`,
    /// `sentinel_password`.
    ///
    /// # Errors
    ///
    /// What is wrong with it; never with the password in the text.
    pub fn parse(url: &str) -> Result<RedisOptions, String> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| format!("no URL; there are {SCHEMES}"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (transport, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let secure = match transport {
            "redis" => false,
            "rediss" => true,
            _ => return Err(format!("`{scheme}://` is no Redis; there are {SCHEMES}")),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let mut path = path.into_iter();
        let mut options = match kind {
            "unix" if !secure => {
                path = Vec::new().into_iter();
                if !rest.starts_with('/') {
                    return Err("redis+unix:// needs the socket's absolute path".into());
                }
                RedisOptions::new(Topology::Single(Address::Unix(decoded(rest)?.into())))
            }
            "" => {
                let mut hosts = addresses(hosts, 6379)?;
                match (hosts.pop(), hosts.is_empty()) {
                    (Some((host, port)), true) => {
                        RedisOptions::new(Topology::Single(Address::Tcp(host, port)))
                    }
                    _ => {
                        return Err("redis:// names one server; for several say \
                                    redis+cluster:// or redis+sentinel://"
                            .into())
                    }
                }
            }
            "sentinel" => {
                let sentinels = addresses(hosts, 26379)?;
                let master = path.next().ok_or(
                    "redis+sentinel:// needs the master's name: redis+sentinel://host,…/NAME",
                )?;
                let master = decoded(master)?;
                RedisOptions::new(Topology::Sentinel { sentinels, master })
            }
            "cluster" => RedisOptions::new(Topology::Cluster(addresses(hosts, 6379)?)),
            _ => return Err(format!("`{scheme}://` is unknown; there are {SCHEMES}")),
        };
        if let Some(database) = path.next() {
            options.database = number("the database", database)?;
        }
        if path.next().is_some() {
            return Err("the path is too long".into());
        }
        if secure {
            options.tls = Some(Tls::default());
        }
        if let Some(login) = login {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            options.user = Some(decoded(user)?).filter(|user| !user.is_empty());
            options.password = Some(decoded(password)?).filter(|word| !word.is_empty());
        }
        options.settings(query)?;
        options.check()?;
        Ok(options)
    }

    fn settings(&mut self, query: &str) -> Result<(), String> {
        let (mut replicas, mut wait_ms) = (None, None);
        for setting in query.split('&').filter(|setting| !setting.is_empty()) {
            let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
            let value = decoded(value)?;
            match name {
                "prefix" => self.prefix = value,
                "timeout_ms" => self.timeout = milliseconds(name, &value)?,
                "wait_replicas" => replicas = Some(number::<u32>(name, &value)?),
                "wait_timeout_ms" => wait_ms = Some(milliseconds(name, &value)?),
                "accept_loss" => self.accept_loss = truth(name, &value)?,
                "high_water_percent" => self.high_water_percent = number(name, &value)?,
                "password_file" => self.password = Some(password_of(&value)?),
                "database" => self.database = number(name, &value)?,
                "sentinel_user" => self.sentinel_user = Some(value),
                "sentinel_password" => self.sentinel_password = Some(value),
                "ca" | "cert" | "key" => {
                    let Some(tls) = self.tls.as_mut() else {
                        return Err(format!("`{name}` means nothing without TLS (rediss://)"));
                    };
                    let path = Some(PathBuf::from(value));
                    match name {
                        "ca" => tls.ca = path,
                        "cert" => tls.certificate = path,
                        _ => tls.key = path,
                    }
                }
                _ => return Err(format!("`{name}` is no setting of a Redis store")),
            }
        }
        self.wait = match (replicas, wait_ms) {
            (None | Some(0), None) => None,
            (None | Some(0), Some(_)) => {
                return Err("`wait_timeout_ms` means nothing without `wait_replicas`".into())
            }
            (Some(count), timeout) => Some(WaitReplicas {
                count,
                timeout: timeout.unwrap_or(Duration::from_millis(200)),
            }),
        };
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if matches!(self.topology, Topology::Cluster(_)) && self.database != 0 {
            return Err("a Cluster has only database 0".into());
        }
        if self.prefix.contains(['{', '}']) {
            return Err("`prefix` must not contain braces: they choose the Cluster slot".into());
        }
        if !(1..=100).contains(&self.high_water_percent) {
            return Err("`high_water_percent` must be between 1 and 100".into());
        }
        if let Some(Tls {
            certificate, key, ..
        }) = &self.tls
        {
            if certificate.is_some() != key.is_some() {
                return Err("`cert` and `key` belong together".into());
            }
        }
        Ok(())
    }
}

fn addresses(hosts: &str, port: u16) -> Result<Vec<(String, u16)>, String> {
    hosts.split(',').map(|host| address(host, port)).collect()
}

fn address(text: &str, default: u16) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("a host is missing".into());
    }
    let port = match port {
        Some(port) => number("the port", port)?,
        None => default,
    };
    Ok((decoded(host)?, port))
}

fn number<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("`{what}`: `{text}` is no number, or too large"))
}

fn milliseconds(what: &str, text: &str) -> Result<Duration, String> {
    match number::<u64>(what, text)? {
        ms @ 1..=60_000 => Ok(Duration::from_millis(ms)),
        _ => Err(format!("`{what}` must be between 1 and 60000")),
    }
}

fn truth(what: &str, text: &str) -> Result<bool, String> {
    match text {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("`{what}` is true or false")),
    }
}

fn password_of(path: &str) -> Result<String, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(format!("`password_file`: {path}: {error}")),
    }
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err("a `%` that is not followed by two hexadecimal digits".into());
        };
        out.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(out).map_err(|_| "not UTF-8 after percent-decoding".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> RedisOptions {
        RedisOptions::parse(url).unwrap()
    }

    #[test]
    fn topologies() {
        let single = |host: &str, port| Topology::Single(Address::Tcp(host.into(), port));
        assert_eq!(parse("redis://h").topology, single("h", 6379));
        assert_eq!(parse("redis://[::1]:7/3").topology, single("::1", 7));
        assert_eq!(parse("redis://[::1]:7/3").database, 3);
        let options = parse("rediss://u:p%40ss@h:1?ca=/ca.pem&prefix=x:");
        assert_eq!(options.user.as_deref(), Some("u"));
        assert_eq!(options.password.as_deref(), Some("p@ss"));
        assert_eq!(options.tls.unwrap().ca, Some("/ca.pem".into()));
        assert_eq!(
            parse("redis+unix:///run/redis.sock?database=2").topology,
            Topology::Single(Address::Unix("/run/redis.sock".into()))
        );
        assert_eq!(
            parse("redis+sentinel://a,b:2/mymaster/1").topology,
            Topology::Sentinel {
                sentinels: vec![("a".into(), 26379), ("b".into(), 2)],
                master: "mymaster".into()
            }
        );
        assert_eq!(
            parse("redis+cluster://a:1,b:2").topology,
            Topology::Cluster(vec![("a".into(), 1), ("b".into(), 2)])
        );
        let wait = parse("redis://h?wait_replicas=2&wait_timeout_ms=50").wait;
        assert_eq!(wait.unwrap().count, 2);
        assert!(parse("redis://h?accept_loss").accept_loss);
    }

    #[test]
    fn errors_say_what_is_wrong_and_never_the_password() {
        for (url, part) in [
            ("mysql://u:secret@h", "no Redis"),
            ("redis+ring://u:secret@h", "unknown"),
            ("redis://u:secret@a,b", "several"),
            ("redis://u:secret@h:port", "`the port`"),
            ("redis://u:secret@h/x", "`the database`"),
            ("redis+sentinel://u:secret@h", "master's name"),
            ("redis+cluster://u:secret@h/1", "database 0"),
            ("redis+unix://u:secret@x", "absolute path"),
            ("redis://u:secret@h?retries=1", "`retries` is no setting"),
            ("redis://u:secret@h?ca=/x", "without TLS"),
            ("redis://u:secret@h?timeout_ms=0", "timeout_ms"),
            ("redis://u:secret@h?wait_timeout_ms=5", "wait_replicas"),
            ("redis://u:secret@h?prefix={x}", "braces"),
            ("rediss://u:secret@h?cert=/x", "belong together"),
            ("redis://u:secret@", "host is missing"),
            ("redis://u:%zz@h", "hexadecimal"),
        ] {
            let error = RedisOptions::parse(url).unwrap_err();
            assert!(error.contains(part), "{url}: {error}");
            assert!(!error.contains("secret"), "{url}: {error}");
        }
        let shown = format!("{:?}", parse("redis://u:secret@h"));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
