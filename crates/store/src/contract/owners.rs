//! Owners: zombies, marks, and owners that had their turn.

use super::*;

cases!("owners":
    a_zombie_cannot_touch_the_new_holder,
    a_late_complete_of_an_old_attempt_is_lost,
    a_late_complete_after_the_lease_is_stored_if_nobody_took_the_key,
    a_fail_before_its_acquire_cancels_it,
    an_abandon_before_its_acquire_cancels_it,
    a_cancelled_owner_does_not_block_others,
    a_mark_left_beside_another_s_execution_holds_after_it,
    a_mark_left_beside_a_settled_record_holds_after_it,
    a_spent_owner_stays_spent_over_later_attempts,
    an_owner_whose_lease_was_over_is_spent,
    a_settled_execution_s_owner_is_spent,
    a_repeated_acquire_is_told_the_lease_that_is_left,
    marks_are_bounded,
    a_proof_is_redeemed_once_for_each_execution,
    only_a_gateway_s_execution_has_a_proof,
    a_proof_ends_before_its_lease,
);

async fn a_zombie_cannot_touch_the_new_holder(lab: &Lab<'_>) -> Verdict {
    let (key, zombie, holder) = (lab.key("k"), lab.owner(), lab.owner());
    lab.lapsed(&key, zombie, KEEP).await?;
    let grant = matched!(lab.one(retry(&key, holder)).await, Answer::Granted(g) => g);
    ensure!(grant.attempt == 2, "attempt {}", grant.attempt);
    let before = lab.view(&key).await?;

    matched!(lab.one(extend(&key, zombie)).await, Answer::Lost);
    matched!(
        lab.one(complete(&key, zombie, b"zombie")).await,
        Answer::Lost
    );
    matched!(lab.one(fail(&key, zombie)).await, Answer::Lost);
    matched!(lab.one(abandon(&key, zombie)).await, Answer::Lost);
    matched!(lab.one(retry(&key, zombie)).await, Answer::Spent);
    let after = lab.view(&key).await?;
    ensure!(
        before.as_ref().map(|v| (v.state, v.fence)) == after.as_ref().map(|v| (v.state, v.fence)),
        "{before:?} → {after:?}"
    );

    matched!(
        lab.one(complete(&key, holder, b"holder")).await,
        Answer::Completed { .. }
    );
    matched!(
        lab.one(complete(&key, zombie, b"zombie")).await,
        Answer::Lost
    );
    let stored = matched!(lab.one(acquire(&key, lab.owner())).await, Answer::Stored(s) => s);
    ensure!(
        stored.outcome == response(b"holder"),
        "the zombie's answer is replayed"
    );
    ensure!(
        stored.fence == grant.fence && stored.attempt == 2,
        "of another execution: {stored:?}"
    );
    Ok(())
}

async fn a_late_complete_of_an_old_attempt_is_lost(lab: &Lab<'_>) -> Verdict {
    let (key, first, second) = (lab.key("k"), lab.owner(), lab.owner());
    lab.granted(&key, first).await?;
    matched!(lab.one(fail(&key, first)).await, Answer::Failed);
    lab.granted(&key, second).await?;
    matched!(lab.one(complete(&key, first, b"late")).await, Answer::Lost);
    ensure!(
        lab.state(&key).await? == Some(RecordState::Executing),
        "not executing any more"
    );
    Ok(())
}

async fn a_late_complete_after_the_lease_is_stored_if_nobody_took_the_key(
    lab: &Lab<'_>,
) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    lab.lapsed(&key, owner, KEEP).await?;
    // Somebody notices: unknown. The owner still knows better.
    matched!(
        lab.one(acquire(&key, lab.owner())).await,
        Answer::UnknownOutcome { .. }
    );
    matched!(
        lab.one(complete(&key, owner, b"late")).await,
        Answer::Completed { .. }
    );
    matched!(lab.one(acquire(&key, lab.owner())).await, Answer::Stored(_));
    Ok(())
}

