//! Whether the servers can be trusted with records, and how full they are.

use super::connect::SharedConnection;
use super::errors::store_error;
use super::options::{RedisOptions, Topology};
use crate::machine::Room;
use crate::store::{StoreError, Usage};
use idempotency_protocol::FaultCode;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{Cmd, RedisResult, Value};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// What a look at all masters found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Health {
    pub usage: Usage,
    pub room: Room,
    /// Why a server must not be given new records: it may forget them, or it takes no writes.
    pub distrust: Option<Distrust>,
    /// What tells each master from every other server.
    pub run_ids: Vec<String>,
}

/// Why nothing is granted, and as what that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Distrust {
    /// For logs.
    pub why: String,
    /// Class of the answer to who wants a grant.
    pub code: FaultCode,
}

impl Distrust {
    /// It may be there again by itself: an outage.
    pub fn unavailable(why: String) -> Distrust {
        let code = FaultCode::Unavailable;
        Distrust { why, code }
    }

    /// It answers, and may forget what it is given: somebody has to do something about it.
    pub fn untrusted(why: String) -> Distrust {
        let code = FaultCode::Untrusted;
        Distrust { why, code }
    }
}

impl Health {
    /// The look, unless a server is not trusted.
    ///
    /// # Errors
    ///
    /// Transient, with the reason: somebody may change the server's settings back.
    pub fn trusted(self) -> Result<Health, StoreError> {
        match self.distrust {
            Some(distrust) => Err(StoreError::Transient(distrust.why)),
            None => Ok(self),
        }
    }
}

/// The oldest server that has what the script needs: effects replication by default, sharded
/// channels, and scripts that may run without memory.
const OLDEST: u64 = 7;

/// The settings that are asked for.
const CONFIG: &[&str] = &[
    "save",
    "min-replicas-to-write",
    "stop-writes-on-bgsave-error",
];

/// What one server says of itself.
struct NodeReport {
    info: HashMap<String, String>,
    /// `None` where `CONFIG` is forbidden, as managed services do.
    config: Option<HashMap<String, String>>,
}

/// Asks all masters.
pub(super) async fn probe(
    connection: SharedConnection,
    options: &RedisOptions,
) -> Result<Health, StoreError> {
    let mut info = redis::cmd("INFO");
    info.arg("everything");
    let mut config = redis::cmd("CONFIG");
    config.arg("GET").arg(CONFIG);
    let infos = ask(&connection, info).await.map_err(|e| store_error(&e))?;
    let configs = ask(&connection, config).await.unwrap_or_default();
    let (mut records, mut bytes, mut room, mut distrust) = (0, 0, Room::Plenty, None);
    let mut run_ids = Vec::with_capacity(infos.len());
    for (address, value) in infos {
        let config = configs.iter().find(|(a, _)| *a == address);
        let node = NodeReport {
            info: lines(&text(value)),
            config: config.and_then(|(_, value)| pairs(value)),
        };
        node.identity(options)?;
        let keeps = || match options.accept_loss {
            true => Ok(()),
            false => node.keeps_what_it_is_given(),
        };
        let named = |why: String| format!("Redis: {why}");
        let trust = node
            .takes_writes()
            .map_err(|why| Distrust::unavailable(named(why)))
            .and_then(|()| keeps().map_err(|why| Distrust::untrusted(named(why))));
        distrust = distrust.or(trust.err());
        records += node.records(options.database);
        bytes += node.number("used_memory");
        room = worse(room, node.room(options.high_water_percent));
        run_ids.push(node.word("run_id").to_owned());
    }
    if matches!(options.topology, Topology::Cluster(_)) {
        cluster_is_whole(&connection).await?;
    }
    Ok(Health {
        usage: Usage {
            records: Some(records),
            bytes: Some(bytes),
            above_high_water: room != Room::Plenty,
        },
        room,
        distrust,
        run_ids,
    })
}

