//! `transaction-bench`: what a record in the caller's transaction costs. The library's `transaction` beside the same
//! transaction without a record, on one PostgreSQL with `fsync` on, by turns.
//!
//! Two transactions: an *order* (a row, three lines, three changes of stock: eight statements with BEGIN and COMMIT),
//! and a *row* (one insert: the least that there can be). Every client has a connection of its own, and keys are new.
//! A run counts only if the rows that are there are the commits that were counted.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use idempotency::postgres::{self, Transacted};
use idempotency::store::{Postgres, PostgresOptions};
use idempotency::{Fingerprint, Guard, Outcome};
use idempotency_bench::machine::Machine;
use idempotency_bench::spread::{median, with_extremes, Spread};
use idempotency_stack::{Postgres as Server, PostgresOptions as ServerOptions};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, Statement, Transaction};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

const HELP: &str = "transaction-bench [--rounds N] [--seconds S] [--no-save]";

const TABLES: &str = "
    CREATE TABLE public.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer text);
    CREATE TABLE public.lines (order_id bigint, item int, amount int);
    CREATE TABLE public.stock (item int PRIMARY KEY, amount bigint) WITH (fillfactor = 50);
    INSERT INTO public.stock SELECT n, 1000000000 FROM generate_series(0, 9999) n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Order,
    Row,
}

/// Prepared once per connection, as a service does.
struct Prepared {
    order: Statement,
    line: Statement,
    stock: Statement,
}

impl Prepared {
    async fn on(client: &Client) -> Result<Prepared, AnyError> {
        let order = "INSERT INTO public.orders (customer) VALUES ($1) RETURNING id";
        let line = "INSERT INTO public.lines VALUES ($1, $2, $3)";
        let stock = "UPDATE public.stock SET amount = amount - $2 WHERE item = $1";
        Ok(Prepared {
            order: client.prepare(order).await?,
            line: client.prepare(line).await?,
            stock: client.prepare(stock).await?,
        })
    }

    async fn run(&self, tx: &mut Transaction<'_>, kind: Kind) -> Result<i64, AnyError> {
        let row = tx.query_one(&self.order, &[&"somebody"]).await?;
        let id: i64 = row.get(0);
        if kind == Kind::Row {
            return Ok(id);
        }
        // In order, so that no two of them wait for each other.
        let first = i32::from(fastrand::u16(..9_000));
        for item in [first, first + 300, first + 600] {
            tx.execute(&self.line, &[&id, &item, &2_i32]).await?;
            tx.execute(&self.stock, &[&item, &2_i64]).await?;
        }
        Ok(id)
    }
}

struct Customer {
    client: postgres::Prepared,
    prepared: Prepared,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// No record.
    Bare,
    /// `transaction` on the driver's client: the server plans the record's statement each time.
    Plain,
    /// `transaction` on a client that prepares it once.
    Prepared,
}

const WAYS: [Way; 3] = [Way::Bare, Way::Plain, Way::Prepared];

struct Bench {
    url: String,
    guard: Guard,
    next: AtomicU64,
    commits: AtomicU64,
}

impl Bench {
    async fn clients(&self, count: usize) -> Result<Vec<Customer>, AnyError> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
            tokio::spawn(connection);
            let prepared = Prepared::on(&client).await?;
            let client = postgres::Prepared::new(client);
            clients.push(Customer { client, prepared });
        }
        Ok(clients)
    }

    async fn one(&self, of: &mut Customer, kind: Kind, way: Way) -> Result<(), AnyError> {
        let Customer { client, prepared } = of;
        if way == Way::Bare {
            let mut tx = client.transaction().await?;
            prepared.run(&mut tx, kind).await?;
            tx.commit().await?;
            return Ok(());
        }
        let key = format!("order-{:016x}", self.next.fetch_add(1, Ordering::Relaxed));
        let payload = Fingerprint::raw(&key);
        let done = if way == Way::Plain {
            let work = async |tx: &mut Transaction<'_>, _: &idempotency::Execution| {
                let id = prepared.run(tx, kind).await?;
                Ok::<_, AnyError>(Outcome::json(201, &id)?)
            };
            let client: &mut Client = client;
            self.guard.transaction(client, &key, payload, work).await
        } else {
            let work = async |tx: &mut postgres::PreparedTransaction<'_>,
                              _: &idempotency::Execution| {
                let id = prepared.run(tx, kind).await?;
                Ok::<_, AnyError>(Outcome::json(201, &id)?)
            };
            self.guard.transaction(client, &key, payload, work).await
        };
        match done {
            Ok(Transacted::Committed(_)) => Ok(()),
            other => Err(format!("{other:?}").into()),
        }
    }

    /// Commits per second.
    async fn run(
        self: &Arc<Self>,
        clients: Vec<Customer>,
        kind: Kind,
        way: Way,
        length: Duration,
    ) -> Result<(f64, Vec<Customer>), AnyError> {
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for mut client in clients {
            let bench = Arc::clone(self);
            tasks.spawn(async move {
                let mut count = 0_u64;
                while begun.elapsed() < length {
                    bench.one(&mut client, kind, way).await?;
                    count += 1;
                }
                Ok::<_, AnyError>((count, client))
            });
        }
        let (mut sum, mut back) = (0, Vec::new());
        while let Some(done) = tasks.join_next().await {
            let (count, client) = done??;
            sum += count;
            back.push(client);
        }
        self.commits.fetch_add(sum, Ordering::Relaxed);
        let took = begun.elapsed().as_secs_f64();
        Ok((sum as f64 / took, back))
    }
}