async fn a_fail_before_its_acquire_cancels_it(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    matched!(lab.one(fail(&key, owner)).await, Answer::Marked);
    matched!(lab.one(acquire(&key, owner)).await, Answer::Cancelled);
    matched!(lab.one(acquire(&key, owner)).await, Answer::Cancelled);
    ensure!(lab.state(&key).await?.is_none(), "a mark is not a record");
    Ok(())
}

async fn an_abandon_before_its_acquire_cancels_it(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    matched!(lab.one(abandon(&key, owner)).await, Answer::Marked);
    matched!(lab.one(abandon(&key, owner)).await, Answer::Marked);
    matched!(lab.one(acquire(&key, owner)).await, Answer::Cancelled);
    Ok(())
}

async fn a_cancelled_owner_does_not_block_others(lab: &Lab<'_>) -> Verdict {
    let (key, cancelled, other) = (lab.key("k"), lab.owner(), lab.owner());
    matched!(lab.one(fail(&key, cancelled)).await, Answer::Marked);
    let grant = lab.granted(&key, other).await?;
    ensure!(grant.attempt == 1, "attempt {}", grant.attempt);
    matched!(lab.one(acquire(&key, cancelled)).await, Answer::Cancelled);
    matched!(
        lab.one(complete(&key, other, b"x")).await,
        Answer::Completed { .. }
    );
    matched!(lab.one(acquire(&key, cancelled)).await, Answer::Stored(_));
    Ok(())
}

async fn a_mark_left_beside_another_s_execution_holds_after_it(lab: &Lab<'_>) -> Verdict {
    for event in [fail as fn(&LookupKey, Owner) -> Operation, abandon] {
        let key = lab.key(&format!("k{}", lab.next.load(Ordering::Relaxed)));
        let (holder, late) = (lab.owner(), lab.owner());
        lab.granted(&key, holder).await?;
        matched!(lab.one(event(&key, late)).await, Answer::Lost);
        matched!(lab.one(fail(&key, holder)).await, Answer::Failed);
        matched!(lab.one(acquire(&key, late)).await, Answer::Cancelled);
        lab.granted(&key, lab.owner()).await?;
    }
    Ok(())
}

async fn a_mark_left_beside_a_settled_record_holds_after_it(lab: &Lab<'_>) -> Verdict {
    for state in ["failed", "unknown"] {
        let (key, late) = (lab.key(state), lab.owner());
        table::enter(lab, &key, lab.owner(), state).await?;
        lab.one(fail(&key, late)).await;
        matched!(lab.one(retry(&key, late)).await, Answer::Cancelled);
        matched!(lab.one(retry(&key, lab.owner())).await, Answer::Granted(_));
    }
    Ok(())
}

async fn a_spent_owner_stays_spent_over_later_attempts(lab: &Lab<'_>) -> Verdict {
    let (key, first) = (lab.key("k"), lab.owner());
    lab.granted(&key, first).await?;
    matched!(lab.one(fail(&key, first)).await, Answer::Failed);
    for attempt in 2..=4 {
        let next = lab.owner();
        let grant = lab.granted(&key, next).await?;
        ensure!(grant.attempt == attempt, "attempt {}", grant.attempt);
        matched!(lab.one(acquire(&key, first)).await, Answer::Spent);
        matched!(lab.one(fail(&key, next)).await, Answer::Failed);
        matched!(lab.one(acquire(&key, first)).await, Answer::Spent);
    }
    Ok(())
}

async fn an_owner_whose_lease_was_over_is_spent(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    lab.lapsed(&key, owner, KEEP).await?;
    lab.sweep().await?;
    matched!(lab.one(retry(&key, owner)).await, Answer::Spent);
    matched!(lab.one(retry(&key, lab.owner())).await, Answer::Granted(_));
    Ok(())
}

async fn a_settled_execution_s_owner_is_spent(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let grant = lab.granted(&key, owner).await?;
    matched!(
        lab.one(settle(&key, grant.fence, Settlement::Failed)).await,
        Answer::Failed
    );
    matched!(lab.one(acquire(&key, owner)).await, Answer::Spent);
    matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
    let second = lab.granted(&key, lab.owner()).await?;
    // The old fence names an execution that is over.
    let late = settle(&key, grant.fence, Settlement::Completed(response(b"late")));
    matched!(lab.one(late).await, Answer::Lost);
    ensure!(
        second.fence > grant.fence,
        "fence {} after {}",
        second.fence,
        grant.fence
    );
    Ok(())
}

