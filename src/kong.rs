//! What the filter asks of Kong's host: nginx's variables, read as properties of the stream.

use crate::host::Host;
use bytes::Bytes;
use idempotency_core::classify::Source;
use idempotency_core::headers::Headers;

/// Path and query as the client sent them. `:path` is nginx's decoded and normalised form there:
/// `%2F` is a slash in it, and what was ambiguous no longer shows.
pub const RAW_PATH: [&str; 2] = ["ngx", "request_uri"];
/// The route that Kong chose.
pub const ROUTE: [&str; 2] = ["kong", "route_id"];
/// The service that the route belongs to.
pub const SERVICE: [&str; 2] = ["kong", "service_id"];

/// The client's address, as Kong sees it.
pub const CLIENT: [&str; 2] = ["ngx", "remote_addr"];

/// Kong's own id of the request, which it has in `X-Kong-Request-Id` of its answers, and in its logs.
pub const REQUEST_ID: [&str; 2] = ["ngx", "kong_request_id"];

/// The fields that only the gateway sends, in every spelling, as nginx's variables: a header map
/// that is too long may hide them.
pub const OURS: [[&str; 2]; 5] = [
    ["ngx", "http_idempotency_fence"],
    ["ngx", "http_idempotency_attempt"],
    ["ngx", "http_idempotency_record"],
    ["ngx", "http_idempotency_unprotected"],
    ["ngx", "http_idempotency_proof"],
];

/// The file that a request's body was written to; empty: none.
pub const BODY_FILE: [&str; 2] = ["ngx", "request_body_file"];

/// What a client is told whose body went to that file.
pub const SPILLED: &str = "The request body is larger than what this gateway keeps in memory \
                           (client_body_buffer_size).";
/// What a client is told where nobody reads the body in time.
pub const UNREAD: &str = "The gateway must read request bodies before the filter runs: call \
                          ngx.req.read_body() in Kong's access phase (plugin post-function).";
/// What the operator is told where nginx sends requests twice.
pub const SENT_TWICE: &str = "nginx began to proxy a request twice: proxy_ignore_client_abort is \
                              on, and request bodies are not read before the filter. Requests \
                              with bodies are refused until ngx.req.read_body() is called in the \
                              access phase, or the directive is off";

/// The client's `Host`; `:authority` is nginx's own name there.
pub const HOST_HEADER: &str = "host";

/// What the headers say about a request's body. nginx has checked `content-length`, and refused
/// requests that have both; `end` of the headers callback is never true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnouncedBody {
    /// There is none. (HTTP/2 and 3 can have one all the same; it shows in the body callback.)
    None,
    /// It has a length, so the body callback comes.
    Announced,
    /// Chunked: the body callback comes unless the body is empty, so nothing would stop an empty
    /// one.
    Unannounced,
}

impl AnnouncedBody {
    /// From the request's headers.
    pub fn of(headers: &Headers) -> AnnouncedBody {
        if headers.has("transfer-encoding") {
            return AnnouncedBody::Unannounced;
        }
        match headers.content_length() {
            Some(0) => AnnouncedBody::None,
            Some(_) => AnnouncedBody::Announced,
            None if headers.has("content-length") => AnnouncedBody::Unannounced,
            None => AnnouncedBody::None,
        }
    }
}

/// Whether a response has no body, so that nothing may follow its headers.
pub fn is_bodiless(headers: &Headers) -> bool {
    matches!(headers.status(), Some(204 | 304)) || headers.content_length() == Some(0)
}

/// What nginx knows of the upstream's part in a response; one element per attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// `upstream_addr`: who was tried.
    pub addresses: Option<Bytes>,
    /// `upstream_header_time`: when a response header had been read, else `-`.
    pub header_times: Option<Bytes>,
    /// `upstream_connect_time`: when the connection stood, else `-`.
    pub connect_times: Option<Bytes>,
    /// `upstream_status`; nginx's own 502 and 504 too.
    pub statuses: Option<Bytes>,
}

impl Attempts {
    /// Reads them. Only in the response callbacks of the stream.
    pub fn read<H: Host>(host: &H) -> Attempts {
        let variable = |name: &str| host.property(&["ngx", name]);
        Attempts {
            addresses: variable("upstream_addr"),
            header_times: variable("upstream_header_time"),
            connect_times: variable("upstream_connect_time"),
            statuses: variable("upstream_status"),
        }
    }

    /// How often the request went out.
    pub fn count(&self) -> usize {
        elements(&self.addresses).count()
    }

    /// Whether nginx has begun to proxy the request more than once (groups are parted by colons
    /// with spaces around), other than by asking the next server.
    pub fn restarted(&self) -> bool {
        let addresses: &[u8] = self.addresses.as_deref().unwrap_or_default();
        addresses.windows(3).any(|part| part == b" : ")
    }