fn worse(a: Room, b: Room) -> Room {
    match (a, b) {
        (Room::FactsOnly, _) | (_, Room::FactsOnly) => Room::FactsOnly,
        (Room::NoGrants, _) | (_, Room::NoGrants) => Room::NoGrants,
        _ => Room::Plenty,
    }
}

/// Asks every master; answers by address.
async fn ask(connection: &SharedConnection, command: Cmd) -> RedisResult<Vec<(String, Value)>> {
    match connection.clone() {
        SharedConnection::Node(mut node) => {
            let value = node.send_packed_command(&command).await?.extract_error()?;
            Ok(vec![(String::new(), value)])
        }
        SharedConnection::Cluster(mut cluster) => {
            let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
            match cluster.route_command(command, all).await? {
                Value::Map(pairs) => Ok(pairs.into_iter().map(|(a, v)| (text(a), v)).collect()),
                _ => Ok(Vec::new()),
            }
        }
    }
}

/// The addresses of all masters of a Cluster; empty for a single node.
pub(super) async fn masters(
    connection: &SharedConnection,
) -> Result<Vec<(String, u16)>, StoreError> {
    if matches!(connection, SharedConnection::Node(_)) {
        return Ok(Vec::new());
    }
    let pings = ask(connection, redis::cmd("PING")).await;
    let address = |(address, _): (String, Value)| {
        let (host, port) = address.rsplit_once(':')?;
        Some((host.to_owned(), port.parse().ok()?))
    };
    let masters: Option<Vec<_>> = pings
        .map_err(|e| store_error(&e))?
        .into_iter()
        .map(address)
        .collect();
    masters.ok_or_else(|| StoreError::Permanent("Redis: a master without an address".into()))
}

/// What tells this very start of these servers from any other: places in a pass hold for no other one.
pub(super) async fn identity(connection: &SharedConnection) -> Result<u64, StoreError> {
    let mut command = redis::cmd("INFO");
    command.arg("server");
    let infos = ask(connection, command).await;
    let mut nodes: Vec<String> = infos
        .map_err(|e| store_error(&e))?
        .into_iter()
        .map(|(address, value)| {
            let info = lines(&text(value));
            let run_id = info.get("run_id").map_or("", String::as_str);
            format!("{address} {run_id}\n")
        })
        .collect();
    nodes.sort();
    let digest: [u8; 32] = Sha256::digest(nodes.concat()).into();
    let first = digest.first_chunk().copied().unwrap_or_default();
    Ok(u64::from_be_bytes(first))
}

async fn cluster_is_whole(connection: &SharedConnection) -> Result<(), StoreError> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("INFO");
    let all = ask(connection, command)
        .await
        .map_err(|e| store_error(&e))?;
    for (_, value) in all {
        let info = lines(&text(value));
        if info.get("cluster_state").is_none_or(|state| state != "ok") {
            return Err(StoreError::Transient(
                "Redis: the Cluster is down: not all slots have a master".into(),
            ));
        }
    }
    Ok(())
}

impl NodeReport {
    fn word(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.word(name).parse().unwrap_or(0)
    }

    /// `standalone`, `cluster` or `sentinel`; Valkey has another name for it.
    fn mode(&self) -> &str {
        match self.word("redis_mode") {
            "" => self.word("server_mode"),
            mode => mode,
        }
    }

    /// It is the kind of server that the URL says.
    fn identity(&self, options: &RedisOptions) -> Result<(), StoreError> {
        let wrong = |text: String| Err(StoreError::Permanent(format!("Redis: {text}")));
        match (self.mode(), &options.topology) {
            ("sentinel", _) => {
                return wrong("this is a Sentinel: say redis+sentinel://host,…/NAME".into())
            }
            ("cluster", Topology::Single(_) | Topology::Sentinel { .. }) => {
                return wrong("this is a node of a Cluster: say redis+cluster://".into())
            }
            ("standalone", Topology::Cluster(_)) => {
                return wrong("this server is no node of a Cluster: say redis://".into())
            }
            _ => {}
        }
        let version = self.word("redis_version");
        let major = version
            .split('.')
            .next()
            .and_then(|n| n.parse::<u64>().ok());
        if major.is_none_or(|major| major < OLDEST) {
            return wrong(format!(
                "version {version} is too old: it must be {OLDEST}.0 or newer"
            ));
        }
        if self.word("role") != "master" {
            return Err(StoreError::Transient(
                "Redis: the server is a read-only replica".into(),
            ));
        }
        if self.word("loading") == "1" {
            return Err(StoreError::Transient("Redis: the server is loading".into()));
        }
        Ok(())
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.config.as_ref()?.get(name).map(String::as_str)
    }