async fn a_repeated_acquire_is_told_the_lease_that_is_left(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let first = lab.granted(&key, owner).await?;
    lab.pass(SHORT_MS).await;
    let again = lab.granted(&key, owner).await?;
    ensure!(
        first.fence == again.fence && first.attempt == again.attempt,
        "{again:?}"
    );
    ensure!(first.lease_ms == LONG_MS, "lease {}", first.lease_ms);
    ensure!(
        again.lease_ms <= LONG_MS - SHORT_MS,
        "lease {} has begun anew",
        again.lease_ms
    );
    Ok(())
}

async fn marks_are_bounded(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("k");
    let owners: Vec<Owner> = (0..100).map(|_| lab.owner()).collect();
    for owner in &owners {
        matched!(lab.one(fail(&key, *owner)).await, Answer::Marked);
    }
    // The newest is remembered; others than the marked ones are never blocked.
    let newest = owners.last().copied().ok_or("no owners")?;
    matched!(lab.one(acquire(&key, newest)).await, Answer::Cancelled);
    lab.granted(&key, lab.owner()).await?;
    Ok(())
}

async fn a_proof_is_redeemed_once_for_each_execution(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let first = lab.granted(&key, owner).await?;
    let left = matched!(
        lab.one(redeem(&key, first.fence)).await,
        Answer::Redeemed { lease_left_ms } => lease_left_ms
    );
    ensure!((1..=LONG_MS).contains(&left), "lease left {left}");
    matched!(lab.one(redeem(&key, first.fence)).await, Answer::Spent);
    matched!(lab.one(extend(&key, owner)).await, Answer::Extended { .. });
    matched!(lab.one(redeem(&key, first.fence)).await, Answer::Spent);
    // It is no other owner's execution for that.
    matched!(
        lab.one(acquire(&key, lab.owner())).await,
        Answer::InFlight { .. }
    );
    matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
    matched!(lab.one(redeem(&key, first.fence)).await, Answer::Lost);
    let owner = lab.owner();
    let second = lab.granted(&key, owner).await?;
    matched!(lab.one(redeem(&key, first.fence)).await, Answer::Lost);
    matched!(
        lab.one(redeem(&key, second.fence)).await,
        Answer::Redeemed { .. }
    );
    matched!(
        lab.one(complete(&key, owner, b"done")).await,
        Answer::Completed { .. }
    );
    matched!(lab.one(redeem(&key, second.fence)).await, Answer::Lost);
    Ok(())
}

async fn only_a_gateway_s_execution_has_a_proof(lab: &Lab<'_>) -> Verdict {
    for kind in [AttemptKind::Guard, AttemptKind::Transaction] {
        let key = lab.key(&format!("{kind:?}"));
        let ours = acquire_with(&key, lab.owner(), |a| a.kind = kind);
        let grant = matched!(lab.one(ours).await, Answer::Granted(grant) => grant);
        matched!(lab.one(redeem(&key, grant.fence)).await, Answer::Lost);
    }
    Ok(())
}

async fn a_proof_ends_before_its_lease(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let grant = lab.granted(&key, owner).await?;
    // Counted from the fence, as gateways do.
    let redeem = |ms: u64| {
        Operation::Redeem(Redeem {
            key: key.clone(),
            fence: grant.fence,
            fingerprint: fingerprint(1),
            expires_at_ms: (grant.fence / 1_000).saturating_add(ms),
        })
    };
    lab.pass(SHORT_MS).await;
    matched!(lab.one(redeem(SHORT_MS)).await, Answer::Lost);
    matched!(lab.one(redeem(LONG_MS)).await, Answer::Redeemed { .. });
    // Spent is told even of a proof that is over: the execution may be under way.
    matched!(lab.one(redeem(SHORT_MS)).await, Answer::Spent);
    matched!(
        lab.one(complete(&key, owner, b"done")).await,
        Answer::Completed { .. }
    );
    Ok(())
}
