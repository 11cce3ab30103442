//! Whole records: handed out, and put in the place of what is there.

use super::{
    abandon, acquire, acquire_with, cases, complete, ensure, extend, fail, fail_because,
    fingerprint, matched, Lab, Verdict, KEEP,
};
use crate::record::{Slot, State};
use crate::store::StoreError;
use bytes::Bytes;
use idempotency_protocol::{
    About, Answer, FailCause, LookupKey, OnUnknown, Outcome, StoredResponse,
};
use std::sync::Arc;

cases!("whole":
    a_record_that_is_moved_is_the_same_elsewhere,
    an_execution_that_is_moved_goes_on,
    marks_and_redirects_are_moved_too,
    a_large_answer_is_moved_too,
    only_what_was_read_is_replaced,
    a_description_is_replaced_too,
    who_waits_looks_again,
);

/// True: the store hands records out. One that does not says so.
async fn hands_out(lab: &Lab<'_>) -> Result<bool, String> {
    if lab.harness.hands_out_records() {
        return Ok(true);
    }
    let key = lab.key("whole-none");
    let exported = lab.store.export(&key).await;
    matched!(exported, Err(StoreError::Permanent(_)));
    let replaced = lab.store.replace(&key, 0, None).await;
    matched!(replaced, Err(StoreError::Permanent(_)));
    Ok(false)
}

async fn export(lab: &Lab<'_>, key: &LookupKey) -> Result<Option<Slot>, String> {
    lab.store.export(key).await.map_err(|e| e.to_string())
}

async fn replace(
    lab: &Lab<'_>,
    key: &LookupKey,
    replaces: u64,
    slot: Option<Slot>,
) -> Result<bool, String> {
    let replaced = lab.other.replace(key, replaces, slot).await;
    replaced.map_err(|e| e.to_string())
}

/// Moves what is under one key to another.
async fn moved(lab: &Lab<'_>, from: &LookupKey, to: &LookupKey) -> Verdict {
    let slot = matched!(export(lab, from).await?, Some(slot) => slot);
    let version = slot.version;
    ensure!(replace(lab, to, 0, Some(slot.clone())).await?, "not put");
    ensure!(replace(lab, from, version, None).await?, "not removed");
    ensure!(export(lab, from).await?.is_none(), "still there");
    let there = matched!(export(lab, to).await?, Some(slot) => slot);
    ensure!(there == slot, "another slot: {there:?}, not {slot:?}");
    Ok(())
}

async fn a_record_that_is_moved_is_the_same_elsewhere(lab: &Lab<'_>) -> Verdict {
    if !hands_out(lab).await? {
        return Ok(());
    }
    let (from, to) = (lab.key("from"), lab.key("to"));
    ensure!(export(lab, &from).await?.is_none(), "nothing is there yet");
    let about = Some(Arc::new(About {
        method: "POST".into(),
        path: "/charges".into(),
        ..About::default()
    }));
    let described = |owner| {
        let about = about.clone();
        acquire_with(&from, owner, |a| {
            a.about = about;
            a.on_unknown = OnUnknown::Retry;
        })
    };
    // A second attempt, so that there is a history.
    let (first, second) = (lab.owner(), lab.owner());
    matched!(lab.one(described(first)).await, Answer::Granted(_));
    matched!(lab.one(abandon(&from, first)).await, Answer::Abandoned);
    matched!(lab.one(described(second)).await, Answer::Granted(_));
    matched!(
        lab.one(complete(&from, second, b"done")).await,
        Answer::Completed { .. }
    );
    let before = matched!(lab.view(&from).await?, Some(view) => view);
    moved(lab, &from, &to).await?;
    ensure!(lab.view(&from).await?.is_none(), "the key is free");
    let mut after = matched!(lab.view(&to).await?, Some(view) => view);
    after.key = before.key.clone();
    ensure!(after == before, "{after:?}, not {before:?}");
    Ok(())
}

async fn an_execution_that_is_moved_goes_on(lab: &Lab<'_>) -> Verdict {
    if !hands_out(lab).await? {
        return Ok(());
    }
    let (from, to) = (lab.key("from"), lab.key("to"));
    let owner = lab.owner();
    let grant = lab.granted(&from, owner).await?;
    moved(lab, &from, &to).await?;
    matched!(lab.one(complete(&from, owner, b"x")).await, Answer::Lost);
    let fence = matched!(lab.one(acquire(&to, lab.owner())).await,
        Answer::InFlight { fence, .. } => fence);
    ensure!(fence == grant.fence, "another fence");
    matched!(lab.one(extend(&to, owner)).await, Answer::Extended { .. });
    matched!(
        lab.one(complete(&to, owner, b"done")).await,
        Answer::Completed { .. }
    );
    let stored = matched!(lab.one(acquire(&to, lab.owner())).await, Answer::Stored(s) => s);
    ensure!(stored.outcome == super::response(b"done"), "another answer");
    ensure!(stored.fence == grant.fence, "another fence");
    Ok(())
}

