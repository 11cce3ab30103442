//! `layer-bench`: what the library's HTTP layer costs around an axum handler, in parts of the bare handler, beside
//! the nearest peer that this toolchain can build.
//!
//! Each row is a server of its own process with one worker thread, on a core of its own where there are two. Rows
//! run by turns, and a row is told in parts of the bare one of its round. Requests per second are what a client
//! sees on a quiet machine; CPU time per request hardly notices other work on it.
#![forbid(unsafe_code)]

mod load;
mod server;

use load::{Keys, Load};
use server::Row;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

const USAGE: &str = "usage: layer-bench [--rounds N] [--seconds N] [--connections N]";
/// Keys that the replays go through.
const KEYS: u64 = 1_000;

type Error = Box<dyn std::error::Error>;

struct Options {
    rounds: usize,
    seconds: u64,
    connections: usize,
}

/// A server, and what it has used.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(row: Row, has_two_cores: bool) -> Result<Server, Error> {
        let program = std::env::current_exe()?;
        let mut command = match has_two_cores {
            true => {
                let mut pinned = Command::new("taskset");
                pinned.args(["--cpu-list", "0"]).arg(program);
                pinned
            }
            false => Command::new(program),
        };
        let mut child = command
            .args(["serve", row.name()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = child.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse()?;
        Ok(Server { child, address })
    }

    /// CPU time of all threads, user and system.
    fn used(&self) -> Result<Duration, Error> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let behind = stat.rsplit(") ").next().ok_or("no fields")?;
        let field = |at: usize| {
            behind
                .split(' ')
                .nth(at)
                .and_then(|n| n.parse::<u64>().ok())
        };
        let ticks = field(11).zip(field(12)).ok_or("no times")?;
        // A hundred a second, on every Linux that runs this.
        Ok(Duration::from_millis((ticks.0 + ticks.1) * 10))
    }

    /// How often the handler ran.
    fn runs(&self) -> Result<u64, Error> {
        Ok(load::get(self.address, "/runs")?.parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What one run says.
#[derive(Clone, Copy)]
struct Cost {
    per_second: f64,
    cpu_us: f64,
}

fn run(server: &Server, keys: Keys, options: &Options) -> Result<Cost, Error> {
    let load = Load {
        address: server.address,
        connections: options.connections,
        duration: Duration::from_secs(options.seconds),
        keys,
    };
    if let Keys::Cycle(_, count) = load.keys {
        load.each_once(count)?;
    }
    let before = (server.used()?, server.runs()?);
    let (answers, took) = load.run()?;
    let cpu = server.used()?.saturating_sub(before.0);
    let executed = server.runs()? - before.1;
    let expected = match load.keys {
        Keys::Cycle(..) => 0..=0,
        // What was under way at the end has no answer that counts.
        Keys::Unique(_) => answers..=answers + options.connections as u64,
    };
    if !expected.contains(&executed) {
        return Err(format!("{answers} answers, {executed} runs of the handler").into());
    }
    Ok(Cost {
        per_second: answers as f64 / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / answers as f64,
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn measure(options: &Options) -> Result<(), Error> {
    let cores = cores();
    // On the other core.
    if cores > 1 {
        let own = std::process::id().to_string();
        Command::new("taskset")
            .args(["-a", "-c", "-p", "1", &own])
            .stdout(Stdio::null())
            .status()?;
    }
    let mut rows: Vec<(String, Row, bool, Vec<Cost>)> = Vec::new();
    for row in Row::ALL {
        rows.push((row.name().to_owned(), row, false, Vec::new()));
        // Replays do not reach the handler.
        if row.bare() == Row::Bare && row != Row::Bare {
            rows.push((format!("{}, replay", row.name()), row, true, Vec::new()));
        }
    }
    for round in 1..=options.rounds {
        for (name, row, replays, costs) in &mut rows {
            let server = Server::start(*row, cores > 1)?;
            let prefix = format!("r{round}-");
            let keys = match replays {
                true => Keys::Cycle(prefix, KEYS),
                false => Keys::Unique(prefix),
            };
            let cost = run(&server, keys, options).map_err(|error| format!("{name}: {error}"))?;
            eprintln!(
                "round {round}: {name:<28} {:8.0}/s {:6.1} µs",
                cost.per_second, cost.cpu_us
            );
            costs.push(cost);
        }
    }
    let bare_of = |row: Row| {
        let of = rows.iter().find(|(_, bare, ..)| *bare == row.bare());
        of.map(|(.., costs)| costs.clone()).unwrap_or_default()
    };
    println!("| | requests per second | in parts of bare | µs of CPU per request | bare in parts of it |");
    println!("|---|--:|--:|--:|--:|");
    for (name, row, _, costs) in &rows {
        let bare = bare_of(*row);
        let of = |what: fn(&Cost) -> f64| median(costs.iter().map(what).collect());
        let parts = |part: fn(&Cost, &Cost) -> f64| {
            median(costs.iter().zip(&bare).map(|(c, b)| part(c, b)).collect())
        };
        println!(
            "| {name} | {:.0} | {:.2} | {:.1} | {:.2} |",
            of(|c| c.per_second),
            parts(|c, b| c.per_second / b.per_second),
            of(|c| c.cpu_us),
            parts(|c, b| b.cpu_us / c.cpu_us),
        );
    }
    let average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "\n{} connections, {} rounds of {} s, {} cores, load average {}",
        options.connections,
        options.rounds,
        options.seconds,
        cores,
        average.trim()
    );
    Ok(())
}

fn start() -> Result<(), Error> {
    let mut options = Options {
        rounds: 5,
        seconds: 5,
        connections: 64,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match name.as_str() {
            "serve" => return server::serve(Row::named(&value).ok_or(USAGE)?),
            "--rounds" => options.rounds = value.parse::<usize>()?.max(1),
            "--seconds" => options.seconds = value.parse::<u64>()?.max(1),
            "--connections" => options.connections = value.parse::<usize>()?.max(1),
            _ => return Err(USAGE.into()),
        }
    }
    measure(&options)
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("layer-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
