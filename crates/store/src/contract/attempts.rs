//! What a record remembers of its attempts: doubt, what may be corrected, redirects.

use super::*;
use idempotency_protocol::limits::{MAX_REDIRECTS, MAX_REDIRECT_BYTES};
use idempotency_protocol::About;

cases! { "attempts":
    what_was_refused_may_be_corrected,
    what_may_be_half_done_must_be_repeated_as_it_was,
    half_done_once_is_half_done_for_good,
    doubt_survives_a_failed_attempt,
    doubt_ends_with_a_result,
    a_redirect_is_answered_again_in_every_state,
    a_redirect_lets_the_client_go_elsewhere,
    only_so_many_redirects_are_remembered,
    a_redirect_that_is_too_long_is_not_remembered,
    a_redirect_in_doubt_is_not_remembered,
    transactions_are_retried_where_all_attempts_were_transactions,
    a_settled_record_gets_the_bytes_of_its_client,
    a_settled_record_replays_after_its_lease,
    an_operator_decides_a_doubt,
    long_descriptions_are_kept,
}

fn with_payload(key: &LookupKey, owner: Owner, payload: u8) -> Operation {
    acquire_with(key, owner, |a| a.fingerprint = fingerprint(payload))
}

fn redirect(to: &str) -> StoredResponse {
    StoredResponse {
        status: 307,
        headers: vec![(
            Bytes::from_static(b"location"),
            Bytes::copy_from_slice(to.as_bytes()),
        )],
        body: Bytes::new(),
    }
}

fn redirected(key: &LookupKey, owner: Owner, to: &str) -> Operation {
    fail_because(key, owner, FailCause::Redirected(Box::new(redirect(to))))
}

/// An attempt with this payload ends with a redirect.
async fn redirects(lab: &Lab<'_>, key: &LookupKey, payload: u8, to: &str) -> Verdict {
    let owner = lab.owner();
    matched!(
        lab.one(with_payload(key, owner, payload)).await,
        Answer::Granted(_)
    );
    matched!(lab.one(redirected(key, owner, to)).await, Answer::Failed);
    Ok(())
}

/// The request with this payload is answered with the redirect that it got.
async fn is_redirected(lab: &Lab<'_>, key: &LookupKey, payload: u8, to: &str) -> Verdict {
    let answer = lab.one(with_payload(key, lab.owner(), payload)).await;
    let stored = matched!(answer, Answer::Stored(stored) => stored);
    ensure!(
        stored.outcome == Outcome::Response(redirect(to)),
        "redirected with {:?}",
        stored.outcome
    );
    Ok(())
}

async fn what_was_refused_may_be_corrected(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("corrected");
    let (first, second) = (lab.owner(), lab.owner());
    let before = lab.granted(&key, first).await?;
    let refused = fail_because(&key, first, FailCause::Refused);
    matched!(lab.one(refused).await, Answer::Failed);
    let after = matched!(lab.one(with_payload(&key, second, 2)).await, Answer::Granted(g) => g);
    ensure!(after.attempt == 2, "attempt {}", after.attempt);
    ensure!(after.fence > before.fence, "fence {}", after.fence);
    // The key belongs to the corrected request now.
    let old = lab.one(acquire(&key, lab.owner())).await;
    matched!(old, Answer::Mismatch);
    matched!(lab.one(complete(&key, first, b"late")).await, Answer::Lost);
    matched!(
        lab.one(complete(&key, second, b"done")).await,
        Answer::Completed { .. }
    );
    let again = lab.one(with_payload(&key, lab.owner(), 2)).await;
    matched!(again, Answer::Stored(_));
    Ok(())
}

async fn what_may_be_half_done_must_be_repeated_as_it_was(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("half done");
    let owner = lab.owner();
    lab.granted(&key, owner).await?;
    matched!(lab.one(fail(&key, owner)).await, Answer::Failed);
    let other = lab.one(with_payload(&key, lab.owner(), 2)).await;
    matched!(other, Answer::Mismatch);
    lab.granted(&key, lab.owner()).await?;
    Ok(())
}

async fn half_done_once_is_half_done_for_good(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("half done once");
    for cause in [FailCause::Other, FailCause::NotSent, FailCause::Refused] {
        let owner = lab.owner();
        lab.granted(&key, owner).await?;
        let failed = lab.one(fail_because(&key, owner, cause)).await;
        matched!(failed, Answer::Failed);
    }
    let other = lab.one(with_payload(&key, lab.owner(), 2)).await;
    matched!(other, Answer::Mismatch);
    Ok(())
}

