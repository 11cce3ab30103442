//! What counts, and what makes room.

use super::*;
use idempotency_protocol::{Tombstone, TombstoneReason};

cases!("quotas":
    an_execution_that_completes_makes_room,
    an_execution_that_fails_makes_room,
    an_execution_that_is_abandoned_or_settled_makes_room,
    an_execution_whose_lease_is_over_makes_room,
    a_record_whose_ttl_is_over_makes_room,
    a_failed_record_whose_ttl_is_over_makes_room,
    an_unknown_record_counts_for_its_own_ttl,
    a_record_that_an_operator_forgets_makes_room,
    an_execution_that_an_operator_ends_makes_room,
    the_bytes_of_a_record_that_is_forgotten_are_room,
    a_key_executed_again_is_one_record,
    a_mark_is_no_record,
    what_was_there_before_counts,
    what_changed_while_there_was_no_quota_counts,
    a_raised_quota_counts_what_was_there,
    a_quota_that_is_taken_away_is_gone,
);

async fn an_execution_that_completes_makes_room(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        for name in ["a", "b", "c"] {
            finish(lab, name).await?;
        }
        execute(lab, "d").await?;
        refused(lab, "e", Quota::Executions).await
    })
}

async fn an_execution_that_fails_makes_room(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        for name in ["a", "b", "c"] {
            let (key, owner) = execute(lab, name).await?;
            refused(lab, "z", Quota::Executions).await?;
            matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
        }
        Ok(())
    })
}

async fn an_execution_that_is_abandoned_or_settled_makes_room(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        let (key, owner) = execute(lab, "a").await?;
        matched!(lab.one(abandon(&key, owner)).await, Answer::Abandoned);
        let key = lab.key("b");
        let grant = lab.granted(&key, lab.owner()).await?;
        let done = settle(&key, grant.fence, Settlement::Completed(response(b"x")));
        matched!(lab.one(done).await, Answer::Completed { .. });
        let key = lab.key("c");
        let grant = lab.granted(&key, lab.owner()).await?;
        let not_done = settle(&key, grant.fence, Settlement::Failed);
        matched!(lab.one(not_done).await, Answer::Failed);
        execute(lab, "d").await?;
        refused(lab, "e", Quota::Executions).await
    })
}

async fn an_execution_whose_lease_is_over_makes_room(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        lab.lapsed(&lab.key("a"), lab.owner(), KEEP).await?;
        lab.sweep().await?;
        execute(lab, "b").await?;
        refused(lab, "c", Quota::Executions).await
    })
}

/// Retention that a case lets pass.
const SOON: Retention = Retention {
    ttl_ms: SHORT_MS,
    unknown_ttl_ms: SHORT_MS,
};

/// What is completed, failed or unknown for a short while.
fn briefly(key: &LookupKey, owner: Owner, retention: Retention) -> Operation {
    acquire_with(key, owner, |a| a.retention = retention)
}

async fn a_record_whose_ttl_is_over_makes_room(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(1), {
        let (key, owner) = (lab.key("a"), lab.owner());
        matched!(
            lab.one(briefly(&key, owner, SOON)).await,
            Answer::Granted(_)
        );
        matched!(
            lab.one(complete(&key, owner, b"done")).await,
            Answer::Completed { .. }
        );
        lab.pass(SHORT_MS).await;
        lab.sweep().await?;
        execute(lab, "b").await?;
        refused(lab, "c", Quota::Records).await
    })
}

async fn a_failed_record_whose_ttl_is_over_makes_room(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(1), {
        let (key, owner) = (lab.key("a"), lab.owner());
        let long_unknown = Retention {
            unknown_ttl_ms: LONG_MS,
            ..SOON
        };
        matched!(
            lab.one(briefly(&key, owner, long_unknown)).await,
            Answer::Granted(_)
        );
        matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
        lab.pass(SHORT_MS).await;
        lab.sweep().await?;
        execute(lab, "b").await?;
        refused(lab, "c", Quota::Records).await
    })
}

async fn an_unknown_record_counts_for_its_own_ttl(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(1), {
        let (key, owner) = (lab.key("a"), lab.owner());
        let long_unknown = Retention {
            unknown_ttl_ms: LONG_MS,
            ..SOON
        };
        matched!(
            lab.one(briefly(&key, owner, long_unknown)).await,
            Answer::Granted(_)
        );
        matched!(lab.one(abandon(&key, owner)).await, Answer::Abandoned);
        lab.pass(SHORT_MS).await;
        lab.sweep().await?;
        refused(lab, "b", Quota::Records).await
    })
}

