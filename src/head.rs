//! Reads the head of a request from the host.

use crate::host::{Host, Map};
use crate::kong;
use crate::profile::Profile;
use bytes::Bytes;
use idempotency_core::decide::{ours_among, Properties, RequestHead};
use idempotency_core::headers::Headers;
use idempotency_core::request::Request;

/// The head of the current stream's request; `end`: there is no body. `None`: the host does not let us
/// read what decides.
pub fn read<H: Host>(profile: Profile, host: &H, end: bool) -> Option<RequestHead> {
    let fields = host.headers(Map::Request).ok()?;
    let (headers, target, authority) = match profile {
        Profile::Envoy => {
            let headers = Headers(fields);
            let target = headers.get(":path").cloned();
            // `CONNECT` has no path.
            (headers, target.unwrap_or_default(), ":authority")
        }
        Profile::Kong => {
            // Without it, nobody knows what the upstream gets.
            let target = host.property(&kong::RAW_PATH)?;
            (Headers::lowered(fields), target, kong::HOST_HEADER)
        }
    };
    let truncated = headers.0.len() >= profile.max_fields();
    Some(RequestHead {
        method: headers.get(":method").cloned().unwrap_or_default(),
        target,
        authority: headers.get(authority).cloned().unwrap_or_default(),
        bodiless: end,
        truncated,
        forged: truncated && kong::OURS.iter().any(|name| host.property(name).is_some()),
        headers,
    })
}

/// Notes who asks and what the gateway calls the request, for people. Envoy appends the address that it saw to
/// `x-forwarded-for` where it is the edge (`use_remote_address`); to ask for it would cost a hostcall of every
/// request, so it is empty where Envoy does not. (It has made a request id by then.)
pub fn describe<H: Host>(profile: Profile, request: &mut Request, host: &H) {
    match profile {
        Profile::Envoy => {
            if let Some(list) = request.headers.get("x-forwarded-for") {
                let last = list.rsplit(|b| *b == b',').next().unwrap_or(list);
                request.client = Bytes::copy_from_slice(last.trim_ascii());
            }
        }
        Profile::Kong => {
            request.client = host.property(&kong::CLIENT).unwrap_or_default();
            if request.request_id.is_empty() {
                request.request_id = host.property(&kong::REQUEST_ID).unwrap_or_default();
            }
        }
    }
}

/// What the host knows of the current stream's request.
pub struct HostProperties<'h, H>(pub &'h H);

impl<H: Host> Properties for HostProperties<'_, H> {
    fn property(&self, path: &[&str]) -> Option<Bytes> {
        self.0.property(path)
    }

    fn route(&self) -> Option<Bytes> {
        self.0.property(&kong::ROUTE)
    }

    fn service(&self) -> Option<Bytes> {
        self.0.property(&kong::SERVICE)
    }
}

/// Whether a client has sent a field that only the gateway sends, and it could not be removed.
/// For a filter that has no configuration.
pub fn has_ours<H: Host>(profile: Profile, host: &H) -> bool {
    let Ok(fields) = host.headers(Map::Request) else {
        return true;
    };
    let ours = ours_among(&Headers::lowered(fields));
    let stays =
        |name: &Bytes| profile == Profile::Kong || host.remove_header(Map::Request, name).is_err();
    // All of them are removed, whether the first one stays or not.
    ours.iter().filter(|name| stays(name)).count() > 0
}
