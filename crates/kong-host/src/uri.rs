//! Paths as nginx sees them: percent-decoded, slashes merged, dot segments gone. The filter's
//! `:path` is this one and not what the client sent; the raw one is the variable `request_uri`.

/// The normalised path of a request target, or `None` where nginx answers 400: a NUL, a bad
/// escape, or `..` above the root.
pub fn normalise(path: &[u8]) -> Option<Vec<u8>> {
    let decoded = decode(path)?;
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = decoded.split(|b| *b == b'/').skip(1).peekable();
    let mut directory = false;
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            b"" | b"." => directory = last,
            b".." => {
                segments.pop()?;
                directory = last;
            }
            name => {
                segments.push(name);
                directory = false;
            }
        }
    }
    let mut path = Vec::with_capacity(decoded.len());
    for segment in &segments {
        path.push(b'/');
        path.extend_from_slice(segment);
    }
    if directory || segments.is_empty() {
        path.push(b'/');
    }
    Some(path)
}

fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => digit(bytes.next()?)? * 16 + digit(bytes.next()?)?,
            other => other,
        };
        if byte == 0 {
            return None;
        }
        out.push(byte);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoded_merged_and_without_dots() {
        for (raw, expected) in [
            ("/", "/"),
            ("/a%2Fb//c/../d%20e", "/a/b/d e"),
            ("/a/./b/", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("//a///b", "/a/b"),
        ] {
            let path = normalise(raw.as_bytes()).map(|p| String::from_utf8(p).unwrap());
            assert_eq!(path.as_deref(), Some(expected), "{raw}");
        }
    }

    #[test]
    fn refused() {
        for raw in ["/..", "/a/../..", "/%0", "/%zz", "/%00", "/a%"] {
            assert_eq!(normalise(raw.as_bytes()), None, "{raw}");
        }
    }
}
