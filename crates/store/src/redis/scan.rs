//! Going over all records: listing and sweeping. Redis has no order of keys and no index of ours,
//! so a page costs a pass over the whole key space.

use super::call::ScriptCall;
use super::caller::ScriptCaller;
use super::connect::SharedConnection;
use super::errors::store_error;
use super::health;
use super::ledger::Ledger;
use super::meta;
use super::names::Names;
use super::reply;
use crate::keys::{self, MAX_PAGE};
use crate::record::Slot;
use crate::store::{ListFilter, Page, StoreError, Swept};
use bytes::Bytes;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, Value};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Keys that the server looks at in one step.
const STEP: usize = 1_000;
/// Most records that are looked at for one page: with a filter that matches little, a page is
/// short rather than late.
const MAX_LOOKED_AT: usize = 4_000;

/// A place in a pass over all masters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ScanPlace {
    /// Which master, in the order of their addresses.
    pub node: usize,
    pub cursor: u64,
}

/// One step of a pass: names, and where to go on (`None`: that was all).
pub(super) async fn step(
    connection: &SharedConnection,
    masters: &[(String, u16)],
    place: &ScanPlace,
    pattern: &[u8],
    count: usize,
) -> Result<(Vec<Bytes>, Option<ScanPlace>), StoreError> {
    let mut command = redis::cmd("SCAN");
    command
        .arg(place.cursor)
        .arg("MATCH")
        .arg(pattern)
        .arg("COUNT")
        .arg(count);
    let value = run(connection, masters.get(place.node), command).await;
    let value = value.map_err(|e| store_error(&e))?;
    let (cursor, names): (u64, Vec<Vec<u8>>) =
        FromRedisValue::from_redis_value(value).map_err(|e| store_error(&e.into()))?;
    let names = names.into_iter().map(Bytes::from).collect();
    let next = if cursor != 0 {
        Some(ScanPlace {
            node: place.node,
            cursor,
        })
    } else if place.node + 1 < masters.len() {
        Some(ScanPlace {
            node: place.node + 1,
            cursor: 0,
        })
    } else {
        None
    };
    Ok((names, next))
}

async fn run(
    connection: &SharedConnection,
    master: Option<&(String, u16)>,
    command: Cmd,
) -> RedisResult<Value> {
    match (connection.clone(), master) {
        (SharedConnection::Node(mut node), _) => {
            node.send_packed_command(&command).await?.extract_error()
        }
        (SharedConnection::Cluster(mut cluster), Some((host, port))) => {
            let route = SingleNodeRoutingInfo::ByAddress {
                host: host.clone(),
                port: *port,
            };
            let route = RoutingInfo::SingleNode(route);
            cluster.route_command(command, route).await?.extract_error()
        }
        (SharedConnection::Cluster(_), None) => Ok(Value::Array(vec![
            Value::BulkString(b"0".to_vec()),
            Value::Array(Vec::new()),
        ])),
    }
}

pub(super) async fn connected(
    caller: &ScriptCaller,
) -> Result<(SharedConnection, Vec<(String, u16)>), StoreError> {
    let link = caller.side();
    let (number, connection) = link.get().await.map_err(|e| store_error(&e))?;
    match health::masters(&connection).await {
        Ok(mut masters) => {
            masters.sort();
            Ok((connection, masters))
        }
        Err(error) => {
            link.broken(number);
            Err(error)
        }
    }
}

/// One page, in the order of the lookup keys: the smallest ones after `filter.after` of all that
/// a pass finds.
pub(super) async fn list(
    caller: &ScriptCaller,
    names: &Names,
    filter: &ListFilter,
) -> Result<Page, StoreError> {
    let limit = filter.limit.clamp(1, MAX_PAGE);
    let prefix = keys::prefix(filter);
    let pattern = names.pattern(&prefix);
    let (connection, masters) = connected(caller).await?;
    let mut found: BTreeMap<Vec<u8>, Bytes> = BTreeMap::new();
    let mut cut = false;
    let mut place = Some(ScanPlace::default());
    while let Some(here) = place {
        let (batch, next) = step(&connection, &masters, &here, &pattern, STEP).await?;
        place = next;
        for name in batch {
            let Some(lookup) = names.lookup(&name) else {
                continue;
            };
            let after = filter.after.as_deref().is_none_or(|after| lookup > after);
            if after && lookup.starts_with(&prefix) {
                found.insert(lookup.to_vec(), name);
                if found.len() > MAX_LOOKED_AT {
                    found.pop_last();
                    cut = true;
                }
            }
        }
    }
    let mut page = Page::default();
    let mut last = None;
    let mut rest = found.into_iter().peekable();
    while rest.peek().is_some() && page.records.len() < limit {
        // What is still missing, and some more, since marks are no records.
        let wanted = (limit - page.records.len()).max(64);
        let chunk: Vec<(Vec<u8>, Bytes)> = rest.by_ref().take(wanted).collect();
        let calls: Vec<ScriptCall> = chunk
            .iter()
            .map(|(_, name)| ScriptCall::inspect(name.clone()))
            .collect();
        let outcomes = caller.all(&calls, false).await;
        for ((lookup, _), outcome) in chunk.into_iter().zip(outcomes) {
            if page.records.len() >= limit {
                cut = true;
                break;
            }
            last = Some(lookup.clone());
            let value = match outcome.value {
                // Whatever it is, it is no record of ours.
                Err(error) if error.code() == Some("WRONGTYPE") => continue,
                value => value.map_err(|e| store_error(&e))?,
            };
            let Some(key) = keys::from_bytes(&lookup) else {
                continue;
            };
            page.records
                .extend(reply::listed(value, &key)?.filter(|view| {
                    filter
                        .namespace
                        .as_ref()
                        .is_none_or(|n| *n == key.namespace)
                        && filter.tenant.as_ref().is_none_or(|t| *t == key.tenant)
                        && filter.state.is_none_or(|s| s == view.state)
                }));
        }
    }
    if cut || rest.peek().is_some() {
        page.next = last;
    }
    Ok(page)
}

