//! Many operations in one call: each is answered on its own, as if it had come alone.

use super::*;
use tokio::task::JoinSet;

cases!("batches":
    a_batch_is_answered_in_order,
    operations_on_one_key_in_a_batch_happen_in_order,
    an_acquire_twice_in_a_batch_is_granted_once,
    an_empty_batch_has_no_answers,
    all_kinds_and_sizes_travel_together,
    batches_that_cross_grant_each_key_once,
    a_batch_met_by_a_fail_of_one_key_grants_the_others,
);

async fn a_batch_is_answered_in_order(lab: &Lab<'_>) -> Verdict {
    let done = lab.key("done");
    lab.completed(&done, lab.owner()).await?;
    let owner = lab.owner();
    let mut asked = Vec::new();
    let mut expected = Vec::new();
    for n in 0..100 {
        let key = lab.key(&format!("k{n}"));
        asked.push(match n % 4 {
            0 => acquire(&key, owner),
            1 => complete(&key, owner, b"x"),
            2 => fail(&key, owner),
            _ => acquire(&done, owner),
        });
        expected.push(["granted", "lost", "marked", "stored"][n % 4]);
    }
    let answers = lab.store.apply(asked).await;
    let names: Vec<_> = answers.iter().map(Answer::name).collect();
    ensure!(names == expected, "{names:?}");
    Ok(())
}

async fn operations_on_one_key_in_a_batch_happen_in_order(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("k");
    let (first, second, third) = (lab.owner(), lab.owner(), lab.owner());
    let answers = lab
        .store
        .apply(vec![
            acquire(&key, first),
            acquire(&key, second),
            fail(&key, first),
            acquire(&key, third),
            extend(&key, third),
            complete(&key, third, b"third"),
            acquire(&key, second),
        ])
        .await;
    let names: Vec<_> = answers.iter().map(Answer::name).collect();
    let expected = [
        "granted",
        "in_flight",
        "failed",
        "granted",
        "extended",
        "completed",
        "stored",
    ];
    ensure!(names == expected, "{names:?}");
    Ok(())
}

async fn an_acquire_twice_in_a_batch_is_granted_once(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let answers = lab
        .store
        .apply(vec![acquire(&key, owner), acquire(&key, owner)])
        .await;
    let [Answer::Granted(a), Answer::Granted(b)] = answers.as_slice() else {
        return Err(format!("{answers:?}"));
    };
    ensure!(
        a.fence == b.fence && a.attempt == b.attempt,
        "two grants: {answers:?}"
    );
    Ok(())
}

async fn an_empty_batch_has_no_answers(lab: &Lab<'_>) -> Verdict {
    let answers = lab.store.apply(Vec::new()).await;
    ensure!(answers.is_empty(), "{answers:?}");
    Ok(())
}

async fn all_kinds_and_sizes_travel_together(lab: &Lab<'_>) -> Verdict {
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| lab.key(name));
    let [mine, theirs] = [lab.owner(), lab.owner()];
    let fence = lab.granted(&c, mine).await?.fence;
    let large: Vec<u8> = (0..=250).cycle().take(300_000).collect();
    let other = acquire_with(&a, theirs, |a| a.fingerprint = fingerprint(2));
    let asked = vec![
        acquire(&a, mine),
        acquire(&b, mine),
        complete(&a, mine, &large),
        acquire(&a, theirs),
        other,
        complete(&b, mine, b"small"),
        extend(&c, mine),
        acquire(&d, mine),
        abandon(&d, mine),
        settle(&c, fence, Settlement::Completed(response(&large[1..]))),
        acquire(&c, theirs),
        complete(&c, mine, &large[2..]),
        acquire(&c, theirs),
        fail(&d, theirs),
        acquire(&b, theirs),
        acquire(&d, theirs),
    ];
    let answers = lab.store.apply(asked).await;
    let names: Vec<_> = answers.iter().map(Answer::name).collect();
    let expected = [
        "granted",
        "granted",
        "completed",
        "stored",
        "mismatch",
        "completed",
        "extended",
        "granted",
        "abandoned",
        "completed",
        "in_flight",
        "completed",
        "stored",
        "refused",
        "stored",
        "cancelled",
    ];
    ensure!(names == expected, "{names:?}");
    let outcomes = answers.into_iter().filter_map(|answer| match answer {
        Answer::Stored(stored) => Some(stored.outcome),
        _ => None,
    });
    let expected = [response(&large), response(&large[2..]), response(b"small")];
    ensure!(
        outcomes.collect::<Vec<_>>() == expected,
        "other bytes came back"
    );
    Ok(())
}

async fn batches_that_cross_grant_each_key_once(lab: &Lab<'_>) -> Verdict {
    let keys: Vec<_> = (0..20).map(|n| lab.key(&format!("k{n}"))).collect();
    let mut crossing = JoinSet::new();
    for n in 0..16 {
        let mut keys = keys.clone();
        if n % 2 == 1 {
            keys.reverse();
        }
        let (store, owner) = (Arc::clone(&lab.store), lab.owner());
        crossing.spawn(async move {
            let asked = keys.iter().map(|key| acquire(key, owner)).collect();
            let answers = store.apply(asked).await;
            keys.into_iter().zip(answers).collect::<Vec<_>>()
        });
    }
    let mut granted = Vec::new();
    for (key, answer) in crossing.join_all().await.into_iter().flatten() {
        match answer {
            Answer::Granted(_) => granted.push(key.key),
            Answer::InFlight { .. } => {}
            other => return Err(format!("{}: {other:?}", key.key)),
        }
    }
    granted.sort_unstable();
    let mut all: Vec<_> = keys.into_iter().map(|key| key.key).collect();
    all.sort_unstable();
    ensure!(granted == all, "granted: {granted:?}");
    Ok(())
}

async fn a_batch_met_by_a_fail_of_one_key_grants_the_others(lab: &Lab<'_>) -> Verdict {
    let keys = ["a", "b", "c"].map(|name| lab.key(name));
    let owner = lab.owner();
    matched!(lab.one(fail(&keys[1], owner)).await, Answer::Marked);
    let asked = keys.iter().map(|key| acquire(key, owner)).collect();
    let answers = lab.store.apply(asked).await;
    let names: Vec<_> = answers.iter().map(Answer::name).collect();
    ensure!(names == ["granted", "cancelled", "granted"], "{names:?}");
    Ok(())
}
