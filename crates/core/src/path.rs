//! The path of a request, as an upstream would see it (RFC 3986 §5.2.4, §6.2.2).
//!
//! Upstreams disagree: some decode `%2F`, some take `\` for `/`, some cut path parameters, some
//! decode twice, some resolve dot segments before they merge slashes and some after. A request
//! must not slip past a rule because this filter reads its path in one way and the upstream in
//! another. So there are two answers here: [`normalise`] gives the ordinary reading, and
//! [`Readings`] tells whether *any* reading could lead to a protected path. [`crate::rules`]
//! refuses where the two disagree.

use std::borrow::Cow;

use crate::config::PathMatch;

/// How sure the ordinary reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clarity {
    /// Nothing in the path needs interpretation.
    Plain,
    /// Legal, but upstreams may differ: dot segments, empty segments, segments that end with a dot,
    /// scripts with a path behind them, escapes, path parameters.
    Odd,
    /// No client needs this on a protected path: `%2F %5C %00`, backslashes, escaped or raw
    /// control characters, raw non-ASCII, broken escapes (`%u0063` is one), overlong UTF-8,
    /// fragments, absolute-form.
    Ambiguous,
}

/// A request target, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalised<'a> {
    /// The ordinary reading: dot segments resolved, slashes merged, unreserved escapes decoded,
    /// other escapes in upper case. Starts with `/`; a trailing slash is kept; case is kept.
    pub path: Cow<'a, str>,
    /// The raw query without its `?`; empty if there is none.
    pub query: &'a [u8],
    /// How sure the reading is.
    pub clarity: Clarity,
}

/// Takes a raw request target (the `:path` header) apart. Allocates only if the path needs
/// interpretation.
pub fn normalise(raw: &[u8]) -> Normalised<'_> {
    let end = raw.iter().position(|b| matches!(b, b'?' | b'#'));
    let (raw_path, rest) = raw.split_at(end.unwrap_or(raw.len()));
    let behind = rest.iter().position(|b| *b == b'#');
    let query = rest.get(..behind.unwrap_or(rest.len()));
    let query = query.and_then(|q| q.strip_prefix(b"?")).unwrap_or_default();
    if behind.is_none() && is_plain(raw_path) {
        if let Ok(path) = std::str::from_utf8(raw_path) {
            return Normalised {
                path: Cow::Borrowed(path),
                query,
                clarity: Clarity::Plain,
            };
        }
    }
    let (absolute, raw_path) = match strip_authority(raw_path) {
        Some(path) => (true, path),
        None => (!raw_path.starts_with(b"/"), raw_path),
    };
    let (escaped, ambiguous) = normal_escapes(raw_path);
    let clarity = match behind.is_some() || absolute || ambiguous {
        true => Clarity::Ambiguous,
        false => Clarity::Odd,
    };
    Normalised {
        path: Cow::Owned(resolve(&escaped)),
        query,
        clarity,
    }
}

/// Only characters that mean themselves to everybody, no empty segment, no segment that starts or
/// ends with a dot, no script with a path behind it.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    let mut dot = None;
    for (at, byte) in path.iter().enumerate() {
        let plain = match byte {
            b'/' => {
                let extension = dot.take().and_then(|dot| path.get(dot..at));
                previous != b'/' && previous != b'.' && !extension.is_some_and(is_of_script)
            }
            b'.' => previous != b'/',
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => true,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' => true,
            b':' | b'@' => true,
            _ => false,
        };
        if !plain {
            return false;
        }
        if *byte == b'.' {
            dot = Some(at + 1);
        }
        previous = *byte;
    }
    path.starts_with(b"/") && previous != b'.'
}

/// Extensions of scripts that servers run for the path behind them: PHP's `/index.php/charges` is
/// `/charges` to the application.
fn is_of_script(extension: &[u8]) -> bool {
    const SCRIPTS: [&[u8]; 11] = [
        b"ashx", b"asp", b"aspx", b"cfm", b"cgi", b"fcgi", b"jsp", b"php", b"pl", b"py", b"rb",
    ];
    SCRIPTS.iter().any(|s| extension.eq_ignore_ascii_case(s))
}

