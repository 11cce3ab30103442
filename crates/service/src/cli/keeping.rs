//! `idempotencyd keys rewrap` and `erase`: how the records are kept.

use super::call::{read, CommandFailure, Pairs, ServiceCaller};
use super::change::{self, ChangeTo};
use super::key_args::{Erase, Keys, Rewrap};
use super::output::{line, Format};
use crate::api::keeping::{RewrapAnswer, ScrubAnswer};
use http::Method;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long the files may take to be rewritten, at least.
const SCRUB: Duration = Duration::from_secs(3_600);

/// Pass after pass, until none is left that was busy.
pub(super) async fn rewrap(
    keys: &Keys,
    caller: &ServiceCaller,
    asked: &Rewrap,
) -> Result<(), CommandFailure> {
    let mut total = RewrapAnswer::default();
    for _ in 0..asked.passes {
        let pass = one_pass(caller, asked).await?;
        total.looked_at = pass.looked_at;
        total.rewrapped += pass.rewrapped;
        total.in_clear += pass.in_clear;
        total.busy = pass.busy;
        total.unreadable = pass.unreadable;
        if pass.busy == 0 {
            break;
        }
    }
    super::print(&match keys.format() {
        Format::Table => format!(
            "{} of {} records rewrapped, {} of them were in clear; {} busy, {} unreadable\n",
            total.rewrapped, total.looked_at, total.in_clear, total.busy, total.unreadable
        ),
        Format::Json | Format::Jsonl => line(&total),
    });
    if asked.scrub {
        scrub(keys, caller).await?;
    }
    match (total.busy, total.unreadable) {
        (0, 0) => Ok(()),
        (0, _) => Err(CommandFailure::Left(
            "what is unreadable needs a key that the service does not have, or is damaged: keep \
             every old key until it has expired"
                .to_owned(),
        )),
        _ => Err(CommandFailure::Left(
            "some records were busy: keep the old keys, and rewrap again".to_owned(),
        )),
    }
}

async fn one_pass(caller: &ServiceCaller, asked: &Rewrap) -> Result<RewrapAnswer, CommandFailure> {
    let mut pass = RewrapAnswer::default();
    let mut after = None;
    loop {
        let mut pairs: Pairs = vec![("limit", asked.batch.to_string())];
        pairs.extend(after.map(|after| ("after", after)));
        let batch: RewrapAnswer = post(caller, "/v1/records/rewrap", pairs).await?;
        pass.looked_at += batch.looked_at;
        pass.rewrapped += batch.rewrapped;
        pass.in_clear += batch.in_clear;
        pass.busy += batch.busy;
        pass.unreadable += batch.unreadable;
        match batch.next {
            Some(next) => after = Some(next),
            None => return Ok(pass),
        }
    }
}

/// Deletes what the tenant has, and then has it leave the files.
pub(super) async fn erase(
    keys: &Keys,
    caller: &ServiceCaller,
    asked: &Erase,
) -> Result<(), CommandFailure> {
    change::run(keys, caller, &asked.change(), ChangeTo::Deleted).await?;
    if asked.dry_run {
        return Ok(());
    }
    scrub(keys, caller).await
}

/// Has what was deleted or replaced leave the files.
async fn scrub(keys: &Keys, caller: &ServiceCaller) -> Result<(), CommandFailure> {
    let caller = caller.waiting(keys, SCRUB);
    let answer: ScrubAnswer = post(&caller, "/v1/records/scrub", Vec::new()).await?;
    let text = if answer.scrubbed {
        "the files of the store are compacted: what was deleted is in none of them\n"
    } else {
        "the records are another server's: see docs/encryption.md for when they leave its files\n"
    };
    match keys.format() {
        Format::Table => {
            super::print(text);
        }
        // Standard output is for programs.
        Format::Json | Format::Jsonl => eprint!("{text}"),
    }
    Ok(())
}

async fn post<T: DeserializeOwned>(
    caller: &ServiceCaller,
    path: &str,
    pairs: Pairs,
) -> Result<T, CommandFailure> {
    let answer = caller.send(Method::POST, path, pairs, Vec::new()).await?;
    match answer.status {
        200 => read(&answer.body),
        _ => Err(CommandFailure::Refused(answer)),
    }
}
