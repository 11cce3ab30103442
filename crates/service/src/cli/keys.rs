//! `idempotencyd keys`: operators look at records and change them, over HTTP.

use super::key_args::{Command, Key, Keys, List, OriginArg, Resolve, StateArg, To};
use super::table;
use crate::api::model::{
    KeyOrigin, ProblemDocument, Record, Records, ResolveRequest, ResolveTo, State,
};
use form_urlencoded::Serializer;
use http::Method;
use idempotency_client::{Answer, CallError, Client};
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

/// How a command failed.
pub(super) enum Failure {
    /// Bad arguments.
    Usage(String),
    /// No usable answer.
    Service(String),
}

impl Keys {
    pub(crate) fn run(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let result = match runtime {
            Ok(runtime) => runtime.block_on(self.call()),
            Err(error) => Err(Failure::Service(error.to_string())),
        };
        match result {
            Ok(answer) => self.show(&answer),
            Err(Failure::Usage(message)) => complain(&message, 2),
            Err(Failure::Service(message)) => complain(&message, 1),
        }
    }

    async fn call(&self) -> Result<Answer, Failure> {
        let mut client = Client::new(self.url.clone()).timeout(self.timeout.duration());
        if let Some(token) = self.read_token()? {
            let unusable = |error: CallError| Failure::Usage(error.to_string());
            client = client.token(&token).map_err(unusable)?;
        }
        let (method, target, body) = self.request()?;
        client
            .send(method, &target, "application/json", body)
            .await
            .map_err(|error| Failure::Service(error.to_string()))
    }

