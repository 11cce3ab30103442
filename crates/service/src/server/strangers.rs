//! How much connections that have shown no valid token may hold together, per listener and peer.
//!
//! Everything that such a connection can make the service hold is charged here: the connection
//! itself, each request that is not over, each answer that was not taken. When there is no room,
//! the oldest connection of the peer that holds most gives way to the newcomer. So a flood never
//! keeps others out: a gateway gets in, shows its token, and leaves this account for good.

use crate::peer::Peer;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a connection is charged: the buffer that an unfinished head fills, buffers of the HTTP
/// library, and its state.
pub(crate) const CONNECTION_BYTES: usize = 64 * 1024;

/// The account of one listener.
pub(super) struct Strangers {
    /// Never more than this, those that are leaving included.
    ceiling: usize,
    /// Above this, somebody has to leave.
    limit: usize,
    /// The same for one peer.
    peer_limit: usize,
    accounts: Mutex<Accounts>,
    /// Told when something was given back.
    freed: Notify,
}

#[derive(Default)]
struct Accounts {
    total: usize,
    /// Of that, what connections hold that were sent away and are not gone yet.
    leaving: usize,
    /// Ascending with time.
    next: u64,
    peers: HashMap<Peer, StrangersHold>,
}

#[derive(Default)]
struct StrangersHold {
    bytes: usize,
    leaving: usize,
    connections: BTreeMap<u64, StrangerConnection>,
}

struct StrangerConnection {
    bytes: usize,
    /// Cancelled when it must go.
    go: CancellationToken,
}

/// A connection's place in the account; given back on drop.
pub(super) struct Guest {
    strangers: Arc<Strangers>,
    peer: Peer,
    id: u64,
    go: CancellationToken,
}

