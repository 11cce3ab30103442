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
    /// To be made of what the host made of it: this, and a newline.
    Wanted(Bytes),
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
        if body.len() == 1 {
            changes.push(HeaderChange::Set("connection".into(), "close".into()));
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

    /// In the body callback, which tells of `size` bytes: the body and a newline, in one buffer.
    ///
    /// The buffer is cut before the body's last byte, and that byte is appended as a buffer of its
    /// own. Replacing the whole buffer gives the same bytes, but leaves the connection with a
    /// chain link of the request's memory, and the next request on the connection fails (measured).
    /// A body of one byte has to be replaced; its connection is closed.
    pub fn mend_body<H: Host>(&mut self, host: &H, size: usize) {
        let Body::Wanted(body) = std::mem::replace(&mut self.body, Body::Kept) else {
            return;
        };
        let start = body.len().saturating_sub(1);
        let last = body.get(start..).unwrap_or_default();
        let rest = size.saturating_sub(start);
        let _ = host.set_buffer(Buffer::Response, start, rest, last);
    }
}
