//! Many at once.

use super::*;
use tokio::task::JoinSet;

cases!("races":
    of_many_acquirers_exactly_one_is_granted,
    of_many_retries_after_a_lapse_exactly_one_is_granted,
    of_many_contradicting_completes_exactly_one_wins,
    of_a_resolve_and_a_late_complete_exactly_one_wins,
    of_many_who_redeem_one_proof_exactly_one_does,
);

async fn all(lab: &Lab<'_>, operations: Vec<Operation>) -> Result<Vec<Answer>, String> {
    let mut tasks = JoinSet::new();
    for operation in operations {
        let store = Arc::clone(&lab.store);
        tasks.spawn(async move { store.apply(vec![operation]).await });
    }
    let mut answers = Vec::new();
    while let Some(done) = tasks.join_next().await {
        answers.extend(done.map_err(|e| e.to_string())?);
    }
    Ok(answers)
}

fn count(answers: &[Answer], name: &str) -> usize {
    answers.iter().filter(|a| a.name() == name).count()
}

async fn of_many_acquirers_exactly_one_is_granted(lab: &Lab<'_>) -> Verdict {
    for round in 0..10 {
        let key = lab.key(&format!("k{round}"));
        let asked = (0..64).map(|_| acquire(&key, lab.owner())).collect();
        let answers = all(lab, asked).await?;
        ensure!(
            count(&answers, "granted") == 1,
            "{} grants",
            count(&answers, "granted")
        );
        ensure!(count(&answers, "in_flight") == 63, "{answers:?}");
    }
    Ok(())
}

async fn of_many_retries_after_a_lapse_exactly_one_is_granted(lab: &Lab<'_>) -> Verdict {
    let key = lab.key("k");
    lab.lapsed(&key, lab.owner(), KEEP).await?;
    let answers = all(lab, (0..64).map(|_| retry(&key, lab.owner())).collect()).await?;
    ensure!(
        count(&answers, "granted") == 1,
        "{} grants",
        count(&answers, "granted")
    );
    ensure!(count(&answers, "in_flight") == 63, "{answers:?}");
    Ok(())
}

async fn of_many_contradicting_completes_exactly_one_wins(lab: &Lab<'_>) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    lab.granted(&key, owner).await?;
    let asked = (0..32u8).map(|n| complete(&key, owner, &[n])).collect();
    let answers = all(lab, asked).await?;
    ensure!(count(&answers, "completed") == 1, "{answers:?}");
    ensure!(count(&answers, "differs") == 31, "{answers:?}");
    Ok(())
}

async fn of_a_resolve_and_a_late_complete_exactly_one_wins(lab: &Lab<'_>) -> Verdict {
    for round in 0..20 {
        let (key, owner) = (lab.key(&format!("k{round}")), lab.owner());
        lab.lapsed(&key, owner, KEEP).await?;
        let version = lab.version(&key).await?;
        let (store, late) = (Arc::clone(&lab.store), complete(&key, owner, b"late"));
        let late = tokio::spawn(async move { store.apply(vec![late]).await });
        let resolved = lab
            .resolve_at(&key, version, Resolution::Failed, false)
            .await?;
        let late = late.await.map_err(|e| e.to_string())?.pop();
        let state = lab.state(&key).await?;
        match (&resolved, &late) {
            (Resolved::Done(_), Some(Answer::Lost)) => {
                ensure!(
                    state == Some(RecordState::Failed),
                    "{state:?}, but the operator won"
                );
            }
            (Resolved::VersionChanged(_), Some(Answer::Completed { .. })) => {
                ensure!(
                    state == Some(RecordState::Completed),
                    "{state:?}, but the owner won"
                );
            }
            other => return Err(format!("not one winner: {other:?}")),
        }
    }
    Ok(())
}

async fn of_many_who_redeem_one_proof_exactly_one_does(lab: &Lab<'_>) -> Verdict {
    for round in 0..10 {
        let key = lab.key(&format!("k{round}"));
        let grant = lab.granted(&key, lab.owner()).await?;
        let asked = (0..16).map(|_| redeem(&key, grant.fence)).collect();
        let answers = all(lab, asked).await?;
        ensure!(count(&answers, "redeemed") == 1, "{answers:?}");
        ensure!(count(&answers, "spent") == 15, "{answers:?}");
    }
    Ok(())
}
