//! `kill -9`, at every step. The program that is killed is this one, in a process of its own.

use crate::server::{committed, connect, order, ordered, outcome, payload, replayed, Database};
use crate::wire::{Commits, Wire};
use idempotency::{Entry, Guard};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// In the program's environment: the store's URL, the URL for its own transactions, and where it stops.
const VARIABLES: [&str; 3] = ["CRASH_STORE", "CRASH_URL", "CRASH_STEP"];

/// Where a program stands still, to be killed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The effects are there, the record is not completed.
    Inserted,
    /// Both are there, the COMMIT is not sent.
    Completed,
    /// The COMMIT is on its way, or its answer.
    Commits,
}

#[test]
#[ignore = "it is the program that the other tests kill"]
fn program() {
    let [Ok(store), Ok(url), Ok(step)] = VARIABLES.map(std::env::var) else {
        return;
    };
    // It ends with the test, however that ends.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = idempotency::store::Postgres::open(crate::server::options(&store)).await;
        let guard = short(Guard::new(Arc::new(store.unwrap())));
        let mut client = connect(&url).await;
        let stop = async || {
            println!("stands still");
            std::future::pending::<()>().await;
        };
        if step == "Completed" {
            let entry = guard.acquire_for_transaction("k", payload()).await.unwrap();
            let Entry::Execute(mut execution) = entry else {
                panic!("{entry:?}");
            };
            let mut tx = client.transaction().await.unwrap();
            order(&tx, "k").await;
            let outcome = outcome("of the one that was killed");
            execution.complete_in_tx(&mut tx, &outcome).await.unwrap();
            stop().await;
        }
        let done = guard
            .transaction(&mut client, "k", payload(), async |tx, _| {
                order(tx, "k").await;
                if step == "Inserted" {
                    stop().await;
                }
                Ok::<_, String>(outcome("of the one that was killed"))
            })
            .await;
        panic!("it was not killed: {done:?}");
    });
}

/// A crash is over when the lease is.
fn short(guard: Guard) -> Guard {
    guard.lease(Duration::from_millis(1_500))
}

struct Program(Child);

impl Program {
    fn start(database: &Database, url: &str, step: Step) -> Program {
        let values = [database.url.clone(), url.to_owned(), format!("{step:?}")];
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "crashes::program", "--nocapture"])
            .envs(VARIABLES.into_iter().zip(values))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Program(child.unwrap())
    }

    /// Until it says so.
    fn stands_still(&mut self) {
        let told = BufReader::new(self.0.stdout.take().unwrap());
        let stands = told
            .lines()
            .any(|line| line.unwrap().contains("stands still"));
        assert!(stands, "it has ended");
    }

    /// `kill -9`
    fn kill(mut self) {
        self.0.kill().unwrap();
        let status = self.0.wait().unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(9), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_10_killed_before_commit_there_is_no_order_and_the_retry_makes_one() {
    for step in [Step::Inserted, Step::Completed, Step::Commits] {
        let database = Database::new().await;
        let guard = short(database.guard().await);
        let mut wire = Wire::to(database.server.port()).await;
        let mut program = Program::start(&database, &wire.url(&database.name), step);
        if step == Step::Commits {
            wire.set(Commits::HoldBefore);
            wire.has_met().await;
        } else {
            tokio::task::block_in_place(|| program.stands_still());
        }
        let mut client = database.client().await;
        let running = guard.acquire("k", payload()).await.unwrap();
        assert!(
            matches!(running, Entry::InFlight(_)),
            "{step:?}: {running:?}"
        );
        program.kill();
        // What the network had not delivered yet is gone with it.
        drop(wire);
        assert_eq!(database.orders("k").await, 0, "{step:?}");
        let done = committed(ordered(&guard, &mut client, "k").await);
        assert_eq!(done.number(), 2, "{step:?}");
        assert_eq!(database.orders("k").await, 1, "{step:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_11_killed_after_commit_before_the_answer_it_is_replayed() {
    let database = Database::new().await;
    let guard = short(database.guard().await);
    let mut wire = Wire::to(database.server.port()).await;
    wire.set(Commits::HoldAfter);
    let program = Program::start(&database, &wire.url(&database.name), Step::Commits);
    wire.has_met().await;
    program.kill();
    let mut client = database.client().await;
    // At once, and not when the lease is over.
    let entry = guard.acquire("k", payload()).await.unwrap();
    assert!(matches!(entry, Entry::Replay(_)), "{entry:?}");
    let done = replayed(ordered(&guard, &mut client, "k").await);
    assert_eq!(done.json::<String>().unwrap(), "of the one that was killed");
    assert_eq!(done.number(), 1);
    assert_eq!(database.orders("k").await, 1);
}

/// What a plain guard or a gateway left is unknown to a transaction, too; what transactions left is not.
#[tokio::test(flavor = "multi_thread")]
async fn only_where_all_attempts_were_transactions_one_without_an_end_did_nothing() {
    let database = Database::new().await;
    let guard = database.guard().await;
    let mut client = database.client().await;
    let entry = guard.acquire("k", payload()).await.unwrap();
    let Entry::Execute(plain) = entry else {
        panic!("{entry:?}");
    };
    plain.abandon().await.unwrap();
    let unknown = ordered(&guard, &mut client, "k").await;
    assert!(
        matches!(unknown, idempotency::postgres::Transacted::Unknown(_)),
        "{unknown:?}"
    );
    let bold = guard.clone().on_unknown(idempotency::OnUnknown::Retry);
    committed(ordered(&bold, &mut client, "k").await);

    let entry = guard.acquire_for_transaction("l", payload()).await.unwrap();
    let Entry::Execute(transaction) = entry else {
        panic!("{entry:?}");
    };
    transaction.abandon().await.unwrap();
    // Told to be careful, it is.
    let careful = guard.clone().on_unknown(idempotency::OnUnknown::Refuse);
    let unknown = ordered(&careful, &mut client, "l").await;
    assert!(
        matches!(unknown, idempotency::postgres::Transacted::Unknown(_)),
        "{unknown:?}"
    );
    committed(ordered(&guard, &mut client, "l").await);
}
