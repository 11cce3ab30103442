//! Frames of HTTP/2, for clients that misbehave.

use super::GATEWAY;

/// One HTTP/2 frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Kinds of frames, and flags of theirs.
pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const SETTINGS: u8 = 0x4;
pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;

/// The preface, and settings with this window for every stream.
pub fn preface(window: u32) -> Vec<u8> {
    let mut octets = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let initial_window_size = 4_u16;
    let mut setting = initial_window_size.to_be_bytes().to_vec();
    setting.extend(window.to_be_bytes());
    octets.extend(frame(SETTINGS, 0, 0, &setting));
    octets
}

/// A literal header field without indexing; `name` is an index of the static table.
fn literal(name: u8, value: &str, head: &mut Vec<u8>) {
    // Four bits hold up to 14; what is above follows.
    match name.checked_sub(15) {
        None => head.push(name),
        Some(rest) => head.extend([0x0f, rest]),
    }
    head.push(u8::try_from(value.len()).unwrap());
    head.extend(value.as_bytes());
}

/// A request's head; with a token or without.
pub fn head(method: &str, path: &str, token: bool) -> Vec<u8> {
    let mut head = Vec::new();
    let (authority, path_name, method_name, content_type, authorization) = (1, 4, 2, 31, 23);
    literal(method_name, method, &mut head);
    head.push(0x86); // :scheme http
    literal(authority, "localhost", &mut head);
    literal(path_name, path, &mut head);
    literal(content_type, idempotency_protocol::CONTENT_TYPE, &mut head);
    if token {
        literal(authorization, &format!("Bearer {GATEWAY}"), &mut head);
    }
    head
}
