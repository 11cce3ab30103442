//! The TLS handshake of a connection: bounded in time like the head of a request, and charged like the connection of
//! a stranger, which it is.

use super::connection::{told_to_go, ConnectionContext, Http};
use crate::auth::Shown;
use crate::telemetry::refusals::Closed;
use crate::tls::{HandshakeFailure, Identity};
use rustls::ServerConnection;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;

/// What the library may keep of answers that the socket does not take, per connection.
const KEPT_BYTES: usize = 16 * 1024;
/// The first byte of every TLS handshake.
const HANDSHAKE: u8 = 0x16;
/// What somebody gets who speaks HTTP where TLS is spoken.
const SPEAK_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 42\r\n\
    connection: close\r\n\r\nThis port speaks TLS: call it by https://\n";

/// Shakes hands, and serves what comes then.
pub(super) async fn serve(connection: ConnectionContext, stream: TcpStream) {
    let app = connection.app.clone();
    let gave_way = connection.guest.told_to_go();
    let limit = app.limits.header_timeout;
    let shaken = tokio::select! {
        biased;
        shaken = tokio::time::timeout(limit, shake(&connection, stream)) => shaken,
        () = told_to_go(&gave_way, &connection.watch) => {
            app.metrics.refusals.closed(Closed::GaveWay);
            return;
        }
        () = app.stopping.cancelled() => return,
    };
    let failed = match shaken {
        Ok(Ok((stream, shown, http))) => {
            let connection = ConnectionContext {
                shown,
                ..connection
            };
            return connection.serve(stream, http).await;
        }
        Ok(Err(failed)) => failed,
        Err(_) => (
            HandshakeFailure::Slow,
            format!("it took longer than {limit:?}"),
        ),
    };
    let (failure, why) = failed;
    app.metrics.tls.failed(failure);
    if let Some(unsaid) = app.handshakes.say(failure.name()) {
        let (from, reason) = (connection.from, failure.name());
        tracing::warn!(%from, reason, why, unsaid, "TLS handshake failed");
    }
}

type Shaken = (TlsStream<TcpStream>, Shown, Http);

async fn shake(
    connection: &ConnectionContext,
    mut stream: TcpStream,
) -> Result<Shaken, (HandshakeFailure, String)> {
    let Some(tls) = &connection.app.tls else {
        return Err((
            HandshakeFailure::Other,
            "there is no certificate".to_owned(),
        ));
    };
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1..) if first[0] != HANDSHAKE => {
            if first[0].is_ascii_uppercase() {
                let _ = stream.write_all(SPEAK_TLS).await;
                let _ = stream.shutdown().await;
            }
            return Err((
                HandshakeFailure::NotTls,
                "what the client sent is no TLS".to_owned(),
            ));
        }
        Ok(1..) => {}
        Ok(0) => {
            let text = "the client went away without a word".to_owned();
            return Err((HandshakeFailure::Closed, text));
        }
        Err(error) => return Err(HandshakeFailure::of(&error)),
    }
    let asked = tls.asks_for_certificates() && !connection.page;
    let acceptor = TlsAcceptor::from(tls.config(connection.page));
    let limited = |session: &mut ServerConnection| session.set_buffer_limit(Some(KEPT_BYTES));
    let stream = acceptor.accept_with(stream, limited).await;
    let stream = stream.map_err(|error| HandshakeFailure::of(&error))?;
    let session = stream.get_ref().1;
    let shown = match session.peer_certificates().and_then(<[_]>::first) {
        None if asked => Shown::Nothing,
        None => Shown::NotAsked,
        Some(certificate) => Shown::Certificate(Arc::new(read(certificate)?)),
    };
    let http = match session.alpn_protocol() {
        Some(b"h2") => Http::Two,
        Some(_) => Http::One,
        None => Http::Any,
    };
    Ok((stream, shown, http))
}

fn read(certificate: &[u8]) -> Result<Identity, (HandshakeFailure, String)> {
    Identity::read(certificate).map_err(|error| {
        let text = format!("the client's certificate cannot be read: {error}");
        (HandshakeFailure::BadCertificate, text)
    })
}

#[cfg(test)]
mod tests {
    use super::SPEAK_TLS;

    #[test]
    fn what_is_said_in_plain_http_has_its_length() {
        let text = std::str::from_utf8(SPEAK_TLS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{text}"
        );
    }
}
