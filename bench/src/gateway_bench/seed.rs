//! Before anything is measured: the records that replays need, and one look at an answer of every
//! row, headers and all.

use std::net::SocketAddr;

use idempotency_stack::http::{Answer, Request};
use idempotency_stack::Error;

use crate::plan::{Cell, Size};
use crate::rig::Rig;
use crate::run::target;
use idempotency_bench::wrk::STATUS;

/// How many records are replayed in turn.
pub const KEYS: usize = 1000;
/// How many of them are made at a time.
const AT_A_TIME: usize = 16;
const MARKER: &str = "idempotency-replayed";

/// Prefix of the keys that are replayed; records of one size are not those of another.
pub fn prefix(session: &str, size: Size) -> String {
    format!("{session}-replayed-{}-", size.id)
}

/// Makes the records of a cell that replays, then checks an answer of it.
///
/// # Errors
///
/// If an answer is not the expected one.
pub fn prepare(rig: &Rig, cell: &Cell, session: &str) -> Result<(), Error> {
    let (row, gateway) = (&cell.row, rig.path(&cell.row)?.gateway);
    if row.way.replays() {
        seed(gateway, cell, session)?;
    }
    let key = if row.way.replays() {
        format!("{}0", prefix(session, cell.size))
    } else {
        format!("{session}-look-{row}-{}", cell.size.id)
    };
    let answer = ask(gateway, cell, &key)?;
    let marked = answer.header(MARKER) == Some("true");
    if marked != row.way.replays() {
        let headers = &answer.headers;
        return Err(Error::new(format!("{row}: replayed or not? {headers:?}")));
    }
    Ok(())
}

fn seed(gateway: SocketAddr, cell: &Cell, session: &str) -> Result<(), Error> {
    let prefix = prefix(session, cell.size);
    std::thread::scope(|scope| {
        let some = |first: usize| {
            let prefix = &prefix;
            scope.spawn(move || {
                (first..KEYS)
                    .step_by(AT_A_TIME)
                    .try_for_each(|key| ask(gateway, cell, &format!("{prefix}{key}")).map(drop))
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
fn ask(gateway: SocketAddr, cell: &Cell, key: &str) -> Result<Answer, Error> {
    let Cell { row, size, .. } = cell;
    let answer = Request::new(row.way.method(), &target(row.way, *size))
        .header("Content-Type", "application/json")
        .header("Idempotency-Key", key)
        .body(vec![b'b'; size.request])
        .send(gateway)
        .map_err(|error| Error::new(format!("{row}: {error}")))?;
    if answer.status != STATUS || answer.body.len() != size.response {
        return Err(Error::new(format!(
            "{row}: {STATUS} with {} bytes was expected, not {} with: {}",
            size.response,
            answer.status,
            answer.text()
        )));
    }
    Ok(answer)
}
