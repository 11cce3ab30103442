//! Drives a filter as nginx does in Kong: it calls the callbacks in the host's order, and does with a
//! request what the filter's answers ask for.

use super::fake_kong::{FakeKong, FakeStream, ROOT};
use crate::filter::Filter;
use crate::testing::kong_reply;
use crate::testing::kong_rules::{Step, Verdict};
use bytes::Bytes;
use std::collections::BTreeMap;

type Fields = Vec<(Bytes, Bytes)>;

pub(super) const MS: u64 = 1_000_000;

/// How far a request has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The headers wait for an answer.
    HeadersHeld,
    /// The body is being read.
    ReadingBody,
    /// The body waits for an answer.
    BodyHeld,
    /// Sent to the upstream.
    Forwarded,
    /// The response is passing; what is its content-length.
    Responding(Option<u64>),
    /// The client has an answer of ours.
    Answered,
}

/// What a client got from us.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivered {
    pub status: u16,
    pub details: String,
    pub headers: Fields,
    pub body: Vec<u8>,
}

pub(super) struct Nginx {
    pub filter: Filter<FakeKong>,
    pub phases: BTreeMap<u32, Phase>,
    /// How often each request went upstream, and its headers then.
    pub forwarded: BTreeMap<u32, Fields>,
    pub delivered: BTreeMap<u32, Delivered>,
    /// Headers that a plugin of Kong adds to every answer of ours, before the filter sees it.
    pub plugin_adds: Fields,
}

pub(super) fn fields(list: &[(&'static str, &'static str)]) -> Fields {
    list.iter()
        .map(|(n, v)| ((*n).into(), (*v).into()))
        .collect()
}

impl Nginx {
    pub fn new(configuration: &str) -> Nginx {
        let host = FakeKong::default();
        host.now.set(super::random_service::BEGIN_MS * MS);
        let mut nginx = Nginx {
            filter: Filter::new(host),
            phases: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            delivered: BTreeMap::new(),
            plugin_adds: Fields::new(),
        };
        nginx.configure(ROOT, configuration);
        nginx
    }

    pub fn host(&self) -> &FakeKong {
        self.filter.host()
    }

    pub fn phase(&self, id: u32) -> Option<&Phase> {
        self.phases.get(&id)
    }

    fn edit<T>(&self, id: u32, f: impl FnOnce(&mut FakeStream) -> T) -> T {
        f(self.host().streams.borrow_mut().get_mut(&id).unwrap())
    }

    /// A request has come.
    pub fn open(&mut self, id: u32, stream: FakeStream) {
        self.open_in(ROOT, id, stream);
    }

    /// The same in the chain of another root.
    pub fn open_in(&mut self, root: u32, id: u32, stream: FakeStream) {
        self.host().streams.borrow_mut().insert(id, stream);
        self.filter.on_context_create(id, root);
        self.host().begin(Step::RequestHeaders, Some(id));
        let flow = self.filter.on_request_headers(id, false);
        let verdict = self.host().end(flow);
        self.go(id, verdict, Phase::HeadersHeld, Phase::ReadingBody);
    }

    fn go(&mut self, id: u32, verdict: Verdict, held: Phase, next: Phase) {
        match verdict {
            Verdict::Waits => drop(self.phases.insert(id, held)),
            Verdict::Replies => self.reply(id),
            Verdict::GoesOn => {
                if next == Phase::Forwarded {
                    self.forward(id);
                }
                self.phases.insert(id, next);
            }
        }
    }

    fn forward(&mut self, id: u32) {
        let headers = self.edit(id, |s| s.headers.clone());
        let before = self.forwarded.insert(id, headers);
        assert!(before.is_none(), "sent upstream twice");
    }

    /// The request's body has been read.
    pub fn read_body(&mut self, id: u32) {
        let size = self.edit(id, |s| s.body.len());
        if size == 0 {
            // No callback.
            return self.go(id, Verdict::GoesOn, Phase::BodyHeld, Phase::Forwarded);
        }
        self.edit(id, |s| s.unread = false);
        self.host().begin(Step::RequestBody(size), Some(id));
        let flow = self.filter.on_request_body(id, size, true);
        let verdict = self.host().end(flow);
        self.go(id, verdict, Phase::BodyHeld, Phase::Forwarded);
    }

