//! Two instances on the same records, as two processes have them: what one does, the other knows.

use super::*;
use idempotency_protocol::Wait;
use tokio::task::JoinSet;

cases!("instances":
    what_one_granted_is_in_flight_for_the_other,
    what_one_completed_the_other_replays,
    an_owner_may_go_on_at_the_other,
    a_complete_at_one_wakes_who_waits_at_the_other,
    a_fail_at_one_wakes_who_waits_at_the_other,
    a_cancel_mark_left_at_one_holds_at_the_other,
    a_zombie_at_one_cannot_touch_the_holder_at_the_other,
    of_many_acquirers_at_both_exactly_one_is_granted,
    the_fence_grows_from_one_to_the_other,
);

async fn at(store: &Arc<dyn Store>, operation: Operation) -> Answer {
    let fault = || {
        Answer::Fault(idempotency_protocol::Fault {
            code: idempotency_protocol::FaultCode::Internal,
            detail: "no answer".to_owned(),
        })
    };
    let mut answers = store.apply(vec![operation]).await;
    answers.pop().unwrap_or_else(fault)
}

async fn what_one_granted_is_in_flight_for_the_other(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("k");
    let grant = lab.granted(&key, lab.owner()).await?;
    let (fence, left) = matched!(
        at(&lab.other, acquire(&key, lab.owner())).await,
        Answer::InFlight { fence, lease_left_ms } => (fence, lease_left_ms)
    );
    ensure!(fence == grant.fence, "fence {fence}, not {}", grant.fence);
    ensure!(left > 0 && left <= LONG_MS, "{left} ms are left");
    let view = lab.other.inspect(&key).await.map_err(|e| e.to_string())?;
    ensure!(
        view.is_some_and(|v| v.fence == grant.fence),
        "inspect shows another execution"
    );
    Ok(())
}

async fn what_one_completed_the_other_replays(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    lab.granted(&key, owner).await?;
    let all: Vec<u8> = (0..=255).collect();
    matched!(
        lab.one(complete(&key, owner, &all)).await,
        Answer::Completed { .. }
    );
    let stored = matched!(at(&lab.other, acquire(&key, lab.owner())).await, Answer::Stored(s) => s);
    ensure!(stored.outcome == response(&all), "something else came back");
    Ok(())
}

async fn an_owner_may_go_on_at_the_other(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let grant = lab.granted(&key, owner).await?;
    // A repeated acquire, too: the answer to the first one may be lost.
    let again = matched!(at(&lab.other, acquire(&key, owner)).await, Answer::Granted(g) => g);
    ensure!(again.fence == grant.fence, "{grant:?}, then {again:?}");
    matched!(
        at(&lab.other, extend(&key, owner)).await,
        Answer::Extended { .. }
    );
    matched!(
        at(&lab.other, complete(&key, owner, b"done")).await,
        Answer::Completed { .. }
    );
    matched!(lab.one(acquire(&key, lab.owner())).await, Answer::Stored(_));
    Ok(())
}

async fn ended(
    lab: &Lab<'_>,
    end: impl FnOnce(&LookupKey, Owner) -> Operation,
) -> Result<Answer, String> {
    let (key, owner) = (lab.key("k"), lab.owner());
    let wait = Wait {
        key: key.clone(),
        fingerprint: fingerprint(1),
        fence: lab.granted(&key, owner).await?.fence,
        wait_ms: 20_000,
    };
    let other = Arc::clone(&lab.other);
    let waiter = tokio::spawn(async move { other.wait(wait).await });
    lab.harness.waiting(1).await;
    ensure!(!waiter.is_finished(), "the wait did not wait");
    lab.one(end(&key, owner)).await;
    waiter.await.map_err(|e| e.to_string())
}

async fn a_complete_at_one_wakes_who_waits_at_the_other(lab: &Lab<'_>) -> Verdict {
    let woken = ended(lab, |key, owner| complete(key, owner, b"done")).await?;
    let stored = matched!(woken, Answer::Stored(s) => s);
    ensure!(stored.outcome == response(b"done"), "{stored:?}");
    Ok(())
}

async fn a_fail_at_one_wakes_who_waits_at_the_other(lab: &Lab<'_>) -> Verdict {
    matched!(ended(lab, fail).await?, Answer::Changed);
    Ok(())
}

async fn a_cancel_mark_left_at_one_holds_at_the_other(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    matched!(lab.one(fail(&key, owner)).await, Answer::Marked);
    matched!(
        at(&lab.other, acquire(&key, owner)).await,
        Answer::Cancelled
    );
    Ok(())
}

async fn a_zombie_at_one_cannot_touch_the_holder_at_the_other(lab: &Lab<'_>) -> Verdict {
    let (key, zombie, holder) = (lab.key("k"), lab.owner(), lab.owner());
    let old = lab.lapsed(&key, zombie, KEEP).await?;
    let new = matched!(at(&lab.other, retry(&key, holder)).await, Answer::Granted(g) => g);
    ensure!(new.fence > old.fence, "{old:?}, then {new:?}");
    for late in [
        complete(&key, zombie, b"zombie"),
        fail(&key, zombie),
        abandon(&key, zombie),
        extend(&key, zombie),
    ] {
        matched!(lab.one(late).await, Answer::Lost);
    }
    matched!(
        at(&lab.other, complete(&key, holder, b"holder")).await,
        Answer::Completed { .. }
    );
    let stored = matched!(lab.one(acquire(&key, zombie)).await, Answer::Stored(s) => s);
    ensure!(stored.outcome == response(b"holder"), "{stored:?}");
    Ok(())
}

async fn of_many_acquirers_at_both_exactly_one_is_granted(lab: &Lab<'_>) -> Verdict {
    for round in 0..5 {
        let key = lab.key(&format!("k{round}"));
        let mut tasks = JoinSet::new();
        for n in 0..64 {
            let store = Arc::clone(if n % 2 == 0 { &lab.store } else { &lab.other });
            let asked = acquire(&key, lab.owner());
            tasks.spawn(async move { at(&store, asked).await });
        }
        let answers = tasks.join_all().await;
        let count = |name| answers.iter().filter(|a| a.name() == name).count();
        ensure!(
            (count("granted"), count("in_flight")) == (1, 63),
            "{answers:?}"
        );
    }
    Ok(())
}

async fn the_fence_grows_from_one_to_the_other(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("k");
    let mut last = 0;
    for turn in 0..6 {
        let store = if turn % 2 == 0 {
            &lab.store
        } else {
            &lab.other
        };
        let owner = lab.owner();
        let grant = matched!(at(store, acquire(&key, owner)).await, Answer::Granted(g) => g);
        ensure!(grant.fence > last, "fence {} after {last}", grant.fence);
        last = grant.fence;
        matched!(at(store, fail(&key, owner)).await, Answer::Failed);
    }
    Ok(())
}
