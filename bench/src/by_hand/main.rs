//! `by-hand SOCKET REDIS_URL`: the service that one would write in an afternoon, as a peer in the gateway's bench.
//!
//! A lock and a cache in Redis, one call before the request goes on and one before its answer does. It is what many
//! posts about idempotency describe, and its calls are right as long as nothing fails. What it does not have, and what
//! ours pays for: leases that are renewed, fences, records of executions whose end nobody knows, answers in
//! batches, and a lock that outlives the loss of Redis' memory.
#![forbid(unsafe_code)]

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::Router;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Script};
use sha2::{Digest, Sha256};
use std::sync::Arc;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const LOCK_MS: u64 = 60_000;
const KEEP_SECONDS: u64 = 86_400;

struct ByHand {
    redis: MultiplexedConnection,
    /// Removes a lock if it still has this token.
    unlock: Script,
}

/// Why there is no ordinary answer.
struct Failed(redis::RedisError);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, self.0.to_string()).into_response()
    }
}

impl From<redis::RedisError> for Failed {
    fn from(error: redis::RedisError) -> Failed {
        Failed(error)
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// 201: locked, with a token; 200: the stored answer; 409: locked by somebody else; 422: another request.
async fn lock(
    State(app): State<Arc<ByHand>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failed> {
    let key = header(&headers, "idempotency-key");
    let mut hash = Sha256::new();
    hash.update(header(&headers, "x-target"));
    hash.update([0]);
    hash.update(&body);
    let fingerprint = hash.finalize();
    let mut redis = app.redis.clone();
    let cached: Option<Vec<u8>> = redis.get(format!("cache:{key}")).await?;
    if let Some(cached) = cached {
        let Some((first, answer)) = cached.split_at_checked(fingerprint.len()) else {
            return Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response());
        };
        if first != fingerprint.as_slice() {
            return Ok(StatusCode::UNPROCESSABLE_ENTITY.into_response());
        }
        return Ok(answer.to_vec().into_response());
    }
    let token = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let locked: Option<String> = redis::cmd("SET")
        .arg(format!("lock:{key}"))
        .arg(&token)
        .arg("NX")
        .arg("PX")
        .arg(LOCK_MS)
        .query_async(&mut redis)
        .await?;
    if locked.is_none() {
        return Ok(StatusCode::CONFLICT.into_response());
    }
    let granted = [
        ("x-token", token),
        ("x-fingerprint", hex::encode(fingerprint)),
    ];
    Ok((StatusCode::CREATED, granted).into_response())
}

/// Stores the answer, then removes the lock.
async fn store(
    State(app): State<Arc<ByHand>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Failed> {
    let key = header(&headers, "idempotency-key");
    let Ok(mut cached) = hex::decode(header(&headers, "x-fingerprint")) else {
        return Ok(StatusCode::BAD_REQUEST);
    };
    cached.extend_from_slice(&body);
    let mut redis = app.redis.clone();
    let () = redis
        .set_ex(format!("cache:{key}"), cached, KEEP_SECONDS)
        .await?;
    let () = app
        .unlock
        .key(format!("lock:{key}"))
        .arg(header(&headers, "x-token"))
        .invoke_async(&mut redis)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let (Some(socket), Some(url)) = (arguments.next(), arguments.next()) else {
        return Err("usage: by-hand SOCKET REDIS_URL".into());
    };
    let redis = redis::Client::open(url)?;
    let app = ByHand {
        redis: redis.get_multiplexed_async_connection().await?,
        unlock: Script::new(
            "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0",
        ),
    };
    let router = Router::new()
        .route("/healthz", get(|| async {}))
        .route("/lock", post(lock))
        .route("/store", post(store))
        .with_state(Arc::new(app));
    let listener = tokio::net::UnixListener::bind(socket)?;
    axum::serve(listener, router).await?;
    Ok(())
}
