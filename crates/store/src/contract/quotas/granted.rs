//! What is refused above a quota, and what is not.

use super::*;
use idempotency_protocol::Wait;
use tokio::task::JoinSet;

cases!("quotas":
    above_the_quota_of_executions_a_new_key_is_refused,
    above_the_quota_of_records_a_new_key_is_refused,
    above_the_quota_of_bytes_a_new_key_is_refused,
    what_was_granted_is_granted_again_extended_and_completed,
    what_was_granted_is_failed_abandoned_and_settled,
    what_is_stored_is_replayed_and_a_mismatch_is_one,
    a_failed_key_is_executed_again_above_the_quota,
    an_unknown_key_is_retried_above_the_quota,
    who_waits_above_the_quota_gets_the_answer,
    a_large_answer_is_stored_whole_above_the_quota_of_bytes,
    another_tenant_is_untouched,
    the_other_instance_counts_the_same,
    of_many_keys_at_once_as_many_are_granted_as_there_is_room,
    of_many_acquires_of_the_last_key_one_is_granted_and_none_refused,
    a_batch_is_granted_as_far_as_there_is_room,
    a_batch_keeps_its_order,
);

async fn above_the_quota_of_executions_a_new_key_is_refused(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(2), {
        execute(lab, "a").await?;
        execute(lab, "b").await?;
        refused(lab, "c", Quota::Executions).await?;
        refused(lab, "c", Quota::Executions).await
    })
}

async fn above_the_quota_of_records_a_new_key_is_refused(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(2), {
        finish(lab, "a").await?;
        execute(lab, "b").await?;
        refused(lab, "c", Quota::Records).await
    })
}

async fn above_the_quota_of_bytes_a_new_key_is_refused(lab: &Lab<'_>) -> Verdict {
    under!(lab, bytes(10_000), {
        let (key, owner) = execute(lab, "a").await?;
        matched!(
            lab.one(complete(&key, owner, &[7; 9_000])).await,
            Answer::Completed { .. }
        );
        let (key, owner) = execute(lab, "b").await?;
        matched!(
            lab.one(complete(&key, owner, &[7; 9_000])).await,
            Answer::Completed { .. }
        );
        refused(lab, "c", Quota::Bytes).await
    })
}

async fn what_was_granted_is_granted_again_extended_and_completed(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        let (key, owner) = execute(lab, "a").await?;
        refused(lab, "b", Quota::Executions).await?;
        lab.granted(&key, owner).await?;
        matched!(
            lab.one(acquire(&key, lab.owner())).await,
            Answer::InFlight { .. }
        );
        matched!(lab.one(extend(&key, owner)).await, Answer::Extended { .. });
        refused(lab, "b", Quota::Executions).await?;
        matched!(
            lab.one(complete(&key, owner, b"done")).await,
            Answer::Completed { .. }
        );
        matched!(
            lab.one(complete(&key, owner, b"done")).await,
            Answer::Completed { .. }
        );
        Ok(())
    })
}

async fn what_was_granted_is_failed_abandoned_and_settled(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(3), {
        let (failing, fails) = execute(lab, "a").await?;
        let (leaving, leaves) = execute(lab, "b").await?;
        let settling = lab.key("c");
        let grant = lab.granted(&settling, lab.owner()).await?;
        refused(lab, "d", Quota::Records).await?;
        matched!(lab.one(fail(&failing, fails)).await, Answer::Failed);
        matched!(lab.one(abandon(&leaving, leaves)).await, Answer::Abandoned);
        matched!(
            lab.one(settle(
                &settling,
                grant.fence,
                Settlement::Completed(response(b"done"))
            ))
            .await,
            Answer::Completed { .. }
        );
        refused(lab, "d", Quota::Records).await
    })
}

async fn what_is_stored_is_replayed_and_a_mismatch_is_one(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(1), {
        finish(lab, "a").await?;
        refused(lab, "b", Quota::Records).await?;
        let key = lab.key("a");
        let stored = matched!(
            lab.one(acquire(&key, lab.owner())).await,
            Answer::Stored(stored) => stored
        );
        ensure!(stored.outcome == response(b"done"), "{stored:?}");
        let other = acquire_with(&key, lab.owner(), |a| a.fingerprint = fingerprint(2));
        matched!(lab.one(other).await, Answer::Mismatch);
        Ok(())
    })
}

async fn a_failed_key_is_executed_again_above_the_quota(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        let (key, owner) = execute(lab, "a").await?;
        matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
        execute(lab, "b").await?;
        refused(lab, "c", Quota::Executions).await?;
        let again = lab.granted(&key, lab.owner()).await?;
        ensure!(again.attempt == 2, "attempt {}", again.attempt);
        Ok(())
    })
}

async fn an_unknown_key_is_retried_above_the_quota(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(1), {
        let (key, owner) = execute(lab, "a").await?;
        matched!(lab.one(abandon(&key, owner)).await, Answer::Abandoned);
        refused(lab, "b", Quota::Records).await?;
        matched!(
            lab.one(acquire(&key, lab.owner())).await,
            Answer::UnknownOutcome { .. }
        );
        matched!(lab.one(retry(&key, lab.owner())).await, Answer::Granted(_));
        Ok(())
    })
}