    fn read_token(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.token_file else {
            return Ok(self.token.clone());
        };
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))?;
        let line = text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'));
        match line {
            // The same file may serve the service itself, names and all.
            Some(line) => Ok(Some(
                line.rsplit(':').next().unwrap_or(line).trim().to_owned(),
            )),
            None => Err(Failure::Usage(format!(
                "{}: holds no token",
                path.display()
            ))),
        }
    }

    fn request(&self) -> Result<(Method, String, Vec<u8>), Failure> {
        match &self.command {
            Command::Get(key) => {
                let pairs = self.with_reason(key.pairs());
                Ok((Method::GET, target("/v1/record", pairs), Vec::new()))
            }
            Command::List(list) => {
                let pairs = self.with_reason(list.pairs());
                Ok((Method::GET, target("/v1/records", pairs), Vec::new()))
            }
            Command::Resolve(resolve) => {
                let mut document = resolve.document()?;
                document.reason.clone_from(&self.reason);
                let body =
                    serde_json::to_vec(&document).map_err(|e| Failure::Usage(e.to_string()))?;
                Ok((Method::POST, "/v1/record/resolve".into(), body))
            }
            Command::Delete(delete) => {
                let mut pairs = delete.key.pairs();
                pairs.push(("version", delete.change.version.to_string()));
                pairs.push(("force", delete.change.force.to_string()));
                let pairs = self.with_reason(pairs);
                Ok((Method::DELETE, target("/v1/record", pairs), Vec::new()))
            }
        }
    }

    fn with_reason(&self, mut pairs: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
        pairs.extend(self.reason.clone().map(|reason| ("reason", reason)));
        pairs
    }

    fn show(&self, answer: &Answer) -> ExitCode {
        let ok = answer.status == 200;
        if self.json {
            let mut text = String::from_utf8_lossy(&answer.body).into_owned();
            text.push('\n');
            super::print(&text);
        } else if ok {
            match self.describe(&answer.body) {
                Ok(text) => super::print(&text),
                Err(error) => return complain(&format!("the answer makes no sense: {error}"), 1),
            };
        } else {
            eprint!("idempotencyd: {}", problem(answer));
        }
        match answer.status {
            200 => ExitCode::SUCCESS,
            404 => ExitCode::from(3),
            409 | 412 => ExitCode::from(4),
            401 | 403 => ExitCode::from(5),
            400 | 413 => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    fn describe(&self, body: &[u8]) -> serde_json::Result<String> {
        Ok(match &self.command {
            Command::Get(_) | Command::Resolve(_) => {
                table::record(&serde_json::from_slice::<Record>(body)?)
            }
            Command::List(_) => table::records(&serde_json::from_slice::<Records>(body)?),
            Command::Delete(_) => "deleted\n".to_owned(),
        })
    }
}

fn problem(answer: &Answer) -> String {
    let Ok(problem) = serde_json::from_slice::<ProblemDocument>(&answer.body) else {
        return format!("the service answered {}\n", answer.status);
    };
    let title = table::plain(&problem.title);
    let mut text = format!(
        "{} {title}: {}\n",
        problem.status,
        table::plain(&problem.detail)
    );
    if let Some(record) = &problem.record {
        text.push_str(&table::record(record));
    }
    text
}

fn target(path: &str, pairs: Vec<(&'static str, String)>) -> String {
    let query = Serializer::new(String::new()).extend_pairs(pairs).finish();
    format!("{path}?{query}")
}

impl Key {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        vec![
            ("tenant", self.tenant.clone()),
            ("namespace", self.namespace.clone()),
            ("key", self.key.clone()),
            ("origin", self.origin.name().to_owned()),
        ]
    }
}

impl List {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let state = self.state.map(|state| match state {
            StateArg::Executing => State::Executing,
            StateArg::Completed => State::Completed,
            StateArg::Failed => State::Failed,
            StateArg::Unknown => State::Unknown,
        });
        let optional = [
            ("tenant", self.tenant.clone()),
            ("namespace", self.namespace.clone()),
            ("state", state.map(|s| table::state(s).to_owned())),
            ("after", self.after.clone()),
        ];
        let mut pairs = vec![("limit", self.limit.to_string())];
        pairs.extend(
            optional
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        pairs
    }
}

impl Resolve {
    fn document(&self) -> Result<ResolveRequest, Failure> {
        let to = match (self.to, self.status) {
            (To::Completed, Some(status)) => ResolveTo::Completed {
                status,
                headers: self
                    .headers
                    .iter()
                    .map(|h| header(h))
                    .collect::<Result<_, _>>()?,
                body: self
                    .body_file
                    .as_deref()
                    .map(read_body)
                    .transpose()?
                    .unwrap_or_default(),
                tombstone: self.tombstone,
            },
            (To::Completed, None) => {
                return Err(Failure::Usage("--to completed needs --status".into()))
            }
            (To::Failed, None)
                if self.headers.is_empty() && self.body_file.is_none() && !self.tombstone =>
            {
                ResolveTo::Failed {}
            }
            (To::Failed, _) => {
                let message = "--to failed takes no status, header, body or tombstone";
                return Err(Failure::Usage(message.into()));
            }
        };
        Ok(ResolveRequest {
            tenant: self.key.tenant.clone(),
            namespace: self.key.namespace.clone(),
            origin: match self.key.origin {
                OriginArg::Client => KeyOrigin::Client,
                OriginArg::Derived => KeyOrigin::Derived,
            },
            key: self.key.key.clone(),
            version: self.change.version,
            to,
            force: self.change.force,
            reason: None,
        })
    }
}

fn header(text: &str) -> Result<(String, String), Failure> {
    match text.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => Err(Failure::Usage(format!(
            "--header `{text}`: write `name: value`"
        ))),
    }
}

fn read_body(path: &Path) -> Result<String, Failure> {
    let failed = |e: std::io::Error| Failure::Usage(format!("{}: {e}", path.display()));
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
    } else {
        text = std::fs::read_to_string(path).map_err(failed)?;
    }
    Ok(text)
}

fn complain(message: &str, code: u8) -> ExitCode {
    eprintln!("idempotencyd: {message}");
    ExitCode::from(code)
}
