//! Kafka's messages, as a deduplicator sees them.

use crate::message::{Message, Position};
use rdkafka::message::{BorrowedMessage, Headers, Message as _, OwnedMessage};

fn header<'a, M: rdkafka::Message>(message: &'a M, name: &str) -> Option<&'a [u8]>
where
    M::Headers: 'a,
{
    let headers = message.headers()?;
    let last = (0..headers.count()).rev().map(|at| headers.get(at));
    last.filter(|header| header.key == name)
        .find_map(|header| header.value)
}

macro_rules! message {
    ($type:ty) => {
        impl Message for $type {
            fn topic(&self) -> &str {
                rdkafka::Message::topic(self)
            }

            fn position(&self) -> Option<Position> {
                Some(Position {
                    partition: self.partition(),
                    offset: self.offset(),
                })
            }

            fn header(&self, name: &str) -> Option<&[u8]> {
                header(self, name)
            }

            fn payload(&self) -> Option<&[u8]> {
                rdkafka::Message::payload(self)
            }
        }
    };
}

message!(OwnedMessage);
message!(BorrowedMessage<'_>);
