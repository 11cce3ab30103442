//! The servers: one handler, and what stands around it.

use crate::load::BODY;
use crate::Error;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{header, HeaderValue, Request, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::Router;
use axum_idempotent::{IdempotentLayer, IdempotentOptions};
use idempotency::http::IdempotencyLayer;
use idempotency::store::{Durability, Embedded, EmbeddedOptions, Memory, Store};
use idempotency::Guard;
use ruts::store::moka::MokaStore;
use ruts::store::Ttl;
use ruts::{CookieOptions, Session, SessionLayer};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;
use tower_cookies::CookieManagerLayer;

/// What stands around the handler.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Row {
    Bare,
    Memory,
    Relaxed,
    Durable,
    /// `axum-idempotent`, by the key's header, its records in `moka`.
    Peer,
    /// As `Bare`, and the handler waits a millisecond, as for a database.
    BareWaits,
    /// As `Memory`, around that handler.
    MemoryWaits,
    /// As `Peer`, around that handler.
    PeerWaits,
}

impl Row {
    pub const ALL: [Row; 8] = [
        Row::Bare,
        Row::Memory,
        Row::Relaxed,
        Row::Durable,
        Row::Peer,
        Row::BareWaits,
        Row::MemoryWaits,
        Row::PeerWaits,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Row::Bare => "bare",
            Row::Memory => "memory",
            Row::Relaxed => "embedded-relaxed",
            Row::Durable => "embedded-durable",
            Row::Peer => "axum-idempotent",
            Row::BareWaits => "bare-1ms",
            Row::MemoryWaits => "memory-1ms",
            Row::PeerWaits => "axum-idempotent-1ms",
        }
    }

    /// The same handler alone.
    pub fn bare(self) -> Row {
        match self {
            Row::BareWaits | Row::MemoryWaits | Row::PeerWaits => Row::BareWaits,
            _ => Row::Bare,
        }
    }

    pub fn named(name: &str) -> Option<Row> {
        Row::ALL.into_iter().find(|row| row.name() == name)
    }
}

type Runs = Arc<AtomicU64>;

async fn charge(State(runs): State<Runs>, body: Bytes) -> impl IntoResponse {
    runs.fetch_add(1, Ordering::Relaxed);
    let json = [(header::CONTENT_TYPE, "application/json")];
    let status = match body.len() {
        BODY => StatusCode::CREATED,
        _ => StatusCode::BAD_REQUEST,
    };
    (status, json, vec![b'a'; BODY])
}

async fn charge_slowly(runs: State<Runs>, body: Bytes) -> impl IntoResponse {
    tokio::time::sleep(Duration::from_millis(1)).await;
    charge(runs, body).await
}

/// Tells its address on the first line of its output, and serves until it is killed.
pub fn serve(row: Row) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let runs = Runs::default();
        let handler = match row.bare() {
            Row::BareWaits => post(charge_slowly),
            _ => post(charge),
        };
        let charges = Router::new()
            .route("/charges", handler)
            .with_state(runs.clone());
        let dir = tempfile::tempdir()?;
        let charges = match row {
            Row::Bare | Row::BareWaits => charges,
            Row::Memory | Row::MemoryWaits => around(charges, Arc::new(Memory::default())),
            Row::Relaxed | Row::Durable => {
                let mut options = EmbeddedOptions::new(dir.path().join("records"));
                if row == Row::Relaxed {
                    // As the service's own default.
                    options.durability = Durability::Relaxed {
                        interval: Duration::from_millis(100),
                    };
                }
                around(charges, Arc::new(Embedded::open(options)?))
            }
            Row::Peer | Row::PeerWaits => peer(charges).await?,
        };
        let count = move || async move { runs.load(Ordering::Relaxed).to_string() };
        let app = charges.route("/runs", get(count));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        axum::serve(listener, app).await?;
        Ok(())
    })
}

fn around(charges: Router, store: Arc<dyn Store>) -> Router {
    charges.layer(IdempotencyLayer::new(Guard::new(store)).global())
}

/// How many sessions take turns: with few of them, each would gather many keys.
const SESSIONS: usize = 10_000;

/// It needs a session that exists, and its cookie in every request. Here something in front adds the cookie, which
/// costs this row one header.
async fn peer(charges: Router) -> Result<Router, Error> {
    let store = Arc::new(MokaStore::builder().build());
    let options = IdempotentOptions::default()
        .use_idempotency_key_header(Some("Idempotency-Key"), true)
        .expire_after(3_600);
    let log_in = |session: Session<MokaStore>| async move {
        let hour = Ttl::new(3_600).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        let set = session.set("user", &1, hour, None).await;
        set.map(drop).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    };
    let app = charges
        .layer(IdempotentLayer::<MokaStore>::new(options))
        .route("/log-in", post(log_in))
        .layer(
            SessionLayer::new(store).with_cookie_options(
                CookieOptions::build()
                    .name("session")
                    .max_age(3_600)
                    .path("/"),
            ),
        )
        .layer(CookieManagerLayer::new());
    let mut cookies = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        let request = Request::post("/log-in").body(Body::empty())?;
        let answer = app.clone().oneshot(request).await?;
        let cookie = answer
            .headers()
            .get(header::SET_COOKIE)
            .ok_or("no cookie")?;
        let cookie = cookie.to_str()?.split(';').next().ok_or("no cookie")?;
        cookies.push(HeaderValue::from_str(cookie)?);
    }
    let (cookies, next) = (Arc::new(cookies), Arc::new(AtomicUsize::new(0)));
    let with_cookie = move |mut request: Request<Body>, then: axum::middleware::Next| {
        let at = key_number(&request).unwrap_or_else(|| next.fetch_add(1, Ordering::Relaxed));
        let cookie = cookies[at % SESSIONS].clone();
        request.headers_mut().insert(header::COOKIE, cookie);
        then.run(request)
    };
    Ok(app.layer(axum::middleware::from_fn(with_cookie)))
}

/// A key's requests are of one session.
fn key_number(request: &Request<Body>) -> Option<usize> {
    let key = request.headers().get("idempotency-key")?.to_str().ok()?;
    key.rsplit('-').next()?.parse().ok()
}
