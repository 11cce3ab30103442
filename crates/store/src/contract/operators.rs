//! Operators: inspect, resolve, delete.

use super::*;
use crate::history::PastEnd;
use crate::store::ListFilter;
use idempotency_protocol::About;

/// What an operator may do in each state. All three resolutions behave alike, apart from the
/// state that they lead to.
const TABLE: &str = "
request       | absent      | executing       | lapsed          | completed       | failed          | unknown
plain         | no_such_key | executing       | done            | done            | done            | done
forced        | no_such_key | done            | done            | done            | done            | done
stale version | no_such_key | version_changed | version_changed | version_changed | version_changed | version_changed
";

pub(super) fn cases() -> Vec<Case> {
    let mut lines = TABLE
        .trim()
        .lines()
        .map(|line| line.split('|').map(str::trim));
    let columns: Vec<&str> = lines.next().into_iter().flatten().skip(1).collect();
    let mut cases = Vec::new();
    for mut row in lines {
        let request = row.next().unwrap_or_default();
        for (state, cell) in columns.iter().copied().zip(row) {
            for to in ["completed", "failed", "deleted"] {
                let name = format!("operators: {request} resolve to {to} × {state}");
                cases.push(Case::new(name, move |lab| {
                    Box::pin(cell_holds(lab, request, state, to, cell))
                }));
            }
        }
    }
    cases.extend(more());
    cases
}

fn resolution(to: &str) -> Resolution {
    match to {
        "completed" => Resolution::Completed(response(b"by hand")),
        "failed" => Resolution::Failed,
        _ => Resolution::Deleted,
    }
}

fn name(resolved: &Resolved) -> &'static str {
    match resolved {
        Resolved::Done(_) => "done",
        Resolved::NoSuchKey => "no_such_key",
        Resolved::VersionChanged(_) => "version_changed",
        Resolved::Executing(_) => "executing",
    }
}

/// The record without what goes on by itself.
fn still(view: &Option<RecordView>) -> Option<RecordView> {
    view.clone().map(|view| RecordView {
        lease_left_ms: None,
        ..view
    })
}

async fn cell_holds(lab: &Lab<'_>, request: &str, state: &str, to: &str, cell: &str) -> Verdict {
    let (key, owner) = (lab.key("k"), lab.owner());
    let fence = table::enter(lab, &key, owner, state).await?;
    let before = lab.view(&key).await?;
    let begins: String = owner.0.iter().take(4).map(|b| format!("{b:02x}")).collect();
    ensure!(
        before
            .as_ref()
            .is_none_or(|v| v.owner.as_ref() == Some(&begins)),
        "the owner is {begins}…: {before:?}"
    );
    let version = before.as_ref().map_or(1, |v| v.version);
    let version = if request == "stale version" {
        version - 1
    } else {
        version
    };
    let force = request != "plain";

    let resolved = lab.resolve_at(&key, version, resolution(to), force).await?;

    ensure!(name(&resolved) == cell, "{resolved:?}, not {cell}");
    let after = lab.view(&key).await?;
    if cell != "done" {
        ensure!(
            still(&before) == still(&after) || state == "lapsed",
            "{before:?} → {after:?}"
        );
        return Ok(());
    }
    let expected = match to {
        "completed" => Some(RecordState::Completed),
        "failed" => Some(RecordState::Failed),
        _ => None,
    };
    ensure!(
        after.as_ref().map(|v| v.state) == expected,
        "afterwards {after:?}"
    );
    ensure!(
        after
            .as_ref()
            .is_none_or(|v| v.version > version && v.fence == fence && v.owner.is_none()),
        "{before:?} → {after:?}"
    );

    // Whoever executed has nothing to say any more, and cannot come back.
    matched!(lab.one(complete(&key, owner, b"late")).await, Answer::Lost);
    let extended = lab.one(extend(&key, owner)).await;
    ensure!(
        matches!(extended, Answer::Lost | Answer::Refused),
        "{extended:?}"
    );
    lab.one(fail(&key, owner)).await;
    ensure!(
        lab.state(&key).await? == expected,
        "the late owner changed the record"
    );
    let back = lab.one(retry(&key, owner)).await;
    match to {
        "completed" => {
            let stored = matched!(back, Answer::Stored(s) => s);
            ensure!(stored.outcome == response(b"by hand"), "{stored:?}");
        }
        _ => {
            ensure!(matches!(back, Answer::Spent), "{back:?}");
            let next = matched!(lab.one(acquire(&key, lab.owner())).await, Answer::Granted(g) => g);
            ensure!(next.fence > fence, "fence {} after {fence}", next.fence);
            ensure!(
                next.attempt == if to == "failed" { 2 } else { 1 },
                "{next:?}"
            );
            // The late one still is late.
            matched!(lab.one(complete(&key, owner, b"late")).await, Answer::Lost);
        }
    }
    Ok(())
}

mod rest {
    use super::*;

    cases!("operators":
        every_change_of_state_changes_the_version,
        a_version_never_comes_back,
        a_deleted_key_takes_another_payload,
        a_settle_after_a_resolve_does_not_overwrite,
        a_record_says_what_was_asked_and_how_often,
        inspect_tells_what_is_there,
    );

    async fn every_change_of_state_changes_the_version(lab: &Lab<'_>) -> Verdict {
        let (key, owner) = (lab.key("k"), lab.owner());
        lab.granted(&key, owner).await?;
        let mut last = lab.version(&key).await?;
        for operation in [
            extend(&key, owner),
            abandon(&key, owner),
            complete(&key, owner, b"x"),
        ] {
            let step = operation.name();
            lab.one(operation).await;
            let version = lab.version(&key).await?;
            ensure!(version > last, "{step}: {version} after {last}");
            last = version;
        }
        Ok(())
    }

