//! Leases, retention, fences and sweeping.

use super::*;

cases!("time":
    executing_past_every_ttl_never_becomes_absent,
    a_sweep_makes_a_lapsed_execution_unknown,
    a_sweep_leaves_a_live_execution_alone,
    the_ttl_of_unknown_counts_from_when_it_was_noticed,
    completed_expires_and_is_absent_at_once,
    failed_expires_after_the_ttl,
    unknown_is_kept_at_least_as_long_as_completed,
    an_extended_lease_holds,
    the_fence_grows_over_attempts,
    the_fence_grows_over_expiry,
    retention_travels_with_each_attempt,
    age_and_expiry_are_told,
);

const BRIEF: Retention = Retention {
    ttl_ms: SHORT_MS,
    unknown_ttl_ms: SHORT_MS,
};

fn brief(key: &LookupKey, owner: Owner) -> Operation {
    acquire_with(key, owner, |a| a.retention = BRIEF)
}

async fn executing_past_every_ttl_never_becomes_absent(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    lab.lapsed(&key, owner, BRIEF).await?;
    lab.pass(3 * SHORT_MS).await;
    // Over its lease, over its TTL, over its unknown TTL, and not yet noticed.
    matched!(
        lab.one(acquire(&key, lab.owner())).await,
        Answer::UnknownOutcome { .. }
    );
    Ok(())
}

async fn a_sweep_makes_a_lapsed_execution_unknown(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    lab.lapsed(&key, owner, KEEP).await?;
    lab.sweep().await?;
    ensure!(
        lab.state(&key).await? == Some(RecordState::Unknown),
        "not unknown"
    );
    matched!(
        lab.one(complete(&key, owner, b"late")).await,
        Answer::Completed { .. }
    );
    Ok(())
}

async fn a_sweep_leaves_a_live_execution_alone(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    matched!(lab.one(brief(&key, owner)).await, Answer::Granted(_));
    lab.pass(2 * SHORT_MS).await;
    let before = lab.version(&key).await?;
    lab.sweep().await?;
    ensure!(lab.version(&key).await? == before, "a sweep changed it");
    matched!(
        lab.one(acquire(&key, lab.owner())).await,
        Answer::InFlight { .. }
    );
    Ok(())
}

async fn the_ttl_of_unknown_counts_from_when_it_was_noticed(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let ttl = 4 * SHORT_MS;
    let retention = Retention {
        ttl_ms: SHORT_MS,
        unknown_ttl_ms: ttl,
    };
    lab.lapsed(&key, owner, retention).await?;
    lab.pass(2 * ttl).await;
    lab.sweep().await?;
    ensure!(
        lab.state(&key).await? == Some(RecordState::Unknown),
        "not unknown"
    );
    lab.pass(ttl).await;
    ensure!(
        lab.state(&key).await?.is_none(),
        "still there after its TTL"
    );
    Ok(())
}

async fn completed_expires_and_is_absent_at_once(lab: &Lab<'_>) -> Verdict {
    for swept in [false, true] {
        let (key, owner) = (lab.key(&format!("swept {swept}")), lab.owner());
        matched!(lab.one(brief(&key, owner)).await, Answer::Granted(_));
        matched!(
            lab.one(complete(&key, owner, b"x")).await,
            Answer::Completed { .. }
        );
        lab.pass(SHORT_MS).await;
        if swept {
            lab.sweep().await?;
        }
        ensure!(
            lab.view(&key).await?.is_none(),
            "inspect shows an expired record"
        );
        let grant = lab.granted(&key, lab.owner()).await?;
        ensure!(grant.attempt == 1, "attempt {}: not absent", grant.attempt);
    }
    Ok(())
}

async fn failed_expires_after_the_ttl(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    matched!(lab.one(brief(&key, owner)).await, Answer::Granted(_));
    matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
    let other = acquire_with(&key, lab.owner(), |a| a.fingerprint = fingerprint(2));
    matched!(lab.one(other.clone()).await, Answer::Mismatch);
    lab.pass(SHORT_MS).await;
    matched!(
        lab.one(other).await,
        Answer::Granted(Grant { attempt: 1, .. })
    );
    Ok(())
}

