//! The service: an order and its record are one commit, and the event of it is written in the same one.
//!
//! `POST /orders` with an `Idempotency-Key` and `{"customer": "ann", "item": "chair"}` places an order, once per key.
#![forbid(unsafe_code)]

use axum::extract::State;
use axum::http::{header, HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use deadpool_postgres::Pool;
use idempotency::kafka::rdkafka::message::{Header, OwnedHeaders};
use idempotency::kafka::rdkafka::producer::{FutureProducer, FutureRecord};
use idempotency::kafka::rdkafka::ClientConfig;
use idempotency::postgres::Transacted;
use idempotency::{Fingerprint, Guard, Outcome};
use orders::steps::reached;
use orders::{database, BoxError, NewOrder, OrderPlaced, Settings, EVENT_ID, TOPIC};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Clone)]
struct App {
    pool: Pool,
    guard: Guard,
    /// There is something in the outbox.
    placed: Arc<Notify>,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let settings = Settings::from_env()?;
    let (pool, guard) = database(&settings.database).await?;
    let app = App {
        pool: pool.clone(),
        guard: guard.clone().namespace("orders"),
        placed: Arc::default(),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let cleanup = tokio::spawn(guard.cleanup_job(Duration::from_secs(60), stopped));
    let sender = tokio::spawn(send_events(
        pool,
        settings.brokers.clone(),
        Arc::clone(&app.placed),
    ));

    let router = Router::new().route("/orders", post(place)).with_state(app);
    let listener = tokio::net::TcpListener::bind(&settings.listen).await?;
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let until_term = async move { term.recv().await.unwrap_or_default() };
    axum::serve(listener, router)
        .with_graceful_shutdown(until_term)
        .await?;

    sender.abort();
    guard.drain(Duration::from_secs(10)).await;
    drop(stop);
    cleanup.await?;
    Ok(())
}

async fn place(
    State(app): State<App>,
    headers: HeaderMap,
    Json(order): Json<NewOrder>,
) -> Response {
    let key = headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok());
    let Some(key) = key else {
        return problem(StatusCode::BAD_REQUEST, "an Idempotency-Key is needed");
    };
    match place_once(&app, key, &order).await {
        Ok(Transacted::Committed(done)) => {
            reached("committed");
            app.placed.notify_one();
            answer(&done, false)
        }
        Ok(Transacted::Replay(done)) => answer(&done, true),
        Ok(Transacted::Mismatch | Transacted::NotComparable) => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            "this key was used for another order",
        ),
        Ok(Transacted::InFlight(_)) => {
            let busy = problem(
                StatusCode::CONFLICT,
                "an order with this key is being placed",
            );
            ([(header::RETRY_AFTER, "1")], busy).into_response()
        }
        // Only if this key was used otherwise than by this function.
        Ok(Transacted::Unknown(_)) => {
            problem(StatusCode::CONFLICT, "nobody knows if it was placed")
        }
        Err(error) => {
            eprintln!("placing an order: {error}");
            // It is safe to come again with the same key.
            problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "come again with the same key",
            )
        }
    }
}

/// The order, its event and its record: one commit, or nothing.
async fn place_once(app: &App, key: &str, order: &NewOrder) -> Result<Transacted, BoxError> {
    // A key belongs to its customer: a real service takes that from the login.
    let guard = app.guard.clone().tenant(&order.customer);
    let mut client = app.pool.get().await?;
    let work = async |tx: &mut tokio_postgres::Transaction<'_>, _: &idempotency::Execution| {
        reached("acquired");
        let insert = "INSERT INTO orders (customer, item) VALUES ($1, $2) RETURNING id";
        let row = tx
            .query_one(insert, &[&order.customer, &order.item])
            .await?;
        let id: i64 = row.try_get(0)?;
        let placed = OrderPlaced {
            order: id,
            customer: order.customer.clone(),
            item: order.item.clone(),
        };
        let (event_id, payload) = (format!("placed-{id}"), serde_json::to_string(&placed)?);
        let insert = "INSERT INTO outbox (event_id, payload) VALUES ($1, $2)";
        tx.execute(insert, &[&event_id, &payload]).await?;
        reached("inserted");
        Ok::<_, BoxError>(Outcome::json(201, &placed)?)
    };
    let client: &mut tokio_postgres::Client = &mut client;
    let fingerprint = Fingerprint::json(order)?;
    let transacted = guard.transaction(client, key, fingerprint, work).await;
    transacted.map_err(|error| error.to_string().into())
}

fn answer(done: &idempotency::Done, is_replay: bool) -> Response {
    let status = StatusCode::from_u16(done.status()).unwrap_or(StatusCode::OK);
    let body = done.body().cloned().unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/json"),
        (
            "idempotency-replayed",
            if is_replay { "true" } else { "false" },
        ),
    ];
    (status, headers, body).into_response()
}

fn problem(status: StatusCode, detail: &str) -> Response {
    (status, Json(serde_json::json!({ "detail": detail }))).into_response()
}

/// Sends what is in the outbox, in its order, and removes it. An event that was sent and not removed, since the process
/// died in between, is sent again, with the same id: who receives it has to know it again.
async fn send_events(pool: Pool, brokers: String, placed: Arc<Notify>) -> Result<(), BoxError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("acks", "all");
    let producer: FutureProducer = config.create()?;
    loop {
        if let Err(error) = send_batch(&pool, &producer).await {
            eprintln!("sending events: {error}");
        }
        let soon = Duration::from_millis(500);
        let _ = tokio::time::timeout(soon, placed.notified()).await;
    }
}

async fn send_batch(pool: &Pool, producer: &FutureProducer) -> Result<(), BoxError> {
    let mut client = pool.get().await?;
    let tx = client.transaction().await?;
    let select =
        "SELECT id, event_id, payload FROM outbox ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED";
    for row in tx.query(select, &[]).await? {
        let (id, event_id, payload): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
        reached("read-outbox");
        let headers = OwnedHeaders::new().insert(Header {
            key: EVENT_ID,
            value: Some(&event_id),
        });
        // Events of one order in one partition, so that they stay in order.
        let record = FutureRecord::to(TOPIC)
            .key(&event_id)
            .headers(headers)
            .payload(&payload);
        let sent = producer.send(record, Duration::from_secs(10)).await;
        sent.map_err(|(error, _)| error)?;
        reached("sent");
        tx.execute("DELETE FROM outbox WHERE id = $1", &[&id])
            .await?;
    }
    tx.commit().await?;
    Ok(())
}
