//! A primary dies, or stands still, and its standby takes its place: what is lost, and what not.
//!
//! Two servers of their own with streaming replication, two instances of the store that know both
//! (`postgres://…@a,b/…`), and clients that never let go: each repeats what it asked until it has
//! an answer, as the filter does.

use crate::common::*;
use crate::server::{own, Server};
use idempotency_protocol::{Answer, Operation, Owner};
use idempotency_stack::PostgresOptions as ServerOptions;
use idempotency_store::{Postgres, PostgresOptions, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::{block_in_place, JoinSet};

const DATABASE: &str = "pair";

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A primary, and a standby that follows it.
struct Pair {
    a: Server,
    b: Server,
}

impl Pair {
    /// Synchronous: a commit returns when the standby has it on disk.
    fn start(synchronous: bool) -> Pair {
        let options = || ServerOptions {
            fsync: true,
            ..ServerOptions::default()
        };
        let a = own(options());
        a.create_database(DATABASE);
        let b = match a.standby("b", options()) {
            Ok(server) => server,
            Err(error) => panic!("{error}"),
        };
        if synchronous {
            a.set("synchronous_standby_names", "b");
        }
        let state = if synchronous { "sync" } else { "async" };
        let follows = "SELECT state || ' ' || sync_state FROM pg_stat_replication";
        until("the standby follows", || {
            a.sql("postgres", follows) == format!("streaming {state}")
        });
        Pair { a, b }
    }

    /// The options of a store that knows both, the old primary first.
    fn options(&self) -> PostgresOptions {
        let url = format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{DATABASE}\
             ?target_session_attrs=read-write&connect_timeout=1&statement_timeout_ms=500\
             &poll_interval_ms=200&pool_size=8",
            self.a.port(),
            self.b.port()
        );
        PostgresOptions::from_url_and(&url, |_| None).unwrap()
    }

    async fn open(&self) -> Arc<Postgres> {
        Arc::new(Postgres::open(self.options()).await.unwrap())
    }

    /// Two instances, as two processes have.
    async fn stores(&self) -> [Arc<Postgres>; 2] {
        Postgres::migrate(&self.options()).await.unwrap();
        [self.open().await, self.open().await]
    }

    /// The standby has everything that was committed before this call.
    fn catch_up(&self) {
        let now = self.a.sql("postgres", "SELECT pg_current_wal_lsn()");
        let there = format!("SELECT pg_last_wal_replay_lsn() >= '{now}'");
        until("the standby has caught up", || {
            self.b.sql("postgres", &there) == "t"
        });
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(
        block_in_place(|| idempotency_stack::until(PATIENCE, &mut condition)),
        "never: {what}"
    );
}

fn records(server: &Server) -> String {
    server.sql(DATABASE, "SELECT count(*) FROM idempotency_records")
}

/// What the clients were told, in order.
#[derive(Default)]
struct Told {
    /// Fences by key.
    grants: BTreeMap<String, Vec<u64>>,
    /// Keys whose completion was acknowledged.
    completed: Vec<String>,
    /// Completions that found another execution, or none.
    lost: usize,
}

/// Clients at work.
struct Storm {
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Storm {
    fn start(stores: &[Arc<Postgres>; 2]) -> Storm {
        let told = Arc::new(Mutex::new(Told::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for client in 0..16u8 {
            let mine = Arc::clone(&stores[usize::from(client % 2)]);
            let other = Arc::clone(&stores[usize::from((client + 1) % 2)]);
            let (told, stop) = (Arc::clone(&told), Arc::clone(&stop));
            clients.spawn(async move {
                for n in 0u32.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let name = format!("{client}-{n}");
                    // The duplicate goes to the other instance.
                    for (store, turn) in [(&mine, 1), (&other, 2)] {
                        let mut owner = [client; 16];
                        owner[..4].copy_from_slice(&n.to_be_bytes());
                        owner[4] = turn;
                        execute(store, &name, Owner(owner), &told).await;
                    }
                }
            });
        }
        Storm {
            told,
            stop,
            clients,
        }
    }

    fn completed(&self) -> usize {
        self.told.lock().unwrap().completed.len()
    }

    /// Until so many more executions are acknowledged.
    fn until_more(&self, more: usize) {
        let wanted = self.completed() + more;
        until("executions go on", || self.completed() >= wanted);
    }

    async fn end(mut self) -> Told {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

/// Asks again until there is an answer; the owner makes that safe.
async fn persist(store: &Postgres, operation: Operation) -> Answer {
    loop {
        match one(store, operation.clone()).await {
            Answer::Fault(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            answer => return answer,
        }
    }
}

/// One execution, unless the key has had its own.
async fn execute(store: &Postgres, name: &str, owner: Owner, told: &Mutex<Told>) {
    let mut asked = acquire(name, 0);
    if let Operation::Acquire(a) = &mut asked {
        a.owner = owner;
    }
    match persist(store, asked).await {
        Answer::Granted(grant) => {
            let mut told = told.lock().unwrap();
            let fences = told.grants.entry(name.to_owned()).or_default();
            fences.push(grant.fence);
        }
        Answer::Stored(stored) => {
            assert_eq!(stored.outcome, response(name.as_bytes()), "{name}");
            return;
        }
        // Completed here, forgotten there, and in flight by a repeated complete's client: only
        // where records can be lost at all.
        Answer::InFlight { .. } => {
            told.lock().unwrap().lost += 1;
            return;
        }
        other => panic!("{name}: {other:?}"),
    }
    let mut done = complete(name, 0, name.as_bytes());
    if let Operation::Complete(c) = &mut done {
        c.owner = owner;
    }
    let answer = persist(store, done).await;
    let mut told = told.lock().unwrap();
    match answer {
        Answer::Completed { .. } => told.completed.push(name.to_owned()),
        Answer::Lost => told.lost += 1,
        other => panic!("{name}: {other:?}"),
    }
}

fn assert_fences_grow(told: &Told) {
    for (name, fences) in &told.grants {
        assert!(fences.is_sorted_by(|x, y| x < y), "{name}: {fences:?}");
    }
}

/// Which of the keys are not stored any more.
async fn forgotten(store: &Postgres, keys: &[String]) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    for name in keys {
        match store.inspect(&key(name)).await.unwrap() {
            Some(view) if view.status == Some(201) => {}
            _ => {
                missing.insert(name.clone());
            }
        }
    }
    missing
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_that_takes_over_has_everything() {
    let mut pair = block_in_place(|| Pair::start(true));
    let stores = pair.stores().await;
    let storm = Storm::start(&stores);
    storm.until_more(300);
    block_in_place(|| pair.a.kill());
    let killed = Instant::now();
    let before = storm.completed();
    block_in_place(|| {
        pair.b.promote();
        // Or its commits would wait for a standby that it has not.
        assert_eq!(pair.b.sql("postgres", "SHOW synchronous_standby_names"), "");
    });
    until("the successor works", || storm.completed() > before + 16);
    let back = killed.elapsed();
    storm.until_more(300);
    let told = storm.end().await;
    println!(
        "synchronous: {} keys, {before} before the primary died, work again after {back:?}",
        told.grants.len()
    );
    assert_eq!(told.lost, 0);
    for (name, fences) in &told.grants {
        assert_eq!(fences.len(), 1, "{name} was granted more than once");
    }
    assert_eq!(told.completed.len(), told.grants.len());
    let missing = forgotten(&stores[0], &told.completed).await;
    assert!(missing.is_empty(), "{missing:?}");
    for store in &stores {
        store.ready().await.unwrap();
    }
}

/// No timeout of ours or of the server's makes a commit of what the standby has not.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_synchronous_standby_nothing_is_acknowledged() {
    let mut pair = block_in_place(|| Pair::start(true));
    let stores = pair.stores().await;
    block_in_place(|| pair.b.pause());
    for (store, owner) in [(&stores[0], 1), (&stores[1], 2), (&stores[0], 1)] {
        let answer = one(store.as_ref(), acquire("k", owner)).await;
        assert!(matches!(answer, Answer::Fault(_)), "{answer:?}");
    }
    block_in_place(|| pair.b.resume());
    // The first one was written, and waited; now it counts.
    match persist(&stores[1], acquire("k", 1)).await {
        Answer::Granted(grant) => assert_eq!(grant.attempt, 1),
        other => panic!("{other:?}"),
    }
    in_flight(persist(&stores[0], acquire("k", 2)).await);
}

/// The loss that the documentation names, made to happen: what the standby has not received is
/// forgotten. Nothing else is, and the fences tell the two executions of a key apart.
#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_standby_forgets_what_it_had_not_received_and_no_more() {
    let mut pair = block_in_place(|| Pair::start(false));
    let stores = pair.stores().await;
    let storm = Storm::start(&stores);
    storm.until_more(200);
    let received = storm.completed();
    block_in_place(|| {
        pair.catch_up();
        pair.b.set("primary_conninfo", "");
    });
    until("nothing is sent any more", || {
        let senders = "SELECT count(*) FROM pg_stat_replication";
        pair.a.sql("postgres", senders) == "0"
    });
    let cut = storm.completed();
    storm.until_more(200);
    block_in_place(|| pair.a.kill());
    // No answer of the old primary is on its way any more: its connections are gone.
    let killed = storm.completed();
    block_in_place(|| pair.b.promote());
    until("the successor works", || storm.completed() > killed + 200);
    let told = storm.end().await;
    assert_fences_grow(&told);
    let missing = forgotten(&stores[0], &told.completed).await;
    let twice = told.grants.values().filter(|f| f.len() > 1).count();
    println!(
        "asynchronous: {} keys, {} acknowledged completions lost, {twice} keys granted twice",
        told.grants.len(),
        missing.len()
    );
    // A key may have been completed twice, once on each side.
    let place = |name: &String| told.completed.iter().position(|done| done == name);
    for name in &missing {
        let place = place(name).unwrap();
        assert!(place >= received, "{name} had been received");
        assert!(place < killed + 16, "{name} was lost by the successor");
    }
    let unreceived = &told.completed[cut + 16..killed];
    for name in unreceived {
        let again = told.grants[name].len() > 1;
        assert!(again || missing.contains(name), "{name} was never received");
    }
    // What is forgotten runs again, and whoever looks at the fence can tell.
    let mut again = 0;
    for name in &missing {
        let last = told.grants[name].last().copied().unwrap();
        match one(stores[1].as_ref(), acquire(name, 255)).await {
            Answer::Granted(grant) => {
                assert!(grant.fence > last, "{name}: {last}, then {grant:?}");
                assert_eq!(grant.attempt, 1);
                again += 1;
            }
            // Its grant had been received, its completion had not: unknown before long.
            Answer::InFlight { fence, .. } => assert_eq!(fence, last, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(again >= 100, "{again}");
}

/// Somebody starts the dead primary again, and it takes writes: on a history that has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_comes_back_after_its_successor_is_not_used() {
    let mut pair = block_in_place(|| Pair::start(false));
    let stores = pair.stores().await;
    granted(stores[0].as_ref(), "before", 1).await;
    block_in_place(|| {
        pair.catch_up();
        pair.a.kill();
        pair.b.promote();
    });
    for (store, name) in stores.iter().zip(["x", "y"]) {
        assert!(matches!(
            persist(store, acquire(name, 1)).await,
            Answer::Granted(_)
        ));
    }
    block_in_place(|| pair.a.start_again().unwrap());
    assert_eq!(pair.a.sql("postgres", "SELECT pg_is_in_recovery()"), "f");
    // All connections are lost, and the old one is first in the list.
    pair.b.sql(
        DATABASE,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    let third = pair.open().await;
    for (store, name) in [&stores[0], &stores[1], &third]
        .into_iter()
        .zip(["1", "2", "3"])
    {
        assert!(matches!(
            persist(store, acquire(name, 1)).await,
            Answer::Granted(_)
        ));
        in_flight(persist(store, acquire("x", 2)).await);
    }
    assert_eq!(records(&pair.a), "1", "written to the old primary");
    assert_eq!(records(&pair.b), "6");
    // Without the successor there is nobody: better no answer than a wrong one.
    block_in_place(|| pair.b.kill());
    let answer = one(stores[0].as_ref(), acquire("z", 1)).await;
    match answer {
        Answer::Fault(fault) => assert!(fault.detail.contains("old primary"), "{fault:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(records(&pair.a), "1");
}

/// The primary's machine stands still: its connections are open, and nobody answers. Later it goes
/// on, and does not know that it was replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_stands_still_is_left_for_its_successor() {
    let mut pair = block_in_place(|| Pair::start(false));
    let stores = pair.stores().await;
    let storm = Storm::start(&stores);
    storm.until_more(100);
    block_in_place(|| pair.a.pause());
    let paused = Instant::now();
    let before = storm.completed();
    block_in_place(|| pair.b.promote());
    until("the successor works", || storm.completed() > before + 32);
    println!("left for its successor after {:?}", paused.elapsed());
    // Whoever waits hears of the new one, too.
    let listeners = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND (query = '' OR query LIKE 'LISTEN%')";
    until("both listen to the successor", || {
        pair.b.sql(DATABASE, listeners) == "2"
    });
    pair.a.resume();
    let strangers = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    until("nobody is connected to the old one", || {
        pair.a.sql(DATABASE, strangers) == "0"
    });
    let old = records(&pair.a);
    storm.until_more(100);
    assert_eq!(records(&pair.a), old, "written to the old primary");
    let told = storm.end().await;
    assert_fences_grow(&told);
    let last = told.completed.last().cloned().unwrap();
    assert!(forgotten(&stores[0], &[last]).await.is_empty());
}
