//! A process that stands still for longer than its lease (SIGSTOP), and goes on (SIGCONT): its
//! keys have gone to others, and what it still has to say changes nothing.

use crate::support::*;
use idempotency_protocol::{Acquire, Answer, Grant, OnUnknown, Operation, Owner};
use tokio::task::{block_in_place, JoinHandle};

on_shared_stores!(
    a_late_word_changes_nothing,
    stopped_in_the_middle_of_an_acquire,
    stopped_in_the_middle_of_a_complete,
    late_and_nobody_took_it,
);

/// What a process does once per connection (preparing statements, loading the script) is done.
async fn warm_up(client: &Client) {
    let me = owner();
    granted(client.one(acquire("warm", me)).await);
    let done = client.one(complete("warm", me, "warm")).await;
    assert!(matches!(done, Answer::Completed { .. }), "{done:?}");
}

/// Ends before the test goes on.
const LEASE_MS: u64 = 300;

/// An acquire of a rule that lets others execute once the lease is over.
fn brief(name: &str, me: Owner) -> Operation {
    match acquire(name, me) {
        Operation::Acquire(a) => Operation::Acquire(Acquire {
            lease_ms: LEASE_MS,
            on_unknown: OnUnknown::Retry,
            ..a
        }),
        other => other,
    }
}

/// The same with a lease that lasts.
fn heir(name: &str, me: Owner) -> Operation {
    match acquire(name, me) {
        Operation::Acquire(a) => Operation::Acquire(Acquire {
            on_unknown: OnUnknown::Retry,
            ..a
        }),
        other => other,
    }
}

/// Sends it, and does not wait for the answer.
fn sent(client: &Client, operation: Operation) -> JoinHandle<Answer> {
    let client = client.clone();
    tokio::spawn(async move { client.one(operation).await })
}

/// The state of the record, as operators see it.
async fn state(service: &Child, name: &str) -> Option<String> {
    let operator = Client::tcp(service.address).token(OPERATOR);
    let path = format!("/v1/record?tenant=acme&namespace=pay&key={name}");
    let reply = operator.get(&path).await;
    (reply.status == 200).then(|| reply.json()["state"].as_str().unwrap().to_owned())
}

/// Takes the key over as soon as its lease is over.
async fn taken_over(client: &Client, name: &str, me: Owner) -> Grant {
    let mut grant = None;
    let asked = heir(name, me);
    let again = std::sync::Mutex::new(&mut grant);
    eventually("the lease is over", || async {
        match client.one(asked.clone()).await {
            Answer::Granted(granted) => {
                **again.lock().unwrap() = Some(granted);
                true
            }
            Answer::InFlight { .. } => false,
            other => panic!("{other:?}"),
        }
    })
    .await;
    grant.unwrap()
}

/// What an upstream does that looks at the fence: it takes no older one after a newer one.
#[derive(Default)]
struct Resource {
    highest: u64,
    executed: usize,
}

impl Resource {
    fn execute(&mut self, grant: &Grant) -> bool {
        let new = grant.fence > self.highest;
        if new {
            self.highest = grant.fence;
            self.executed += 1;
        }
        new
    }
}

/// The record is the heir's, and everybody replays its answer.
async fn belongs_to_the_heir(clients: [&Client; 2], name: &str, grant: &Grant, me: Owner) {
    match clients[0].one(acquire(name, owner())).await {
        Answer::InFlight { fence, .. } => assert_eq!(fence, grant.fence),
        other => panic!("{name}: {other:?}"),
    }
    let done = clients[0].one(complete(name, me, "the heir's")).await;
    assert!(matches!(done, Answer::Completed { .. }), "{name}: {done:?}");
    for client in clients {
        let answer = client.one(acquire(name, owner())).await;
        assert_eq!(replayed(&answer), b"the heir's");
    }
}