async fn unknown_is_kept_at_least_as_long_as_completed(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let odd = Retention {
        ttl_ms: LONG_MS,
        unknown_ttl_ms: 1,
    };
    matched!(
        lab.one(acquire_with(&key, owner, |a| a.retention = odd))
            .await,
        Answer::Granted(_)
    );
    matched!(lab.one(abandon(&key, owner)).await, Answer::Abandoned);
    lab.pass(SHORT_MS).await;
    matched!(
        lab.one(acquire(&key, lab.owner())).await,
        Answer::UnknownOutcome { .. }
    );
    Ok(())
}

async fn an_extended_lease_holds(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    lab.lapsed(&key, owner, KEEP).await?;
    matched!(
        lab.one(extend(&key, owner)).await,
        Answer::Extended { lease_ms: LONG_MS }
    );
    lab.pass(SHORT_MS).await;
    lab.sweep().await?;
    let left = matched!(
        lab.one(retry(&key, lab.owner())).await,
        Answer::InFlight { lease_left_ms, .. } => lease_left_ms
    );
    ensure!(left > LONG_MS / 2 && left <= LONG_MS, "{left} ms are left");
    Ok(())
}

async fn the_fence_grows_over_attempts(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("k");
    let mut last = 0;
    for attempt in 1..=5 {
        let owner = lab.owner();
        let grant = lab.granted(&key, owner).await?;
        ensure!(grant.attempt == attempt, "attempt {}", grant.attempt);
        ensure!(grant.fence > last, "fence {} after {last}", grant.fence);
        ensure!(
            grant.fence < 1 << 53,
            "fence {} is not a safe integer",
            grant.fence
        );
        last = grant.fence;
        matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
    }
    Ok(())
}

async fn the_fence_grows_over_expiry(lab: &Lab<'_>) -> Verdict {
    for swept in [false, true] {
        let key = lab.key(&format!("swept {swept}"));
        let mut last = 0;
        for _ in 0..3 {
            let owner = lab.owner();
            let grant = matched!(lab.one(brief(&key, owner)).await, Answer::Granted(g) => g);
            ensure!(grant.fence > last, "fence {} after {last}", grant.fence);
            last = grant.fence;
            matched!(
                lab.one(complete(&key, owner, b"x")).await,
                Answer::Completed { .. }
            );
            lab.pass(SHORT_MS).await;
            if swept {
                lab.sweep().await?;
            }
        }
    }
    Ok(())
}

async fn retention_travels_with_each_attempt(lab: &Lab<'_>) -> Verdict {
    let (key, first, second) = (lab.key("k"), lab.owner(), lab.owner());
    lab.granted(&key, first).await?;
    matched!(lab.one(fail(&key, first)).await, Answer::Failed);
    matched!(lab.one(brief(&key, second)).await, Answer::Granted(_));
    matched!(
        lab.one(complete(&key, second, b"x")).await,
        Answer::Completed { .. }
    );
    lab.pass(SHORT_MS).await;
    ensure!(
        lab.view(&key).await?.is_none(),
        "kept by the first attempt's retention"
    );
    Ok(())
}

async fn age_and_expiry_are_told(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    lab.granted(&key, owner).await?;
    let expires = matched!(
        lab.one(complete(&key, owner, b"x")).await,
        Answer::Completed { expires_at_ms } => expires_at_ms
    );
    lab.pass(SHORT_MS).await;
    let stored = matched!(lab.one(acquire(&key, lab.owner())).await, Answer::Stored(s) => s);
    ensure!(
        stored.age_ms >= SHORT_MS && stored.age_ms < LONG_MS,
        "age {}",
        stored.age_ms
    );
    ensure!(
        stored.expires_at_ms == expires,
        "{} is not {expires}",
        stored.expires_at_ms
    );
    let view = lab.view(&key).await?.ok_or("no record")?;
    ensure!(
        view.expires_at_ms == Some(expires),
        "inspect says {:?}",
        view.expires_at_ms
    );
    ensure!(expires == view.changed_at_ms + LONG_MS, "{view:?}");
    ensure!(view.created_at_ms <= view.changed_at_ms, "{view:?}");
    Ok(())
}