    /// It does not refuse writes. A server that does says so to every grant as well; this tells why,
    /// and before anybody has asked. What cannot be told because `CONFIG` is forbidden is not held
    /// against it.
    fn takes_writes(&self) -> Result<(), String> {
        let needed = self.setting("min-replicas-to-write");
        let needed: u64 = needed.and_then(|text| text.parse().ok()).unwrap_or(0);
        // Valkey and Redis both kept this name.
        let there = self.info.get("min_slaves_good_slaves");
        // Not told where the lag does not matter: then the server does not count them either.
        let there = there.and_then(|text| text.parse().ok()).unwrap_or(needed);
        if there < needed {
            return Err(format!(
                "the server is read-only: {there} of {needed} replicas (min-replicas-to-write) are \
                 connected"
            ));
        }
        let stops = self.setting("stop-writes-on-bgsave-error") == Some("yes")
            && self.setting("save").is_some_and(|save| !save.is_empty());
        if stops && self.word("rdb_last_bgsave_status") == "err" {
            return Err("the server is read-only: the last snapshot could not be written".into());
        }
        if self.word("aof_enabled") == "1" && self.word("aof_last_write_status") == "err" {
            return Err("the server is read-only: the append-only file cannot be written".into());
        }
        Ok(())
    }

    /// It neither evicts records nor forgets them in a restart.
    fn keeps_what_it_is_given(&self) -> Result<(), String> {
        let policy = self.word("maxmemory_policy");
        if policy != "noeviction" {
            return Err(format!(
                "maxmemory-policy is {policy}: records may be evicted, and then execute again. \
                 Set noeviction, or accept_loss=true"
            ));
        }
        if self.word("aof_enabled") == "1" {
            return Ok(());
        }
        if self.config.is_none() {
            return Err(
                "whether it keeps records on disk cannot be told, since CONFIG is forbidden. Say \
                 accept_loss=true if it does"
                    .into(),
            );
        }
        if self.setting("save").is_none_or(str::is_empty) {
            return Err(
                "persistence is off: a restart forgets all records. Switch AOF or RDB on, or say \
                 accept_loss=true"
                    .into(),
            );
        }
        if self.word("rdb_last_bgsave_status") == "err" {
            return Err("the last snapshot could not be written".into());
        }
        Ok(())
    }

    /// All keys of the database: others than records, if there are any, count too.
    fn records(&self, database: i64) -> u64 {
        let keys = self.info.get(&format!("db{database}"));
        keys.and_then(|line| line.strip_prefix("keys=")?.split(',').next()?.parse().ok())
            .unwrap_or(0)
    }

    fn room(&self, high_water_percent: u64) -> Room {
        room(
            self.number("used_memory"),
            self.number("maxmemory"),
            high_water_percent,
        )
    }
}

/// Half-way between the mark and the end only facts are kept.
fn room(used: u64, max: u64, high_water_percent: u64) -> Room {
    let mark = max / 100 * high_water_percent;
    if max == 0 || used < mark {
        Room::Plenty
    } else if used < mark + (max - mark) / 2 {
        Room::NoGrants
    } else {
        Room::FactsOnly
    }
}

fn text(value: Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text,
        _ => String::new(),
    }
}

/// `name:value` lines.
fn lines(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim_end().to_owned()))
        .collect()
}

