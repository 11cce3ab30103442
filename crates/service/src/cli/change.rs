//! Changing records: what would happen is said first, and happens only when somebody has confirmed it.

use super::call::{self, query, read, CommandFailure, Pairs, ServiceCaller};
use super::key_args::{self, Change, Keys};
use super::output::{line, Format};
use super::table;
use crate::api::model::{KeyOrigin, Record, Records, ResolveRequest, ResolveTo, State};
use http::Method;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::Path;

/// What records are to become.
#[derive(Clone, Debug)]
pub(super) enum ChangeTo {
    Completed(ResolveTo),
    Failed,
    Deleted,
}

impl ChangeTo {
    pub(super) fn completed_or_failed(
        resolve: &key_args::Resolve,
    ) -> Result<ChangeTo, CommandFailure> {
        let usage = |text: &str| Err(CommandFailure::Usage(text.to_owned()));
        let status = match (resolve.to, resolve.status) {
            (key_args::ToArg::Failed, None)
                if resolve.headers.is_empty()
                    && resolve.body_file.is_none()
                    && !resolve.tombstone =>
            {
                return Ok(ChangeTo::Failed)
            }
            (key_args::ToArg::Failed, _) => {
                return usage("--to failed takes no status, header, body or tombstone")
            }
            (key_args::ToArg::Completed, Some(status)) if !(200..=599).contains(&status) => {
                return usage("--status is between 200 and 599")
            }
            (key_args::ToArg::Completed, Some(status)) => status,
            // Nobody sees it: a retry is told that it was done.
            (key_args::ToArg::Completed, None) if resolve.tombstone => 200,
            (key_args::ToArg::Completed, None) => {
                return usage("--to completed needs --status, or --tombstone")
            }
        };
        let headers = resolve.headers.iter();
        Ok(ChangeTo::Completed(ResolveTo::Completed {
            status,
            headers: headers.map(|h| header(h)).collect::<Result<_, _>>()?,
            body: match &resolve.body_file {
                Some(path) => read_body(path)?,
                None => String::new(),
            },
            tombstone: resolve.tombstone,
        }))
    }

    fn name(&self) -> &'static str {
        match self {
            ChangeTo::Completed(_) => "set to completed",
            ChangeTo::Failed => "set to failed",
            ChangeTo::Deleted => "deleted",
        }
    }
}

/// Says what would happen, asks, and does it.
pub(super) async fn run(
    keys: &Keys,
    caller: &ServiceCaller,
    change: &Change,
    to: ChangeTo,
) -> Result<(), CommandFailure> {
    let is_given = keys.reason.as_ref().is_some_and(|r| !r.trim().is_empty());
    if change.yes && !is_given {
        let text = "a change needs --reason, for the service's audit log";
        return Err(CommandFailure::Usage(text.to_owned()));
    }
    let found = select(caller, change).await?;
    let is_table = keys.format() == Format::Table;
    if found.records.is_empty() {
        say(keys, "no record matches: nothing to change\n");
        return Ok(());
    }
    let (wanted, left): (Vec<Record>, Vec<Record>) = found
        .records
        .into_iter()
        .partition(|record| change.force || !is_running(record));
    let plan = plan(&wanted, &left, &to);
    if is_table {
        let shown = Records {
            records: wanted.iter().chain(&left).cloned().collect(),
            next: None,
            looked_at: None,
            incomplete: false,
        };
        super::print(&table::records(&shown));
    }
    say(keys, &plan);
    if wanted.is_empty() {
        let text = "an execution holds each of them: nothing was changed (see --force)";
        return Err(CommandFailure::Left(text.to_owned()));
    }
    if change.dry_run {
        show_dry_run(keys, &wanted, &to);
        return Ok(());
    }
    if !change.yes {
        confirm(&wanted, &to, is_given)?;
    }
    carry_out(keys, caller, change, wanted, left.len(), &to).await
}

fn say(keys: &Keys, text: &str) {
    match keys.format() {
        Format::Table => {
            super::print(text);
        }
        // Standard output is for programs.
        Format::Json | Format::Jsonl => eprint!("{text}"),
    }
}

