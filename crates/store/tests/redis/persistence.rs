//! What one server forgets when it dies: by how it writes to disk.

use crate::common::{acquire, completed, granted, one};
use crate::support::{open, server, until, until_ready};
use idempotency_protocol::Answer;
use idempotency_stack::Redis;
use idempotency_store::RedisStore;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

async fn executed(store: &RedisStore, name: &str) -> u64 {
    let grant = granted(store, name, 1).await;
    completed(store, name, 1, b"done").await;
    grant.fence
}

async fn is_stored(store: &RedisStore, name: &str) {
    let answer = one(store, acquire(name, 2)).await;
    assert!(matches!(answer, Answer::Stored(_)), "{name}: {answer:?}");
}

async fn restart(server: &mut Redis, store: &Arc<RedisStore>) {
    server.restart().unwrap();
    until_ready(store).await;
}

/// The file that commands are appended to.
fn appended(server: &Redis) -> PathBuf {
    let dir = server.socket().with_file_name("appendonlydir");
    let files = std::fs::read_dir(dir).unwrap().flatten();
    let mut files = files.map(|entry| entry.path());
    let is_log = |path: &PathBuf| path.to_string_lossy().ends_with(".incr.aof");
    files.find(is_log).unwrap()
}

/// While the disk is busy with the last sync, a server with `everysec` puts off writing, for up to
/// two seconds: what it had not written is lost with it. It is the end that is missing, never the
/// middle, and how much depends on the disk; on an idle one it is nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_with_everysec_lacks_at_most_the_end() {
    let mut server = server(&["--appendfsync", "everysec"]);
    let store = open(&server.url()).await;
    let mut fences = Vec::new();
    for n in 0..200 {
        fences.push(executed(&store, &format!("k{n}")).await);
    }
    server.kill();
    restart(&mut server, &store).await;
    let mut kept = 0;
    for (n, first) in fences.iter().enumerate() {
        match one(&*store, acquire(&format!("k{n}"), 2)).await {
            Answer::Stored(_) => {
                assert_eq!(kept, n, "something in the middle is missing");
                kept += 1;
            }
            // The grant was written, and the result was not.
            Answer::InFlight { .. } => assert_eq!(kept, n),
            Answer::Granted(second) => assert!(second.fence > *first),
            other => panic!("{other:?}"),
        }
    }
    println!(
        "everysec, server killed: {kept} of {} results kept",
        fences.len()
    );
}

/// The disk of a machine that loses power has what was synced. With `always` that is what was
/// acknowledged; with `everysec` the end may be missing, as it is here.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_synced_when_the_power_went_is_executed_again() {
    let mut server = server(&["--appendfsync", "everysec"]);
    let store = open(&server.url()).await;
    executed(&store, "synced").await;
    // All of it written, in any case.
    until(|| async {
        let info = server.cli(&["INFO", "persistence"]).unwrap();
        info.contains("aof_buffer_length:0")
    })
    .await;
    let synced = appended(&server).metadata().unwrap().len();
    let first = executed(&store, "not synced").await;
    server.kill();
    let file = File::options().write(true).open(appended(&server));
    file.unwrap().set_len(synced).unwrap();
    restart(&mut server, &store).await;
    is_stored(&store, "synced").await;
    let second = granted(&*store, "not synced", 2).await;
    assert!(second.fence > first);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_snapshots_alone_everything_since_the_last_one_is_executed_again() {
    let mut server = server(&["--appendonly", "no", "--save", "3600 1"]);
    let store = open(&server.url()).await;
    executed(&store, "before").await;
    server.cli(&["SAVE"]).unwrap();
    let first = executed(&store, "since").await;
    server.kill();
    restart(&mut server, &store).await;
    is_stored(&store, "before").await;
    let second = granted(&*store, "since", 2).await;
    assert!(second.fence > first);
}
