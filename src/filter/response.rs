//! What the host tells of a response: the upstream's, the host's own, and ours on its way to the client.

use super::{Filter, Phase};
use crate::details;
use crate::host::{Buffer, Host, Level, Map};
use crate::kong::{self, Attempts};
use crate::profile::Profile;
use crate::stream::{Event, Flow};
use bytes::Bytes;
use idempotency_core::classify::Source;
use idempotency_core::headers::Headers;

impl<H: Host> Filter<H> {
    /// Response headers have come. `end`: there is no body.
    pub fn on_response_headers(&mut self, context: u32, end: bool) -> Flow {
        self.begin(context);
        if !self.is_active(context) {
            self.mend_headers(context);
            return Flow::Continue;
        }
        let fields = self.host.headers(Map::Response).unwrap_or_default();
        let event = match self.profile {
            Profile::Envoy => {
                let details = self.host.property(&["response", "code_details"]);
                Event::ResponseHeaders {
                    headers: Headers(fields),
                    source: details::from_properties(details.as_deref(), || {
                        self.host.property(&["upstream", "request_attempt_count"])
                    }),
                    end,
                }
            }
            Profile::Kong => self.response_in_kong(fields),
        };
        self.enter_callback(context, Phase::Response);
        let flow = self.feed(context, event);
        self.finish(flow)
    }

    fn response_in_kong(&mut self, fields: Vec<(Bytes, Bytes)>) -> Event<'static> {
        let some_missing = fields.len() >= self.profile.max_fields();
        let headers = Headers::lowered(fields);
        let attempts = Attempts::read(&self.host);
        if attempts.restarted() {
            self.sends_twice = true;
            self.host
                .log(Level::Error, &format!("idempotency: {}", kong::SENT_TWICE));
        } else if attempts.count() > 1 {
            self.host.log(
                Level::Warn,
                "idempotency: nginx sent a protected request upstream more than once; set \
                 proxy_next_upstream off",
            );
        }
        let status = headers.get(":status").cloned().unwrap_or_default();
        let source = match some_missing {
            // What is not seen cannot be replayed, nor can the rest be trusted.
            true => Source::Doubtful,
            false => attempts.source(&status),
        };
        let end = kong::is_bodiless(&headers);
        Event::ResponseHeaders {
            headers,
            source,
            end,
        }
    }

    /// More of the response body has come.
    pub fn on_response_body(&mut self, context: u32, size: usize, end: bool) -> Flow {
        self.begin(context);
        let Some(entry) = self.streams.get(&context) else {
            return Flow::Continue;
        };
        if !entry.stream.is_active() {
            self.mend_body(context);
            return Flow::Continue;
        }
        let start = entry.response.start();
        self.enter_callback(context, Phase::Response);
        let chunk = self.new_bytes(Buffer::Response, start, size);
        if chunk.is_none() {
            self.feed(context, Event::Unreadable);
        }
        let chunk = chunk.unwrap_or_default();
        let flow = self.feed(context, Event::ResponseBody { chunk: &chunk, end });
        let flow = self.finish(flow);
        if let Some(entry) = self.streams.get_mut(&context) {
            entry.response.advance(size, flow);
        }
        flow
    }

    /// The response has trailers.
    pub fn on_response_trailers(&mut self, context: u32) -> Flow {
        self.begin(context);
        self.enter_callback(context, Phase::Response);
        let flow = self.feed(context, Event::ResponseTrailers);
        self.finish(flow)
    }

    /// The headers of our own answer pass the response callbacks.
    fn mend_headers(&mut self, context: u32) {
        let entry = self.streams.get_mut(&context);
        if let Some(reply) = entry.and_then(|e| e.reply.as_mut()) {
            reply.mend_headers(&self.host);
        }
    }

    /// The body of our own answer passes the response callbacks.
    fn mend_body(&mut self, context: u32) {
        let entry = self.streams.get_mut(&context);
        if let Some(reply) = entry.and_then(|e| e.reply.as_mut()) {
            reply.mend_body(&self.host);
        }
    }
}