/// The records that are meant.
async fn select(caller: &ServiceCaller, change: &Change) -> Result<Records, CommandFailure> {
    let usage = |text: String| Err(CommandFailure::Usage(text));
    let filter = query(&key_args::Tenant::default(), &change.filter)?;
    let Some(key) = &change.key else {
        let pairs = query(&change.tenant, &change.filter)?;
        if pairs.is_empty() && !change.all {
            return usage("name a KEY, or say which records (or --all)".to_owned());
        }
        let found = caller.walk(&pairs, change.most.saturating_add(1)).await?;
        if found.records.len() > change.most {
            return usage(format!(
                "more than {} records match; narrow it down, or raise --most",
                change.most
            ));
        }
        return Ok(distinct(found));
    };
    if !filter.is_empty() {
        return usage("a KEY is one record: leave out what records have to match".to_owned());
    }
    let record = caller.record(key, &change.tenant, change.origin).await?;
    if let Some(version) = change.version.filter(|v| *v != record.version) {
        return Err(CommandFailure::Left(format!(
            "412 The record has changed since version {version}; look at it and decide anew\n{}",
            table::record(&record).trim_end()
        )));
    }
    Ok(Records {
        records: vec![record],
        next: None,
        looked_at: None,
        incomplete: false,
    })
}

/// A search may show a record twice; the later one is newer.
fn distinct(mut found: Records) -> Records {
    let identity = |r: &Record| {
        let origin = r.origin == KeyOrigin::Derived;
        (r.tenant.clone(), r.namespace.clone(), origin, r.key.clone())
    };
    let mut seen = std::collections::HashSet::new();
    found.records.reverse();
    found.records.retain(|record| seen.insert(identity(record)));
    found.records.reverse();
    found
}

/// An execution holds a live lease.
fn is_running(record: &Record) -> bool {
    record.lease_left_ms.is_some_and(|left| left > 0)
}

/// What the change does to what runs.
fn plan(wanted: &[Record], left: &[Record], to: &ChangeTo) -> String {
    let mut text = String::new();
    let mut tell = |count: usize, what: &str| {
        if count > 0 {
            let (noun, verb) = match count {
                1 => ("record", "is"),
                _ => ("records", "are"),
            };
            text.push_str(&format!("{count} {noun} {verb} {what}\n"));
        }
    };
    let count = |is: fn(&Record) -> bool| wanted.iter().filter(|record| is(record)).count();
    let running = count(is_running);
    let done = count(|r| r.state == State::Completed && !is_running(r));
    let doubtful =
        count(|r| matches!(r.state, State::Unknown | State::Executing) && !is_running(r));
    let failed = count(|r| r.state == State::Failed);
    match to {
        ChangeTo::Completed(_) => {
            tell(
                running,
                "executing, and will not be waited for: what it answers is not kept",
            );
            tell(done, "completed already: retries will get the new answer");
            tell(
                doubtful,
                "in doubt: retries will be told that it was done, and nothing runs",
            );
            tell(
                failed,
                "failed: retries will be told that it was done, and nothing runs",
            );
        }
        ChangeTo::Failed | ChangeTo::Deleted => {
            tell(
                running,
                "executing NOW: a retry would run beside it, and both may take effect",
            );
            tell(done, "COMPLETED: the next request with its key RUNS AGAIN");
            tell(
                doubtful,
                "in doubt, it may have been done: the next request with its key runs, \
                 PERHAPS FOR THE SECOND TIME",
            );
            tell(
                failed,
                "failed: the next request with its key runs, as it would without this",
            );
        }
    }
    tell(
        left.len(),
        "executing, and left as it is (--force decides over it)",
    );
    text
}

fn show_dry_run(keys: &Keys, wanted: &[Record], to: &ChangeTo) {
    match keys.format() {
        Format::Table => {}
        Format::Json => {
            super::print(&line(&json!({ "records": wanted, "would_be": to.name() })));
        }
        Format::Jsonl => {
            super::print(&wanted.iter().map(line).collect::<String>());
        }
    }
    say(keys, "Nothing was changed: this was a dry run.\n");
}

/// Asks the operator at the terminal.
fn confirm(wanted: &[Record], to: &ChangeTo, has_reason: bool) -> Result<(), CommandFailure> {
    let is_asked = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !is_asked {
        return Err(CommandFailure::Unconfirmed(
            "nothing was changed: repeat it with --yes and --reason to do it".to_owned(),
        ));
    }
    if !has_reason {
        let text = "nothing was changed: a change needs --reason, for the service's audit log";
        return Err(CommandFailure::Usage(text.to_owned()));
    }
    eprint!("Type `yes` to have {} {}: ", wanted.len(), to.name());
    let _ = std::io::stderr().flush();
    let mut typed = String::new();
    let read = std::io::stdin().lock().read_line(&mut typed);
    match read {
        Ok(_) if typed.trim() == "yes" => Ok(()),
        _ => Err(CommandFailure::Unconfirmed(
            "nothing was changed".to_owned(),
        )),
    }
}

