//! Structured logs on standard error.

use crate::config::{LogFormat, Settings};
use tracing_subscriber::EnvFilter;

/// Starts logging; the error is a bad filter expression. Call it once.
pub fn start(settings: &Settings) -> Result<(), String> {
    let filter = filter(settings.log.as_deref().unwrap_or("info"))?;
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match settings.log_format.unwrap_or(LogFormat::Text) {
        LogFormat::Text => base.with_ansi(false).try_init(),
        LogFormat::Json => base.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| format!("log: {e}"))
}

/// A bare level concerns this service. The libraries below it stay quiet: on their finer levels
/// they would print what requests carry, keys and tokens included.
fn filter(written: &str) -> Result<EnvFilter, String> {
    let level = written.trim().to_ascii_lowercase();
    let directives = match level.as_str() {
        "off" | "error" | "warn" | "info" | "debug" | "trace" => format!(
            "warn,idempotencyd={level},idempotency_service={level},idempotency_store={level},\
             audit=info"
        ),
        _ => written.to_owned(),
    };
    let mut filter = EnvFilter::builder()
        .parse(directives)
        .map_err(|e| format!("log: `{written}`: {e}"))?;
    for library in [
        "h2=warn",
        "hyper=warn",
        "hyper_util=warn",
        "axum=warn",
        "axum::rejection=warn",
    ] {
        if let Ok(cap) = library.parse() {
            filter = filter.add_directive(cap);
        }
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_stay_quiet() {
        for written in ["trace", "DEBUG", "h2=trace,info", "trace,hyper=trace"] {
            let text = filter(written).unwrap().to_string();
            assert!(
                text.contains("h2=warn") && text.contains("hyper=warn"),
                "{written}: {text}"
            );
            assert!(
                !text.contains("h2=trace") && !text.contains("hyper=trace"),
                "{text}"
            );
        }
        assert!(filter("idempotencyd=loud").is_err());
    }
}
