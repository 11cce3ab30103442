//! Waiting for an execution to end.

use super::*;
use idempotency_protocol::Wait;
use std::time::Instant;
use tokio::task::JoinHandle;

cases!("waits":
    a_complete_wakes_with_the_response,
    a_fail_wakes,
    an_abandon_wakes,
    a_settle_waits_for_the_bytes_of_the_client,
    a_resolve_wakes,
    a_delete_wakes,
    many_waiters_are_woken_by_one_complete,
    the_end_of_the_lease_ends_the_wait,
    a_wait_ends_when_its_time_is_up,
    a_wait_on_what_is_done_already_ends_at_once,
    a_wait_with_another_fingerprint_gets_no_response,
    a_wait_with_another_fence_has_changed,
    a_wait_on_nothing_has_changed,
    a_wait_of_no_time_looks_once,
    a_dropped_wait_is_forgotten,
);

/// Far longer than any wake-up takes.
const PATIENCE_MS: u64 = 20_000;

fn wait(key: &LookupKey, fence: u64, wait_ms: u64) -> Wait {
    Wait {
        key: key.clone(),
        fingerprint: fingerprint(1),
        fence,
        wait_ms,
    }
}

/// A key in flight, and somebody who waits for it.
async fn waiter(
    lab: &Lab<'_>,
    key: &LookupKey,
    owner: Owner,
) -> Result<(Grant, JoinHandle<(Answer, Duration)>), String> {
    let grant = lab.granted(key, owner).await?;
    let (store, wait) = (Arc::clone(&lab.store), wait(key, grant.fence, PATIENCE_MS));
    let task = tokio::spawn(async move {
        let started = Instant::now();
        (store.wait(wait).await, started.elapsed())
    });
    lab.harness.waiting(1).await;
    ensure!(!task.is_finished(), "the wait did not wait");
    Ok((grant, task))
}

async fn woken(task: JoinHandle<(Answer, Duration)>) -> Result<Answer, String> {
    let (answer, took) = task.await.map_err(|e| e.to_string())?;
    ensure!(
        took.as_millis() < u128::from(PATIENCE_MS / 2),
        "woken after {took:?}: {answer:?}"
    );
    Ok(answer)
}

async fn a_complete_wakes_with_the_response(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let (grant, task) = waiter(lab, &key, owner).await?;
    matched!(
        lab.one(complete(&key, owner, b"body")).await,
        Answer::Completed { .. }
    );
    let stored = matched!(woken(task).await?, Answer::Stored(s) => s);
    ensure!(stored.outcome == response(b"body"), "{stored:?}");
    ensure!(stored.fence == grant.fence, "{stored:?}");
    Ok(())
}

async fn a_fail_wakes(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let (_, task) = waiter(lab, &key, owner).await?;
    matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
    matched!(woken(task).await?, Answer::Changed);
    ensure!(
        lab.state(&key).await? == Some(RecordState::Failed),
        "a wait never takes the key"
    );
    Ok(())
}

async fn an_abandon_wakes(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let (_, task) = waiter(lab, &key, owner).await?;
    matched!(lab.one(abandon(&key, owner)).await, Answer::Abandoned);
    matched!(woken(task).await?, Answer::Changed);
    Ok(())
}

async fn a_settle_waits_for_the_bytes_of_the_client(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let (grant, task) = waiter(lab, &key, owner).await?;
    let settled = settle(
        &key,
        grant.fence,
        Settlement::Completed(response(b"settled")),
    );
    matched!(lab.one(settled).await, Answer::Completed { .. });
    ensure!(!task.is_finished(), "woken before the client's answer");
    matched!(
        lab.one(complete(&key, owner, b"the client's")).await,
        Answer::Completed { .. }
    );
    let stored = matched!(woken(task).await?, Answer::Stored(s) => s);
    ensure!(stored.outcome == response(b"the client's"), "{stored:?}");
    Ok(())
}

async fn a_resolve_wakes(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let (_, task) = waiter(lab, &key, owner).await?;
    let to = Resolution::Completed(response(b"by hand"));
    matched!(lab.resolve(&key, to, true).await?, Resolved::Done(Some(_)));
    matched!(woken(task).await?, Answer::Stored(_));
    Ok(())
}

async fn a_delete_wakes(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let (_, task) = waiter(lab, &key, owner).await?;
    matched!(
        lab.resolve(&key, Resolution::Deleted, true).await?,
        Resolved::Done(None)
    );
    matched!(woken(task).await?, Answer::Changed);
    Ok(())
}