async fn who_waits_above_the_quota_gets_the_answer(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        let (key, owner) = (lab.key("a"), lab.owner());
        let fence = lab.granted(&key, owner).await?.fence;
        let wait = Wait {
            key: key.clone(),
            fingerprint: fingerprint(1),
            fence,
            wait_ms: 20_000,
        };
        let store = Arc::clone(&lab.store);
        let waiter = tokio::spawn(async move { store.wait(wait).await });
        lab.harness.waiting(1).await;
        refused(lab, "b", Quota::Executions).await?;
        lab.one(complete(&key, owner, b"done")).await;
        let answer = waiter.await.map_err(|e| e.to_string())?;
        matched!(answer, Answer::Stored(_));
        Ok(())
    })
}

async fn a_large_answer_is_stored_whole_above_the_quota_of_bytes(lab: &Lab<'_>) -> Verdict {
    under!(lab, bytes(1_000), {
        let (key, owner) = execute(lab, "a").await?;
        let large = vec![7; 200_000];
        matched!(
            lab.one(complete(&key, owner, &large)).await,
            Answer::Completed { .. }
        );
        let stored = matched!(
            lab.one(acquire(&key, lab.owner())).await,
            Answer::Stored(stored) => stored
        );
        ensure!(stored.outcome == response(&large), "something else is kept");
        refused(lab, "b", Quota::Bytes).await
    })
}

async fn another_tenant_is_untouched(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(1), {
        execute(lab, "a").await?;
        refused(lab, "b", Quota::Records).await?;
        // Also one whose name begins alike.
        for tenant in [format!("{}-2", lab.tenant), "x".repeat(200) + &lab.tenant] {
            let key = LookupKey {
                tenant,
                ..lab.key("b")
            };
            lab.granted(&key, lab.owner()).await?;
        }
        refused(lab, "b", Quota::Records).await
    })
}

async fn the_other_instance_counts_the_same(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        let (key, owner) = (lab.key("a"), lab.owner());
        let answers = lab.other.apply(vec![acquire(&key, owner)]).await;
        matched!(answers.as_slice(), [Answer::Granted(_)]);
        refused(lab, "b", Quota::Executions).await?;
        matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
        let answers = lab
            .other
            .apply(vec![acquire(&lab.key("b"), lab.owner())])
            .await;
        matched!(answers.as_slice(), [Answer::Granted(_)]);
        refused(lab, "c", Quota::Executions).await
    })
}

async fn of_many_keys_at_once_as_many_are_granted_as_there_is_room(lab: &Lab<'_>) -> Verdict {
    for (quotas, round) in [(executions(5), "e"), (records(10), "r")] {
        under!(lab, quotas, {
            let mut tasks = JoinSet::new();
            for n in 0..64 {
                let store = Arc::clone(if n % 2 == 0 { &lab.store } else { &lab.other });
                let asked = acquire(&lab.key(&format!("{round}{n}")), lab.owner());
                tasks.spawn(async move { store.apply(vec![asked]).await });
            }
            let answers: Vec<Answer> = tasks.join_all().await.into_iter().flatten().collect();
            let granted = answers.iter().filter(|a| a.name() == "granted").count();
            let refused = answers.iter().filter(|a| Quota::refused(a).is_some());
            ensure!(
                (granted, refused.count()) == (5, 59),
                "{granted} are granted: {answers:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

async fn of_many_acquires_of_the_last_key_one_is_granted_and_none_refused(
    lab: &Lab<'_>,
) -> Verdict {
    under!(lab, executions(1), {
        for round in 0..5 {
            let key = lab.key(&format!("k{round}"));
            let mut tasks = JoinSet::new();
            for n in 0..32 {
                let store = Arc::clone(if n % 2 == 0 { &lab.store } else { &lab.other });
                let (key, owner) = (key.clone(), lab.owner());
                let asked = acquire(&key, owner);
                tasks.spawn(async move { (owner, store.apply(vec![asked]).await) });
            }
            let answers = tasks.join_all().await;
            let named = |name| {
                let is = move |answers: &[Answer]| answers.iter().all(|a| a.name() == name);
                answers.iter().filter(move |(_, answers)| is(answers))
            };
            ensure!(
                (named("granted").count(), named("in_flight").count()) == (1, 31),
                "{answers:?}"
            );
            for (owner, _) in named("granted") {
                matched!(lab.one(fail(&key, *owner)).await, Answer::Failed);
            }
        }
        Ok(())
    })
}

async fn a_batch_is_granted_as_far_as_there_is_room(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(3), {
        finish(lab, "old").await?;
        let batch = ["a", "old", "b", "c", "d"];
        let batch = batch.map(|name| acquire(&lab.key(name), lab.owner()));
        let answers = lab.store.apply(batch.to_vec()).await;
        let count = |name| answers.iter().filter(|a| a.name() == name).count();
        let refused = answers.iter().filter(|a| Quota::refused(a).is_some());
        ensure!(
            (count("granted"), count("stored"), refused.count()) == (2, 1, 2),
            "{answers:?}"
        );
        refused_after(lab).await
    })
}

async fn refused_after(lab: &Lab<'_>) -> Verdict {
    refused(lab, "e", Quota::Records).await
}

async fn a_batch_keeps_its_order(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        let (a, b) = (lab.key("a"), lab.key("b"));
        let (first, second, third) = (lab.owner(), lab.owner(), lab.owner());
        let answers = lab
            .store
            .apply(vec![
                acquire(&a, first),
                complete(&a, first, b"done"),
                acquire(&a, second),
                fail(&b, third),
                acquire(&b, third),
            ])
            .await;
        matched!(
            answers.as_slice(),
            [
                Answer::Granted(_),
                Answer::Completed { .. },
                Answer::Stored(_),
                Answer::Marked,
                Answer::Cancelled
            ]
        );
        execute(lab, "c").await?;
        refused(lab, "d", Quota::Executions).await
    })
}
