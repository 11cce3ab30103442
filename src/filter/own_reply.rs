//! Our own answers, on their way through the response callbacks: hosts change them, and this is
//! where they become again what they were.

use crate::host::{Buffer, Host, Map};
use crate::profile::Profile;
use crate::reply::LocalReply;
use crate::upstream::HeaderChange;
use bytes::Bytes;

/// What is to be done to an answer of ours.
#[derive(Debug)]
pub(super) struct OwnReply {
    changes: Vec<HeaderChange>,
    /// Values besides the first, of headers that occur more than once.
    more: Vec<(Bytes, Bytes)>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// It passes as it is.
    Kept,
    /// To be put in place of what the host made of it.
    Wanted(Bytes),
    /// It was put in place; the rest of the host's is to go.
    Done,
}

impl OwnReply {
    pub fn new(profile: Profile, reply: LocalReply) -> OwnReply {
        let mut changes = reply.repairs();
        let mut more = Vec::new();
        if profile == Profile::Envoy {
            return OwnReply {
                changes,
                more,
                body: Body::Kept,
            };
        }
        // Of repeated headers, ngx_wasm_module keeps the last.
        let LocalReply {
            status,
            headers,
            body,
        } = reply;
        let same = |a: &Bytes, b: &Bytes| a.eq_ignore_ascii_case(b);
        for (at, (name, value)) in headers.iter().enumerate() {
            if headers.iter().take(at).any(|(n, _)| same(n, name)) {
                more.push((name.clone(), value.clone()));
            } else if headers.iter().skip(at + 1).any(|(n, _)| same(n, name)) {
                changes.push(HeaderChange::Set(name.clone(), value.clone()));
            }
        }
        // It counts the newline that it appends.
        let length = Bytes::from_static(b"content-length");
        changes.push(match status {
            100..=199 | 204 | 304 => HeaderChange::Remove(length),
            _ => HeaderChange::Set(length, body.len().to_string().into()),
        });
        OwnReply {
            changes,
            more,
            body: match body.is_empty() {
                true => Body::Kept,
                false => Body::Wanted(body),
            },
        }
    }

    /// In the headers callback.
    pub fn mend_headers<H: Host>(&mut self, host: &H) {
        for change in std::mem::take(&mut self.changes) {
            let _ = match change {
                HeaderChange::Set(n, v) => host.set_header(Map::Response, &n, &v),
                HeaderChange::Remove(n) => host.remove_header(Map::Response, &n),
            };
        }
        for (name, value) in std::mem::take(&mut self.more) {
            let _ = host.add_header(Map::Response, &name, &value);
        }
    }

    /// In a body callback, which tells of `size` bytes.
    pub fn mend_body<H: Host>(&mut self, host: &H, size: usize) {
        if size == 0 {
            return;
        }
        let wanted = match std::mem::replace(&mut self.body, Body::Done) {
            Body::Kept => {
                self.body = Body::Kept;
                return;
            }
            Body::Wanted(body) => body,
            Body::Done => Bytes::new(),
        };
        let _ = host.set_buffer(Buffer::Response, 0, size.max(wanted.len()), &wanted);
    }
}