    async fn a_version_never_comes_back(lab: &Lab<'_>) -> Verdict {
        let key = lab.key("k");
        let mut last = 0;
        for _ in 0..5 {
            lab.granted(&key, lab.owner()).await?;
            let version = lab.version(&key).await?;
            ensure!(version > last, "{version} after {last}");
            last = version;
            matched!(
                lab.resolve(&key, Resolution::Deleted, true).await?,
                Resolved::Done(None)
            );
        }
        Ok(())
    }

    async fn a_deleted_key_takes_another_payload(lab: &Lab<'_>) -> Verdict {
        let key = lab.key("k");
        lab.completed(&key, lab.owner()).await?;
        matched!(
            lab.resolve(&key, Resolution::Deleted, false).await?,
            Resolved::Done(None)
        );
        let other = acquire_with(&key, lab.owner(), |a| a.fingerprint = fingerprint(2));
        matched!(
            lab.one(other).await,
            Answer::Granted(Grant { attempt: 1, .. })
        );
        Ok(())
    }

    async fn a_settle_after_a_resolve_does_not_overwrite(lab: &Lab<'_>) -> Verdict {
        for to in ["completed", "failed"] {
            let key = lab.key(to);
            let fence = table::enter(lab, &key, lab.owner(), "unknown").await?;
            matched!(
                lab.resolve(&key, resolution(to), false).await?,
                Resolved::Done(Some(_))
            );
            let before = lab.view(&key).await?;
            let late = settle(&key, fence, Settlement::Completed(response(b"late")));
            let answer = lab.one(late).await;
            ensure!(
                matches!(answer, Answer::Refused | Answer::Differs),
                "{answer:?}"
            );
            ensure!(before == lab.view(&key).await?, "overwritten");
        }
        Ok(())
    }

    async fn a_record_says_what_was_asked_and_how_often(lab: &Lab<'_>) -> Verdict {
        let (key, first, second) = (lab.key("k"), lab.owner(), lab.owner());
        let about = |id: &str| {
            Some(Arc::new(About {
                method: "POST".into(),
                path: "/charges".into(),
                request_id: id.into(),
                ..About::default()
            }))
        };
        let one = acquire_with(&key, first, |a| a.about = about("1"));
        matched!(lab.one(one).await, Answer::Granted(_));
        matched!(lab.one(abandon(&key, first)).await, Answer::Abandoned);
        let two = acquire_with(&key, second, |a| {
            a.on_unknown = OnUnknown::Retry;
            a.kind = AttemptKind::Guard;
            a.about = about("2");
        });
        matched!(lab.one(two).await, Answer::Granted(_));
        let view = lab.view(&key).await?.ok_or("no record")?;
        ensure!(view.about.as_deref() == about("2").as_deref(), "{view:?}");
        let attempts: Vec<_> = view.attempts.iter().map(|a| (a.number, a.kind)).collect();
        let expected = [(1, AttemptKind::Gateway), (2, AttemptKind::Guard)];
        ensure!(attempts == expected, "{view:?}");
        let ends: Vec<_> = view.attempts.iter().map(|a| a.end.map(|e| e.0)).collect();
        ensure!(ends == [Some(PastEnd::Unknown), None], "{view:?}");
        let in_order = view.attempts.iter().all(|a| {
            let end = a.end.map_or(a.started_at_ms, |end| end.1);
            (view.created_at_ms..=end).contains(&a.started_at_ms)
        });
        ensure!(in_order, "{view:?}");
        let filter = ListFilter {
            tenant: Some(key.tenant.clone()),
            namespace: Some(key.namespace.clone()),
            limit: 100,
            ..ListFilter::default()
        };
        let page = lab.store.list(filter).await;
        let page = page.map_err(|e| e.to_string())?;
        let listed = page.records.iter().find(|r| r.key == key);
        ensure!(
            listed.is_some_and(|r| r.about == view.about && r.attempts == view.attempts),
            "{listed:?}"
        );
        Ok(())
    }

    async fn inspect_tells_what_is_there(lab: &Lab<'_>) -> Verdict {
        let (key, owner) = (lab.key("k"), lab.owner());
        ensure!(lab.view(&key).await?.is_none(), "a record out of nothing");
        let grant = lab.granted(&key, owner).await?;
        let view = lab.view(&key).await?.ok_or("no record")?;
        ensure!(
            view.key == key && view.fence == grant.fence && view.attempt == 1,
            "{view:?}"
        );
        ensure!(view.state == RecordState::Executing, "{view:?}");
        ensure!(
            view.lease_left_ms.is_some_and(|l| l > 0 && l <= LONG_MS),
            "{view:?}"
        );
        ensure!(
            view.expires_at_ms.is_none() && view.status.is_none(),
            "{view:?}"
        );
        matched!(
            lab.one(complete(&key, owner, b"12345")).await,
            Answer::Completed { .. }
        );
        let view = lab.view(&key).await?.ok_or("no record")?;
        ensure!(
            view.state == RecordState::Completed && !view.tombstone,
            "{view:?}"
        );
        ensure!(
            view.status == Some(201) && view.body_bytes == Some(5),
            "{view:?}"
        );
        ensure!(
            view.lease_left_ms.is_none() && view.expires_at_ms.is_some(),
            "{view:?}"
        );
        Ok(())
    }
}

fn more() -> Vec<Case> {
    rest::cases()
}