async fn carry_out(
    keys: &Keys,
    caller: &ServiceCaller,
    change: &Change,
    wanted: Vec<Record>,
    left: usize,
    to: &ChangeTo,
) -> Result<(), CommandFailure> {
    let (total, mut done, mut missed) = (wanted.len(), 0usize, 0usize);
    let mut results = Vec::new();
    for record in wanted {
        let answer = match send(keys, caller, change, &record, to).await {
            Ok(answer) => answer,
            Err(failure) => {
                say(
                    keys,
                    &format!("{done} of {total} {} before this\n", to.name()),
                );
                return Err(failure);
            }
        };
        let result = match answer.status {
            200 => "done",
            404 => "gone",
            409 => "executing",
            412 => "changed",
            _ => {
                say(
                    keys,
                    &format!("{done} of {total} {} before this\n", to.name()),
                );
                return Err(CommandFailure::Refused(answer));
            }
        };
        match result {
            "done" => done += 1,
            _ => missed += 1,
        }
        if total == 1 {
            return one_done(keys, to, answer);
        }
        results.push(json!({
            "tenant": record.tenant, "namespace": record.namespace, "origin": record.origin,
            "key": record.key, "log_id": record.log_id, "version": record.version,
            "result": result,
        }));
        if keys.format() == Format::Table && result != "done" {
            say(keys, &format!("{}: {result}\n", table::plain(&record.key)));
        }
    }
    match keys.format() {
        Format::Table => {}
        Format::Json => {
            super::print(&line(&results));
        }
        Format::Jsonl => {
            super::print(&results.iter().map(line).collect::<String>());
        }
    }
    say(keys, &format!("{done} of {total} {}\n", to.name()));
    if missed + left == 0 {
        return Ok(());
    }
    Err(CommandFailure::Left(format!(
        "{} left as they are: they have changed meanwhile, or are executing",
        missed + left
    )))
}

/// The only record: what the service says of it.
fn one_done(
    keys: &Keys,
    to: &ChangeTo,
    answer: idempotency_client::Answer,
) -> Result<(), CommandFailure> {
    if answer.status != 200 {
        return Err(CommandFailure::Refused(answer));
    }
    super::print(&match (keys.format(), to) {
        (Format::Table, ChangeTo::Deleted) => "deleted\n".to_owned(),
        (Format::Table, _) => table::record(&read::<Record>(&answer.body)?),
        (Format::Json | Format::Jsonl, _) => {
            format!("{}\n", String::from_utf8_lossy(&answer.body))
        }
    });
    Ok(())
}

async fn send(
    keys: &Keys,
    caller: &ServiceCaller,
    change: &Change,
    record: &Record,
    to: &ChangeTo,
) -> Result<idempotency_client::Answer, CommandFailure> {
    let to = match to {
        ChangeTo::Completed(to) => to.clone(),
        ChangeTo::Failed => ResolveTo::Failed {},
        ChangeTo::Deleted => {
            let origin = match record.origin {
                KeyOrigin::Client => key_args::OriginArg::Client,
                KeyOrigin::Derived => key_args::OriginArg::Derived,
            };
            let tenant = key_args::Tenant {
                tenant: Some(record.tenant.clone()),
                credential_file: None,
                namespace: Some(record.namespace.clone()),
            };
            let mut pairs: Pairs = call::one(&record.key, &tenant, origin)?;
            pairs.push(("version", record.version.to_string()));
            pairs.push(("force", change.force.to_string()));
            let body = Vec::new();
            return caller.send(Method::DELETE, "/v1/record", pairs, body).await;
        }
    };
    let document = ResolveRequest {
        tenant: record.tenant.clone(),
        namespace: record.namespace.clone(),
        origin: record.origin,
        key: record.key.clone(),
        version: record.version,
        to,
        force: change.force,
        reason: keys.reason.clone(),
    };
    let body = serde_json::to_vec(&document).map_err(|e| CommandFailure::Usage(e.to_string()))?;
    let path = "/v1/record/resolve";
    caller.send(Method::POST, path, Vec::new(), body).await
}

fn header(text: &str) -> Result<(String, String), CommandFailure> {
    match text.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => Err(CommandFailure::Usage(format!(
            "--header `{text}`: write `name: value`"
        ))),
    }
}

fn read_body(path: &Path) -> Result<String, CommandFailure> {
    let failed = |e: std::io::Error| CommandFailure::Usage(format!("{}: {e}", path.display()));
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
    } else {
        text = std::fs::read_to_string(path).map_err(failed)?;
    }
    Ok(text)
}
