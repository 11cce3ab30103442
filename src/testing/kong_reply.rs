//! What Kong's host makes of answers and header maps on their way, as pure functions.

use bytes::Bytes;

type Fields = Vec<(Bytes, Bytes)>;

/// How many fields a header map has at most when a filter reads it; pseudo headers come first, and
/// the rest is cut off without a word to the filter.
pub const MAX_FIELDS: usize = 100;

/// A header map as a filter gets it.
pub fn map(pseudo: &[(Bytes, Bytes)], fields: &[(Bytes, Bytes)]) -> Fields {
    pseudo
        .iter()
        .chain(fields)
        .take(MAX_FIELDS)
        .cloned()
        .collect()
}

/// The headers of a local reply without a body as it enters the response callbacks: of repeated
/// ones only the last is left. Its one body callback tells of 0 bytes, and `end`.
pub fn local_reply(headers: &[(Bytes, Bytes)]) -> Fields {
    let mut kept: Fields = Vec::new();
    for (name, value) in headers {
        set(&mut kept, name, value);
    }
    set(&mut kept, b"content-length", b"0");
    kept
}

/// What nginx itself takes off an answer: the content type of a 204, over HTTP/2 always, else if
/// its status line has no reason phrase. An upstream's always has one.
pub fn loses_type(status: u16, http2: bool, reason: &str) -> bool {
    status == 204 && (http2 || reason.is_empty())
}

/// Sets a field to one value, as the host does: in place of all of its name.
pub fn set(fields: &mut Fields, name: &[u8], value: &[u8]) {
    fields.retain(|(n, _)| !is(n, name));
    fields.push((Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)));
}

fn is(name: &Bytes, other: &[u8]) -> bool {
    name.eq_ignore_ascii_case(other)
}

/// Whether a piece of a response body is announced to the filter, and with which `end`.
///
/// `content_length`: what the response had before its header callback. `last`: nothing follows.
/// With a length, `end` means that this piece alone has all of it; a body in several pieces ends
/// without a word. Without one, the last piece says so, be it empty.
pub fn response_piece(content_length: Option<u64>, piece: usize, last: bool) -> Option<bool> {
    let end = match content_length {
        Some(length) if length > 0 => piece as u64 == length,
        _ => last,
    };
    (piece > 0 || end).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&'static str, &'static str)]) -> Fields {
        list.iter()
            .map(|(n, v)| ((*n).into(), (*v).into()))
            .collect()
    }

    #[test]
    fn local_replies_are_changed() {
        let headers = fields(&[("link", "a"), ("etag", "x"), ("link", "b")]);
        assert_eq!(
            local_reply(&headers),
            fields(&[("etag", "x"), ("link", "b"), ("content-length", "0")])
        );
    }

    #[test]
    fn types_of_nothing() {
        assert!(loses_type(204, false, ""));
        assert!(loses_type(204, true, "No Content"));
        assert!(!loses_type(204, false, "No Content"));
        assert!(!loses_type(200, true, ""));
    }

    #[test]
    fn pieces() {
        assert_eq!(response_piece(Some(5), 5, true), Some(true));
        assert_eq!(response_piece(Some(5), 3, false), Some(false));
        assert_eq!(response_piece(Some(5), 2, true), Some(false), "never told");
        assert_eq!(response_piece(Some(5), 0, true), None);
        assert_eq!(response_piece(Some(0), 0, true), Some(true));
        assert_eq!(response_piece(None, 3, false), Some(false));
        assert_eq!(response_piece(None, 0, true), Some(true));
        assert_eq!(response_piece(None, 0, false), None);
    }

    #[test]
    fn maps_are_cut_off() {
        let many: Fields = (0..200)
            .map(|i| (i.to_string().into(), "".into()))
            .collect();
        let pseudo = fields(&[(":path", "/"), (":method", "POST")]);
        let map = map(&pseudo, &many);
        assert_eq!((map.len(), &map[0].0[..]), (MAX_FIELDS, b":path".as_ref()));
    }
}
