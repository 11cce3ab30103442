//! Fitting the number of connections to the number of files that the process may open.

use super::Limits;

/// Files that are no connections: the store's, its connections to servers, logs, sockets.
const RESERVE: u64 = 256;
/// With less than this for each listener, the service is of no use.
const FEWEST: usize = 32;

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// Connections of each listener.
    pub max_connections: usize,
    /// Waits, each of which may hold a connection.
    pub max_waiters: usize,
}

impl Limits {
    /// Makes the limits fit to a process that may open so many files; what was changed, if
    /// anything. On failure, how many files are needed at least.
    pub fn fit(&mut self, files: u64, listeners: usize) -> Result<Option<Fitted>, u64> {
        let listeners = listeners.max(1);
        let room = files.saturating_sub(RESERVE) / listeners as u64;
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if room >= self.max_connections {
            return Ok(None);
        }
        if room < FEWEST {
            return Err(RESERVE + (FEWEST * listeners) as u64);
        }
        self.max_connections = room;
        if self.waiters.total >= room {
            self.waiters.total = room / 2;
        }
        Ok(Some(Fitted {
            max_connections: self.max_connections,
            max_waiters: self.waiters.total,
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;

    #[test]
    fn connections_fit_the_files() {
        let limits = Settings::default().check().unwrap().limits;
        let fit = |files, listeners| {
            let mut limits = limits.clone();
            limits.fit(files, listeners).map(|fitted| {
                let now = (limits.max_connections, limits.waiters.total);
                assert_eq!(fitted.is_some(), now != (10_000, 4096));
                now
            })
        };
        assert_eq!(fit(1 << 20, 2), Ok((10_000, 4096)));
        assert_eq!(fit(10_256, 1), Ok((10_000, 4096)));
        assert_eq!(fit(10_255, 1), Ok((9_999, 4096)));
        assert_eq!(fit(1024, 1), Ok((768, 384)));
        assert_eq!(fit(1024, 2), Ok((384, 192)));
        assert_eq!(fit(256, 1), Err(288));
    }
}
