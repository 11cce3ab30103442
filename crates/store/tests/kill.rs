//! `kill -9` in the middle of a storm: every operation that was answered is there afterwards.
//!
//! The child is this very test binary, told by an environment variable to be the victim. It
//! writes a line per answer; what the parent could read had been answered.

mod common;

use common::*;
use idempotency_protocol::Answer;
use idempotency_store::{
    Durability, Embedded, EmbeddedOptions, RecordState, Resolution, Resolve, Resolved, Store,
};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const VICTIM: &str = "STORE_TEST_VICTIM";

fn options(path: &Path, relaxed: bool) -> EmbeddedOptions {
    let durability = if relaxed {
        // No fsync within the test: what survives does so without one.
        Durability::Relaxed {
            interval: Duration::from_secs(3_600),
        }
    } else {
        Durability::Durable
    };
    // Small buffers, so that flushes and compactions are hit as well.
    EmbeddedOptions {
        durability,
        write_buffer_bytes: 1 << 20,
        ..EmbeddedOptions::new(path)
    }
}

/// What the child does until it is killed. In the parent's run of all tests it does nothing.
#[test]
fn victim() {
    let Ok(order) = std::env::var(VICTIM) else {
        return;
    };
    let (mode, rest) = order.split_once(' ').unwrap();
    let (round, path) = rest.split_once(' ').unwrap();
    let store = Arc::new(Embedded::open(options(Path::new(path), mode == "relaxed")).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    for worker in 0..32 {
        let (store, round) = (Arc::clone(&store), round.to_owned());
        runtime.spawn(async move {
            for n in 0.. {
                let key = format!("{round}-{worker}-{n}");
                let say = |what: &str, fence: u64| {
                    // One write per line: a line is there as a whole or not at all.
                    let line = format!("\n@{key} {what} {fence}\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                };
                let grant = granted(store.as_ref(), &key, 1).await;
                say("granted", grant.fence);
                match n % 4 {
                    0 => {}
                    1 => {
                        assert_eq!(one(store.as_ref(), fail(&key, 1)).await, Answer::Failed);
                        say("failed", grant.fence);
                    }
                    _ => {
                        completed(store.as_ref(), &key, 1, &body(&key)).await;
                        say("completed", grant.fence);
                    }
                }
            }
        });
    }
    if mode == "scrub" {
        // Beside it, so that the kill meets large answers that are written again, and files that go.
        let (store, round) = (Arc::clone(&store), round.to_owned());
        runtime.spawn(async move {
            for n in 0.. {
                delete_one(store.as_ref(), &format!("{round}-gone-{n}")).await;
                assert!(store.scrub().await.unwrap());
            }
        });
    }
    std::thread::sleep(Duration::from_secs(60));
}

/// A large answer that is made and deleted.
async fn delete_one(store: &Embedded, name: &str) {
    granted(store, name, 1).await;
    completed(store, name, 1, &[7; 20_000]).await;
    let view = store.inspect(&key(name)).await.unwrap().unwrap();
    let resolve = Resolve {
        key: key(name),
        version: view.version,
        to: Resolution::Deleted,
        force: false,
    };
    assert_eq!(store.resolve(resolve).await.unwrap(), Resolved::Done(None));
}

/// Small and large bodies, all different.
fn body(key: &str) -> Vec<u8> {
    key.bytes()
        .cycle()
        .take(if key.ends_with('7') { 20_000 } else { 300 })
        .collect()
}

/// Runs the victim until it has answered `answers` times, and kills it at once.
fn storm(path: &Path, mode: &str, round: usize, answers: usize) -> HashMap<String, (String, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["victim", "--exact", "--nocapture", "--test-threads=1"])
        .env(VICTIM, format!("{mode} {round} {}", path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = HashMap::new();
    let mut note = |line: String| {
        let mut words = line.strip_prefix('@')?.split(' ');
        let key = words.next()?.to_owned();
        let what = words.next()?.to_owned();
        told.insert(key, (what, words.next()?.parse().ok()?));
        Some(())
    };
    let mut count = 0;
    while count < answers {
        let line = lines.next().expect("the victim died by itself").unwrap();
        count += usize::from(note(line).is_some());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it had still said before it died counts as well.
    for line in lines.map_while(Result::ok) {
        note(line);
    }
    told
}

async fn survives(mode: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut told = HashMap::new();
    for round in 0..4 {
        told.extend(storm(dir.path(), mode, round, 1_500 + 700 * round));
        let store = Embedded::open(options(dir.path(), mode == "relaxed")).unwrap();
        let mut seen = [0; 3];
        for (name, (what, fence)) in &told {
            let view = store.inspect(&key(name)).await.unwrap();
            let view = view.unwrap_or_else(|| panic!("{name} was {what} and is gone"));
            assert_eq!(view.fence, *fence, "{name}");
            match what.as_str() {
                // What came after the grant may be there, too, without having been answered.
                "granted" => seen[0] += 1,
                "failed" => {
                    assert_eq!(view.state, RecordState::Failed, "{name}");
                    seen[1] += 1;
                }
                _ => {
                    match one(&store, acquire(name, 2)).await {
                        Answer::Stored(stored) => {
                            assert_eq!(stored.outcome, response(&body(name)), "{name}");
                        }
                        other => panic!("{name} was completed: {other:?}"),
                    }
                    seen[2] += 1;
                }
            }
        }
        assert!(
            seen.iter().all(|n| *n > 100),
            "the storm was none: {seen:?}"
        );
        // The counters that are kept beside the records were not torn from them.
        let counted = store.ready().await.unwrap().records;
        assert_eq!(counted, Some(count(&store).await));
    }
}

async fn count(store: &Embedded) -> u64 {
    let mut filter = idempotency_store::ListFilter {
        limit: 1_000,
        ..Default::default()
    };
    let mut count = 0;
    loop {
        let page = store.list(filter.clone()).await.unwrap();
        count += page.records.len() as u64;
        match page.next {
            None => return count,
            next => filter.after = next,
        }
    }
}

#[tokio::test]
async fn a_durable_store_loses_nothing_to_kill_9() {
    survives("durable").await;
}

#[tokio::test]
async fn a_relaxed_store_loses_nothing_to_kill_9() {
    survives("relaxed").await;
}

#[tokio::test]
async fn a_store_whose_files_are_rewritten_loses_nothing_to_kill_9() {
    survives("scrub").await;
}
