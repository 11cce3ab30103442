//! The configuration: JSON text in, a validated [`Plan`] out.
//!
//! Strict on purpose: an unknown field, a bad value or a contradiction refuses the whole, and all
//! faults are told at once. The fields are described in `docs/configuration.md`, and for machines
//! in `docs/config.schema.json`.

mod checks;
mod draft;
mod error;
mod fields;
mod plan;
mod reader;
#[cfg(test)]
mod tests;
mod validate;

pub use error::ConfigError;
pub use plan::*;

/// Reads and validates a configuration.
pub fn parse(text: &str) -> Result<Plan, Vec<ConfigError>> {
    parse_bytes(text.as_bytes())
}

/// Like [`parse`], for bytes that may not even be text.
pub fn parse_bytes(bytes: &[u8]) -> Result<Plan, Vec<ConfigError>> {
    match crate::json::parse(bytes) {
        Ok(value) => validate::plan(&value),
        Err(error) => {
            let message = format!("the configuration is not valid JSON: {error}");
            Err(vec![ConfigError {
                path: String::new(),
                message,
            }])
        }
    }
}
