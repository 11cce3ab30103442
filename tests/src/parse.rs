//! Reading HTTP/1.1 answers out of a growing buffer.

use crate::answer::Answer;

/// What the buffer holds.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A whole answer and its length in bytes.
    Whole(Answer, usize),
    /// The beginning of one; `None` while the head is incomplete.
    Partial(Option<Answer>),
}

/// Reads the first final answer; interim ones (1xx but 101) are skipped. `head_only`: the answer
/// to a `HEAD`. `closed`: the peer will send no more.
///
/// # Errors
///
/// For something that is no answer.
pub(crate) fn answer(octets: &[u8], head_only: bool, closed: bool) -> Result<Parsed, String> {
    let Some(end) = find(octets, b"\r\n\r\n") else {
        return Ok(Parsed::Partial(None));
    };
    let (status, headers) = head(octets.get(..end).unwrap_or_default())?;
    let start = end + 4;
    let rest = octets.get(start..).unwrap_or_default();
    if (100..200).contains(&status) && status != 101 {
        return Ok(match answer(rest, head_only, closed)? {
            Parsed::Whole(answer, length) => Parsed::Whole(answer, start + length),
            partial @ Parsed::Partial(_) => partial,
        });
    }
    let mut answer = Answer {
        status,
        headers,
        ..Answer::default()
    };
    if head_only || status == 101 || status == 204 || status == 304 {
        return Ok(Parsed::Whole(answer, start));
    }
    if answer
        .all("transfer-encoding")
        .iter()
        .any(|t| t == "chunked")
    {
        return Ok(match dechunk(rest, &mut answer)? {
            Some(length) => Parsed::Whole(answer, start + length),
            None => Parsed::Partial(Some(answer)),
        });
    }
    if let Some(length) = answer.header("content-length") {
        let length: usize = length.parse().map_err(|_| format!("length {length:?}"))?;
        let body = rest.get(..length.min(rest.len())).unwrap_or_default();
        answer.body = body.to_vec();
        return Ok(if body.len() == length {
            Parsed::Whole(answer, start + length)
        } else {
            Parsed::Partial(Some(answer))
        });
    }
    answer.body = rest.to_vec();
    Ok(if closed {
        Parsed::Whole(answer, octets.len())
    } else {
        Parsed::Partial(Some(answer))
    })
}

type Head = (u16, Vec<(String, Vec<u8>)>);

fn head(octets: &[u8]) -> Result<Head, String> {
    let mut lines = split_lines(octets);
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| format!("not a status line: {first:?}"))?;
    Ok((status, fields(lines)?))
}

fn fields<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Vec<(String, Vec<u8>)>, String> {
    lines
        .map(|line| {
            let colon = line.iter().position(|octet| *octet == b':');
            let (name, value) = colon
                .and_then(|at| Some((line.get(..at)?, line.get(at + 1..)?)))
                .ok_or_else(|| format!("not a field: {:?}", String::from_utf8_lossy(line)))?;
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            Ok((name, value.trim_ascii().to_vec()))
        })
        .collect()
}

/// Fills body and trailers; the length of the coded body once it is whole.
fn dechunk(octets: &[u8], answer: &mut Answer) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let rest = octets.get(at..).unwrap_or_default();
        let Some(line) = find(rest, b"\r\n") else {
            return Ok(None);
        };
        let size = String::from_utf8_lossy(rest.get(..line).unwrap_or_default()).into_owned();
        let size = usize::from_str_radix(&size, 16).map_err(|_| format!("chunk {size:?}"))?;
        at += line + 2;
        if size == 0 {
            break;
        }
        let rest = octets.get(at..).unwrap_or_default();
        answer
            .body
            .extend_from_slice(rest.get(..size.min(rest.len())).unwrap_or_default());
        if rest.len() < size + 2 {
            return Ok(None);
        }
        at += size + 2;
    }
    let rest = octets.get(at..).unwrap_or_default();
    if rest.starts_with(b"\r\n") {
        return Ok(Some(at + 2));
    }
    let Some(end) = find(rest, b"\r\n\r\n") else {
        return Ok(None);
    };
    answer.trailers = fields(split_lines(rest.get(..end).unwrap_or_default()))?;
    Ok(Some(at + end + 4))
}

fn split_lines(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    octets
        .split(|octet| *octet == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn find(octets: &[u8], what: &[u8]) -> Option<usize> {
    octets.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(octets: &[u8]) -> (Answer, usize) {
        match answer(octets, false, false).unwrap() {
            Parsed::Whole(answer, length) => (answer, length),
            partial @ Parsed::Partial(_) => panic!("{partial:?}"),
        }
    }

    #[test]
    fn every_prefix_of_an_answer_is_partial_and_the_rest_stays() {
        let wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: 1\r\nA: \xff\r\n\
            transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\n\r\n\r\n0\r\nT: x\r\n\r\nHTTP/1.1 ";
        let (answer, length) = whole(wire);
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (200, b"abc\r\n" as &[u8])
        );
        assert_eq!(answer.headers[1], ("a".to_owned(), vec![0xff]));
        assert_eq!(answer.trailers, [("t".to_owned(), b"x".to_vec())]);
        assert_eq!(&wire[length..], b"HTTP/1.1 ");
        for cut in 0..length {
            let parsed = super::answer(&wire[..cut], false, true).unwrap();
            assert!(matches!(parsed, Parsed::Partial(_)), "{cut}");
        }
    }

    #[test]
    fn lengths_and_closes() {
        let (answer, length) = whole(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP");
        assert_eq!((answer.body.as_slice(), length), (b"ok" as &[u8], 40));
        let close = b"HTTP/1.1 200 OK\r\n\r\nok";
        assert!(matches!(
            super::answer(close, false, false),
            Ok(Parsed::Partial(Some(_)))
        ));
        assert!(matches!(
            super::answer(close, false, true),
            Ok(Parsed::Whole(..))
        ));
        assert!(matches!(
            super::answer(close, true, false),
            Ok(Parsed::Whole(_, 19))
        ));
        assert!(super::answer(b"SSH-2.0\r\n\r\n", false, false).is_err());
    }
}
