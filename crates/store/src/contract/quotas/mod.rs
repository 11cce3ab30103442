//! Quotas: they concern new records, and nothing else.

mod granted;
mod room;

use super::*;
use crate::quota::{Quota, Quotas};

pub(super) fn cases() -> Vec<Case> {
    let areas = [granted::cases(), room::cases()];
    areas.into_iter().flatten().collect()
}

async fn set(lab: &Lab<'_>, quotas: Quotas) -> Verdict {
    for store in [&lab.store, &lab.other] {
        store.set_quotas(quotas).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The rest of a case under these quotas, which no other case must see.
macro_rules! under {
    ($lab:ident, $quotas:expr, $body:block) => {{
        set($lab, $quotas).await?;
        let verdict: Verdict = async { $body }.await;
        set($lab, Quotas::default()).await?;
        verdict
    }};
}

const NONE: Quotas = Quotas {
    executions: None,
    records: None,
    bytes: None,
};

fn executions(most: u64) -> Quotas {
    Quotas {
        executions: Some(most),
        ..NONE
    }
}

fn records(most: u64) -> Quotas {
    Quotas {
        records: Some(most),
        ..NONE
    }
}

fn bytes(most: u64) -> Quotas {
    Quotas {
        bytes: Some(most),
        ..NONE
    }
}

/// A new key is refused for that quota, and leaves nothing.
async fn refused(lab: &Lab<'_>, name: &str, quota: Quota) -> Verdict {
    let answer = lab.one(acquire(&lab.key(name), lab.owner())).await;
    ensure!(
        Quota::refused(&answer) == Some(quota),
        "{name}: not refused for {}: {answer:?}",
        quota.name()
    );
    let state = lab.state(&lab.key(name)).await?;
    ensure!(state.is_none(), "{name}: a record is {state:?}");
    Ok(())
}

async fn execute(lab: &Lab<'_>, name: &str) -> Result<(LookupKey, Owner), String> {
    let (key, owner) = (lab.key(name), lab.owner());
    lab.granted(&key, owner)
        .await
        .map_err(|e| format!("{name}: {e}"))?;
    Ok((key, owner))
}

async fn finish(lab: &Lab<'_>, name: &str) -> Verdict {
    lab.completed(&lab.key(name), lab.owner())
        .await
        .map(|_| ())
        .map_err(|e| format!("{name}: {e}"))
}

use under;
