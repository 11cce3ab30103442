//! What strings of a configuration may look like. Each check says what would be right.

use crate::fingerprint::is_token;
use crate::path::{self, Clarity};

pub(super) type Checked = Result<(), &'static str>;

fn must(holds: bool, message: &'static str) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(message)
    }
}

fn visible(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Names that belong to one connection (RFC 9110 §7.6.1) or to the framing of messages.
const CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Names that carry credentials.
const CREDENTIALS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// Response headers that must never be replayed, and those that the filter makes itself.
const NEVER_REPLAYED: [&str; 9] = [
    "age",
    "authentication-info",
    "authorization",
    "cookie",
    "date",
    "proxy-authentication-info",
    "set-cookie",
    "set-cookie2",
    "www-authenticate",
];

fn is_one_of(name: &str, list: &[&str]) -> bool {
    list.iter().any(|n| n.eq_ignore_ascii_case(name))
}

const TOKEN: &str = "must be the name of a header";
const PER_CONNECTION: &str = "must not be a header of the connection or of message framing";

fn header(name: &str) -> Checked {
    must(is_token(name.as_bytes()) && name.len() <= 128, TOKEN)?;
    must(!is_one_of(name, &CONNECTION), PER_CONNECTION)
}

pub(super) fn key_header(name: &str) -> Checked {
    header(name)?;
    must(
        !is_one_of(name, &CREDENTIALS) && !is_one_of(name, &["content-type"]),
        "must be a header of its own",
    )
}

pub(super) fn tenant_header(name: &str) -> Checked {
    header(name)?;
    must(
        !is_one_of(name, &CREDENTIALS),
        "credentials are not a tenant; see {\"credentials\": \"static\"}",
    )
}

pub(super) fn fingerprint_header(name: &str) -> Checked {
    header(name)?;
    must(
        !is_one_of(name, &["content-type"]),
        "content-type always counts",
    )
}

pub(super) fn marker_header(name: &str) -> Checked {
    header(name)?;
    let standard = [
        "content-type",
        "content-encoding",
        "location",
        "etag",
        "retry-after",
        "link",
    ];
    must(
        !is_one_of(name, &NEVER_REPLAYED) && !is_one_of(name, &standard),
        "must be a header of its own",
    )
}

pub(super) fn replayed_header(name: &str) -> Checked {
    header(name)?;
    must(
        !is_one_of(name, &NEVER_REPLAYED),
        "this header must never be replayed",
    )?;
    must(
        !begins(name, "access-control-"),
        "CORS headers are replayed without being listed; see `cors`",
    )
}

fn begins(name: &str, prefix: &str) -> bool {
    let beginning = name.as_bytes().get(..prefix.len());
    beginning.is_some_and(|b| b.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// Where a part of a text begins. (The library's own search is several kilobytes of the filter.)
fn place(text: &str, part: &str) -> Option<usize> {
    let mut windows = text.as_bytes().windows(part.len());
    windows.position(|window| window == part.as_bytes())
}

/// An origin as browsers write it (RFC 6454 §6.2).
pub(super) fn origin(text: &str) -> Checked {
    let scheme = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'.' | b'-');
    let host = |b: u8| scheme(b) && b != b'+' || matches!(b, b':' | b'[' | b']' | b'_');
    let fine = text == "*"
        || text.len() <= 255
            && place(text, "://").is_some_and(|at| {
                let (before, after) = text.as_bytes().split_at(at);
                let after = after.get("://".len()..).unwrap_or_default();
                !before.is_empty()
                    && before.iter().copied().all(scheme)
                    && !after.is_empty()
                    && after.iter().copied().all(host)
            });
    must(
        fine,
        "must be an origin as browsers send it (\"https://shop.example\": lower case, nothing \
         behind host and port), or \"*\"",
    )
}

/// Members that every problem document has (RFC 9457 §3.1, and ours).
const DOCUMENT: [&str; 7] = [
    "detail",
    "instance",
    "retryable",
    "reuse_key",
    "status",
    "title",
    "type",
];

pub(super) fn problem_member(name: &str) -> Checked {
    must(
        (1..=64).contains(&name.len()) && name.chars().all(|c| !c.is_control()),
        "must have a name of 1 to 64 bytes without control characters",
    )?;
    must(!DOCUMENT.contains(&name), "every document has this member")
}

/// Headers of our refusals, and those that somebody on the way acts on.
const OF_A_REFUSAL: [&str; 7] = [
    "cache-control",
    "content-encoding",
    "content-type",
    "link",
    "location",
    "retry-after",
    "vary",
];
const RESERVED: [&str; 5] = [
    "access-control-",
    "idempotency-",
    "x-envoy-",
    "x-idempotency-",
    "x-kong-",
];

pub(super) fn problem_header(name: &str) -> Checked {
    header(name)?;
    must(
        !is_one_of(name, &NEVER_REPLAYED)
            && !is_one_of(name, &OF_A_REFUSAL)
            && !RESERVED.iter().any(|prefix| begins(name, prefix)),
        "must not be a header that has a meaning to the gateway",
    )
}

pub(super) fn header_value(text: &str) -> Checked {
    let inside = |b: u8| b.is_ascii_graphic() || matches!(b, b' ' | b'\t');
    must(
        (1..=1024).contains(&text.len())
            && text.bytes().all(inside)
            && text.trim_ascii().len() == text.len(),
        "must be 1 to 1024 visible ASCII characters; blanks only between them",
    )
}

pub(super) fn hop_key(text: &str) -> Checked {
    must(
        visible(text, 255) && text.len() >= 16,
        "must be 16 to 255 visible ASCII characters",
    )
}

/// Keys with white space between them.
pub(super) fn hop_keys(text: &str) -> Checked {
    let mut keys = text.split_ascii_whitespace();
    let good = keys.clone().all(|key| hop_key(key).is_ok());
    must(
        keys.next().is_some() && good,
        "must be keys of 16 to 255 visible ASCII characters, white space between them",
    )
}

pub(super) fn target(text: &str) -> Checked {
    must(
        visible(text, 255),
        "must be the name of the service's cluster",
    )?;
    must(place(text, "://").is_none(), "must not be a URL")
}

/// Where Kong's host can call: `unix:/path`, or a name or address with or without a port. Anything
/// else would trap in the middle of a request.
pub fn is_kong_target(target: &str) -> bool {
    if let Some(path) = target.strip_prefix("unix:") {
        return path.starts_with('/') && !path.contains(':') && path.len() <= 107;
    }
    let (host, rest) = match target.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", rest),
            _ => return false,
        },
        None => match target.split_once(':') {
            Some((host, _)) => (host, target.strip_prefix(host).unwrap_or_default()),
            None => (target, ""),
        },
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    !host.is_empty()
        && host.bytes().all(plain)
        && (rest.is_empty() || rest.strip_prefix(':').is_some_and(port))
}

/// Whether a target of Kong's host is a name that has to be resolved.
pub fn is_host_name(target: &str) -> bool {
    let host = target.split(':').next().unwrap_or_default();
    !target.starts_with("unix:")
        && !target.starts_with('[')
        && host.parse::<std::net::Ipv4Addr>().is_err()
}

pub(super) fn kong_id(text: &str) -> Checked {
    let plain = |b: u8| b.is_ascii_hexdigit() || b == b'-';
    must(
        text.len() == 36 && text.bytes().all(plain),
        "must be the id of a Kong entity (a UUID, not its name)",
    )
}

pub(super) fn cluster(text: &str) -> Checked {
    must(visible(text, 255), "must be the name of a cluster")
}

pub(super) fn authority(text: &str) -> Checked {
    must(
        visible(text, 255) && !text.contains('/'),
        "must be a host name, with or without port",
    )
}

pub(super) fn token(text: &str) -> Checked {
    must(
        visible(text, 4096),
        "must be 1 to 4096 visible ASCII characters",
    )
}

pub(super) fn variable(text: &str) -> Checked {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    must(
        (1..=128).contains(&text.len()) && text.bytes().all(plain),
        "must be the name of an environment variable",
    )
}

pub(super) fn problem_base(text: &str) -> Checked {
    let uri = visible(text, 1024) && !text.contains(['<', '>', '"', '\\']) && text.contains(':');
    must(uri, "must be the beginning of an absolute URI")
}

pub(super) fn rule_name(text: &str) -> Checked {
    must(
        visible(text, 64),
        "must be 1 to 64 visible ASCII characters",
    )
}

pub(super) fn namespace(text: &str) -> Checked {
    let plain = text.len() <= 255 && text.chars().all(|c| !c.is_control());
    must(
        plain,
        "must be at most 255 bytes without control characters",
    )
}

pub(super) fn property(text: &str) -> Checked {
    let plain = (1..=255).contains(&text.len()) && text.chars().all(|c| !c.is_control());
    must(plain, "must be 1 to 255 bytes without control characters")
}

/// RFC 6901, in its one spelling. The empty one leads to the whole.
pub(super) fn pointer(text: &str) -> Checked {
    let escapes = text.split('~').skip(1);
    let right =
        text.starts_with('/') && escapes.into_iter().all(|rest| rest.starts_with(['0', '1']));
    must(
        right,
        "must be a JSON Pointer to a member (RFC 6901), such as \"/id\" or \"/data/0/id\"",
    )
}

pub(super) fn host(text: &str) -> Checked {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let v6 = |b: u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
    let fine = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(address) => name == text && !address.is_empty() && address.bytes().all(v6),
        None => name.bytes().all(plain) && !name.starts_with('.') && !name.ends_with('.'),
    };
    must(
        fine && !name.is_empty() && text.len() <= 255,
        "must be a host name without port; `*.example.com` means any name below example.com",
    )
}

