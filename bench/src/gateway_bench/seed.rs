//! Before anything is measured: the records that replays need, and one look at an answer of every
//! row, headers and all.

use std::net::SocketAddr;

use idempotency_stack::http::{Answer, Request};
use idempotency_stack::Error;

use crate::rig::Rig;
use crate::rows::{Row, Way};
use crate::run::target;
use crate::wrk::{REQUEST_BYTES, RESPONSE_BYTES, STATUS};

/// How many records are replayed in turn.
pub const KEYS: usize = 1000;
/// How many of them are made at a time.
const AT_A_TIME: usize = 16;
const MARKER: &str = "idempotency-replayed";

/// Prefix of the keys that a row replays.
pub fn prefix(session: &str) -> String {
    format!("{session}-replayed-")
}

/// Makes the records of a row that replays, then checks an answer of the row.
///
/// # Errors
///
/// If an answer is not the expected one.
pub fn prepare(rig: &Rig, row: &Row, session: &str) -> Result<(), Error> {
    let gateway = rig.gateway(row)?.envoy.gateway();
    if row.way == Way::Replay {
        seed(gateway, row, session)?;
    }
    let key = match row.way {
        Way::Replay => format!("{}0", prefix(session)),
        _ => format!("{session}-look-{}", row),
    };
    let answer = ask(gateway, row, &key)?;
    let marked = answer.header(MARKER) == Some("true");
    if marked != (row.way == Way::Replay) {
        let headers = &answer.headers;
        return Err(Error::new(format!("{}: replayed or not? {headers:?}", row)));
    }
    Ok(())
}

fn seed(gateway: SocketAddr, row: &Row, session: &str) -> Result<(), Error> {
    let prefix = prefix(session);
    std::thread::scope(|scope| {
        let some = |first: usize| {
            let prefix = &prefix;
            scope.spawn(move || {
                (first..KEYS)
                    .step_by(AT_A_TIME)
                    .try_for_each(|key| ask(gateway, row, &format!("{prefix}{key}")).map(drop))
            })
        };
        let workers: Vec<_> = (0..AT_A_TIME).map(some).collect();
        workers.into_iter().try_for_each(|worker| {
            let ended = worker.join();
            ended.unwrap_or_else(|_| Err(Error::new("a seeding thread panicked")))
        })
    })
}

/// One request as the load generator sends it.
fn ask(gateway: SocketAddr, row: &Row, key: &str) -> Result<Answer, Error> {
    let answer = Request::post(&target(row.way))
        .header("Content-Type", "application/json")
        .header("Idempotency-Key", key)
        .body(vec![b'b'; REQUEST_BYTES])
        .send(gateway)
        .map_err(|error| Error::new(format!("{}: {error}", row)))?;
    if answer.status != STATUS || answer.body.len() != RESPONSE_BYTES {
        return Err(Error::new(format!(
            "{}: {STATUS} with {RESPONSE_BYTES} bytes was expected, not {} with: {}",
            row,
            answer.status,
            answer.text()
        )));
    }
    Ok(answer)
}
