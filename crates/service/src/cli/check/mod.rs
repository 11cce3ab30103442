//! `idempotencyd check-config`: the filter's own parser, before the gateway has to refuse.

mod kong;

use clap::Args;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `idempotencyd check-config`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 usable, 1 not usable (one problem per line), \
                        2 the file cannot be read."
)]
pub(crate) struct CheckConfig {
    /// The filter's configuration (JSON), or Kong's declarative configuration (kong.yml), of which
    /// every place with the filter is checked, and what stands around it
    file: PathBuf,
    /// Kong: the filter's name, which is its file's
    #[arg(long, default_value = "idempotency")]
    filter: String,
}

impl CheckConfig {
    pub(crate) fn run(self) -> ExitCode {
        let shown = self.file.display();
        let bytes = match std::fs::read(&self.file) {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("{shown}: {error}");
                return ExitCode::from(2);
            }
        };
        match self.check(&bytes) {
            Ok(found) => super::print(&format!("{shown}: usable, {found}\n")),
            Err(problems) => {
                for problem in problems {
                    eprintln!("{shown}: {problem}");
                }
                ExitCode::FAILURE
            }
        }
    }

    /// What is in it, or what is wrong.
    fn check(&self, bytes: &[u8]) -> Result<String, Vec<String>> {
        if let Some(document) = declarative(&self.file, bytes).map_err(|error| vec![error])? {
            return kong::check(&document, &self.filter);
        }
        match idempotency_core::config::parse_bytes(bytes) {
            Ok(plan) => Ok(rules(plan.policies.rules.len())),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }
}

/// The document, if the file is Kong's: YAML, or JSON that says so.
fn declarative(file: &Path, bytes: &[u8]) -> Result<Option<Value>, String> {
    const SIGN: &str = "_format_version";
    let yaml = file
        .extension()
        .is_some_and(|extension| extension == "yml" || extension == "yaml");
    if !yaml {
        let document = serde_json::from_slice::<Value>(bytes).ok();
        return Ok(document.filter(|document| document.get(SIGN).is_some()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let document: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if document.get(SIGN).is_none() {
        return Err(format!(
            "is no declarative configuration of Kong, which has a {SIGN}; the filter's own is JSON"
        ));
    }
    Ok(Some(document))
}

fn rules(count: usize) -> String {
    let noun = if count == 1 { "rule" } else { "rules" };
    format!("{count} {noun}")
}