async fn marks_and_redirects_are_moved_too(lab: &Lab<'_>) -> Verdict {
    if !hands_out(lab).await? {
        return Ok(());
    }
    let (from, to) = (lab.key("from"), lab.key("to"));
    let cancelled = lab.owner();
    matched!(lab.one(fail(&from, cancelled)).await, Answer::Marked);
    moved(lab, &from, &to).await?;
    matched!(lab.one(acquire(&to, cancelled)).await, Answer::Cancelled);

    let owner = lab.owner();
    lab.granted(&to, owner).await?;
    let elsewhere = StoredResponse {
        status: 307,
        headers: vec![(
            Bytes::from_static(b"location"),
            Bytes::from_static(b"/there"),
        )],
        body: Bytes::new(),
    };
    let cause = FailCause::Redirected(Box::new(elsewhere.clone()));
    matched!(
        lab.one(fail_because(&to, owner, cause)).await,
        Answer::Failed
    );
    moved(lab, &to, &from).await?;
    let stored = matched!(lab.one(acquire(&from, lab.owner())).await, Answer::Stored(s) => s);
    ensure!(
        stored.outcome == Outcome::Response(elsewhere),
        "another redirect"
    );
    let corrected = acquire_with(&from, lab.owner(), |a| a.fingerprint = fingerprint(2));
    let grant = matched!(lab.one(corrected).await, Answer::Granted(grant) => grant);
    ensure!(grant.attempt == 2, "attempt {}", grant.attempt);
    Ok(())
}

async fn a_large_answer_is_moved_too(lab: &Lab<'_>) -> Verdict {
    if !hands_out(lab).await? {
        return Ok(());
    }
    let (from, to) = (lab.key("from"), lab.key("to"));
    let body = vec![7; 300_000];
    let owner = lab.owner();
    lab.granted(&from, owner).await?;
    matched!(
        lab.one(complete(&from, owner, &body)).await,
        Answer::Completed { .. }
    );
    moved(lab, &from, &to).await?;
    let stored = matched!(lab.one(acquire(&to, lab.owner())).await, Answer::Stored(s) => s);
    ensure!(stored.outcome == super::response(&body), "another answer");
    // What is put in its place may be small.
    let mut slot = matched!(export(lab, &to).await?, Some(slot) => slot);
    let version = slot.version;
    let small = crate::record::StoredOutcome::new(&super::response(b"small"));
    if let Some(execution) = slot.execution.as_mut() {
        execution.state = State::Completed(small);
    }
    slot.version += 1;
    ensure!(
        replace(lab, &to, version, Some(slot)).await?,
        "not replaced"
    );
    let stored = matched!(lab.one(acquire(&to, lab.owner())).await, Answer::Stored(s) => s);
    ensure!(
        stored.outcome == super::response(b"small"),
        "another answer"
    );
    Ok(())
}

async fn only_what_was_read_is_replaced(lab: &Lab<'_>) -> Verdict {
    if !hands_out(lab).await? {
        return Ok(());
    }
    let key = lab.key("k");
    let owner = lab.owner();
    lab.granted(&key, owner).await?;
    let slot = matched!(export(lab, &key).await?, Some(slot) => slot);
    matched!(
        lab.one(complete(&key, owner, b"done")).await,
        Answer::Completed { .. }
    );
    for (replaces, with) in [
        (0, Some(slot.clone())),
        (slot.version, Some(slot.clone())),
        (slot.version, None),
    ] {
        ensure!(
            !replace(lab, &key, replaces, with).await?,
            "replaced at {replaces}"
        );
    }
    let none = lab.key("none");
    ensure!(!replace(lab, &none, 7, None).await?, "nothing was there");
    ensure!(
        !replace(lab, &none, 7, Some(slot)).await?,
        "nothing was there"
    );
    ensure!(export(lab, &none).await?.is_none(), "nothing is there");
    let stored = matched!(lab.one(acquire(&key, lab.owner())).await, Answer::Stored(s) => s);
    ensure!(stored.outcome == super::response(b"done"), "another answer");
    Ok(())
}

async fn a_description_is_replaced_too(lab: &Lab<'_>) -> Verdict {
    if !hands_out(lab).await? {
        return Ok(());
    }
    let key = lab.key("k");
    let described = |path: &str| {
        Some(Arc::new(About {
            path: path.into(),
            ..About::default()
        }))
    };
    let owner = lab.owner();
    let before = acquire_with(&key, owner, |a| a.about = described("/before"));
    matched!(lab.one(before).await, Answer::Granted(_));
    let mut slot = matched!(export(lab, &key).await?, Some(slot) => slot);
    let version = slot.version;
    slot.version += 1;
    if let Some(execution) = slot.execution.as_mut() {
        execution.history.about = described("/after");
        execution.fingerprint = fingerprint(9);
    }
    ensure!(
        replace(lab, &key, version, Some(slot)).await?,
        "not replaced"
    );
    matched!(lab.one(acquire(&key, lab.owner())).await, Answer::Mismatch);
    matched!(lab.one(abandon(&key, owner)).await, Answer::Abandoned);
    let view = matched!(lab.view(&key).await?, Some(view) => view);
    let path = view.about.map(|about| about.path);
    ensure!(path.as_deref() == Some("/after"), "{path:?}");
    Ok(())
}

async fn who_waits_looks_again(lab: &Lab<'_>) -> Verdict {
    if !hands_out(lab).await? {
        return Ok(());
    }
    let key = lab.key("k");
    let owner = lab.owner();
    let grant = lab.granted(&key, owner).await?;
    let store = Arc::clone(&lab.store);
    let wait = idempotency_protocol::Wait {
        key: key.clone(),
        fingerprint: fingerprint(1),
        fence: grant.fence,
        wait_ms: KEEP.ttl_ms,
    };
    let waiter = tokio::spawn(async move { store.wait(wait).await });
    lab.harness.waiting(1).await;
    let mut slot = matched!(export(lab, &key).await?, Some(slot) => slot);
    let version = slot.version;
    slot.version += 1;
    if let Some(execution) = slot.execution.as_mut() {
        execution.fingerprint = fingerprint(2);
    }
    ensure!(
        replace(lab, &key, version, Some(slot)).await?,
        "not replaced"
    );
    let answer = waiter.await.map_err(|e| e.to_string())?;
    matched!(answer, Answer::Changed);
    Ok(())
}
