//! What is left of a request's body when the request has been answered.
//!
//! HTTP/1.1 allows an answer before the end of the body, and the connection must end behind it. A
//! sender that is still writing then meets a broken connection, and not every sender reads the
//! answer in spite of that: Kong's host does not. Its call has failed "without an answer", whatever
//! the service has said. So an answer waits for a body that is under way, within bounds.

use bytes::Bytes;
use http::{header, Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long an answer waits for the rest of a body. Nobody asked for more time than that: what is
/// under way comes at once.
const LONGEST: Duration = Duration::from_secs(2);
/// How much is read, and forgotten. Above what any gateway of ours sends.
const MOST: u64 = 16 * 1024 * 1024;

/// A body on loan: it comes back if it is dropped before its end.
pub(crate) struct Lent {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
    /// The sender waits for a word of ours before it sends any of it.
    on_demand: bool,
}

/// Where it comes back to.
pub(crate) struct Rest(oneshot::Receiver<Incoming>);

/// Lends the body of a request.
pub(crate) fn lend(request: Request<Incoming>) -> (Request<Lent>, Rest) {
    let (back, rest) = oneshot::channel();
    let on_demand = request.headers().contains_key(header::EXPECT);
    let request = request.map(|body| Lent {
        body: Some(body),
        back: Some(back),
        on_demand,
    });
    (request, Rest(rest))
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.on_demand = false;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            if !self.on_demand && !body.is_end_stream() {
                // Nobody waits for it any more if the connection is gone.
                let _ = back.send(body);
            }
        }
    }
}

impl Rest {
    /// Reads what is still to come, and forgets it. The handler that was given the body has dropped it.
    pub(crate) async fn discard(mut self, answer: StatusCode) {
        let Ok(mut body) = self.0.try_recv() else {
            return;
        };
        // A body that did not come in time is not waited for again.
        if answer == StatusCode::REQUEST_TIMEOUT || body.size_hint().lower() > MOST {
            return;
        }
        let all = async {
            let mut read = 0;
            while let Some(Ok(frame)) = body.frame().await {
                read += frame.data_ref().map_or(0, |data| data.len() as u64);
                if read > MOST {
                    return;
                }
            }
        };
        // Too late is as good as too much: the connection ends.
        let _ = tokio::time::timeout(LONGEST, all).await;
    }
}
