//! The table of states and events, cell by cell.

use super::*;

/// Rows are events, columns are states; *own* means that the event carries the owner token (or,
/// for settle, the fence) of the execution that made the state, *other* any other one. A cell
/// names the answer and the state afterwards; `lapsed` is executing with its lease over, whether
/// the backend has noticed (`unknown`) or not. `settled` is completed by the upstream, while the
/// gateway's lease lives; `undone` is failed, and nothing was done; `doubtful` is executing, after an
/// attempt whose outcome is unknown. `=` is the state before.
const TABLE: &str = "
event          | absent            | executing own       | executing other  | lapsed own              | lapsed other            | settled own         | settled other    | completed own    | completed other  | failed own       | failed other      | undone own       | undone other      | unknown own         | unknown other     | doubtful own
acquire        | granted executing | granted =           | in_flight =      | unknown_outcome unknown | unknown_outcome unknown | spent =             | in_flight =      | stored =         | stored =         | spent =          | granted executing | spent =          | granted executing | unknown_outcome =   | unknown_outcome = | granted =
acquire, retry | granted executing | granted =           | in_flight =      | spent unknown           | granted executing       | spent =             | in_flight =      | stored =         | stored =         | spent =          | granted executing | spent =          | granted executing | spent =             | granted executing | granted =
other payload  | granted executing | mismatch =          | mismatch =       | mismatch =              | mismatch =              | mismatch =          | mismatch =       | mismatch =       | mismatch =       | mismatch =       | mismatch =        | spent =          | granted executing | mismatch =          | mismatch =        | mismatch =
other, retry   | granted executing | mismatch =          | mismatch =       | mismatch =              | mismatch =              | mismatch =          | mismatch =       | mismatch =       | mismatch =       | mismatch =       | mismatch =        | spent =          | granted executing | mismatch =          | mismatch =        | mismatch =
other scheme   | granted executing | not_comparable =    | not_comparable = | not_comparable =        | not_comparable =        | not_comparable =    | not_comparable = | not_comparable = | not_comparable = | not_comparable = | not_comparable =  | not_comparable = | not_comparable =  | not_comparable =    | not_comparable =  | not_comparable =
complete       | lost =            | completed completed | lost =           | completed completed     | lost =                  | completed completed | lost =           | completed =      | lost =           | lost =           | lost =            | lost =           | lost =            | completed completed | lost =            | completed completed
complete, else | lost =            | completed completed | lost =           | completed completed     | lost =                  | completed completed | lost =           | differs =        | lost =           | lost =           | lost =            | lost =           | lost =            | completed completed | lost =            | completed completed
fail           | marked =          | failed failed       | lost =           | failed failed           | lost =                  | refused =           | refused =        | refused =        | refused =        | failed =         | lost =            | failed =         | lost =            | refused =           | refused =         | abandoned unknown
abandon        | marked =          | abandoned unknown   | lost =           | abandoned unknown       | lost =                  | refused =           | refused =        | refused =        | refused =        | refused =        | refused =         | refused =        | refused =         | abandoned =         | lost =            | abandoned unknown
extend         | lost =            | extended =          | lost =           | extended executing      | lost =                  | extended =          | lost =           | refused =        | refused =        | refused =        | refused =         | refused =        | refused =         | refused =           | refused =         | extended =
settle done    | lost =            | completed settled   | lost =           | completed completed     | lost =                  | completed =         | lost =           | completed =      | lost =           | refused =        | lost =            | refused =        | lost =            | completed completed | lost =            | completed settled
settle else    | lost =            | completed settled   | lost =           | completed completed     | lost =                  | differs =           | lost =           | differs =        | lost =           | refused =        | lost =            | refused =        | lost =            | completed completed | lost =            | completed settled
redeem         | lost =            | redeemed =          | lost =           | lost =                  | lost =                  | lost =              | lost =           | lost =           | lost =           | lost =           | lost =            | lost =           | lost =            | lost =              | lost =            | redeemed =
redeem, other  | lost =            | lost =              | lost =           | lost =                  | lost =                  | lost =              | lost =           | lost =           | lost =           | lost =           | lost =            | lost =           | lost =            | lost =              | lost =            | lost =
settle failed  | lost =            | failed failed       | lost =           | failed failed           | lost =                  | refused =           | lost =           | refused =        | lost =           | failed =         | lost =            | failed =         | lost =            | failed failed       | lost =            | abandoned unknown
";

pub(super) fn cases() -> Vec<Case> {
    let mut lines = TABLE
        .trim()
        .lines()
        .map(|line| line.split('|').map(str::trim));
    let columns: Vec<&str> = lines.next().into_iter().flatten().skip(1).collect();
    let mut cases = Vec::new();
    for mut row in lines {
        let event = row.next().unwrap_or_default();
        for (column, cell) in columns.iter().copied().zip(row) {
            cases.push(Case::new(
                format!("table: {event} × {column}"),
                move |lab| Box::pin(cell_holds(lab, event, column, cell)),
            ));
        }
    }
    cases
}

