//! Where traces go: the setting, and what the variables of OpenTelemetry's specification add to it.
//!
//! Those variables are often set for many programs at once. What this program cannot do is refused, not ignored: who
//! asks for gRPC would otherwise look for traces that never come.

use super::{Settings, TraceTarget};
use http::Uri;
use std::collections::BTreeMap;
use std::ffi::OsString;

/// What is added to a base URL.
const PATH: &str = "/v1/traces";
/// What the variables about the export of traces begin with; signals have names of their own behind it.
const PREFIX: &str = "OTEL_EXPORTER_OTLP_";
const OTHER_SIGNALS: [&str; 3] = ["METRICS_", "LOGS_", "PROFILES_"];

/// Reads a setting: a base URL, or a whole one.
///
/// # Errors
///
/// What is wrong with it.
pub fn target(url: &str) -> Result<TraceTarget, String> {
    let uri: Uri = url
        .parse()
        .map_err(|error| format!("`{url}` is not a URL: {error}"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) if !authority.as_str().contains('@') => {}
        (Some("https"), _) => {
            return Err(format!(
                "`{url}`: traces are sent without TLS; let a collector beside this program send them on"
            ))
        }
        _ => return Err(format!("`{url}` is not a URL like http://HOST:4318")),
    }
    let endpoint = match uri.path_and_query().map(|path| path.as_str()) {
        None | Some("/") => format!("{}{PATH}", url.trim_end_matches('/')),
        Some(_) => url.to_owned(),
    };
    Ok(TraceTarget { endpoint })
}

/// Takes the endpoint from the variables of OpenTelemetry where the setting has none, and looks whether the others
/// ask for something else than what is done.
///
/// # Errors
///
/// One line for each variable that cannot be followed.
pub fn complete(
    settings: &mut Settings,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(), Vec<String>> {
    let set: BTreeMap<String, String> = environment
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| name.starts_with("OTEL_") && !value.trim().is_empty())
        .collect();
    let value = |name: &str| set.get(name).map(|value| value.trim());
    let mut errors = Vec::new();
    if settings.otlp_endpoint.is_none() {
        let disabled = value("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        if disabled || value("OTEL_TRACES_EXPORTER") == Some("none") {
            return Ok(());
        }
        let base = value("OTEL_EXPORTER_OTLP_ENDPOINT");
        let base = base.map(|base| format!("{}{PATH}", base.trim_end_matches('/')));
        let whole = value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").map(str::to_owned);
        settings.otlp_endpoint = whole.or(base);
        if settings.otlp_endpoint.is_none() {
            return Ok(());
        }
        if let Some(other) = value("OTEL_TRACES_EXPORTER").filter(|name| *name != "otlp") {
            errors.push(format!(
                "OTEL_TRACES_EXPORTER: `{other}` is not supported, only otlp and none"
            ));
        }
    }
    if let Some(sampler) = value("OTEL_TRACES_SAMPLER").filter(|s| !s.starts_with("parentbased_")) {
        errors.push(format!(
            "OTEL_TRACES_SAMPLER: `{sampler}` is not supported: a trace is kept if its gateway keeps it"
        ));
    }
    for (name, value) in &set {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if OTHER_SIGNALS.iter().any(|signal| rest.starts_with(signal)) {
            continue;
        }
        match (rest.strip_prefix("TRACES_").unwrap_or(rest), value.trim()) {
            ("ENDPOINT" | "HEADERS" | "INSECURE", _)
            | ("PROTOCOL", "http/protobuf")
            | ("COMPRESSION", "none") => {}
            ("PROTOCOL", other) => errors.push(format!(
                "{name}: `{other}` is not supported, only http/protobuf (a collector's port 4318)"
            )),
            ("COMPRESSION", other) => {
                errors.push(format!("{name}: `{other}` is not supported, only none"));
            }
            _ => errors.push(format!("{name}: not supported")),
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_base_or_a_whole_url() {
        for (url, endpoint) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("http://c:4318/v1/traces", "http://c:4318/v1/traces"),
            ("http://[::1]:1/x/y", "http://[::1]:1/x/y"),
        ] {
            assert_eq!(target(url).unwrap().endpoint, endpoint, "{url}");
        }
        for wrong in [
            "",
            "c:4318",
            "https://c",
            "grpc://c:4317",
            "http://u:p@c",
            "http:///x",
        ] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }

    fn completed(
        own: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Option<String>, Vec<String>> {
        let mut settings = Settings {
            otlp_endpoint: own.map(str::to_owned),
            ..Settings::default()
        };
        let variables = variables.iter().map(|(n, v)| (n.into(), v.into()));
        complete(&mut settings, variables)?;
        Ok(settings.otlp_endpoint)
    }

    #[test]
    fn the_variables_of_opentelemetry_stand_in_for_the_setting() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t/x");
        let of = |own, variables: &[_]| completed(own, variables).unwrap();
        assert_eq!(of(None, &[]), None);
        assert_eq!(
            of(None, &[base]).as_deref(),
            Some("http://c:4318/v1/traces")
        );
        assert_eq!(of(None, &[base, whole]).as_deref(), Some("http://t/x"));
        assert_eq!(
            of(Some("http://own"), &[base]).as_deref(),
            Some("http://own")
        );
        for off in [
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ] {
            assert_eq!(of(None, &[base, off]), None);
            assert_eq!(
                of(Some("http://own"), &[off]).as_deref(),
                Some("http://own")
            );
        }
        // What is not about traces, or says what is done.
        let fine = [
            base,
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_SERVICE_NAME", "x"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", ""),
        ];
        assert!(of(None, &fine).is_some());
    }

    #[test]
    fn what_cannot_be_done_is_refused_where_traces_are_on() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        for wrong in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "5"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/x"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPIONT", "http://c"),
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
        ] {
            let errors = completed(None, &[base, wrong]).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].starts_with(wrong.0), "{errors:?}");
            assert_eq!(
                completed(None, &[wrong]),
                Ok(None),
                "off: nobody's business"
            );
        }
    }
}
