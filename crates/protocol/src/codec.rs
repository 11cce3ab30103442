//! Big-endian, length-prefixed primitives. Decoding never panics and never allocates more than
//! the input holds.

use bytes::Bytes;
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

/// A cursor over a message, or over a part of one. Numbers and texts are read where they stand; slices share the
/// message's memory.
pub(crate) struct Reader<'m> {
    message: &'m Bytes,
    rest: &'m [u8],
}

impl<'m> Reader<'m> {
    pub fn of(message: &'m Bytes) -> Reader<'m> {
        Reader {
            message,
            rest: message,
        }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    fn bytes(&mut self, n: usize, field: &'static str) -> Decoded<&'m [u8]> {
        let parts = self.rest.split_at_checked(n);
        let (taken, rest) = parts.ok_or(DecodeError::Truncated(field))?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn take(&mut self, n: usize, field: &'static str) -> Decoded<Bytes> {
        let taken = self.bytes(n, field)?;
        Ok(self.message.slice_ref(taken))
    }

    /// A part that has its length in front.
    pub fn part(&mut self, field: &'static str) -> Decoded<Reader<'m>> {
        let len = self.long_length(field)?;
        Ok(Reader {
            message: self.message,
            rest: self.bytes(len, field)?,
        })
    }

    /// What `read` reads, and the bytes that it was read from.
    pub fn keeping<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'m>) -> Decoded<T>,
    ) -> Decoded<(T, Bytes)> {
        let before = self.rest;
        let value = read(self)?;
        let length = before.len() - self.rest.len();
        let bytes = before.get(..length).unwrap_or_default();
        Ok((value, self.message.slice_ref(bytes)))
    }

    pub fn array<const N: usize>(&mut self, field: &'static str) -> Decoded<[u8; N]> {
        let parts = self.rest.split_first_chunk();
        let (bytes, rest) = parts.ok_or(DecodeError::Truncated(field))?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub fn u8(&mut self, field: &'static str) -> Decoded<u8> {
        let [byte] = self.array(field)?;
        Ok(byte)
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

    fn long_length(&mut self, field: &'static str) -> Decoded<usize> {
        let len = self.u32(field)?;
        usize::try_from(len).map_err(|_| DecodeError::BadValue(field))
    }

    pub fn long(&mut self, field: &'static str) -> Decoded<Bytes> {
        let len = self.long_length(field)?;
        self.take(len, field)
    }

    pub fn text(&mut self, field: &'static str) -> Decoded<String> {
        let len = self.u16(field)?;
        let bytes = self.bytes(usize::from(len), field)?;
        let text = std::str::from_utf8(bytes).map(str::to_owned);
        text.map_err(|_| DecodeError::BadValue(field))
    }

    pub fn end(&self) -> Decoded<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingBytes)
        }
    }
}