async fn cell_holds(lab: &Lab<'_>, event: &str, column: &str, cell: &str) -> Verdict {
    let key = lab.key("cell");
    let (state, whose) = column.split_once(' ').unwrap_or((column, "other"));
    let (answer, after) = cell
        .split_once(' ')
        .ok_or("a cell names an answer and a state")?;
    let mine = lab.owner();
    let fence = enter(lab, &key, mine, state).await?;
    let (owner, fence) = if whose == "own" {
        (mine, fence)
    } else {
        (lab.owner(), fence.saturating_add(1))
    };
    let before = lab.view(&key).await?;

    let got = lab.one(operation(event, &key, owner, fence)?).await;

    ensure!(got.name() == answer, "answered {got:?}, not {answer}");
    let expected = if after == "=" { state } else { after };
    let view = lab.view(&key).await?;
    let found = view.as_ref().map(|v| (v.state, v.lease_left_ms));
    let holds = match expected {
        "absent" => found.is_none(),
        "executing" | "doubtful" => {
            matches!(found, Some((RecordState::Executing, Some(1..))))
        }
        "settled" => matches!(found, Some((RecordState::Completed, Some(1..)))),
        "lapsed" => matches!(
            found,
            Some((RecordState::Executing, Some(0))) | Some((RecordState::Unknown, None))
        ),
        "completed" => matches!(found, Some((RecordState::Completed, None))),
        "failed" | "undone" => matches!(found, Some((RecordState::Failed, None))),
        "unknown" => matches!(found, Some((RecordState::Unknown, None))),
        other => return Err(format!("the table has no state {other}")),
    };
    ensure!(holds, "afterwards the record is {view:?}, not {expected}");
    if let (Some(before), Some(after), "granted") = (&before, &view, answer) {
        let again = whose == "own";
        let attempt = if again {
            before.attempt
        } else {
            before.attempt + 1
        };
        ensure!(
            after.attempt == attempt,
            "attempt {} after {}",
            after.attempt,
            before.attempt
        );
        ensure!(
            (after.fence > before.fence) != again,
            "fence {before:?} → {after:?}"
        );
    }
    if let (Some(before), Some(after)) = (&before, &view) {
        ensure!(
            before.state == after.state || after.version > before.version,
            "changed without a new version: {before:?} → {after:?}"
        );
    }
    // Whatever was refused, what was stored is still there.
    if expected == "completed" && column.starts_with("completed") {
        let stored = matched!(lab.one(acquire(&key, lab.owner())).await, Answer::Stored(s) => s);
        ensure!(
            stored.outcome == response(b"done"),
            "the stored response has changed"
        );
    }
    Ok(())
}

/// Brings `key` into a state, by `owner`; returns the fence.
pub(super) async fn enter(
    lab: &Lab<'_>,
    key: &LookupKey,
    owner: Owner,
    state: &str,
) -> Result<u64, String> {
    if state == "absent" {
        return Ok(1);
    }
    if state == "lapsed" {
        return Ok(lab.lapsed(key, owner, KEEP).await?.fence);
    }
    if state == "doubtful" {
        let first = lab.owner();
        lab.granted(key, first).await?;
        matched!(lab.one(abandon(key, first)).await, Answer::Abandoned);
        let again = lab.one(retry(key, owner)).await;
        return Ok(matched!(again, Answer::Granted(grant) => grant.fence));
    }
    let grant = lab.granted(key, owner).await?;
    match state {
        "executing" => {}
        "completed" => {
            matched!(
                lab.one(complete(key, owner, b"done")).await,
                Answer::Completed { .. }
            )
        }
        "settled" => {
            let done = Settlement::Completed(response(b"done"));
            matched!(
                lab.one(settle(key, grant.fence, done)).await,
                Answer::Completed { .. }
            )
        }
        "failed" => matched!(lab.one(fail(key, owner)).await, Answer::Failed),
        "undone" => {
            let not_sent = fail_because(key, owner, FailCause::NotSent);
            matched!(lab.one(not_sent).await, Answer::Failed)
        }
        "unknown" => matched!(lab.one(abandon(key, owner)).await, Answer::Abandoned),
        other => return Err(format!("no such state: {other}")),
    }
    Ok(grant.fence)
}

fn operation(event: &str, key: &LookupKey, owner: Owner, fence: u64) -> Result<Operation, String> {
    let done = |body| Settlement::Completed(response(body));
    Ok(match event {
        "acquire" => acquire(key, owner),
        "acquire, retry" => retry(key, owner),
        "other payload" => acquire_with(key, owner, |a| a.fingerprint = fingerprint(2)),
        "other, retry" => acquire_with(key, owner, |a| {
            a.fingerprint = fingerprint(2);
            a.on_unknown = OnUnknown::Retry;
        }),
        "other scheme" => acquire_with(key, owner, |a| {
            a.fingerprint.scheme = Scheme(2);
            a.on_unknown = OnUnknown::Retry;
        }),
        "complete" => complete(key, owner, b"done"),
        "complete, else" => complete(key, owner, b"something else"),
        "fail" => fail(key, owner),
        "abandon" => abandon(key, owner),
        "extend" => extend(key, owner),
        "settle done" => settle(key, fence, done(b"done")),
        "settle else" => settle(key, fence, done(b"something else")),
        "redeem" => redeem(key, fence),
        "redeem, other" => redeem_with(key, fence, fingerprint(2)),
        "settle failed" => settle(key, fence, Settlement::Failed),
        other => return Err(format!("no such event: {other}")),
    })
}
