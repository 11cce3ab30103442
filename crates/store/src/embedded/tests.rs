//! The promise that no answer leaves before the commit that it read: an applier whose committer
//! is this test, one batch at a time.

use super::applier::Applier;
use super::body::{ApplierAnswer, WaiterLook};
use super::commits::{release, Commits};
use super::engine::{Engine, Loaded};
use super::gauges::Gauges;
use super::jobs::Job;
use super::{space, EmbeddedOptions};
use crate::clock::{Clock, ManualClock};
use crate::machine::Event;
use crate::quota::Tenants;
use crate::store::{RecordState, RecordView, StoreError};
use idempotency_protocol::{
    Acquire, Answer, Complete, Fingerprint, LookupKey, OnUnknown, Operation, Origin, Outcome,
    Owner, Retention, Scheme, StoredResponse, Wait,
};
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot::{channel as answer, Receiver};

type Asked<T> = Receiver<Result<T, StoreError>>;

struct Bench {
    engine: Arc<Engine>,
    commits: Arc<Commits>,
    jobs: Sender<Job>,
    _dir: tempfile::TempDir,
}

fn key(name: &str) -> LookupKey {
    LookupKey {
        tenant: String::new(),
        namespace: String::new(),
        origin: Origin::Client,
        key: name.into(),
    }
}

const FINGERPRINT: Fingerprint = Fingerprint {
    scheme: Scheme(1),
    digest: [1; 32],
};

fn acquire(owner: u8) -> Operation {
    Operation::Acquire(Acquire {
        key: key("k"),
        owner: Owner([owner; 16]),
        fingerprint: FINGERPRINT,
        lease_ms: 60_000,
        retention: Retention {
            ttl_ms: 60_000,
            unknown_ttl_ms: 60_000,
        },
        on_unknown: OnUnknown::Refuse,
        kind: idempotency_protocol::AttemptKind::Gateway,
        about: None,
    })
}

fn complete(owner: u8, size: usize) -> Operation {
    let body = vec![b'x'; size].into();
    let outcome = Outcome::Response(StoredResponse {
        status: 200,
        headers: Vec::new(),
        body,
    });
    Operation::Complete(Complete {
        key: key("k"),
        owner: Owner([owner; 16]),
        outcome: outcome.into(),
    })
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let (engine, head) = Engine::open(&EmbeddedOptions::new(dir.path())).unwrap();
        let (engine, commits) = (Arc::new(engine), Arc::new(Commits::new()));
        let applier = Applier::new(
            Arc::clone(&engine),
            Arc::clone(&commits),
            Arc::new(ManualClock::at(1_000_000)) as Arc<dyn Clock>,
            Arc::new(Gauges::default()),
            space::Space::new(dir.path().to_owned(), None, 0),
            head,
            Tenants::default(),
        );
        let (jobs, queue) = channel();
        std::thread::spawn(move || applier.run(&queue));
        Bench {
            engine,
            commits,
            jobs,
            _dir: dir,
        }
    }

    fn apply(&self, operation: Operation) -> Asked<Vec<ApplierAnswer>> {
        let (reply, asked) = answer();
        self.jobs
            .send(Job::Apply(vec![Event::prepare(operation)], reply))
            .unwrap();
        asked
    }

    fn look(&self, fence: u64) -> Asked<WaiterLook> {
        let (reply, asked) = answer();
        let wait = Wait {
            key: key("k"),
            fingerprint: FINGERPRINT,
            fence,
            wait_ms: 0,
        };
        self.jobs.send(Job::Look(wait, reply)).unwrap();
        asked
    }

    fn inspect(&self, name: &str) -> Asked<Option<RecordView>> {
        let (reply, asked) = answer();
        self.jobs.send(Job::Inspect(key(name), reply)).unwrap();
        asked
    }

    /// Returns when all jobs so far have been handled: one that concerns nothing of theirs is
    /// answered at once, however much waits for the disk.
    fn handled(&self) {
        let found = self.inspect("elsewhere").blocking_recv().unwrap().unwrap();
        assert_eq!(found, None);
    }

    /// Does what the committer does for one batch.
    fn commit(&self) {
        let (batch, generation) = self.commits.next(|| None).unwrap();
        self.engine
            .commit(batch.writes, batch.head.unwrap_or_default())
            .unwrap();
        self.commits.set_durable(generation);
        release(batch.held, &Ok(()));
    }
}

fn waits<T>(asked: &mut Asked<T>) -> bool {
    matches!(
        asked.try_recv(),
        Err(tokio::sync::oneshot::error::TryRecvError::Empty)
    )
}

