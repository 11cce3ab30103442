//! The configuration: JSON text in, a validated [`Plan`] out.
//!
//! Strict on purpose: an unknown field, a bad value or a contradiction refuses the whole, and all
//! faults are told at once. The fields are described in `docs/configuration.md`, and for machines
//! in `docs/config.schema.json`.

mod checks;
mod draft;
mod error;
mod fields;
mod hosts;
mod plan;
mod reader;
#[cfg(test)]
mod tests;
mod validate;

pub use error::ConfigError;
pub use hosts::fit;
pub use plan::*;
#[cfg(any(test, feature = "testing"))]
pub(crate) use {checks::is_kong_target, hosts::is_kong_property};

/// Reads and validates a configuration.
pub fn parse(text: &str) -> Result<Plan, Vec<ConfigError>> {
    parse_bytes(text.as_bytes())
}

/// Like [`parse`], for bytes that may not even be text.
pub fn parse_bytes(bytes: &[u8]) -> Result<Plan, Vec<ConfigError>> {
    match crate::json::parse(bytes) {
        Ok(value) => {
            let plan = validate::plan(&value)?;
            match plan.host {
                Some(profile) => fit(plan, profile),
                None => Ok(plan),
            }
        }
        Err(error) => {
            let message = format!("the configuration is not valid JSON: {error}");
            Err(vec![ConfigError {
                path: String::new(),
                message,
            }])
        }
    }
}
