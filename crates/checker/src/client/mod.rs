//! Clients: they send, wait, leave, and note what they got.

mod answer;
mod connection;
mod drive;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;

use crate::history::{End, OpId, OP_HEADER, TENANT_HEADER};
use crate::workload::{Attempt, Http, Leave};
pub use drive::{drive, Drive};

use connection::{Connection, Upload};

/// Longer than anything that may take time: waits, execution timeouts, and calls to a service
/// that does not answer, one after the other.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one operation sends.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Its number.
    pub op: OpId,
    /// The path.
    pub path: &'a str,
    /// The idempotency key, if it is in a header.
    pub key: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// All clients: their connections are reused, as long as they are good.
#[derive(Debug)]
pub struct Clients {
    gateways: Vec<SocketAddr>,
    idle: Mutex<HashMap<(usize, Http), Vec<Connection>>>,
}

impl Clients {
    /// Clients of these Envoys.
    pub fn new(gateways: Vec<SocketAddr>) -> Self {
        Self {
            gateways,
            idle: Mutex::default(),
        }
    }

    /// One operation from its beginning to its end.
    pub async fn perform(&self, request: &Request<'_>, attempt: &Attempt) -> End {
        let place = (attempt.gateway, attempt.http);
        let mut connection = None;
        let whole = self.exchange(request, attempt, &mut connection);
        let end = match attempt.leave {
            None => tokio::time::timeout(PATIENCE, whole).await,
            Some(Leave { after, .. }) => {
                match tokio::time::timeout(Duration::from_micros(after), whole).await {
                    Ok(end) => Ok(end),
                    Err(_) => Ok(End::Left),
                }
            }
        };
        let end = end.unwrap_or(End::Hung);
        if let Some(connection) = connection {
            // An HTTP/2 connection survives a request that was given up.
            let stays = attempt.http == Http::Two && !attempt.leave.is_some_and(|l| l.reset);
            match end {
                End::Answer(_) => self.give_back(place, connection),
                End::Left if stays => self.give_back(place, connection),
                End::Left => connection.leave(attempt.leave.is_some_and(|leave| leave.reset)),
                _ => connection.leave(false),
            }
        }
        end
    }

    async fn exchange(
        &self,
        request: &Request<'_>,
        attempt: &Attempt,
        slot: &mut Option<Connection>,
    ) -> End {
        let mut reused = self.idle_one((attempt.gateway, attempt.http));
        loop {
            let fresh = reused.is_none();
            let connection = match reused.take() {
                Some(connection) => connection,
                None => match self.connect(attempt).await {
                    Ok(connection) => connection,
                    Err(why) => return End::Refused { why },
                },
            };
            let connection = slot.insert(connection);
            let message = message(request, attempt);
            let upload = if attempt.leave.is_some_and(|leave| leave.half_sent) {
                let (part, _) = request.body.split_at(request.body.len() / 2);
                Upload::unfinished(Bytes::copy_from_slice(part))
            } else {
                Upload::whole(Bytes::copy_from_slice(request.body))
            };
            let sent = connection.send(message.map(|()| upload)).await;
            let answer = match sent {
                Ok(answer) => answer,
                // It had ended before the request was sent: so nothing was sent.
                Err(error) if !fresh && (error.is_canceled() || error.is_closed()) => continue,
                Err(error) => return cut(&error),
            };
            let (head, body) = answer.into_parts();
            return match body.collect().await {
                Ok(body) => End::Answer(answer::read(&head, &body.to_bytes())),
                Err(error) => cut(&error),
            };
        }
    }

    async fn connect(&self, attempt: &Attempt) -> Result<Connection, String> {
        let address = self.gateways.get(attempt.gateway);
        let address = address.ok_or_else(|| "no such gateway".to_owned())?;
        Connection::open(*address, attempt.http)
            .await
            .map_err(|error| error.to_string())
    }

    fn idle_one(&self, place: (usize, Http)) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = idle.get_mut(&place)?;
        while let Some(connection) = idle.pop() {
            if connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    fn give_back(&self, place: (usize, Http), connection: Connection) {
        if connection.is_open() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.entry(place).or_default().push(connection);
        }
    }
}

fn cut(error: &dyn std::error::Error) -> End {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        why = format!("{why}: {error}");
        source = error.source();
    }
    End::Cut { why }
}

fn message(request: &Request<'_>, attempt: &Attempt) -> http::Request<()> {
    let target = match attempt.http {
        Http::One => request.path.to_owned(),
        Http::Two => format!("http://gateway{}", request.path),
    };
    let mut built = http::Request::post(target);
    if let Some(key) = request.key {
        built = built.header("idempotency-key", key);
    }
    let built = built
        .header("host", "gateway")
        .header("content-type", "application/json")
        .header("content-length", request.body.len())
        .header(TENANT_HEADER, attempt.tenant)
        .header(OP_HEADER, request.op)
        .header("x-charge", attempt.behaviour.header())
        .body(());
    match built {
        Ok(built) => built,
        Err(error) => panic!("our own request is none: {error}"),
    }
}