/// The path behind `scheme://authority`.
fn strip_authority(raw: &[u8]) -> Option<&[u8]> {
    let colon = raw.iter().position(|b| !b.is_ascii_alphanumeric())?;
    let rest = raw.get(colon..)?.strip_prefix(b"://")?;
    let slash = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
    rest.get(slash..)
}

/// Unreserved escapes decoded, others in upper case, characters that no URI may contain escaped.
/// The flag says whether there is something in it that only an ambiguous path has.
fn normal_escapes(raw: &[u8]) -> (String, bool) {
    let mut out = String::with_capacity(raw.len() + 8);
    let mut ambiguous = false;
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (*byte, hex_pair(tail)) {
            (b'%', Some((decoded, after))) => {
                rest = after;
                if is_unreserved(decoded) {
                    out.push(char::from(decoded));
                } else {
                    ambiguous |= matches!(decoded, b'/' | b'\\' | 0..=0x1f | 0x7f)
                        || matches!(decoded, 0xc0 | 0xc1 | 0xf5..);
                    escape_into(decoded, &mut out);
                }
            }
            (b'%' | b'\\' | 0..=0x20 | 0x7f.., _) => {
                ambiguous = true;
                escape_into(*byte, &mut out);
            }
            (b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}', _) => {
                escape_into(*byte, &mut out);
            }
            (byte, _) => out.push(char::from(byte)),
        }
    }
    (out, ambiguous)
}

/// Merges slashes, then resolves dot segments.
fn resolve(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut directory = true;
    for segment in path.split('/') {
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len() + 1);
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if directory || kept.is_empty() {
        out.push('/');
    }
    out
}

/// All readings of one path at once: the finest split of its most decoded form. Whatever an
/// upstream makes of the path, the segments of its reading come from this list, in this order.
#[derive(Clone, Debug)]
pub struct Readings {
    segments: Vec<Segment>,
    /// A reading may drop segments from the front or the middle.
    loose: bool,
    /// There is an escape that is none: nobody knows what an upstream makes of it (`%u002F`).
    broken: bool,
}

#[derive(Clone, Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    /// Stands behind `;`, `?`, `#` or a control character: some readings drop it, or everything
    /// from here on (NUL in C; `$` of most regular expressions matches before a line feed).
    cut: bool,
}

impl Segment {
    /// Some reading goes on as if this segment were not there.
    fn skippable(&self) -> bool {
        let bytes = self.bytes.as_slice();
        let extension = bytes.rsplit(|b| *b == b'.').next();
        self.cut
            || trimmed(bytes).is_empty()
            || bytes.contains(&b'.') && extension.is_some_and(is_of_script)
    }

    /// Some file systems and frameworks drop dots and spaces at the end of a name.
    fn is(&self, wanted: &[u8]) -> bool {
        !self.cut && trimmed(&self.bytes) == trimmed(wanted)
    }

    fn is_parent(&self) -> bool {
        trimmed(&self.bytes).is_empty() && self.bytes.windows(2).any(|two| two == b"..")
    }
}

impl Readings {
    /// The readings of a raw request target.
    pub fn of(raw: &[u8]) -> Readings {
        let path = raw.split(|b| *b == b'?').next().unwrap_or_default();
        let decoded = decode_fully(path);
        let mut segments = Vec::new();
        let mut current = Segment::default();
        for byte in &decoded {
            match byte {
                b'/' | b'\\' => segments.push(std::mem::take(&mut current)),
                b';' | b'?' | b'#' | 0..=0x1f | 0x7f => {
                    segments.push(std::mem::take(&mut current));
                    current.cut = true;
                }
                byte => current.bytes.push(*byte),
            }
        }
        segments.push(current);
        // "//host/path" is a path to most, and a network-path reference to some URL parsers.
        let network = matches!(decoded.as_slice(), [b'/' | b'\\', b'/' | b'\\', ..]);
        let rooted = matches!(decoded.first(), Some(b'/' | b'\\'));
        // A path parameter ends at the next slash: the next one of any kind, or the next raw one.
        let separators = decoded.iter().filter(|b| matches!(b, b'/' | b'\\')).count();
        let hidden = separators != path.iter().filter(|b| **b == b'/').count();
        let parameters = segments.iter().any(|s| s.cut);
        let parents = segments.iter().any(Segment::is_parent);
        let loose = network || !rooted || parents || (parameters && hidden);
        Readings {
            segments,
            loose,
            broken: has_broken_escape(path),
        }
    }

