//! `idempotencyd check-config`: the filter's own parser, before the gateway has to refuse, wherever the
//! configuration stands; and what stands around it.

mod document;
mod envoy;
mod finding;
mod hints;
mod kong;
mod place;
mod settings;
#[cfg(test)]
mod skip_tests;

use clap::Args;
use document::{Document, Place};
use finding::{Finding, Findings};
use idempotency_core::config::{self, ConfigError, Gateway};
use place::Inner;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What Kong's declarative configuration has, and nothing else.
const KONG: &str = "_format_version";
/// How deep a document may stand inside another one: a ConfigMap with an Envoy's bootstrap.
const DEEPEST: usize = 3;

/// `idempotencyd check-config`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 usable, 1 not usable (one problem per line), \
                        2 a file cannot be read."
)]
pub(crate) struct CheckConfig {
    /// What to check; `-`: standard input. The filter's configuration (JSON), an Envoy's bootstrap
    /// or resources (YAML, JSON), Kong's declarative configuration (kong.yml) or settings
    /// (kong.conf, kong.env), or manifests of Kubernetes (an EnvoyFilter or WasmPlugin of Istio, an
    /// EnvoyPatchPolicy of Envoy Gateway, a KongPlugin, a ConfigMap with any of these). Every place with the filter is checked, and what stands around it
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Kong: the filter's name, which is its file's
    #[arg(long, default_value = "idempotency")]
    filter: String,
}

/// What is in a file.
#[derive(Debug, Default)]
struct Report {
    /// The places with the filter.
    sites: Vec<String>,
    findings: Vec<Finding>,
}

impl Report {
    fn wrong(text: String) -> Report {
        Report {
            sites: Vec::new(),
            findings: vec![Finding {
                place: None,
                is_note: false,
                text,
                hint: None,
            }],
        }
    }

    fn add(&mut self, other: Report) {
        self.sites.extend(other.sites);
        self.findings.extend(other.findings);
    }
}

impl CheckConfig {
    pub(crate) fn run(self) -> ExitCode {
        let mut worst = 0;
        for file in &self.files {
            worst = worst.max(self.check_file(file));
        }
        ExitCode::from(worst)
    }

    fn check_file(&self, file: &Path) -> u8 {
        let is_stdin = file == Path::new("-");
        let shown = match is_stdin {
            true => "standard input".to_owned(),
            false => file.display().to_string(),
        };
        let mut bytes = Vec::new();
        let read = match is_stdin {
            true => std::io::stdin().read_to_end(&mut bytes).map(|_| ()),
            false => std::fs::read(file).map(|read| bytes = read),
        };
        if let Err(error) = read {
            eprintln!("{shown}: {error}");
            return 2;
        }
        let Report {
            sites,
            mut findings,
        } = self.check(file, &bytes);
        findings.sort();
        findings.dedup();
        for finding in &findings {
            let between = match finding.place {
                Some(_) => ":",
                None => ": ",
            };
            eprintln!("{shown}{between}{finding}");
            if let Some(hint) = &finding.hint {
                eprintln!("  {hint}");
            }
        }
        if findings.iter().any(|finding| !finding.is_note) {
            return 1;
        }
        super::print(&format!("{shown}: usable, {}\n", sites.join(", ")));
        0
    }

    /// What is in a file.
    fn check(&self, file: &Path, bytes: &[u8]) -> Report {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return filters_own(bytes, None);
        };
        let is_yaml = has_extension(file, &["yml", "yaml"]);
        let is_settings = has_extension(file, &["env", "conf"]);
        if is_settings || (file == Path::new("-") && settings::is_kong(text)) {
            let mut report = Report::default();
            report.sites.push("settings of Kong".to_owned());
            report.findings = settings::check(text);
            return report;
        }
        let documents = match Document::read(text) {
            Ok(documents) => documents,
            Err(error) if is_yaml => return Report::wrong(error),
            // The filter's own words for what is no JSON.
            Err(_) => return filters_own(bytes, None),
        };
        if let ([document], false) = (documents.as_slice(), is_yaml) {
            // As it is: the filter reads JSON more strictly than it could be read as YAML.
            if document.value.get(KONG).is_none() && envoy::is_ours(&document.value) {
                return filters_own(bytes, Some(document));
            }
        }
        let mut report = Report::default();
        let mut is_any = false;
        for document in &documents {
            let found = self.document(text, document, None, DEEPEST);
            is_any |= found.is_some();
            report.add(found.unwrap_or_default());
        }
        match (is_any, documents.first()) {
            (true, _) => report,
            (false, _) if is_yaml => Report::wrong(
                "there is no configuration of the filter in it: it is no declarative configuration of \
                 Kong, which has a _format_version, and has no WebAssembly plugin with the filter"
                    .to_owned(),
            ),
            (false, Some(document)) => filters_own(bytes, Some(document)),
            (false, None) => filters_own(bytes, None),
        }
    }

    /// What a document says of the filter; `None` if nothing.
    fn document(
        &self,
        text: &str,
        document: &Document,
        inner: Option<&Inner>,
        depth: usize,
    ) -> Option<Report> {
        let value = &document.value;
        if value.get(KONG).is_some() {
            return Some(self.kong(document, inner));
        }
        if envoy::is_ours(value) && value.is_object() {
            return Some(object(document, inner));
        }
        let sites = envoy::sites(value);
        if !sites.is_empty() {
            let mut report = Report::default();
            for site in sites {
                report.add(in_envoy(text, document, inner, &site));
            }
            return Some(report);
        }
        if let Some(config) = kong::of_ingress(value, &self.filter) {
            return Some(plugin(document, inner, config));
        }
        // Files in a ConfigMap.
        let mut report: Option<Report> = None;
        for (name, contents) in data_of(value).filter(|_| depth > 0) {
            let (Some(source), Some(here)) = (contents.as_str(), document.place(contents)) else {
                continue;
            };
            let own = Inner::of(text, source, here);
            for document in Document::read(source).unwrap_or_default() {
                if let Some(mut found) = self.document(source, &document, Some(&own), depth - 1) {
                    for site in &mut found.sites {
                        *site = format!("{name}: {site}");
                    }
                    report.get_or_insert_default().add(found);
                }
            }
        }
        report
    }

    fn kong(&self, document: &Document, inner: Option<&Inner>) -> Report {
        let (sites, problems) = kong::find(&document.value, &self.filter);
        if sites.is_empty() && problems.is_empty() {
            return Report::wrong(kong::nothing(&self.filter));
        }
        let mut findings = Findings::new(document, inner);
        for problem in problems {
            let place = match &problem.error {
                Some(error) => findings.outer(document.field(problem.at, &error.path)),
                None => findings.place(problem.at),
            };
            let error = problem.error.as_ref();
            let hint = error.and_then(|error| hints::hint(error, problem.at));
            findings.push(place, problem.is_note, problem.text, hint);
        }
        Report {
            sites,
            findings: findings.found,
        }
    }
}

