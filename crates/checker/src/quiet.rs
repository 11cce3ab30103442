//! The end of a run: waiting until all is quiet, looking at every record, and asking once more for
//! every key.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use idempotency_stack::{until, Error};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::Drive;
use crate::clock;
use crate::history::{Event, Record};
use crate::orders::NAMESPACE;
use crate::rig::Rig;
use crate::workload::{Attempt, Behaviour, Http};

/// Beyond the lease: delivery is tried again after at most five seconds, and machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many keys are asked for at the same time.
const AT_ONCE: usize = 32;

/// Keys that are asked for once more at the end of a long run: the newest.
const PROBED: u64 = 20_000;

type Records = HashMap<(String, String), Value>;

/// Brings the run to its end.
///
/// # Errors
///
/// If outboxes are not delivered although all parts work, or if the service does not answer.
pub fn settle(
    lease_ms: u64,
    rig: &Rig,
    runtime: &tokio::runtime::Runtime,
    all: &Arc<Drive>,
) -> Result<(), Error> {
    let patience = PATIENCE + Duration::from_millis(lease_ms);
    if !until(patience, || matches!(rig.undelivered(), Ok(0))) {
        let left = rig.undelivered();
        return Err(Error::new(format!(
            "{patience:?} after the last fault, gateways still have settlements that they could \
             not deliver: {left:?}"
        )));
    }
    // What is locked now has no one left to settle it. A lock that stays is told by its record.
    until(patience, || {
        found(rig, "&state=executing").is_ok_and(|locked| locked.is_empty())
    });
    let records = records(rig)?;
    note(all, records);
    runtime.block_on(probe(all));
    Ok(())
}

/// All records of the scripts. Those of orders are looked at where the orders are.
fn records(rig: &Rig) -> Result<Records, Error> {
    let records = found(rig, "")?.into_iter();
    let text = |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
    Ok(records
        .filter(|record| text(record, "namespace") != NAMESPACE)
        .map(|record| ((text(&record, "tenant"), text(&record, "key")), record))
        .collect())
}

/// All records that the filter leaves. A page may be empty although more follow: the service looks at a bounded
/// number of records for each.
fn found(rig: &Rig, filter: &str) -> Result<Vec<Value>, Error> {
    let (mut all, mut next) = page(rig, filter, None)?;
    while let Some(after) = next {
        let (records, following) = page(rig, filter, Some(&after))?;
        all.extend(records);
        next = following;
    }
    Ok(all)
}

fn page(
    rig: &Rig,
    filter: &str,
    after: Option<&str>,
) -> Result<(Vec<Value>, Option<String>), Error> {
    let after = after.map(|after| format!("&after={after}"));
    let target = format!(
        "/v1/records?limit=1000{filter}{}",
        after.unwrap_or_default()
    );
    let answer = rig
        .operator(&target)
        .map_err(|error| Error::new(format!("the service does not answer: {error}")))?;
    if answer.status != 200 {
        return Err(Error::new(format!("{target}: {answer:?}")));
    }
    let mut document = answer.json();
    let next = document["next"].as_str().map(str::to_owned);
    match document["records"].take() {
        Value::Array(records) => Ok((records, next)),
        other => Err(Error::new(format!("{target}: no records: {other}"))),
    }
}

/// Writes a record for every key that a script has used, and for those that none has.
fn note(all: &Drive, mut records: Records) {
    let at = clock::now();
    let note = |tenant: &str, key: &str, record: Option<Value>| {
        let record = record.unwrap_or_default();
        let status = record["status"].as_u64();
        all.recorder.record(Event::Record(Record {
            at,
            tenant: tenant.to_owned(),
            key: key.to_owned(),
            state: record["state"].as_str().unwrap_or("absent").to_owned(),
            fence: record["fence"].as_u64().unwrap_or_default(),
            status: status.and_then(|status| u16::try_from(status).ok()),
            tombstone: record["tombstone"].as_bool().unwrap_or_default(),
        }));
    };
    for (tenant, key) in all.keys() {
        let name = (tenant.to_owned(), key);
        let record = records.remove(&name);
        note(&name.0, &name.1, record);
    }
    for ((tenant, key), record) in records {
        note(&tenant, &key, Some(record));
    }
}

/// Asks once more for every key.
async fn probe(all: &Arc<Drive>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    let begun = all.scripts_begun();
    for index in begun.saturating_sub(PROBED)..begun {
        let script = Arc::new(all.scripts.script(index));
        for tenant in all.tenants(&script) {
            let attempt = Attempt {
                after: 0,
                gateway: usize::try_from(index).unwrap_or_default() % all.scripts.gateways,
                http: Http::Two,
                tenant,
                payload: 0,
                moved: false,
                behaviour: Behaviour::created(),
                leave: None,
            };
            let Ok(place) = room.clone().acquire_owned().await else {
                return;
            };
            let (all, script) = (all.clone(), script.clone());
            running.spawn(async move {
                all.attempt(&script, &attempt).await;
                drop(place);
            });
        }
    }
    while running.join_next().await.is_some() {}
}