fn main() -> ExitCode {
    let (mut rounds, mut seconds, mut saves) = (7, 3.0, true);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let number = || arguments.next().and_then(|value| value.parse::<f64>().ok());
        match (name.as_str(), number) {
            ("--no-save", _) => saves = false,
            ("--rounds" | "--seconds", mut number) => match number() {
                Some(n) if name == "--rounds" => rounds = n as usize,
                Some(n) => seconds = n,
                None => return help(),
            },
            _ => return help(),
        }
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(bench(rounds, Duration::from_secs_f64(seconds), saves)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn help() -> ExitCode {
    eprintln!("{HELP}");
    ExitCode::from(2)
}

async fn bench(rounds: usize, length: Duration, saves: bool) -> Result<(), AnyError> {
    let machine = Machine::look();
    let server = Server::start(ServerOptions {
        fsync: true,
        settings: vec![
            "max_connections = 200".to_owned(),
            "shared_buffers = 256MB".to_owned(),
        ],
        ..ServerOptions::default()
    })?;
    server.create_database("bench");
    let url = server.url("bench");
    let options = PostgresOptions::from_url_and(&url, |_| None)?;
    Postgres::migrate(&options).await?;
    server.sql("bench", TABLES);
    let bench = Arc::new(Bench {
        guard: Guard::new(Arc::new(Postgres::open(options).await?)),
        url,
        next: AtomicU64::new(fastrand::u64(..1 << 60)),
        commits: AtomicU64::new(0),
    });
    let mut text = format!(
        "# A record in the caller's transaction\n\n{} cores ({}), load before {}, revision {}. {rounds} rounds of \
         {length:?}, medians [least–most]; a ratio is of two runs of the same round.\n\n\
         | transaction | connections | without a record, commits/s | `transaction` | ratio | `transaction`, prepared \
         | ratio |\n|---|--:|--:|--:|--:|--:|--:|\n",
        machine.cores, machine.cpu, machine.load_before, machine.revision
    );
    let mut results = Vec::new();
    for kind in [Kind::Order, Kind::Row] {
        for connections in [1, 16, 64] {
            let mut clients = bench.clients(connections).await?;
            let mut rates = [const { Vec::new() }; WAYS.len()];
            // The first round warms up.
            for round in 0..=rounds {
                for turn in 0..WAYS.len() {
                    // Not always the same one first.
                    let place = (turn + round) % WAYS.len();
                    let (rate, back) = bench.run(clients, kind, WAYS[place], length).await?;
                    clients = back;
                    if round > 0 {
                        rates[place].push(rate);
                    }
                }
            }
            let [bare, plain, prepared] = &rates;
            let ratio = |of: &[f64]| Spread::of(of.iter().zip(bare).map(|(of, bare)| of / bare));
            let all = |of: &[f64]| Spread::of(of.iter().copied());
            let name = match kind {
                Kind::Order => "order",
                Kind::Row => "row",
            };
            let line = format!(
                "| {name} | {connections} | {} | {} | {} | {} | {} |",
                median(all(bare), 0),
                median(all(plain), 0),
                with_extremes(ratio(plain), 2),
                median(all(prepared), 0),
                with_extremes(ratio(prepared), 2)
            );
            eprintln!("{line}");
            let _ = writeln!(text, "{line}");
            results.push(serde_json::json!({
                "transaction": name, "connections": connections, "bare": all(bare),
                "plain": all(plain), "plain_ratio": ratio(plain),
                "prepared": all(prepared), "prepared_ratio": ratio(prepared),
            }));
        }
    }
    check(&server, bench.commits.load(Ordering::Relaxed))?;
    println!("{text}");
    if saves {
        let dir = PathBuf::from("bench/results");
        std::fs::write(dir.join("transaction.md"), &text)?;
        let document = serde_json::json!({ "machine": machine, "results": results });
        let document = serde_json::to_string_pretty(&document)?;
        std::fs::write(dir.join("transaction.json"), document + "\n")?;
    }
    Ok(())
}

/// Every record is completed, and there are as many orders as were counted.
fn check(server: &Server, commits: u64) -> Result<(), AnyError> {
    let states = "SELECT count(*) FROM idempotency_records WHERE state <> 'completed'";
    let left = server.sql("bench", states);
    if left != "0" {
        return Err(format!("{left} records are not completed").into());
    }
    let orders = server.sql("bench", "SELECT count(*) FROM public.orders");
    if orders != commits.to_string() {
        return Err(format!("{commits} commits, and {orders} orders").into());
    }
    Ok(())
}