/// A path that has one reading only: its normal form, without anything that upstreams disagree
/// about.
pub(super) fn rule_path(text: &str) -> Checked {
    must(text.starts_with('/'), "must start with \"/\"")?;
    must(
        !text.contains(['?', '#']),
        "must be a path without query and fragment",
    )?;
    must(
        !text.contains('*'),
        "wildcards are not supported; use path_prefix",
    )?;
    let risky = ["%25", "%3b", "%3f", "%23", ";"];
    let lower = text.to_ascii_lowercase();
    let normal = path::normalise(text.as_bytes());
    must(
        normal.clarity != Clarity::Ambiguous && !risky.iter().any(|r| place(&lower, r).is_some()),
        "cannot be matched reliably: upstreams disagree about some character in it",
    )?;
    must(
        normal.path == text,
        "must be in normal form: no dot segments, no double slashes, no needless or lower-case \
         escapes",
    )
}

pub(super) fn method(text: &str) -> Checked {
    must(
        is_token(text.as_bytes()) && text.len() <= 32 && text == text.to_ascii_uppercase(),
        "must be the name of a method, in upper case",
    )?;
    must(
        !crate::rules::is_safe(text.as_bytes()),
        "GET, HEAD, OPTIONS and TRACE change nothing and are never protected",
    )?;
    must(text != "CONNECT", "a tunnel cannot be protected")
}
