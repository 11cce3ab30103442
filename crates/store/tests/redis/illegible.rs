//! Records that this build cannot read whole, and records whose answer is lost.

use crate::common::{abandon, acquire, complete, completed, fail, fingerprint, granted, key, one};
use crate::support::{is_fault, name, open, server, until};
use idempotency_protocol::{Answer, FaultCode, Operation, Owner, Settle, Settlement, Wait};
use idempotency_stack::Redis;
use idempotency_store::{ListFilter, RedisStore, Resolution, Resolve, Store, StoreError};
use std::collections::BTreeMap;

/// Looks at records and changes them by hand.
struct Hand(redis::Connection);

type Fields = BTreeMap<String, Vec<u8>>;

impl Hand {
    fn on(server: &Redis) -> Hand {
        let client = redis::Client::open(server.url()).unwrap();
        Hand(client.get_connection().unwrap())
    }

    fn fields(&mut self, of: &str) -> Fields {
        let mut get = redis::cmd("HGETALL");
        get.arg(name(&key(of))).query(&mut self.0).unwrap()
    }

    fn set(&mut self, of: &str, field: &str, value: &[u8]) {
        let mut set = redis::cmd("HSET");
        let set = set.arg(name(&key(of))).arg(field).arg(value);
        let () = set.query(&mut self.0).unwrap();
    }

    fn delete(&mut self, of: &str, field: &str) {
        let mut delete = redis::cmd("HDEL");
        let () = delete
            .arg(name(&key(of)))
            .arg(field)
            .query(&mut self.0)
            .unwrap();
    }
}

async fn list(store: &RedisStore) -> Vec<String> {
    let filter = ListFilter {
        limit: 100,
        ..ListFilter::default()
    };
    let page = store.list(filter).await.unwrap();
    page.records.into_iter().map(|r| r.key.key).collect()
}

fn wait(of: &str, fence: u64) -> Wait {
    Wait {
        key: key(of),
        fingerprint: fingerprint(),
        fence,
        wait_ms: 5_000,
    }
}

