//! `idempotencyd envoy-config`: what an Envoy needs so that requests which no rule can concern go past the filter.

use super::skip;
use clap::Args;
use idempotency_core::config::{self, Gateway};
use serde_json::{json, Value};
use std::path::PathBuf;
use std::process::ExitCode;

/// `idempotencyd envoy-config`.
#[derive(Debug, Args)]
#[command(
    after_help = "It prints fields of Envoy's HttpConnectionManager as JSON, which is YAML too. Put \
                        what stands in front of the filter before them, and what stands behind it, the \
                        router among it, after them. Then have `check-config` look at the whole file."
)]
pub(crate) struct EnvoyConfig {
    /// The filter's configuration (JSON)
    rules: PathBuf,
    /// Where Envoy finds the filter
    #[arg(long, default_value = "/opt/idempotency/filters/idempotency.wasm")]
    wasm: PathBuf,
}

impl EnvoyConfig {
    pub(crate) fn run(self) -> ExitCode {
        let shown = self.rules.display();
        let text = match std::fs::read_to_string(&self.rules) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{shown}: {error}");
                return ExitCode::from(2);
            }
        };
        match fields(&text, &self.wasm.display().to_string()) {
            Ok((fields, skips)) => {
                if !skips {
                    eprintln!("{shown}: note: a rule covers every path, so every request needs the filter");
                }
                super::print(&format!("{fields:#}\n"));
                ExitCode::SUCCESS
            }
            Err(errors) => {
                for error in errors {
                    eprintln!("{shown}: {error}");
                }
                ExitCode::FAILURE
            }
        }
    }
}

/// The fields, and whether some requests go past the filter.
pub(super) fn fields(text: &str, wasm: &str) -> Result<(Value, bool), Vec<String>> {
    let plan = config::parse(text).and_then(|plan| config::fit(plan, Gateway::Envoy));
    let plan = plan.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let needed = skip::needed(&plan).map_err(|error| vec![error])?;
    let configuration = skip::typed(
        "google.protobuf.StringValue",
        json!({ "value": text.trim() }),
    );
    let filter = json!({ "config": {
        "name": NAME,
        "root_id": NAME,
        "allow_on_headers_stop_iteration": true,
        "failure_policy": "FAIL_CLOSED",
        "vm_config": {
            "vm_id": NAME,
            "runtime": "envoy.wasm.runtime.v8",
            "code": { "local": { "filename": wasm } },
        },
        "configuration": configuration,
    } });
    let filter = skip::typed("envoy.extensions.filters.http.wasm.v3.Wasm", filter);
    let filters = match &needed {
        Some(needed) => vec![
            skip::spellings(),
            json!({ "name": NAME, "typed_config": skip::with_matcher(needed, NAME, &filter) }),
        ],
        None => vec![json!({ "name": NAME, "typed_config": filter })],
    };
    let fields = json!({
        "normalize_path": true,
        "merge_slashes": true,
        "common_http_protocol_options": { "headers_with_underscores_action": "DROP_HEADER" },
        "http_filters": filters,
    });
    Ok((fields, needed.is_some()))
}

const NAME: &str = "idempotency";