/// Names and contents of the files in a ConfigMap.
fn data_of(manifest: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let is_map = manifest.get("kind").is_some_and(|kind| kind == "ConfigMap");
    let data = manifest.get("data").filter(|_| is_map);
    data.and_then(Value::as_object).into_iter().flatten()
}

/// A configuration of the filter that is a document itself.
fn object(document: &Document, inner: Option<&Inner>) -> Report {
    let mut findings = Findings::new(document, inner);
    // As JSON, the parser gets it as it is.
    let sites = match config::parse(&document.value.to_string()) {
        Ok(plan) => vec![rules(plan.policies.rules.len())],
        Err(errors) => {
            tell(&mut findings, document, &document.value, errors);
            Vec::new()
        }
    };
    Report {
        sites,
        findings: findings.found,
    }
}

/// A plugin of Kong's ingress controller.
fn plugin(document: &Document, inner: Option<&Inner>, config: &Value) -> Report {
    let mut findings = Findings::new(document, inner);
    let name = document.value.pointer("/metadata/name");
    let name = name.and_then(Value::as_str).unwrap_or_default();
    let sites = match kong::plan(config) {
        Ok(plan) => vec![format!(
            "plugin {name} ({})",
            rules(plan.policies.rules.len())
        )],
        Err(errors) => {
            tell(&mut findings, document, config, errors);
            Vec::new()
        }
    };
    Report {
        sites,
        findings: findings.found,
    }
}

fn tell(
    findings: &mut Findings<'_>,
    document: &Document,
    config: &Value,
    errors: Vec<ConfigError>,
) {
    for error in errors {
        let place = findings.outer(document.field(config, &error.path));
        let hint = hints::hint(&error, config);
        findings.push(place, false, error.to_string(), hint);
    }
}

/// One place with the filter in a configuration of Envoy.
fn in_envoy(
    text: &str,
    document: &Document,
    inner: Option<&Inner>,
    site: &envoy::Site<'_>,
) -> Report {
    let mut findings = Findings::new(document, inner);
    let source = match site.config {
        Value::String(source) => source.clone(),
        other => other.to_string(),
    };
    let parsed = config::parse(&source).and_then(|plan| config::fit(plan, Gateway::Envoy));
    match parsed {
        Ok(plan) => {
            envoy::around(site, &plan, &document.value, &mut findings);
            Report {
                sites: vec![format!(
                    "a WebAssembly plugin ({})",
                    rules(plan.policies.rules.len())
                )],
                findings: findings.found,
            }
        }
        Err(errors) => {
            match site.config {
                Value::String(source) => {
                    in_text(text, document, site.config, source, errors, &mut findings);
                }
                config => tell(&mut findings, document, config, errors),
            }
            Report {
                sites: Vec::new(),
                findings: findings.found,
            }
        }
    }
}

/// What is wrong with a configuration that is a text inside the document.
fn in_text(
    text: &str,
    document: &Document,
    at: &Value,
    source: &str,
    errors: Vec<ConfigError>,
    findings: &mut Findings<'_>,
) {
    let whole = document.place(at).unwrap_or(Place { line: 1, column: 1 });
    let own = Inner::of(text, source, whole);
    let documents = Document::read(source).unwrap_or_default();
    for error in errors {
        let config = documents.first();
        let place = config.and_then(|config| config.field(&config.value, &error.path));
        let place = place.map_or(whole, |place| own.outer(place));
        let hint = config.and_then(|config| hints::hint(&error, &config.value));
        let place = findings.outer(Some(place));
        findings.push(place, false, error.to_string(), hint);
    }
}

/// A file that is the filter's configuration and nothing else.
fn filters_own(bytes: &[u8], document: Option<&Document>) -> Report {
    match config::parse_bytes(bytes) {
        Ok(plan) => Report {
            sites: vec![rules(plan.policies.rules.len())],
            findings: Vec::new(),
        },
        Err(errors) => {
            let mut report = Report::default();
            for error in errors {
                let place = document.and_then(|d| d.field(&d.value, &error.path));
                let hint = document.and_then(|d| hints::hint(&error, &d.value));
                report.findings.push(Finding {
                    place,
                    is_note: false,
                    text: error.to_string(),
                    hint,
                });
            }
            report
        }
    }
}

fn has_extension(file: &Path, extensions: &[&str]) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| extensions.contains(&extension))
}

fn rules(count: usize) -> String {
    let noun = if count == 1 { "rule" } else { "rules" };
    format!("{count} {noun}")
}

#[cfg(test)]
mod tests;