/// Enters all records that are there into the ledgers.
pub(super) async fn count(
    caller: &ScriptCaller,
    names: &Names,
    ledger: &Ledger,
) -> Result<(), StoreError> {
    let (connection, masters) = connected(caller).await?;
    let pattern = names.pattern(b"");
    let mut place = Some(ScanPlace::default());
    while let Some(here) = place {
        let (batch, next) = step(&connection, &masters, &here, &pattern, STEP).await?;
        let found = read(&connection, batch).await?;
        enter(caller, &connection, names, ledger, found).await?;
        place = next;
    }
    Ok(())
}

/// One step of a sweep: makes executions unknown whose lease is over. Redis forgets by itself.
pub(super) async fn sweep(
    caller: &ScriptCaller,
    names: &Names,
    place: &mut ScanPlace,
    limit: usize,
    ledger: Option<&Ledger>,
) -> Result<Swept, StoreError> {
    let (connection, masters) = connected(caller).await?;
    let pattern = names.pattern(b"");
    let (batch, next) = step(&connection, &masters, place, &pattern, limit.clamp(1, STEP)).await?;
    let more = next.is_some();
    // A pass that fails half-way goes on from here.
    *place = next.unwrap_or_default();
    let found = read(&connection, batch).await?;
    // The script looks again, on its own clock.
    let with_lease = found.iter().filter(|(_, slot)| meta::has_lease(slot));
    let calls: Vec<ScriptCall> = with_lease
        .map(|(name, _)| ScriptCall::sweep(name.clone()))
        .collect();
    let mut swept = Swept {
        more,
        ..Swept::default()
    };
    for outcome in caller.all(&calls, false).await {
        let value = outcome.value.map_err(|e| store_error(&e))?;
        swept.lapsed += usize::from(reply::has_lapsed(value)?);
    }
    swept.slots = swept.lapsed;
    if let Some(ledger) = ledger {
        enter(caller, &connection, names, ledger, found).await?;
    }
    Ok(swept)
}

/// How often a record is looked at again that changes all the time; it tells the ledger of its changes itself.
const LOOKS: usize = 3;

/// Enters what was found into the ledgers. Between the look at a record and its entry it may have been forgotten,
/// or have ended, and have told the ledger too early: so each one that is entered is looked at again.
async fn enter(
    caller: &ScriptCaller,
    connection: &SharedConnection,
    names: &Names,
    ledger: &Ledger,
    found: Vec<(Bytes, Slot)>,
) -> Result<(), StoreError> {
    let mut found = found;
    for _ in 0..LOOKS {
        let entered = ledger.note(caller, names, &found).await?;
        if entered.is_empty() {
            return Ok(());
        }
        let again = entered.iter().map(|(name, _)| name.clone());
        let now: HashMap<Bytes, Slot> = read(connection, again.collect())
            .await?
            .into_iter()
            .collect();
        let has_changed = |entry: &&(Bytes, Slot)| {
            let version = now.get(&entry.0).map(|slot| slot.version);
            version != Some(entry.1.version)
        };
        let changed: Vec<&(Bytes, Slot)> = entered.into_iter().filter(has_changed).collect();
        ledger.undo(caller, names, &changed).await?;
        let those: HashSet<Bytes> = changed.iter().map(|(name, _)| name.clone()).collect();
        let now = now.into_iter();
        found = now.filter(|(name, _)| those.contains(name)).collect();
    }
    Ok(())
}

/// What is known of these records, of those that are any.
async fn read(
    connection: &SharedConnection,
    batch: Vec<Bytes>,
) -> Result<Vec<(Bytes, Slot)>, StoreError> {
    let mut command = Vec::with_capacity(batch.len());
    for name in &batch {
        let mut get = redis::cmd("HGET");
        get.arg(name.as_ref()).arg("m");
        command.push(get);
    }
    let values = match connection.clone() {
        SharedConnection::Node(mut node) => {
            let count = command.len();
            let mut pipeline = Pipeline::with_capacity(count);
            for get in command {
                pipeline.add_command(get);
            }
            if count == 0 {
                return Ok(Vec::new());
            }
            node.send_packed_commands(&pipeline, 0, count).await
        }
        SharedConnection::Cluster(cluster) => {
            let gets = command.into_iter().map(|get| {
                let mut cluster = cluster.clone();
                async move { get.query_async::<Value>(&mut cluster).await }
            });
            futures_util::future::try_join_all(gets).await
        }
    };
    let values = values.map_err(|e| store_error(&e))?;
    let slot = |value| match value {
        Value::BulkString(m) => meta::decode(&m, None),
        _ => None,
    };
    let pairs = batch.into_iter().zip(values);
    Ok(pairs
        .filter_map(|(name, value)| Some((name, slot(value)?)))
        .collect())
}
