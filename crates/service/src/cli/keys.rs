//! `idempotencyd keys`: operators look at records and change them, over HTTP.

use super::call::{self, one, query, CommandFailure, ServiceCaller};
use super::change;
use super::keeping;
use super::key_args::{Find, KeyCommand, Keys, List, Show};
use super::output::{line, Format};
use super::table;
use crate::api::model::{Records, StoredAnswer};
use serde_json::json;
use std::process::ExitCode;

impl Keys {
    pub(crate) fn run(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let result = match runtime {
            Ok(runtime) => runtime.block_on(self.call()),
            Err(error) => Err(CommandFailure::Service(error.to_string())),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => self.complain(&failure),
        }
    }

    pub(super) fn format(&self) -> Format {
        match self.json {
            true => Format::Json,
            false => self.output,
        }
    }

    async fn call(&self) -> Result<(), CommandFailure> {
        let caller = ServiceCaller::new(self)?;
        match &self.command {
            KeyCommand::Show(show) => self.show(&caller, show).await,
            KeyCommand::List(list) => self.list(&caller, list).await,
            KeyCommand::Find(find) => self.find(&caller, find).await,
            KeyCommand::Resolve(resolve) => {
                let to = change::ChangeTo::completed_or_failed(resolve)?;
                change::run(self, &caller, &resolve.change, to).await
            }
            KeyCommand::Delete(delete) => {
                change::run(self, &caller, &delete.change, change::ChangeTo::Deleted).await
            }
            KeyCommand::Rewrap(rewrap) => keeping::rewrap(self, &caller, rewrap).await,
            KeyCommand::Erase(erase) => keeping::erase(self, &caller, erase).await,
        }
    }

    async fn show(&self, caller: &ServiceCaller, show: &Show) -> Result<(), CommandFailure> {
        let record = caller.record(&show.key, &show.tenant, show.origin).await?;
        if !show.body {
            super::print(&match self.format() {
                Format::Table => table::record(&record),
                Format::Json | Format::Jsonl => line(&record),
            });
            return Ok(());
        }
        let pairs = one(&show.key, &show.tenant, show.origin)?;
        let answer: Option<StoredAnswer> = caller.get("/v1/record/answer", pairs).await?;
        super::print(&match self.format() {
            Format::Table => {
                let answer = answer.as_ref().map(table::answer);
                let answer = answer.unwrap_or_else(|| "\nno stored answer\n".to_owned());
                table::record(&record) + &answer
            }
            Format::Json | Format::Jsonl => line(&json!({ "record": record, "answer": answer })),
        });
        Ok(())
    }

    async fn list(&self, caller: &ServiceCaller, list: &List) -> Result<(), CommandFailure> {
        let mut pairs = query(&list.tenant, &list.filter)?;
        let optional = [
            ("key", list.key.clone()),
            ("after", list.after.clone()),
            ("sort", list.sort.map(|sort| sort.name().to_owned())),
        ];
        let optional = optional.into_iter();
        pairs.extend(optional.filter_map(|(name, value)| Some((name, value?))));
        let found = caller.walk(&pairs, list.limit.into()).await?;
        self.print_records(&found);
        Ok(())
    }

    async fn find(&self, caller: &ServiceCaller, find: &Find) -> Result<(), CommandFailure> {
        let mut pairs = query(&find.tenant, &find.filter)?;
        pairs.push(("q", find.text.clone()));
        let found = caller.walk(&pairs, find.limit.into()).await?;
        self.print_records(&found);
        Ok(())
    }

    fn print_records(&self, found: &Records) {
        super::print(&match self.format() {
            Format::Table => table::records(found),
            Format::Json => line(found),
            Format::Jsonl => found.records.iter().map(line).collect(),
        });
        if found.incomplete {
            eprintln!(
                "idempotencyd: there are more records than a sorted list looks at: these are \
                 first among {} of them only; narrow it down",
                found.looked_at.unwrap_or_default()
            );
        }
    }

    fn complain(&self, failure: &CommandFailure) -> ExitCode {
        let (text, code) = match failure {
            CommandFailure::Usage(text) => (format!("{text}\n"), 2),
            CommandFailure::Service(text) => (format!("{text}\n"), 1),
            CommandFailure::NoSuchKey(text) => (text.clone(), 3),
            CommandFailure::Left(text) => (format!("{text}\n"), 4),
            CommandFailure::Unconfirmed(text) => (format!("{text}\n"), 6),
            CommandFailure::Refused(answer) => {
                if self.format() != Format::Table {
                    super::print(&format!("{}\n", String::from_utf8_lossy(&answer.body)));
                }
                (call::problem(answer), code(answer.status))
            }
        };
        eprint!("idempotencyd: {text}");
        ExitCode::from(code)
    }
}

/// The exit code of an answer that says no.
fn code(status: u16) -> u8 {
    match status {
        404 => 3,
        409 | 412 => 4,
        401 | 403 => 5,
        400 | 413 => 2,
        _ => 1,
    }
}
