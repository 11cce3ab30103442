//! How much room there is: the high-water marks of data and disk.

use super::engine::Head;
use crate::machine::Room;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a reading of the disk's free space is used.
const FRESH: Duration = Duration::from_millis(250);

/// The marks, and the last reading.
pub(super) struct Space {
    path: PathBuf,
    max_bytes: Option<u64>,
    min_free_bytes: u64,
    free: u64,
    read_at: Option<Instant>,
}

impl Space {
    pub fn new(path: PathBuf, max_bytes: Option<u64>, min_free_bytes: u64) -> Space {
        Space {
            path,
            max_bytes,
            min_free_bytes,
            free: u64::MAX,
            read_at: None,
        }
    }

    pub fn room(&mut self, head: &Head) -> Room {
        if self.min_free_bytes > 0 && self.read_at.is_none_or(|at| at.elapsed() > FRESH) {
            // A disk that cannot be asked is not taken to be full: a write will tell.
            self.free = rustix::fs::statvfs(&self.path)
                .map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
            self.read_at = Some(Instant::now());
        }
        room(head.bytes, self.max_bytes, self.free, self.min_free_bytes)
    }
}

fn room(bytes: u64, max_bytes: Option<u64>, free: u64, min_free_bytes: u64) -> Room {
    let hard_bytes = max_bytes.map(|max| max.saturating_add(max / 8));
    if hard_bytes.is_some_and(|max| bytes >= max) || free < min_free_bytes / 2 {
        Room::FactsOnly
    } else if max_bytes.is_some_and(|max| bytes >= max) || free < min_free_bytes {
        Room::NoGrants
    } else {
        Room::Plenty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_of_data_and_of_disk() {
        let data = |bytes| room(bytes, Some(800), u64::MAX, 0);
        assert_eq!(data(799), Room::Plenty);
        assert_eq!(data(800), Room::NoGrants);
        assert_eq!(data(899), Room::NoGrants);
        assert_eq!(data(900), Room::FactsOnly);
        let disk = |free| room(0, None, free, 100);
        assert_eq!(disk(100), Room::Plenty);
        assert_eq!(disk(99), Room::NoGrants);
        assert_eq!(disk(50), Room::NoGrants);
        assert_eq!(disk(49), Room::FactsOnly);
    }
}
