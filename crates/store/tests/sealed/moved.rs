//! What an operator of the store may try: answers put under other keys, other fences, other records.

use crate::lab::*;
use idempotency_protocol::Answer;
use idempotency_store::record::{Slot, State, StoredOutcome};
use idempotency_store::sealed::Trouble;
use idempotency_store::{Memory, Store};

/// The records as the store has them, with their places.
async fn places(inner: &Memory) -> Vec<(idempotency_protocol::LookupKey, Slot)> {
    let mut all = Vec::new();
    for view in inner.list(everything()).await.unwrap().records {
        if view.key.tenant.starts_with("~1") {
            let slot = inner.export(&view.key).await.unwrap().unwrap();
            all.push((view.key, slot));
        }
    }
    all
}

fn outcome(slot: &mut Slot) -> &mut StoredOutcome {
    match &mut slot.execution.as_mut().unwrap().state {
        State::Completed(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_cannot_be_moved_to_another_key_or_tenant() {
    let (inner, ring) = (memory(), ring(&["a"]));
    let store = sealed(&inner, &ring).await;
    let all = [key("acme", "1"), key("acme", "2"), key("evil", "1")];
    for (n, key) in all.iter().enumerate() {
        let n = u8::try_from(n).unwrap();
        done(&store, key, n, &[n; 10]).await;
    }
    let found = places(&inner).await;
    for (place, slot) in &found {
        for (_, other) in found.iter().filter(|(other, _)| other != place) {
            // The answer alone, and the whole record but its fingerprint.
            let mut with = slot.clone();
            *outcome(&mut with) = outcome(&mut other.clone()).clone();
            let mut whole = other.clone();
            whole.fence = slot.fence;
            whole.execution.as_mut().unwrap().fingerprint =
                slot.execution.as_ref().unwrap().fingerprint;
            for mut forged in [with, whole] {
                let version = inner.export(place).await.unwrap().unwrap().version;
                forged.version = version + 1;
                assert!(inner.replace(place, version, Some(forged)).await.unwrap());
                for key in &all {
                    match one(&store, acquire(key, 99)).await {
                        Answer::Stored(stored) => {
                            let n = all.iter().position(|k| k == key).unwrap();
                            let n = u8::try_from(n).unwrap();
                            assert_eq!(stored.outcome, crate::common::response(&[n; 10]));
                        }
                        Answer::Unreadable { .. } | Answer::NotComparable | Answer::Mismatch => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            let version = inner.export(place).await.unwrap().unwrap().version;
            let mut back = slot.clone();
            back.version = version + 1;
            assert!(inner.replace(place, version, Some(back)).await.unwrap());
        }
    }
    assert!(ring.count(Trouble::Damaged) > 0);
}

/// An earlier answer of the same key is sealed for another fence.
#[tokio::test]
async fn an_earlier_answer_of_the_same_key_is_not_served() {
    let (inner, ring) = (memory(), ring(&["a"]));
    let store = sealed(&inner, &ring).await;
    let key = key("acme", "1");
    done(&store, &key, 1, b"first").await;
    let (place, mut first) = places(&inner).await.remove(0);
    let version = first.version;
    let deleted = idempotency_store::Resolve {
        key: key.clone(),
        version,
        to: idempotency_store::Resolution::Deleted,
        force: false,
    };
    store.resolve(deleted).await.unwrap();
    done(&store, &key, 2, b"second").await;
    let mut slot = inner.export(&place).await.unwrap().unwrap();
    let version = slot.version;
    slot.version += 1;
    *outcome(&mut slot) = outcome(&mut first).clone();
    assert!(inner.replace(&place, version, Some(slot)).await.unwrap());
    let answer = one(&store, acquire(&key, 3)).await;
    assert!(matches!(answer, Answer::Unreadable { .. }), "{answer:?}");
    assert_eq!(ring.count(Trouble::Damaged), 1);
}

/// A response in clear under a sealed record is nobody's.
#[tokio::test]
async fn what_is_put_there_in_clear_is_not_served() {
    let (inner, ring) = (memory(), ring(&["a"]));
    let store = sealed(&inner, &ring).await;
    let key = key("acme", "1");
    done(&store, &key, 1, b"true").await;
    let (place, mut slot) = places(&inner).await.remove(0);
    let version = slot.version;
    slot.version += 1;
    *outcome(&mut slot) = StoredOutcome::new(&crate::common::response(b"forged"));
    assert!(inner.replace(&place, version, Some(slot)).await.unwrap());
    let answer = one(&store, acquire(&key, 3)).await;
    assert!(matches!(answer, Answer::Unreadable { .. }), "{answer:?}");
}