    /// Whether some reading matches. Errs on the side of yes.
    pub fn could_match(&self, rule: &PathMatch) -> bool {
        let (path, exact) = match rule {
            PathMatch::Exact(path) => (path, true),
            PathMatch::Prefix(path) => (path, false),
        };
        if self.broken {
            return true;
        }
        let mut segments = self.segments.iter();
        for wanted in path.split('/').filter(|s| !s.is_empty()) {
            let wanted = decode_fully(wanted.as_bytes());
            loop {
                match segments.next() {
                    None => return false,
                    Some(segment) if segment.is(&wanted) => break,
                    Some(segment) if self.loose || segment.skippable() => {}
                    Some(_) => return false,
                }
            }
        }
        if !exact || self.loose {
            return true;
        }
        // The rest must vanish in some reading.
        segments.take_while(|s| !s.cut).all(Segment::skippable)
    }
}

/// A name without white space around it and dots behind it.
fn trimmed(name: &[u8]) -> &[u8] {
    let mut name = name.trim_ascii_start();
    while let [rest @ .., b'.' | b' '] = name {
        name = rest;
    }
    name
}

/// Whether a percent sign in it has no two hexadecimal digits behind it. (`%25` is a whole escape.)
fn has_broken_escape(raw: &[u8]) -> bool {
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, hex_pair(tail)) {
            (b'%', None) => return true,
            (b'%', Some((_, after))) => rest = after,
            _ => {}
        }
    }
    false
}

/// Decodes until nothing is left to decode, in one pass, overlong UTF-8 and characters that stand
/// for ASCII ones included. Raw tabs and line breaks, which some URL parsers drop, are dropped.
fn decode_fully(raw: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(raw.len());
    for byte in raw {
        if matches!(byte, b'\t' | b'\r' | b'\n') {
            continue;
        }
        out.push(*byte);
        loop {
            let (keep, byte) = match out.as_slice() {
                [head @ .., b'%', high, low] => match hex_pair(&[*high, *low]) {
                    Some((byte, _)) => (head.len(), byte),
                    None => break,
                },
                [head @ .., lead @ (0xc0 | 0xc1), low @ 0x80..=0xbf] => {
                    (head.len(), (lead & 1) << 6 | (low & 0x3f))
                }
                [head @ .., first, second, third] => match in_ascii(*first, *second, *third) {
                    Some(byte) => (head.len(), byte),
                    None => break,
                },
                _ => break,
            };
            out.truncate(keep);
            out.push(byte);
        }
    }
    out
}

/// The ASCII character as which a server reads a character of three bytes, if it normalises
/// compatibility characters (NFKC, best fit): fullwidth forms, and other slashes.
fn in_ascii(first: u8, second: u8, third: u8) -> Option<u8> {
    match (first, second, third) {
        (0xef, 0xbc, 0x81..=0xbf) => Some(third - 0x60),
        (0xef, 0xbd, 0x80..=0x9e) => Some(third - 0x20),
        // U+2044, U+2215, U+29F8 and U+2216, U+29F5, U+29F9.
        (0xe2, 0x81, 0x84) | (0xe2, 0x88, 0x95) | (0xe2, 0xa7, 0xb8) => Some(b'/'),
        (0xe2, 0x88, 0x96) | (0xe2, 0xa7, 0xb5 | 0xb9) => Some(b'\\'),
        _ => None,
    }
}

/// Two hexadecimal digits and what follows them.
pub(crate) fn hex_pair(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    };
    match bytes {
        [high, low, rest @ ..] => Some((digit(*high)? << 4 | digit(*low)?, rest)),
        _ => None,
    }
}

/// RFC 3986 §2.3.
pub(crate) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `%XX`, upper case.
pub(crate) fn escape_into(byte: u8, out: &mut String) {
    let digit = |n: u8| char::from(if n < 10 { b'0' + n } else { b'A' + n - 10 });
    out.push('%');
    out.push(digit(byte >> 4));
    out.push(digit(byte & 15));
}

#[cfg(test)]
mod tests;