/// Each word that an owner may have to say, asked of the process while it stands still.
async fn a_late_word_changes_nothing(shared: &Shared) {
    let mut zombie = shared.patient_service();
    let other = shared.patient_service();
    let (late, live) = (zombie.gateway(), other.gateway());
    let mut held = Vec::new();
    for name in ["complete", "fail", "abandon", "extend"] {
        let me = owner();
        let grant = granted(late.one(brief(name, me)).await);
        held.push((name, me, grant));
    }
    block_in_place(|| zombie.pause());
    let mut words = Vec::new();
    for (name, me, grant) in held {
        let key = key(name);
        let word = match name {
            "complete" => complete(name, me, "the zombie's"),
            "fail" => Operation::Fail {
                key,
                owner: me,
                cause: Default::default(),
            },
            "abandon" => Operation::Abandon { key, owner: me },
            _ => Operation::Extend {
                key,
                owner: me,
                lease_ms: 60_000,
            },
        };
        words.push((name, grant, sent(&late, word)));
    }
    let mut heirs = Vec::new();
    for (name, old, word) in words {
        let me = owner();
        let new = taken_over(&live, name, me).await;
        assert!(new.fence > old.fence, "{name}: {old:?}, then {new:?}");
        assert_eq!(new.attempt, old.attempt + 1, "{name}");
        assert!(!word.is_finished(), "it does not stand still");
        heirs.push((name, me, new, word));
    }
    zombie.resume();
    for (name, me, new, word) in heirs {
        assert_eq!(word.await.unwrap(), Answer::Lost, "{name}");
        belongs_to_the_heir([&live, &late], name, &new, me).await;
    }
}

/// The store granted the key; the process that asked stood still, and hears it when the key has
/// long been somebody else's.
async fn stopped_in_the_middle_of_an_acquire(shared: &Shared) {
    let mut zombie = shared.patient_service();
    let other = shared.patient_service();
    let (late, live) = (zombie.gateway(), other.gateway());
    let mut resource = Resource::default();
    let (me, heir) = (owner(), owner());
    warm_up(&late).await;
    block_in_place(|| shared.shut_gate());
    let asked = sent(&late, brief("k", me));
    block_in_place(|| {
        shared.await_at_gate();
        zombie.pause();
        shared.open_gate();
    });
    eventually("the store has granted it", || async {
        state(&other, "k").await.is_some()
    })
    .await;
    let new = taken_over(&live, "k", heir).await;
    assert_eq!(new.attempt, 2);
    assert!(resource.execute(&new));
    assert!(!asked.is_finished(), "it does not stand still");
    zombie.resume();

    let old = granted(asked.await.unwrap());
    assert!(old.fence < new.fence, "{old:?} {new:?}");
    assert_eq!(old.attempt, 1);
    assert!(!resource.execute(&old), "the fence tells the zombie");
    let answer = late.one(complete("k", me, "the zombie's")).await;
    assert_eq!(answer, Answer::Lost);
    belongs_to_the_heir([&live, &late], "k", &new, heir).await;
    assert_eq!(resource.executed, 1);
}

/// The store has the answer; the process that brought it does not know yet. Nobody executes again.
async fn stopped_in_the_middle_of_a_complete(shared: &Shared) {
    let mut zombie = shared.patient_service();
    let other = shared.patient_service();
    let (late, live) = (zombie.gateway(), other.gateway());
    let me = owner();
    warm_up(&late).await;
    // Taken before the gate is shut, with a lease that is over when it opens.
    let grant = granted(late.one(brief("k", me)).await);
    block_in_place(|| shared.shut_gate());
    let told = sent(&late, complete("k", me, "done"));
    block_in_place(|| {
        shared.await_at_gate();
        zombie.pause();
        shared.open_gate();
    });
    eventually("the store has it", || async {
        state(&other, "k").await.as_deref() == Some("completed")
    })
    .await;
    // Also under a rule that would let it execute again.
    match live.one(heir("k", owner())).await {
        Answer::Stored(stored) => assert_eq!((stored.fence, stored.attempt), (grant.fence, 1)),
        other => panic!("{other:?}"),
    }
    assert!(!told.is_finished(), "it does not stand still");
    zombie.resume();
    let answer = told.await.unwrap();
    assert!(matches!(answer, Answer::Completed { .. }), "{answer:?}");
    for client in [&live, &late] {
        assert_eq!(replayed(&client.one(acquire("k", owner())).await), b"done");
    }
}

/// Late, but first: an answer is better than an unknown outcome.
async fn late_and_nobody_took_it(shared: &Shared) {
    let mut zombie = shared.patient_service();
    let other = shared.patient_service();
    let (late, live) = (zombie.gateway(), other.gateway());
    let me = owner();
    granted(late.one(brief("k", me)).await);
    block_in_place(|| zombie.pause());
    let told = sent(&late, complete("k", me, "late"));
    eventually("the lease is over", || async {
        let answer = live.one(acquire("k", owner())).await;
        matches!(answer, Answer::UnknownOutcome { .. })
    })
    .await;
    zombie.resume();
    let answer = told.await.unwrap();
    assert!(matches!(answer, Answer::Completed { .. }), "{answer:?}");
    for client in [&live, &late] {
        assert_eq!(replayed(&client.one(acquire("k", owner())).await), b"late");
    }
}
