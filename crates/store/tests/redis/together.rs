//! Many records in one call of the server.

use crate::common::{acquire, complete, fail};
use crate::support::{open, server};
use idempotency_protocol::Answer;
use idempotency_stack::Redis;
use idempotency_store::Store;

/// How often the server has been called with a script.
pub fn calls(server: &Redis) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]).unwrap();
    stats
        .lines()
        .filter(|line| line.starts_with("cmdstat_eval"))
        .filter_map(|line| {
            line.split_once("calls=")?
                .1
                .split(',')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum()
}

fn names(answers: &[Answer]) -> Vec<&'static str> {
    answers.iter().map(Answer::name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_takes_few_calls_of_the_server() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    let name = |n: usize| format!("k{n}");
    let body = |n: usize| vec![b'x'; 100 + n];

    // The first one tells the server the script.
    let warm_up = (100..102).map(|n| acquire(&name(n), 1)).collect();
    assert_eq!(names(&store.apply(warm_up).await), ["granted"; 2]);

    let before = calls(&server);
    let acquires = (0..64).map(|n| acquire(&name(n), 1)).collect();
    assert_eq!(names(&store.apply(acquires).await), ["granted"; 64]);
    let completes = (0..64).map(|n| complete(&name(n), 1, &body(n))).collect();
    assert_eq!(names(&store.apply(completes).await), ["completed"; 64]);
    let replays = (0..64).map(|n| acquire(&name(n), 2)).collect();
    let replayed = store.apply(replays).await;
    assert_eq!(calls(&server) - before, 6, "two for each 64");
    for (n, answer) in replayed.iter().enumerate() {
        let Answer::Stored(stored) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(stored.outcome, crate::common::response(&body(n)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_the_short_way_is_answered_all_the_same() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    let setup = [
        acquire("running", 1),
        acquire("done", 1),
        acquire("failed", 1),
        acquire("late", 1),
    ];
    store.apply(setup.to_vec()).await;
    let setup = [complete("done", 1, b"x"), fail("failed", 1)];
    store.apply(setup.to_vec()).await;
    // A record that is none.
    let mut admin = redis::Client::open(server.url())
        .unwrap()
        .get_connection()
        .unwrap();
    let found: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*late").query(&mut admin).unwrap();
    let mut set = redis::cmd("SET");
    let () = set.arg(&found[0]).arg("text").query(&mut admin).unwrap();

    let batch = vec![
        acquire("new", 3),
        acquire("running", 3),
        acquire("done", 3),
        acquire("failed", 3),
        fail("other", 3),
        complete("nothing", 3, b"y"),
        acquire("another", 3),
    ];
    let answers = store.apply(batch).await;
    let expected = [
        "granted",
        "in_flight",
        "stored",
        "granted",
        "marked",
        "lost",
        "granted",
    ];
    assert_eq!(names(&answers), expected);

    // Twice the same record: in order.
    let batch = vec![
        acquire("running", 4),
        complete("running", 1, b"y"),
        acquire("running", 5),
        acquire("third", 3),
    ];
    let answers = store.apply(batch).await;
    let expected = ["in_flight", "completed", "stored", "granted"];
    assert_eq!(names(&answers), expected);

    let batch = vec![
        acquire("before", 3),
        acquire("late", 3),
        complete("new", 3, b"z"),
        acquire("behind", 3),
    ];
    // One that cannot be read spoils no other.
    let answers = store.apply(batch).await;
    assert_eq!(
        names(&answers),
        ["granted", "fault", "completed", "granted"]
    );
}