impl Strangers {
    /// So many bytes for all. Half of them are for those who leave: they may still be about to show
    /// a token. Of the other half, one peer has the half.
    pub(super) fn new(ceiling: usize) -> Arc<Strangers> {
        Arc::new(Strangers {
            ceiling: ceiling.max(2 * CONNECTION_BYTES),
            limit: (ceiling / 2).max(CONNECTION_BYTES),
            peer_limit: (ceiling / 4).max(CONNECTION_BYTES),
            accounts: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// A place for a new connection; older ones leave for it.
    pub(super) async fn enter(self: &Arc<Strangers>, peer: Peer) -> Guest {
        loop {
            // Made before the look, so that nothing given back in between is missed.
            let freed = self.freed.notified();
            if let Some(guest) = self.try_enter(peer) {
                return guest;
            }
            freed.await;
        }
    }

    fn try_enter(self: &Arc<Strangers>, peer: Peer) -> Option<Guest> {
        let mut accounts = self.accounts();
        if !accounts.make_room(self, peer, CONNECTION_BYTES) {
            return None;
        }
        let id = accounts.next;
        accounts.next += 1;
        accounts.total += CONNECTION_BYTES;
        let go = CancellationToken::new();
        let held = accounts.peers.entry(peer).or_default();
        held.bytes += CONNECTION_BYTES;
        let connection = StrangerConnection {
            bytes: CONNECTION_BYTES,
            go: go.clone(),
        };
        held.connections.insert(id, connection);
        Some(Guest {
            strangers: self.clone(),
            peer,
            id,
            go,
        })
    }

    /// Sends the oldest connection of the peer that holds most away; false if there is none.
    pub(super) fn send_one_away(&self) -> bool {
        let mut accounts = self.accounts();
        match accounts.fullest() {
            Some(peer) => accounts.send_away(peer),
            None => false,
        }
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    /// Sends as many away as must leave for `bytes` more. False if those that are leaving must be
    /// gone first.
    fn make_room(&mut self, strangers: &Strangers, peer: Peer, bytes: usize) -> bool {
        loop {
            let of_peer = self.peers.get(&peer).map_or(0, |h| h.bytes - h.leaving);
            let sent = if of_peer + bytes > strangers.peer_limit {
                self.send_away(peer)
            } else if self.total - self.leaving + bytes > strangers.limit {
                self.fullest()
                    .is_some_and(|fullest| self.send_away(fullest))
            } else {
                false
            };
            if !sent {
                return self.total + bytes <= strangers.ceiling;
            }
        }
    }

    fn fullest(&self) -> Option<Peer> {
        let staying = |held: &StrangersHold| held.bytes - held.leaving;
        let fullest = self.peers.iter().max_by_key(|(_, held)| staying(held));
        fullest.map(|(peer, _)| *peer)
    }

    /// The oldest that was not told yet.
    fn send_away(&mut self, peer: Peer) -> bool {
        let Some(held) = self.peers.get_mut(&peer) else {
            return false;
        };
        let mut connections = held.connections.values();
        match connections.find(|connection| !connection.go.is_cancelled()) {
            Some(connection) => {
                connection.go.cancel();
                held.leaving += connection.bytes;
                self.leaving += connection.bytes;
                true
            }
            None => false,
        }
    }

    fn give_back(&mut self, peer: Peer, id: u64, bytes: Option<usize>) {
        let Some(held) = self.peers.get_mut(&peer) else {
            return;
        };
        // What has left took all its charges with it.
        let Some(connection) = held.connections.get_mut(&id) else {
            return;
        };
        let bytes = bytes.unwrap_or(connection.bytes).min(connection.bytes);
        connection.bytes -= bytes;
        if connection.go.is_cancelled() {
            held.leaving = held.leaving.saturating_sub(bytes);
            self.leaving = self.leaving.saturating_sub(bytes);
        }
        if connection.bytes == 0 {
            held.connections.remove(&id);
        }
        held.bytes = held.bytes.saturating_sub(bytes);
        if held.connections.is_empty() {
            self.peers.remove(&peer);
        }
        self.total = self.total.saturating_sub(bytes);
    }
}

impl Guest {
    /// Ready when the connection must go.
    pub(super) fn told_to_go(&self) -> CancellationToken {
        self.go.clone()
    }

    /// Charges something that the connection holds besides itself. It is held already, so this
    /// does not wait; others are sent away for it.
    pub(super) fn charge(&self, bytes: usize) {
        let mut guard = self.strangers.accounts();
        let accounts = &mut *guard;
        let Some(held) = accounts.peers.get_mut(&self.peer) else {
            return;
        };
        let Some(connection) = held.connections.get_mut(&self.id) else {
            return;
        };
        connection.bytes += bytes;
        held.bytes += bytes;
        if connection.go.is_cancelled() {
            held.leaving += bytes;
            accounts.leaving += bytes;
        }
        accounts.total += bytes;
        accounts.make_room(&self.strangers, self.peer, 0);
    }

    /// Takes such a charge back.
    pub(super) fn discharge(&self, bytes: usize) {
        let mut accounts = self.strangers.accounts();
        accounts.give_back(self.peer, self.id, Some(bytes));
        drop(accounts);
        self.strangers.freed.notify_waiters();
    }

    /// The connection is no stranger's any more, or over.
    pub(super) fn leave(&self) {
        let mut accounts = self.strangers.accounts();
        accounts.give_back(self.peer, self.id, None);
        drop(accounts);
        self.strangers.freed.notify_waiters();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn peer(n: u8) -> Peer {
        Peer::Net(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)))
    }

    fn told(guest: &Guest) -> bool {
        guest.go.is_cancelled()
    }

    #[tokio::test]
    async fn the_oldest_of_the_fullest_peer_gives_way() {
        let strangers = Strangers::new(16 * CONNECTION_BYTES);
        let enter = |n| strangers.try_enter(peer(n)).unwrap();
        let guests: Vec<_> = [1, 1, 1, 1, 2, 2, 3, 3].map(enter).into();
        let told = || guests.iter().map(told).collect::<Vec<_>>();
        assert!(!told().contains(&true));
        let _new = enter(4);
        let first = [true, false, false, false, false, false, false, false];
        assert_eq!(told(), first);
        assert!(strangers.send_one_away());
        assert!(told()[1]);
    }

    #[tokio::test]
    async fn one_peer_has_a_quarter_and_newcomers_wait_while_too_many_are_leaving() {
        let strangers = Strangers::new(8 * CONNECTION_BYTES);
        let mut guests: Vec<_> = (0..8)
            .map(|_| strangers.try_enter(peer(1)).unwrap())
            .collect();
        let leaving = guests.iter().filter(|guest| told(guest)).count();
        assert_eq!(
            (leaving, told(&guests[5]), told(&guests[6])),
            (6, true, false)
        );
        assert!(strangers.try_enter(peer(2)).is_none(), "the ceiling");
        let entering = strangers.enter(peer(2));
        tokio::pin!(entering);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let polled = std::future::Future::poll(entering.as_mut(), &mut context);
        assert!(polled.is_pending());
        drop(guests.remove(0));
        let new = entering.await;
        assert!(!told(&new));
        drop((guests, new));
        let accounts = strangers.accounts();
        assert_eq!((accounts.total, accounts.leaving), (0, 0));
        assert!(accounts.peers.is_empty());
    }

    #[tokio::test]
    async fn what_requests_hold_counts_and_a_token_ends_the_account() {
        let strangers = Strangers::new(16 * CONNECTION_BYTES);
        let first = strangers.try_enter(peer(1)).unwrap();
        let second = strangers.try_enter(peer(2)).unwrap();
        second.charge(4 * CONNECTION_BYTES);
        assert!(told(&second) && !told(&first), "over its own part");
        first.charge(2 * CONNECTION_BYTES);
        assert!(!told(&first));
        second.leave();
        assert_eq!(strangers.accounts().total, 3 * CONNECTION_BYTES);
        // Given back late: it was gone with the account.
        second.discharge(4 * CONNECTION_BYTES);
        drop(second);
        assert_eq!(strangers.accounts().total, 3 * CONNECTION_BYTES);
        first.discharge(2 * CONNECTION_BYTES);
        assert_eq!(strangers.accounts().total, CONNECTION_BYTES);
    }
}
