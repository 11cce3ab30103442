//! Which part runs on which cores, and work that has to stay on some.

use idempotency_bench::cores::{pin_this_thread, usable};
use idempotency_stack::Error;

/// The cores of each part; empty sets pin nothing.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The service's two, or those of a store that has a server.
    pub service: Vec<usize>,
    /// The store's server.
    pub server: Vec<usize>,
    /// What the service's load comes from.
    pub load: Vec<usize>,
}

impl Places {
    /// Two cores for the service, one for the store's server, one for the load, where there are
    /// four.
    pub fn choose() -> Self {
        match usable().as_slice() {
            [a, b, server, load, ..] => Self {
                service: vec![*a, *b],
                server: vec![*server],
                load: vec![*load],
            },
            _ => Self::default(),
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        if self.load.is_empty() {
            return "Not pinned: all parts share all cores".to_owned();
        }
        format!(
            "Pinned: service (or store) on cores {:?}, its server on {:?}, load on {:?}",
            self.service, self.server, self.load
        )
    }
}

/// Does something on a thread that stays on these cores, as does what it starts.
///
/// # Errors
///
/// As the work; or if the thread cannot be pinned.
pub fn on<T: Send>(
    cores: &[usize],
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if !cores.is_empty() {
                pin_this_thread(cores)?;
            }
            work()
        });
        let ended = thread.join();
        ended.unwrap_or_else(|_| Err(Error::new("a thread of the bench panicked")))
    })
}