fn told(asked: Asked<Vec<ApplierAnswer>>) -> Answer {
    match asked.blocking_recv().unwrap().unwrap().pop().unwrap() {
        ApplierAnswer::Whole(answer) => answer,
        ApplierAnswer::Bodyless(..) => panic!("the body is still to be read"),
    }
}

#[test]
fn no_answer_leaves_before_the_commit_that_it_read() {
    let bench = Bench::new();
    let mut granted = bench.apply(acquire(1));
    let mut in_flight = bench.apply(acquire(2));
    let mut inspected = bench.inspect("k");
    let mut looked = bench.look(7);
    bench.handled();
    assert!(waits(&mut granted), "a grant before its commit");
    assert!(waits(&mut in_flight), "in flight with what is not on disk");
    assert!(waits(&mut inspected), "inspect shows what is not on disk");
    assert!(waits(&mut looked), "a waiter sees what is not on disk");
    bench.commit();
    assert!(matches!(told(granted), Answer::Granted(_)));
    assert!(matches!(told(in_flight), Answer::InFlight { .. }));
    assert_eq!(
        inspected.blocking_recv().unwrap().unwrap().unwrap().state,
        RecordState::Executing
    );
    assert!(matches!(
        looked.blocking_recv(),
        Ok(Ok(WaiterLook::Over(_)))
    ));

    for size in [10, 10_000] {
        // What is durable is answered at once, also with a commit of another answer open.
        let mut completed = bench.apply(complete(1, size));
        let mut replayed = bench.apply(acquire(3));
        let mut lost = bench.apply(complete(9, size));
        bench.handled();
        if size == 10 {
            assert!(waits(&mut completed), "completed before its commit");
        }
        if size == 10 {
            assert!(waits(&mut replayed), "a replay of what is not on disk");
            assert!(waits(&mut lost), "lost by what is not on disk");
            bench.commit();
            assert!(matches!(told(completed), Answer::Completed { .. }));
        } else {
            // The second time nothing changes, and all is on disk.
            assert!(matches!(told(completed), Answer::Differs));
        }
        assert!(matches!(told(replayed), Answer::Stored(_)));
        assert!(matches!(told(lost), Answer::Lost));
    }
}

#[test]
fn a_batch_that_waits_for_an_earlier_one_is_not_let_go_by_it() {
    let bench = Bench::new();
    let granted = bench.apply(acquire(1));
    bench.handled();
    let (first, generation) = bench.commits.next(|| None).unwrap();
    // The first batch is on its way; these read it and go into the second.
    let mut in_flight = bench.apply(acquire(2));
    let mut completed = bench.apply(complete(1, 10));
    let mut replayed = bench.apply(acquire(2));
    bench.handled();
    bench
        .engine
        .commit(first.writes, first.head.unwrap())
        .unwrap();
    bench.commits.set_durable(generation);
    release(first.held, &Ok(()));
    assert!(matches!(told(granted), Answer::Granted(_)));
    bench.handled();
    // What the second batch changed is still read from memory, not from the disk of the first.
    let mut again = bench.apply(acquire(3));
    bench.handled();
    assert!(waits(&mut in_flight) && waits(&mut completed) && waits(&mut replayed));
    assert!(waits(&mut again));
    bench.commit();
    assert!(matches!(told(again), Answer::Stored(_)));
    assert!(matches!(told(in_flight), Answer::InFlight { .. }));
    assert!(matches!(told(completed), Answer::Completed { .. }));
    assert!(matches!(told(replayed), Answer::Stored(_)));
}

#[test]
fn after_a_failed_commit_nothing_is_answered_from_memory() {
    let bench = Bench::new();
    let granted = bench.apply(acquire(1));
    bench.handled();
    let error = StoreError::Permanent("the disk is gone".into());
    bench.commits.fail(error.clone());
    assert_eq!(granted.blocking_recv().unwrap().err(), Some(error.clone()));
    let later = bench.apply(acquire(1));
    assert_eq!(later.blocking_recv().unwrap().err(), Some(error.clone()));
    assert_eq!(
        bench.inspect("k").blocking_recv().unwrap().err(),
        Some(error.clone())
    );
    assert_eq!(bench.commits.failure(), Some(&error));
    // Nothing of it is on disk, or ever will be.
    assert!(bench.commits.next(|| Some(Duration::ZERO)).is_none());
    let loaded = bench.engine.load(&key("k").to_bytes()).unwrap();
    assert!(matches!(loaded, Loaded::Nothing));
}
