//! How much room there is: the high-water marks of data and disk.

use super::engine::Head;
use super::lack;
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
            self.free = lack::free(&self.path);
            self.read_at = Some(Instant::now());
        }
        room(head.bytes, self.max_bytes, self.free, self.min_free_bytes)
    }

    /// What is full, if no new executions are granted now; for the log.
    pub fn full(&mut self, head: &Head) -> Option<String> {
        if self.room(head) == Room::Plenty {
            return None;
        }
        let place = self.path.display();
        let refused = "is above its high-water mark, and grants no new executions";
        let of_data = self.max_bytes.filter(|max| head.bytes >= *max);
        Some(match of_data {
            Some(max) => format!(
                "{place} {refused}: it has {} of at most {max} bytes",
                head.bytes
            ),
            None => format!(
                "{place} {refused}: {} bytes are free on its disk, and {} are to stay free",
                self.free, self.min_free_bytes
            ),
        })
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
    fn what_is_full_is_named() {
        let head = |bytes| Head {
            bytes,
            ..Head::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let mut data = Space::new(dir.path().into(), Some(800), 0);
        assert_eq!(data.full(&head(799)), None);
        let told = data.full(&head(801)).unwrap();
        assert!(told.contains("801 of at most 800 bytes"), "{told}");
        let mut disk = Space::new(dir.path().into(), Some(800), u64::MAX);
        let told = disk.full(&head(1)).unwrap();
        assert!(told.contains("bytes are free on its disk"), "{told}");
    }

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