/// What is wrong with a record.
type Damage = fn(&Fields) -> (&'static str, Vec<u8>);

fn changed(fields: &Fields, field: &'static str, at: usize, to: u8) -> (&'static str, Vec<u8>) {
    let mut bytes = fields[field].clone();
    bytes[at] = to;
    (field, bytes)
}

const DAMAGES: [(&str, Damage); 9] = [
    ("a later format", |f| changed(f, "m", 0, 3)),
    ("a later state", |f| changed(f, "m", 1, 6)),
    ("settled, in the format of the others", |f| {
        changed(f, "m", 1, 5)
    }),
    ("cut off", |f| ("m", f["m"][..100].to_vec())),
    ("longer", |f| ("m", [&f["m"][..], b"!"].concat())),
    ("a history of a later format", |f| changed(f, "x", 16, 2)),
    ("a history with a later flag", |f| changed(f, "x", 17, 4)),
    ("a history that is cut off", |f| {
        ("x", f["x"][..f["x"].len() - 1].to_vec())
    }),
    ("a history that is longer", |f| {
        ("x", [&f["x"][..], b"!"].concat())
    }),
];

/// Whether a build that cannot read this answers an execution and a replay all the same: what is
/// remembered of the attempts has no part in them, and only its format is looked at.
fn has_no_part_in(what: &str, state: &str) -> bool {
    let whole = what == "a history of a later format" || !what.starts_with("a history");
    !whole && state != "failed"
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_neither_granted_nor_rewritten() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    let mut hand = Hand::on(&server);
    granted(&*store, "other", 1).await;
    for (number, (what, damage)) in DAMAGES.into_iter().enumerate() {
        for state in ["executing", "completed", "failed"] {
            let (k, what) = (format!("{state}{number}"), format!("{what}, {state}"));
            let fence = granted(&*store, &k, 1).await.fence;
            match state {
                "completed" => completed(&*store, &k, 1, b"paid").await,
                "failed" => assert_eq!(one(&*store, fail(&k, 1)).await, Answer::Failed),
                _ => {}
            }
            let (field, bytes) = damage(&hand.fields(&k));
            hand.set(&k, field, &bytes);
            let before = hand.fields(&k);

            if !has_no_part_in(&what, state) {
                // Alone, and with others in one call.
                let answer = one(&*store, acquire(&k, 2)).await;
                assert_eq!(answer, Answer::NotComparable, "{what}");
                let both = vec![acquire(&k, 3), acquire("other", 3)];
                let answers = store.apply(both).await;
                assert_eq!(answers[0], Answer::NotComparable, "{what}");
                assert!(matches!(answers[1], Answer::InFlight { .. }), "{what}");
                let answer = one(&*store, complete(&k, 1, b"paid")).await;
                assert!(is_fault(&answer, FaultCode::Internal), "{what}: {answer:?}");
            }
            let settle = |settlement| {
                Operation::Settle(Settle {
                    key: key(&k),
                    fence,
                    settlement,
                })
            };
            let extend = Operation::Extend {
                key: key(&k),
                owner: Owner([1; 16]),
                lease_ms: 60_000,
            };
            for operation in [
                fail(&k, 1),
                fail(&k, 9),
                abandon(&k, 1),
                extend,
                settle(Settlement::Failed),
                settle(Settlement::Completed(crate::common::response(b"x"))),
            ] {
                let asked = operation.name();
                let answer = one(&*store, operation).await;
                let is_internal = is_fault(&answer, FaultCode::Internal);
                assert!(is_internal, "{what}, {asked}: {answer:?}");
            }
            let answer = store.wait(wait(&k, fence)).await;
            assert_eq!(answer, Answer::Changed, "{what}");
            for to in [Resolution::Failed, Resolution::Deleted] {
                let resolve = Resolve {
                    key: key(&k),
                    version: fence,
                    to,
                    force: true,
                };
                let refused = store.resolve(resolve).await;
                assert!(matches!(refused, Err(StoreError::Permanent(_))), "{what}");
            }
            while store.sweep(100).await.unwrap().more {}
            // An operator sees what can be read of it.
            let listed = list(&store).await;
            assert!(listed.contains(&"other".to_owned()), "{what}");
            assert_eq!(listed.contains(&k), field == "x", "{what}");
            match store.inspect(&key(&k)).await {
                Ok(found) => assert!(found.is_some() && field == "x", "{what}"),
                Err(StoreError::Permanent(_)) => assert_eq!(field, "m", "{what}"),
                Err(other) => panic!("{what}: {other}"),
            }
            assert_eq!(hand.fields(&k), before, "{what}");
        }
    }
}

/// A record of a later release stays what it is when its time is over to this one.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_seems_to_be_over_is_not_granted_if_it_cannot_be_read() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    let mut hand = Hand::on(&server);
    granted(&*store, "k", 1).await;
    completed(&*store, "k", 1, b"paid").await;
    // Completed long ago.
    let mut m = hand.fields("k")["m"].clone();
    m[87..95].copy_from_slice(&1u64.to_be_bytes());
    let (_, x) = changed(&hand.fields("k"), "x", 16, 2);
    hand.set("k", "m", &m);
    hand.set("k", "x", &x);
    let before = hand.fields("k");
    assert_eq!(one(&*store, acquire("k", 2)).await, Answer::NotComparable);
    assert_eq!(hand.fields("k"), before);
    // Without what cannot be read it is over.
    hand.delete("k", "x");
    assert!(matches!(
        one(&*store, acquire("k", 2)).await,
        Answer::Granted(_)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn something_else_under_the_name_of_a_record_hides_no_other() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    granted(&*store, "k", 1).await;
    let mut hand = Hand::on(&server);
    let mut set = redis::cmd("SET");
    let () = set
        .arg(name(&key("text")))
        .arg("x")
        .query(&mut hand.0)
        .unwrap();
    assert_eq!(list(&store).await, ["k"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_done_all_the_same() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    let mut hand = Hand::on(&server);
    // Sent along with the answer, and fetched.
    for (size, body) in [("small", vec![b'x'; 100]), ("large", vec![b'x'; 100_000])] {
        for damage in ["missing", "cut off", "something else"] {
            let k = format!("{size} {damage}");
            let fence = granted(&*store, &k, 1).await.fence;
            let waiter = {
                let (store, wait) = (store.clone(), wait(&k, fence));
                tokio::spawn(async move { store.wait(wait).await })
            };
            until(|| async { store.waiting() == 1 }).await;
            completed(&*store, &k, 1, &body).await;
            assert!(matches!(waiter.await.unwrap(), Answer::Stored(_)), "{k}");
            let o = hand.fields(&k)["o"].clone();
            match damage {
                "missing" => hand.delete(&k, "o"),
                "cut off" => hand.set(&k, "o", &o[..o.len() / 2]),
                _ => hand.set(&k, "o", b"\xff"),
            }
            let record = store.inspect(&key(&k)).await.unwrap().unwrap();
            let lost = Answer::Unreadable {
                status: 201,
                fence,
                attempt: 1,
                expires_at_ms: record.expires_at_ms.unwrap(),
            };
            assert_eq!(one(&*store, acquire(&k, 2)).await, lost, "{k}");
            let both = vec![acquire(&k, 3), acquire(&format!("{k} other"), 3)];
            assert_eq!(store.apply(both).await[0], lost, "{k}");
            assert_eq!(store.wait(wait(&k, fence)).await, lost, "{k}");
            // The owner's second complete is the same as the first.
            completed(&*store, &k, 1, &body).await;
        }
    }
}
