//! Our own answers, on their way through the response callbacks: hosts change them, and this is
//! where they become again what they were.

use crate::forward::HeaderChange;
use crate::host::{Buffer, Host, Map};
use crate::profile::Profile;
use bytes::Bytes;
use idempotency_core::reply::LocalReply;

/// What is to be done to an answer of ours.
#[derive(Debug)]
pub(super) struct OwnReply {
    changes: Vec<HeaderChange>,
    /// Values besides the first, of headers that occur more than once.
    more: Vec<(Bytes, Bytes)>,
    /// Kong: `vary` may occur twice in the end.
    varies: bool,
    /// A body that was not given to the host, and is to be put in on its way.
    body: Bytes,
}

/// How much of a body the host is given with a reply.
///
/// ngx_wasm_module gets none (measured, `docs/kong-facts.md`). It would append a newline, keep the
/// body in a buffer that it empties when it forgets a callout that failed, so that the client gets
/// no answer. To remove the newline by replacing the body would break the next request of the
/// connection. A body that is put before the end of an empty one has none of these problems.
pub(super) fn given(profile: Profile, reply: &LocalReply) -> &[u8] {
    match profile {
        Profile::Envoy => &reply.body,
        Profile::Kong => &[],
    }
}

/// What hosts do to an answer, to be undone when it passes the response callbacks: they drop
/// `content-type` from one without a body, and add one where a body has none (measured on Envoy).
fn repairs(reply: &LocalReply) -> Vec<HeaderChange> {
    let is_type = |name: &Bytes| name.as_ref() == b"content-type";
    let types = reply.headers.iter().filter(|(name, _)| is_type(name));
    if reply.body.is_empty() {
        let set = |(n, v): &(Bytes, Bytes)| HeaderChange::Set(n.clone(), v.clone());
        return types.map(set).collect();
    }
    match types.count() {
        0 => vec![HeaderChange::Remove("content-type".into())],
        _ => Vec::new(),
    }
}

const VARY: &[u8] = b"vary";

/// Kong's plugins change responses before the filter sees them. So a stored answer has the
/// `vary: Origin` that the plugin `cors` had added, and the plugin adds one more to its replay.
fn tell_vary_once<H: Host>(host: &H) {
    let fields = host.headers(Map::Response).unwrap_or_default();
    let values = fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(VARY));
    let mut once: Vec<&Bytes> = Vec::new();
    let mut repeated = false;
    for (_, value) in values {
        match once.iter().any(|known| known.eq_ignore_ascii_case(value)) {
            true => repeated = true,
            false => once.push(value),
        }
    }
    if !repeated {
        return;
    }
    for (at, value) in once.into_iter().enumerate() {
        let _ = match at {
            0 => host.set_header(Map::Response, VARY, value),
            _ => host.add_header(Map::Response, VARY, value),
        };
    }
}

impl OwnReply {
    pub fn new(profile: Profile, reply: LocalReply) -> OwnReply {
        let mut changes = repairs(&reply);
        let mut more = Vec::new();
        if profile == Profile::Envoy {
            return OwnReply {
                changes,
                more,
                varies: false,
                body: Bytes::new(),
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
        let length = Bytes::from_static(b"content-length");
        changes.push(match status {
            100..=199 | 204 | 304 => HeaderChange::Remove(length),
            _ => HeaderChange::Set(length, body.len().to_string().into()),
        });
        let varies = headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(VARY));
        OwnReply {
            changes,
            more,
            varies,
            body,
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
        if std::mem::take(&mut self.varies) {
            tell_vary_once(host);
        }
    }

    /// In the body callback.
    pub fn mend_body<H: Host>(&mut self, host: &H) {
        let body = std::mem::take(&mut self.body);
        if !body.is_empty() {
            let _ = host.prepend_buffer(Buffer::Response, &body);
        }
    }
}
