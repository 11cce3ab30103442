//! Big-endian, length-prefixed primitives. Decoding never panics and never allocates more than
//! the input holds.

use bytes::{Buf, Bytes};
use std::fmt;

/// Why bytes are not a message of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The input ends inside the named field.
    Truncated(&'static str),
    /// The named field has a value that the protocol does not know.
    BadValue(&'static str),
    /// The message was made by another version of the protocol.
    Version(u8),
    /// Bytes are left after the last field.
    TrailingBytes,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated(field) => write!(f, "message ends inside `{field}`"),
            DecodeError::BadValue(field) => write!(f, "bad value in `{field}`"),
            DecodeError::Version(v) => write!(f, "protocol version {v} is not supported"),
            DecodeError::TrailingBytes => f.write_str("bytes left after the last field"),
        }
    }
}

impl std::error::Error for DecodeError {}

pub(crate) type Decoded<T> = Result<T, DecodeError>;

pub(crate) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes.get(..usize::from(len)).unwrap_or(bytes));
}

pub(crate) fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A cursor over a message; slices share the message's memory.
pub(crate) struct Reader(pub Bytes);

impl Reader {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, n: usize, field: &'static str) -> Decoded<Bytes> {
        if self.0.len() < n {
            return Err(DecodeError::Truncated(field));
        }
        Ok(self.0.split_to(n))
    }

    pub fn array<const N: usize>(&mut self, field: &'static str) -> Decoded<[u8; N]> {
        let bytes = self.0.first_chunk().copied();
        let bytes = bytes.ok_or(DecodeError::Truncated(field))?;
        self.0.advance(N);
        Ok(bytes)
    }

    pub fn u8(&mut self, field: &'static str) -> Decoded<u8> {
        if self.0.is_empty() {
            return Err(DecodeError::Truncated(field));
        }
        Ok(self.0.get_u8())
    }

    #[inline(never)]
    pub fn u16(&mut self, field: &'static str) -> Decoded<u16> {
        self.array(field).map(u16::from_be_bytes)
    }

    #[inline(never)]
    pub fn u32(&mut self, field: &'static str) -> Decoded<u32> {
        self.array(field).map(u32::from_be_bytes)
    }

    #[inline(never)]
    pub fn u64(&mut self, field: &'static str) -> Decoded<u64> {
        self.array(field).map(u64::from_be_bytes)
    }

    pub fn short(&mut self, field: &'static str) -> Decoded<Bytes> {
        let len = self.u16(field)?;
        self.take(usize::from(len), field)
    }

    pub fn long(&mut self, field: &'static str) -> Decoded<Bytes> {
        let len = self.u32(field)?;
        let len = usize::try_from(len).map_err(|_| DecodeError::BadValue(field))?;
        self.take(len, field)
    }

    pub fn text(&mut self, field: &'static str) -> Decoded<String> {
        let len = usize::from(self.u16(field)?);
        let bytes = self.0.get(..len).ok_or(DecodeError::Truncated(field))?;
        let text = std::str::from_utf8(bytes).map(str::to_owned);
        self.0.advance(len);
        text.map_err(|_| DecodeError::BadValue(field))
    }

    pub fn end(&self) -> Decoded<()> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingBytes)
        }
    }
}
