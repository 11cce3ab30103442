//! `demo-upstream`: the crate's server as a program.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use idempotency_demo_upstream::{serve, Journal, Ledger};
use tokio::net::TcpListener;

const USAGE: &str = "\
usage: demo-upstream [--listen 127.0.0.1:7481] [--threads N] [--log-limit N]
                     [--journal FILE [--journal-header NAME]…]

  --listen     address to listen on; port 0 takes a free one
  --threads    worker threads (default: one per core)
  --log-limit  executions that GET /executions/log keeps in detail (default 200000)
  --journal    append every execution to this file, one JSON object per line, before it goes on
  --journal-header  a request header that the journal repeats; several allowed

Every path executes a charge, except GET /, /healthz, /executions, /executions/log and
POST /reset. Query parameters steer it, among them status, delay_ms, bytes, chunked,
trailers, reset=before|headers|mid, echo; the crate's documentation has the table.";

struct Options {
    listen: String,
    threads: Option<usize>,
    log_limit: usize,
    journal: Option<PathBuf>,
    journal_headers: Vec<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        listen: "127.0.0.1:7481".to_owned(),
        threads: None,
        log_limit: 200_000,
        journal: None,
        journal_headers: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (arg, None),
        };
        if name == "--help" || name == "-h" {
            return Err(USAGE.to_owned());
        }
        let mut value = || {
            inline
                .clone()
                .or_else(|| args.next())
                .ok_or(format!("{name} needs a value"))
        };
        let bad = |_| format!("{name} needs a number");
        match name.as_str() {
            "--listen" => options.listen = value()?,
            "--threads" => options.threads = Some(value()?.parse().map_err(bad)?),
            "--log-limit" => options.log_limit = value()?.parse().map_err(bad)?,
            "--journal" => options.journal = Some(value()?.into()),
            "--journal-header" => options.journal_headers.push(value()?),
            _ => return Err(format!("unknown option {name}\n\n{USAGE}")),
        }
    }
    Ok(options)
}

fn run() -> Result<(), String> {
    let options = options()?;
    let mut ledger = Ledger::new(options.log_limit);
    if let Some(path) = &options.journal {
        let journal = Journal::open(path, options.journal_headers)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        ledger = ledger.with_journal(journal);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = options.threads {
        runtime.worker_threads(threads.max(1));
    }
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let failed = |error| format!("cannot listen on {}: {error}", options.listen);
        let listener = TcpListener::bind(&options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        // Nobody may be reading: that is no reason to stop.
        let _ = writeln!(std::io::stdout(), "listening on http://{address}");
        match serve(listener, ledger).await {}
    })
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