async fn many_waiters_are_woken_by_one_complete(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let grant = lab.granted(&key, owner).await?;
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let (store, wait) = (Arc::clone(&lab.store), wait(&key, grant.fence, PATIENCE_MS));
            tokio::spawn(async move {
                let started = Instant::now();
                (store.wait(wait).await, started.elapsed())
            })
        })
        .collect();
    lab.harness.waiting(32).await;
    matched!(
        lab.one(complete(&key, owner, b"body")).await,
        Answer::Completed { .. }
    );
    for task in tasks {
        matched!(woken(task).await?, Answer::Stored(_));
    }
    Ok(())
}

async fn the_end_of_the_lease_ends_the_wait(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let short = acquire_with(&key, owner, |a| a.lease_ms = 4 * SHORT_MS);
    let grant = matched!(lab.one(short).await, Answer::Granted(g) => g);
    let (store, wait) = (Arc::clone(&lab.store), wait(&key, grant.fence, PATIENCE_MS));
    let task = tokio::spawn(async move {
        let started = Instant::now();
        (store.wait(wait).await, started.elapsed())
    });
    lab.harness.waiting(1).await;
    lab.pass(4 * SHORT_MS).await;
    matched!(woken(task).await?, Answer::Changed);
    Ok(())
}

async fn a_wait_ends_when_its_time_is_up(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("k");
    let grant = lab.granted(&key, lab.owner()).await?;
    let started = Instant::now();
    matched!(
        lab.store.wait(wait(&key, grant.fence, 30)).await,
        Answer::TimedOut
    );
    ensure!(
        started.elapsed() >= Duration::from_millis(30),
        "after {:?}",
        started.elapsed()
    );
    Ok(())
}

async fn a_wait_on_what_is_done_already_ends_at_once(lab: &Lab<'_>) -> Verdict {
    for (state, answer) in [
        ("completed", "stored"),
        ("failed", "changed"),
        ("unknown", "changed"),
    ] {
        let key = lab.key(state);
        let fence = table::enter(lab, &key, lab.owner(), state).await?;
        let got = lab.store.wait(wait(&key, fence, PATIENCE_MS)).await;
        ensure!(got.name() == answer, "{state}: {got:?}");
    }
    Ok(())
}

async fn a_wait_with_another_fingerprint_gets_no_response(lab: &Lab<'_>) -> Verdict {
    for state in ["executing", "completed"] {
        let key = lab.key(state);
        let fence = table::enter(lab, &key, lab.owner(), state).await?;
        let other = Wait {
            fingerprint: fingerprint(2),
            ..wait(&key, fence, PATIENCE_MS)
        };
        matched!(lab.store.wait(other).await, Answer::Changed);
    }
    Ok(())
}

async fn a_wait_with_another_fence_has_changed(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let old = lab.granted(&key, owner).await?;
    matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
    lab.granted(&key, lab.owner()).await?;
    matched!(
        lab.store.wait(wait(&key, old.fence, PATIENCE_MS)).await,
        Answer::Changed
    );
    Ok(())
}

async fn a_wait_on_nothing_has_changed(lab: &Lab<'_>) -> Verdict {
    matched!(
        lab.store.wait(wait(&lab.key("k"), 1, PATIENCE_MS)).await,
        Answer::Changed
    );
    Ok(())
}

async fn a_wait_of_no_time_looks_once(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let grant = lab.granted(&key, owner).await?;
    matched!(
        lab.store.wait(wait(&key, grant.fence, 0)).await,
        Answer::TimedOut
    );
    matched!(
        lab.one(complete(&key, owner, b"x")).await,
        Answer::Completed { .. }
    );
    matched!(
        lab.store.wait(wait(&key, grant.fence, 0)).await,
        Answer::Stored(_)
    );
    Ok(())
}

async fn a_dropped_wait_is_forgotten(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let (_, task) = waiter(lab, &key, owner).await?;
    task.abort();
    ensure!(
        task.await.is_err_and(|e| e.is_cancelled()),
        "the wait was over already"
    );
    matched!(
        lab.one(complete(&key, owner, b"x")).await,
        Answer::Completed { .. }
    );
    matched!(lab.one(acquire(&key, lab.owner())).await, Answer::Stored(_));
    Ok(())
}