async fn doubt_survives_a_failed_attempt(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("doubt");
    let (first, second) = (lab.owner(), lab.owner());
    lab.granted(&key, first).await?;
    matched!(lab.one(abandon(&key, first)).await, Answer::Abandoned);
    matched!(lab.one(retry(&key, second)).await, Answer::Granted(_));
    let not_sent = fail_because(&key, second, FailCause::NotSent);
    // The first attempt may have been done, whatever the second one says of itself.
    matched!(lab.one(not_sent.clone()).await, Answer::Abandoned);
    matched!(lab.one(not_sent).await, Answer::Abandoned);
    ensure!(
        lab.state(&key).await? == Some(RecordState::Unknown),
        "the doubt is gone"
    );
    let refused = lab.one(acquire(&key, lab.owner())).await;
    matched!(refused, Answer::UnknownOutcome { .. });
    let corrected = lab.one(with_payload(&key, lab.owner(), 2)).await;
    matched!(corrected, Answer::Mismatch);
    // A rule that retries goes on, and the doubt goes on with it.
    let third = lab.owner();
    let grant = matched!(lab.one(retry(&key, third)).await, Answer::Granted(g) => g);
    ensure!(grant.attempt == 3, "attempt {}", grant.attempt);
    matched!(lab.one(fail(&key, third)).await, Answer::Abandoned);
    Ok(())
}

async fn doubt_ends_with_a_result(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("doubt ends");
    let (first, second) = (lab.owner(), lab.owner());
    lab.lapsed(&key, first, KEEP).await?;
    matched!(lab.one(retry(&key, second)).await, Answer::Granted(_));
    matched!(
        lab.one(complete(&key, second, b"done")).await,
        Answer::Completed { .. }
    );
    let replay = lab.one(acquire(&key, lab.owner())).await;
    matched!(replay, Answer::Stored(_));
    Ok(())
}

async fn a_redirect_is_answered_again_in_every_state(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("redirect");
    redirects(lab, &key, 1, "/orders/").await?;
    // Failed.
    is_redirected(lab, &key, 1, "/orders/").await?;
    // Executing elsewhere.
    let owner = lab.owner();
    matched!(
        lab.one(with_payload(&key, owner, 2)).await,
        Answer::Granted(_)
    );
    is_redirected(lab, &key, 1, "/orders/").await?;
    // Unknown.
    matched!(lab.one(abandon(&key, owner)).await, Answer::Abandoned);
    is_redirected(lab, &key, 1, "/orders/").await?;
    // Completed.
    matched!(
        lab.one(complete(&key, owner, b"done")).await,
        Answer::Completed { .. }
    );
    is_redirected(lab, &key, 1, "/orders/").await?;
    let followed = lab.one(with_payload(&key, lab.owner(), 2)).await;
    matched!(followed, Answer::Stored(_));
    let third = lab.one(with_payload(&key, lab.owner(), 3)).await;
    matched!(third, Answer::Mismatch);
    // Another scheme cannot be compared with what got the redirect.
    let other = acquire_with(&key, lab.owner(), |a| a.fingerprint.scheme = Scheme(2));
    matched!(lab.one(other).await, Answer::NotComparable);
    Ok(())
}

async fn a_redirect_lets_the_client_go_elsewhere(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("hops");
    redirects(lab, &key, 1, "/a").await?;
    redirects(lab, &key, 2, "/b").await?;
    let owner = lab.owner();
    let grant = matched!(lab.one(with_payload(&key, owner, 3)).await, Answer::Granted(g) => g);
    ensure!(grant.attempt == 3, "attempt {}", grant.attempt);
    matched!(
        lab.one(complete(&key, owner, b"done")).await,
        Answer::Completed { .. }
    );
    is_redirected(lab, &key, 1, "/a").await?;
    is_redirected(lab, &key, 2, "/b").await
}

async fn only_so_many_redirects_are_remembered(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("many redirects");
    let count = u8::try_from(MAX_REDIRECTS).unwrap_or(u8::MAX);
    for payload in 0..=count {
        redirects(lab, &key, payload, &format!("/{payload}")).await?;
    }
    // The oldest has made room: its request is a new one again.
    for payload in 1..=count {
        is_redirected(lab, &key, payload, &format!("/{payload}")).await?;
    }
    let oldest = lab.one(with_payload(&key, lab.owner(), 0)).await;
    matched!(oldest, Answer::Granted(_));
    Ok(())
}

async fn a_redirect_that_is_too_long_is_not_remembered(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("long redirect");
    redirects(lab, &key, 1, &"x".repeat(MAX_REDIRECT_BYTES)).await?;
    // Nothing was done, so the same request and another one may execute.
    let other = lab.one(with_payload(&key, lab.owner(), 2)).await;
    matched!(other, Answer::Granted(_));
    Ok(())
}

async fn a_redirect_in_doubt_is_not_remembered(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("redirect in doubt");
    let (first, second) = (lab.owner(), lab.owner());
    lab.granted(&key, first).await?;
    matched!(lab.one(abandon(&key, first)).await, Answer::Abandoned);
    matched!(lab.one(retry(&key, second)).await, Answer::Granted(_));
    matched!(
        lab.one(redirected(&key, second, "/elsewhere")).await,
        Answer::Abandoned
    );
    let again = lab.one(acquire(&key, lab.owner())).await;
    matched!(again, Answer::UnknownOutcome { .. });
    let elsewhere = lab.one(with_payload(&key, lab.owner(), 2)).await;
    matched!(elsewhere, Answer::Mismatch);
    Ok(())
}