    /// Who made a response with this `:status` (measured, `docs/kong-facts.md`): nginx has a header
    /// time only if it read an upstream's header, and a connect time only if a connection stood.
    pub fn source(&self, status: &[u8]) -> Source {
        let last_read = elements(&self.header_times).last().is_some_and(is_time);
        if last_read && elements(&self.statuses).last() == Some(status) {
            return Source::Upstream;
        }
        let connected = elements(&self.connect_times).any(|time| time != b"-");
        let read = elements(&self.header_times).any(|time| time != b"-");
        // Without an upstream, somebody in the gateway answered. With one, both lists have an
        // element per attempt; if nginx does not tell, nobody knows.
        let told = self.count() == elements(&self.connect_times).count();
        if told && !connected && !read {
            return Source::Unsent;
        }
        Source::Doubtful
    }
}

/// nginx separates attempts by commas, and groups of servers by colons with spaces.
fn elements(list: &Option<Bytes>) -> impl Iterator<Item = &[u8]> {
    let list: &[u8] = list.as_deref().unwrap_or_default();
    list.split(|b| *b == b',')
        .flat_map(|group| group.split_inclusive(|b| *b == b' '))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty() && *element != b":")
}

fn is_time(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
        && text.iter().all(|b| b.is_ascii_digit() || *b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> Headers {
        list.iter()
            .map(|(n, v)| ((*n).into(), (*v).into()))
            .collect()
    }

    #[test]
    fn bodies() {
        for (list, expected) in [
            (&[] as &[_], AnnouncedBody::None),
            (&[("content-length", "0")], AnnouncedBody::None),
            (&[("content-length", "5")], AnnouncedBody::Announced),
            (
                &[("content-length", "99999999999999999999")],
                AnnouncedBody::Announced,
            ),
            (&[("content-length", "x")], AnnouncedBody::Unannounced),
            (
                &[("transfer-encoding", "chunked")],
                AnnouncedBody::Unannounced,
            ),
            (
                &[("transfer-encoding", "chunked"), ("content-length", "0")],
                AnnouncedBody::Unannounced,
            ),
        ] {
            assert_eq!(AnnouncedBody::of(&headers(list)), expected, "{list:?}");
        }
    }

    #[test]
    fn who_made_a_response() {
        type Row = (
            Option<&'static str>,
            Option<&'static str>,
            Option<&'static str>,
            Option<&'static str>,
            &'static str,
            Source,
        );
        // addresses, connect times, header times, upstream statuses, status
        let rows: [Row; 12] = [
            (
                Some("a:1"),
                Some("0.001"),
                Some("0.004"),
                Some("201"),
                "201",
                Source::Upstream,
            ),
            // Changed by somebody on its way.
            (
                Some("a:1"),
                Some("0.001"),
                Some("0.004"),
                Some("201"),
                "500",
                Source::Doubtful,
            ),
            // Closed or silent after the request was read.
            (
                Some("a:1"),
                Some("0.001"),
                Some("-"),
                Some("502"),
                "502",
                Source::Doubtful,
            ),
            (
                Some("a:1"),
                Some("0.001"),
                Some("-"),
                Some("504"),
                "504",
                Source::Doubtful,
            ),
            // Refused.
            (
                Some("a:1"),
                Some("-"),
                Some("-"),
                Some("502"),
                "502",
                Source::Unsent,
            ),
            (
                Some("a:1, b:1"),
                Some("-, -"),
                Some("-, -"),
                Some("502, 502"),
                "502",
                Source::Unsent,
            ),
            // The first of two may have been executed.
            (
                Some("a:1, b:1"),
                Some("0.001, -"),
                Some("-, -"),
                Some("502, 502"),
                "502",
                Source::Doubtful,
            ),
            (
                Some("a:1, b:1"),
                Some("-, 0.000"),
                Some("-, 0.002"),
                Some("502, 200"),
                "200",
                Source::Upstream,
            ),
            (
                Some("a:1 : b:1"),
                Some("- : 0.000"),
                Some("- : 0.002"),
                Some("502 : 200"),
                "200",
                Source::Upstream,
            ),
            // No upstream was asked.
            (None, None, None, None, "503", Source::Unsent),
            (
                Some(""),
                Some(""),
                Some(""),
                Some(""),
                "503",
                Source::Unsent,
            ),
            // An upstream was asked, and nginx does not tell what came of it.
            (Some("a:1"), None, None, None, "502", Source::Doubtful),
        ];
        for (addresses, connect, header, statuses, status, expected) in rows {
            let bytes = |text: Option<&'static str>| text.map(Bytes::from);
            let attempts = Attempts {
                addresses: bytes(addresses),
                connect_times: bytes(connect),
                header_times: bytes(header),
                statuses: bytes(statuses),
            };
            assert_eq!(
                attempts.source(status.as_bytes()),
                expected,
                "{attempts:?} {status}"
            );
        }
    }
}
