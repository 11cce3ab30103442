//! Callouts that are out, by the filter's tokens: what they sent, and who carries them. A carrier that ends takes
//! its callouts along without a word; they are sent again under the same token, by another one. To send again is
//! harmless: every operation names its owner, and the service answers an owner twice alike.

use crate::envoy::Message;
use idempotency_filter::ids::IdMap;
use std::sync::Arc;

/// How often a callout may change from stream to stream. After that the main thread carries it: clients that
/// leave in crowds must not have one batch sent again and again.
pub const MOST_MOVES: u8 = 3;

/// Who carries a callout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A stream of this worker, with Envoy's number for the callout there.
    Stream(u32, u64),
    /// The main thread has it, or will get it.
    Main,
}

/// A callout that has no answer yet.
#[derive(Debug)]
pub struct Out {
    /// What it sends.
    pub message: Arc<Message>,
    /// When it is given up, in milliseconds of the steady clock.
    pub deadline_ms: u64,
    carrier: Carrier,
    moves: u8,
}

/// All callouts of a worker's filter.
#[derive(Debug, Default)]
pub struct Callouts {
    out: IdMap<u32, Out>,
    /// By stream, and Envoy's number there.
    by_stream: IdMap<u32, Vec<(u64, u32)>>,
    last: u32,
}

impl Callouts {
    /// A token that no callout has which is out.
    pub fn token(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.out.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// A callout has left, or is left to the main thread.
    pub fn sent(&mut self, token: u32, message: Arc<Message>, deadline_ms: u64, carrier: Carrier) {
        let out = Out {
            message,
            deadline_ms,
            carrier,
            moves: 0,
        };
        self.out.insert(token, out);
        self.note(token, carrier);
    }

    fn note(&mut self, token: u32, carrier: Carrier) {
        if let Carrier::Stream(stream, id) = carrier {
            self.by_stream.entry(stream).or_default().push((id, token));
        }
    }

    /// The answer of a stream's callout has come: whose it is. `None`: of one that never left, or that another
    /// carrier has taken over.
    pub fn answered(&mut self, stream: u32, id: u64) -> Option<u32> {
        let riders = self.by_stream.get_mut(&stream)?;
        let at = riders.iter().position(|(known, _)| *known == id)?;
        let (_, token) = riders.swap_remove(at);
        if riders.is_empty() {
            self.by_stream.remove(&stream);
        }
        self.out.remove(&token).map(|_| token)
    }

    /// The main thread brings an answer, or gives up. False: nobody waits for it.
    pub fn answered_by_main(&mut self, token: u32) -> bool {
        let is_mains = |out: &Out| out.carrier == Carrier::Main;
        self.out.get(&token).is_some_and(is_mains) && self.out.remove(&token).is_some()
    }

    /// The stream has ended: the tokens of what it carried. They are nobody's until they are moved.
    pub fn orphans(&mut self, stream: u32) -> Vec<u32> {
        let riders = self.by_stream.remove(&stream).unwrap_or_default();
        riders.into_iter().map(|(_, token)| token).collect()
    }

    /// What is sent again; `None`: it has been answered.
    pub fn get(&self, token: u32) -> Option<&Out> {
        self.out.get(&token)
    }

    /// Whether a callout may go to another stream.
    pub fn may_move(&self, token: u32) -> bool {
        self.out
            .get(&token)
            .is_some_and(|out| out.moves < MOST_MOVES)
    }

    /// Another carrier has it.
    pub fn moved(&mut self, token: u32, carrier: Carrier) {
        if let Some(out) = self.out.get_mut(&token) {
            out.carrier = carrier;
            out.moves = out.moves.saturating_add(1);
            self.note(token, carrier);
        }
    }

    /// It is given up without an answer.
    pub fn give_up(&mut self, token: u32) {
        self.out.remove(&token);
    }

    /// How many are out.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Arc<Message> {
        Arc::new(Message {
            cluster: "service".to_owned(),
            headers: Vec::new(),
            body: bytes::Bytes::from_static(b"body"),
        })
    }

    fn sent(callouts: &mut Callouts, carrier: Carrier) -> u32 {
        let token = callouts.token();
        callouts.sent(token, message(), 1, carrier);
        token
    }

    #[test]
    fn an_answer_is_for_the_token_of_its_stream_and_number() {
        let mut callouts = Callouts::default();
        // Envoy counts in each stream by itself: the same number twice.
        let a = sent(&mut callouts, Carrier::Stream(7, 1));
        let b = sent(&mut callouts, Carrier::Stream(8, 1));
        let c = sent(&mut callouts, Carrier::Stream(7, 2));
        assert_eq!(callouts.answered(7, 3), None);
        assert_eq!(callouts.answered(9, 1), None);
        assert_eq!(callouts.answered(8, 1), Some(b));
        assert_eq!(callouts.answered(7, 1), Some(a));
        assert_eq!(callouts.answered(7, 1), None);
        assert_eq!(callouts.answered(7, 2), Some(c));
        assert!(callouts.is_empty() && callouts.by_stream.is_empty());
    }

    #[test]
    fn what_a_stream_carried_is_carried_over_under_the_same_token() {
        let mut callouts = Callouts::default();
        let a = sent(&mut callouts, Carrier::Stream(7, 1));
        let b = sent(&mut callouts, Carrier::Stream(7, 2));
        let mut orphans = callouts.orphans(7);
        orphans.sort_unstable();
        assert_eq!(orphans, [a, b]);
        // The end of the first carrier brings no answer any more.
        assert_eq!(callouts.answered(7, 1), None);
        callouts.moved(a, Carrier::Stream(8, 1));
        callouts.moved(b, Carrier::Main);
        assert!(!callouts.answered_by_main(a));
        assert_eq!(callouts.answered(8, 1), Some(a));
        assert!(callouts.answered_by_main(b));
        assert!(!callouts.answered_by_main(b));
        assert!(callouts.is_empty());
    }

    #[test]
    fn a_callout_moves_a_few_times_only() {
        let mut callouts = Callouts::default();
        let token = sent(&mut callouts, Carrier::Stream(1, 1));
        let mut moves = 0;
        while callouts.may_move(token) {
            moves += 1;
            callouts.orphans(moves);
            callouts.moved(token, Carrier::Stream(moves + 1, 1));
        }
        assert_eq!(moves, u32::from(MOST_MOVES));
    }

    #[test]
    fn a_token_is_not_given_twice_while_it_is_out() {
        let mut callouts = Callouts::default();
        let first = sent(&mut callouts, Carrier::Main);
        callouts.last = first.wrapping_sub(1);
        assert_ne!(callouts.token(), first);
    }
}