async fn transactions_are_retried_where_all_attempts_were_transactions(lab: &Lab<'_>) -> Verdict {
    let transaction = |key: &LookupKey, owner| {
        acquire_with(key, owner, |a| {
            a.kind = AttemptKind::Transaction;
            a.on_unknown = OnUnknown::RetryTransactions;
        })
    };
    let key = lab.key("transactions");
    for attempt in 1..=3 {
        let owner = lab.owner();
        let grant = matched!(lab.one(transaction(&key, owner)).await, Answer::Granted(g) => g);
        ensure!(grant.attempt == attempt, "attempt {}", grant.attempt);
        matched!(lab.one(abandon(&key, owner)).await, Answer::Abandoned);
    }
    // They left no doubt: what a transaction did not commit, it did not do.
    let owner = lab.owner();
    matched!(lab.one(transaction(&key, owner)).await, Answer::Granted(_));
    let not_sent = fail_because(&key, owner, FailCause::NotSent);
    matched!(lab.one(not_sent).await, Answer::Failed);

    // One attempt of another kind, and nobody can say.
    let gateway = lab.owner();
    lab.granted(&key, gateway).await?;
    matched!(lab.one(abandon(&key, gateway)).await, Answer::Abandoned);
    let refused = lab.one(transaction(&key, lab.owner())).await;
    matched!(refused, Answer::UnknownOutcome { .. });
    Ok(())
}

async fn a_settled_record_gets_the_bytes_of_its_client(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("settled");
    let owner = lab.owner();
    let grant = lab.granted(&key, owner).await?;
    let done = Settlement::Completed(response(b"the upstream's"));
    matched!(
        lab.one(settle(&key, grant.fence, done)).await,
        Answer::Completed { .. }
    );
    let fence = matched!(
        lab.one(acquire(&key, lab.owner())).await,
        Answer::InFlight { fence, lease_left_ms: 1.. } => fence
    );
    ensure!(fence == grant.fence, "fence {fence}");
    matched!(
        lab.one(complete(&key, owner, b"the client's")).await,
        Answer::Completed { .. }
    );
    let replay = lab.one(acquire(&key, lab.owner())).await;
    let stored = matched!(replay, Answer::Stored(stored) => stored);
    ensure!(
        stored.outcome == response(b"the client's"),
        "replayed {:?}",
        stored.outcome
    );
    ensure!(stored.fence == grant.fence, "fence {}", stored.fence);
    Ok(())
}

async fn a_settled_record_replays_after_its_lease(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("settled, gateway gone");
    let owner = lab.owner();
    let short = acquire_with(&key, owner, |a| a.lease_ms = SHORT_MS * 20);
    let grant = matched!(lab.one(short).await, Answer::Granted(grant) => grant);
    let done = Settlement::Completed(response(b"the upstream's"));
    matched!(
        lab.one(settle(&key, grant.fence, done)).await,
        Answer::Completed { .. }
    );
    lab.pass(SHORT_MS * 20).await;
    let replay = lab.one(acquire(&key, lab.owner())).await;
    let stored = matched!(replay, Answer::Stored(stored) => stored);
    ensure!(
        stored.outcome == response(b"the upstream's"),
        "replayed {:?}",
        stored.outcome
    );
    // What was replayed is not contradicted by a late complete.
    matched!(
        lab.one(complete(&key, owner, b"late")).await,
        Answer::Differs
    );
    Ok(())
}

async fn an_operator_decides_a_doubt(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("doubt, decided");
    let (first, second) = (lab.owner(), lab.owner());
    lab.granted(&key, first).await?;
    matched!(lab.one(abandon(&key, first)).await, Answer::Abandoned);
    matched!(lab.one(retry(&key, second)).await, Answer::Granted(_));
    matched!(lab.one(fail(&key, second)).await, Answer::Abandoned);
    matched!(
        lab.resolve(&key, Resolution::Failed, false).await?,
        Resolved::Done(Some(_))
    );
    let corrected = lab.one(with_payload(&key, lab.owner(), 2)).await;
    matched!(corrected, Answer::Mismatch);
    let third = lab.owner();
    lab.granted(&key, third).await?;
    matched!(lab.one(fail(&key, third)).await, Answer::Failed);
    Ok(())
}

/// The longest description that there is neither stops the record nor is lost on its way through
/// the states.
async fn long_descriptions_are_kept(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("described");
    let mut about = About::default();
    for field in about.fields_mut() {
        *field = "é".repeat(600);
    }
    about.shorten();
    let owner = lab.owner();
    let described = acquire_with(&key, owner, |a| a.about = Some(Arc::new(about)));
    matched!(lab.one(described).await, Answer::Granted(_));
    matched!(lab.one(redirected(&key, owner, "/a")).await, Answer::Failed);
    is_redirected(lab, &key, 1, "/a").await?;
    let second = lab.owner();
    matched!(
        lab.one(with_payload(&key, second, 2)).await,
        Answer::Granted(_)
    );
    matched!(
        lab.one(complete(&key, second, b"done")).await,
        Answer::Completed { .. }
    );
    Ok(())
}