async fn a_record_that_an_operator_forgets_makes_room(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(1), {
        finish(lab, "a").await?;
        refused(lab, "b", Quota::Records).await?;
        let gone = lab
            .resolve(&lab.key("a"), Resolution::Deleted, false)
            .await?;
        matched!(gone, Resolved::Done(None));
        execute(lab, "b").await?;
        refused(lab, "c", Quota::Records).await
    })
}

async fn an_execution_that_an_operator_ends_makes_room(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        for (name, to) in [
            ("a", Resolution::Failed),
            (
                "b",
                Resolution::Completed(Outcome::Tombstone(Tombstone {
                    status: 200,
                    reason: TombstoneReason::Capacity,
                })),
            ),
            ("c", Resolution::Deleted),
        ] {
            let (key, _) = execute(lab, name).await?;
            refused(lab, "z", Quota::Executions).await?;
            matched!(lab.resolve(&key, to, true).await?, Resolved::Done(_));
        }
        execute(lab, "d").await?;
        refused(lab, "z", Quota::Executions).await
    })
}

async fn the_bytes_of_a_record_that_is_forgotten_are_room(lab: &Lab<'_>) -> Verdict {
    under!(lab, bytes(10_000), {
        for _ in 0..3 {
            let (key, owner) = execute(lab, "a").await?;
            matched!(
                lab.one(complete(&key, owner, &[7; 20_000])).await,
                Answer::Completed { .. }
            );
            refused(lab, "b", Quota::Bytes).await?;
            let gone = lab.resolve(&key, Resolution::Deleted, false).await?;
            matched!(gone, Resolved::Done(None));
        }
        execute(lab, "b").await.map(|_| ())
    })
}

async fn a_key_executed_again_is_one_record(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(2), {
        for _ in 0..4 {
            let (key, owner) = execute(lab, "a").await?;
            matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
        }
        execute(lab, "b").await?;
        refused(lab, "c", Quota::Records).await
    })
}

async fn a_mark_is_no_record(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(1), {
        for name in ["a", "b"] {
            let marked = lab.one(fail(&lab.key(name), lab.owner())).await;
            matched!(marked, Answer::Marked);
        }
        // Under a key that has a mark, too.
        execute(lab, "a").await?;
        refused(lab, "b", Quota::Records).await
    })
}

async fn what_was_there_before_counts(lab: &Lab<'_>) -> Verdict {
    finish(lab, "a").await?;
    execute(lab, "b").await?;
    let (key, owner) = execute(lab, "c").await?;
    lab.one(complete(&key, owner, &[7; 20_000])).await;
    for (quotas, quota) in [
        (executions(1), Quota::Executions),
        (records(3), Quota::Records),
        (bytes(20_000), Quota::Bytes),
    ] {
        under!(lab, quotas, {
            lab.sweep().await?;
            refused(lab, "d", quota).await
        })?;
    }
    under!(lab, records(4), {
        lab.sweep().await?;
        execute(lab, "d").await?;
        refused(lab, "e", Quota::Records).await
    })
}

async fn what_changed_while_there_was_no_quota_counts(lab: &Lab<'_>) -> Verdict {
    under!(lab, records(1), { finish(lab, "a").await })?;
    finish(lab, "b").await?;
    under!(lab, records(2), {
        lab.sweep().await?;
        refused(lab, "c", Quota::Records).await
    })
}

async fn a_raised_quota_counts_what_was_there(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        let (key, owner) = execute(lab, "a").await?;
        refused(lab, "b", Quota::Executions).await?;
        set(lab, executions(2)).await?;
        lab.sweep().await?;
        execute(lab, "b").await?;
        refused(lab, "c", Quota::Executions).await?;
        // Lowered below what is there, nothing ends.
        set(lab, executions(1)).await?;
        lab.sweep().await?;
        matched!(
            lab.one(complete(&key, owner, b"done")).await,
            Answer::Completed { .. }
        );
        refused(lab, "c", Quota::Executions).await
    })
}

async fn a_quota_that_is_taken_away_is_gone(lab: &Lab<'_>) -> Verdict {
    under!(lab, executions(1), {
        execute(lab, "a").await?;
        refused(lab, "b", Quota::Executions).await
    })?;
    execute(lab, "b").await.map(|_| ())
}
