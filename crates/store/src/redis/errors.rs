//! What an error of Redis means.

use crate::store::StoreError;
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The server does not know the script: send its text.
    SendSource,
    /// The server is out of memory: send what must get through in the other way.
    OutOfMemory,
    /// The connection is gone, or leads to the wrong server: take another one.
    Reconnect,
    /// Nothing helps now.
    None,
}

/// What to do about an error.
pub(super) fn remedy(error: &RedisError) -> Remedy {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::NoScript) => Remedy::SendSource,
        // A server that was demoted, or that will be asked again under another address.
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::ClusterDown,
        )
        | ErrorKind::ClusterConnectionNotFound => Remedy::Reconnect,
        _ if error.code() == Some("OOM") => Remedy::OutOfMemory,
        // An answer that did not come in time would come in place of the next one's.
        _ if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
            Remedy::Reconnect
        }
        _ => Remedy::None,
    }
}

/// Whether nothing can have happened: the server refused before the script wrote.
pub(super) fn is_out_of_memory(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

/// As the trait tells it. The text names no key: Redis repeats none in the errors that scripts get.
pub(super) fn store_error(error: &RedisError) -> StoreError {
    let text = format!("Redis: {error}");
    match error.kind() {
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::RESP3NotSupported
        | ErrorKind::UnexpectedReturnType
        | ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::CrossSlot) => {
            StoreError::Permanent(text)
        }
        _ => match error.code() {
            Some("WRONGPASS" | "NOAUTH" | "NOPERM" | "WRONGTYPE" | "IDEMEVENT") => {
                StoreError::Permanent(text)
            }
            // `ERR` is what the server says to a command that it does not know or cannot read.
            Some("ERR") => StoreError::Permanent(text),
            _ => StoreError::Transient(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> RedisError {
        redis::make_extension_error(code.to_owned(), Some("detail".to_owned()))
    }

    #[test]
    fn what_passes_and_what_does_not() {
        for code in ["OOM", "MISCONF", "BUSY", "NOREPLICAS", "LOADING"] {
            let error = store_error(&server(code));
            assert!(matches!(error, StoreError::Transient(_)), "{code}: {error}");
        }
        for code in ["WRONGPASS", "NOAUTH", "WRONGTYPE"] {
            let error = store_error(&server(code));
            assert!(matches!(error, StoreError::Permanent(_)), "{code}: {error}");
        }
        assert_eq!(remedy(&server("OOM")), Remedy::OutOfMemory);
        assert_eq!(remedy(&server("MISCONF")), Remedy::None);
        let gone = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(remedy(&gone), Remedy::Reconnect);
        assert!(matches!(store_error(&gone), StoreError::Transient(_)));
    }
}