    /// A callout is answered.
    pub fn answer(&mut self, token: u32, headers: usize, fields: Fields, body: Bytes) {
        let size = body.len();
        *self.host().answer.borrow_mut() = (fields, body);
        let rules = &self.host().rules;
        let stream = rules.borrow_mut().begin_answer(token, headers, size);
        self.host().current.set(stream);
        self.filter.on_callout(ROOT, token, headers, size, 0);
        let verdict = self.host().end(crate::stream::Flow::Continue);
        let Some(id) = stream else { return };
        match self.phases.get(&id) {
            Some(Phase::HeadersHeld) => {
                self.go(id, verdict, Phase::HeadersHeld, Phase::ReadingBody);
            }
            Some(Phase::BodyHeld) => self.go(id, verdict, Phase::BodyHeld, Phase::Forwarded),
            _ => {}
        }
    }

    /// Our own answer passes the response callbacks.
    fn reply(&mut self, id: u32) {
        let reply = self.edit(id, |s| s.reply.clone()).unwrap();
        let headers = kong_reply::local_reply(&reply.headers);
        let added = self.plugin_adds.clone();
        self.edit(id, |s| {
            s.response = headers.into_iter().chain(added).collect()
        });
        self.host().begin(Step::ResponseHeaders, Some(id));
        let flow = self.filter.on_response_headers(id, false);
        self.host().end(flow);
        self.edit(id, |s| s.piece.clear());
        self.host().begin(Step::ResponseBody(0), Some(id));
        let flow = self.filter.on_response_body(id, 0, true);
        self.host().end(flow);
        if kong_reply::loses_type(reply.status, false, &reply.details) {
            self.edit(id, |s| s.response.retain(|(n, _)| n != "content-type"));
        }
        let delivered = self.edit(id, |s| Delivered {
            status: reply.status,
            details: reply.details.clone(),
            headers: s.response.clone(),
            body: s.piece.clone(),
        });
        self.delivered.insert(id, delivered);
        self.phases.insert(id, Phase::Answered);
    }

    /// Response headers have come from the upstream, or from nginx itself.
    pub fn response_headers(
        &mut self,
        id: u32,
        headers: Fields,
        variables: &[(&'static str, &'static str)],
    ) {
        let length = headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(b"content-length"))
            .and_then(|(_, v)| std::str::from_utf8(v).ok()?.parse().ok());
        self.edit(id, |s| {
            s.response = headers;
            s.variables
                .extend(variables.iter().map(|(n, v)| (*n, Bytes::from(*v))));
        });
        self.phases.insert(id, Phase::Responding(length));
        self.host().begin(Step::ResponseHeaders, Some(id));
        let flow = self.filter.on_response_headers(id, false);
        self.host().end(flow);
    }

    /// A piece of the response's body passes; returns what the client gets of it.
    pub fn response_piece(&mut self, id: u32, piece: &[u8], last: bool) -> Vec<u8> {
        let Some(Phase::Responding(length)) = self.phases.get(&id) else {
            panic!("no response is passing");
        };
        let Some(end) = kong_reply::response_piece(*length, piece.len(), last) else {
            return Vec::new();
        };
        self.edit(id, |s| s.piece = piece.to_vec());
        self.host().begin(Step::ResponseBody(piece.len()), Some(id));
        let flow = self.filter.on_response_body(id, piece.len(), end);
        self.host().end(flow);
        self.edit(id, |s| s.piece.clone())
    }

    /// The request is over. `logged`: no error page took it over.
    pub fn close(&mut self, id: u32, logged: bool) {
        if logged {
            self.host().begin(Step::Log, Some(id));
            assert!(self.filter.on_done(id));
            self.host().end(crate::stream::Flow::Continue);
        }
        self.host().begin(Step::Delete, Some(id));
        self.filter.on_delete(id);
        self.host().end(crate::stream::Flow::Continue);
        self.host().streams.borrow_mut().remove(&id);
        self.host().rules.borrow_mut().forget(id);
        self.phases.remove(&id);
    }

    /// Time passes, and the root's tick comes.
    pub fn tick(&mut self, ms: u64) {
        let host = self.host();
        host.now.set(host.now.get() + ms * MS);
        self.tick_of(ROOT);
    }

    /// A tick of another root of the worker, at the same time.
    pub fn tick_of(&mut self, root: u32) {
        self.host().begin(Step::Tick(root), None);
        self.filter.on_tick(root);
        self.host().end(crate::stream::Flow::Continue);
    }

    /// Another chain with the filter, in the same worker.
    pub fn configure(&mut self, root: u32, configuration: &str) {
        let text = Bytes::copy_from_slice(configuration.as_bytes());
        *self.host().configuration.borrow_mut() = text;
        self.filter.on_context_create(root, 0);
        self.host().begin(Step::Configure(root), None);
        assert!(self.filter.on_configure(root, configuration.len()));
        self.host().end(crate::stream::Flow::Continue);
    }
}
