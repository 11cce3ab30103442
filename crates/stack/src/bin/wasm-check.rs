//! `wasm-check FILE MAX_BYTES`: is this filter small enough, and does every host load it?

use std::process::ExitCode;

use idempotency_stack::imports::check;

fn run() -> Result<String, String> {
    let mut args = std::env::args().skip(1);
    let (Some(file), Some(max), None) = (args.next(), args.next(), args.next()) else {
        return Err("usage: wasm-check FILE MAX_BYTES".to_owned());
    };
    let max = max
        .parse()
        .map_err(|_| format!("{max} is no number of bytes"))?;
    let module = std::fs::read(&file).map_err(|error| format!("{file}: {error}"))?;
    let report = check(&module, max).map_err(|error| format!("{file}: {error}"))?;
    Ok(format!(
        "{file}: {} bytes, {} imports, all proxy-wasm",
        report.size,
        report.imports.len()
    ))
}

fn main() -> ExitCode {
    match run() {
        Ok(message) => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
