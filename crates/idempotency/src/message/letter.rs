//! What a deduplicator has to know of a message.

/// Where a message is in its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The partition; 0 where a broker has none.
    pub partition: i32,
    /// The place in it.
    pub offset: i64,
}

/// A message of any broker. Feature `kafka` has it for the messages of `rdkafka`.
pub trait Message {
    /// The topic, queue or subject that it was sent to. Ids are compared within it.
    fn topic(&self) -> &str;

    /// Where it is, if the broker has positions that stay the same when it delivers again.
    fn position(&self) -> Option<Position>;

    /// The value of a header; the last one if there are several.
    fn header(&self, name: &str) -> Option<&[u8]>;

    /// The content. `None` and empty are two things.
    fn payload(&self) -> Option<&[u8]>;
}

/// A message that owns its parts: for brokers without an implementation of [`Message`], and for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter {
    topic: String,
    position: Option<Position>,
    headers: Vec<(String, Vec<u8>)>,
    payload: Option<Vec<u8>>,
}

impl Letter {
    /// A message with this content.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Letter {
        Letter {
            topic: topic.into(),
            payload: Some(payload.into()),
            ..Letter::default()
        }
    }

    /// A message without content, which deletes in compacted topics.
    pub fn empty(topic: impl Into<String>) -> Letter {
        Letter {
            topic: topic.into(),
            ..Letter::default()
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Letter {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Where it is.
    pub fn at(mut self, partition: i32, offset: i64) -> Letter {
        self.position = Some(Position { partition, offset });
        self
    }
}

impl Message for Letter {
    fn topic(&self) -> &str {
        &self.topic
    }

    fn position(&self) -> Option<Position> {
        self.position
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        let mut headers = self.headers.iter().rev();
        let found = headers.find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_slice())
    }

    fn payload(&self) -> Option<&[u8]> {
        self.payload.as_deref()
    }
}