fn pairs(value: &Value) -> Option<HashMap<String, String>> {
    match value {
        Value::Map(pairs) => Some(
            pairs
                .iter()
                .map(|(name, value)| (text(name.clone()), text(value.clone())))
                .collect(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::options::Address;

    fn node(info: &str, config: Option<&[(&str, &str)]>) -> NodeReport {
        NodeReport {
            info: lines(info),
            config: config.map(|pairs| {
                let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
                pairs.iter().map(owned).collect()
            }),
        }
    }

    #[test]
    fn what_keeps_records_and_what_does_not() {
        let check = |info: &str, config| node(info, config).keeps_what_it_is_given();
        let save: &[(&str, &str)] = &[("save", "3600 1")];
        let none: &[(&str, &str)] = &[("save", "")];
        for (info, config, expected) in [
            (
                "maxmemory_policy:allkeys-lru\r\naof_enabled:1",
                None,
                Some("evicted"),
            ),
            ("maxmemory_policy:noeviction\r\naof_enabled:1", None, None),
            (
                "maxmemory_policy:noeviction\r\naof_enabled:0",
                Some(save),
                None,
            ),
            (
                "maxmemory_policy:noeviction\r\naof_enabled:0",
                Some(none),
                Some("persistence is off"),
            ),
            (
                "maxmemory_policy:noeviction\r\naof_enabled:0",
                None,
                Some("CONFIG is forbidden"),
            ),
        ] {
            match (check(info, config), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => assert!(error.contains(part), "{error}"),
                other => panic!("{info}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_takes_no_writes() {
        let check = |info: &str, config| node(info, config).takes_writes();
        let replicas: &[(&str, &str)] = &[("min-replicas-to-write", "1")];
        let stops: &[(&str, &str)] = &[("save", "60 1"), ("stop-writes-on-bgsave-error", "yes")];
        let goes_on: &[(&str, &str)] = &[("save", "60 1"), ("stop-writes-on-bgsave-error", "no")];
        let failed = "rdb_last_bgsave_status:err";
        for (info, config, writes) in [
            ("role:master", None, true),
            ("min_slaves_good_slaves:1", Some(replicas), true),
            ("min_slaves_good_slaves:0", Some(replicas), false),
            (failed, Some(stops), false),
            ("rdb_last_bgsave_status:ok", Some(stops), true),
            (failed, Some(goes_on), true),
            (failed, None, true),
            ("aof_enabled:1\naof_last_write_status:err", None, false),
            ("aof_enabled:0\naof_last_write_status:err", None, true),
        ] {
            assert_eq!(check(info, config).is_ok(), writes, "{info} {config:?}");
        }
    }

    #[test]
    fn the_kind_of_server() {
        let single = RedisOptions::new(Topology::Single(Address::Tcp("h".into(), 1)));
        let cluster = RedisOptions::new(Topology::Cluster(vec![("h".into(), 1)]));
        let check = |info: &str, options| node(info, None).identity(options);
        let master = "redis_version:7.0.15\nredis_mode:standalone\nrole:master";
        assert_eq!(check(master, &single), Ok(()));
        for (info, options, part) in [
            (master, &cluster, "redis://"),
            ("redis_mode:cluster", &single, "redis+cluster://"),
            ("redis_mode:sentinel", &single, "redis+sentinel://"),
            ("server_mode:cluster", &single, "redis+cluster://"),
            (
                "redis_version:6.2.1\nredis_mode:standalone",
                &single,
                "too old",
            ),
            ("redis_version:7.0.1\nrole:slave", &single, "replica"),
        ] {
            let error = check(info, options).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_marks() {
        assert_eq!(room(99, 0, 90), Room::Plenty);
        assert_eq!(room(899, 1_000, 90), Room::Plenty);
        assert_eq!(room(900, 1_000, 90), Room::NoGrants);
        assert_eq!(room(950, 1_000, 90), Room::FactsOnly);
    }
}
