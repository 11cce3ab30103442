//! Which messages are the same.

use super::letter::Message;
use idempotency_protocol::limits::MAX_KEY_CHARS;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A header that makes a message another one than that with the same id and without it, or with another value. Set
/// it to something new (a number that counts up, a time) on a dead letter that is sent to its topic again: without
/// it, it is a duplicate of what was put aside.
pub const REDRIVE_HEADER: &str = "idempotency-redrive";

type BusinessId = Arc<dyn Fn(&dyn Message) -> Option<String> + Send + Sync>;

/// How the id of a message is found: the first source that has one.
///
/// Best is an id that the **producer** made once per event and sends in a header: it is the same however often the
/// event is sent, and wherever it is in the topic. An id from the **business** (an order's number and what happened
/// to it) is as good, if an event with the same id is the same event. The **offset** tells only that the broker
/// delivers the same message again; an event that its producer sent twice has two offsets.
///
/// ```
/// use idempotency::message::{Letter, MessageId};
///
/// let id = MessageId::header("event-id")
///     .or_business(|m| {
///         let order: serde_json::Value = serde_json::from_slice(m.payload()?).ok()?;
///         Some(format!("{}-created", order.get("order")?))
///     })
///     .or_offset();
/// let sent = Letter::new("orders", "{\"order\": 7}").at(2, 41);
/// assert_eq!(id.of(&sent.clone().header("event-id", "e-1")).unwrap(), "header:event-id:e-1");
/// assert_eq!(id.of(&sent).unwrap(), "business:7-created");
/// assert_eq!(id.of(&Letter::new("orders", "").at(2, 41)).unwrap(), "offset:2:41");
/// assert_eq!(id.of(&Letter::new("orders", "")), None);
/// ```
#[derive(Clone)]
pub struct MessageId(Vec<IdSource>);

#[derive(Clone)]
enum IdSource {
    /// All of these, in this order.
    Headers(Arc<[String]>),
    Business(BusinessId),
    Offset,
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|source| match source {
            IdSource::Headers(names) => names.join("+"),
            IdSource::Business(_) => "business".to_owned(),
            IdSource::Offset => "offset".to_owned(),
        });
        f.debug_list().entries(names).finish()
    }
}

impl MessageId {
    /// The value of this header. One that is absent or empty is none.
    pub fn header(name: &str) -> MessageId {
        MessageId(Vec::new()).or_header(name)
    }

    /// The values of these headers together; all of them have to be there.
    pub fn headers<'a>(names: impl IntoIterator<Item = &'a str>) -> MessageId {
        let names = names.into_iter().map(str::to_owned).collect();
        MessageId(vec![IdSource::Headers(names)])
    }

    /// Of a CloudEvent in Kafka's binary mode: its source and its id, which together are unique.
    pub fn cloud_event() -> MessageId {
        MessageId::headers(["ce_source", "ce_id"])
    }

    /// What this function finds in the message.
    pub fn business(
        find: impl Fn(&dyn Message) -> Option<String> + Send + Sync + 'static,
    ) -> MessageId {
        MessageId(Vec::new()).or_business(find)
    }

    /// The message's place: partition and offset.
    pub fn offset() -> MessageId {
        MessageId(Vec::new()).or_offset()
    }

    /// Else the value of this header.
    pub fn or_header(mut self, name: &str) -> MessageId {
        self.0.push(IdSource::Headers([name.to_owned()].into()));
        self
    }

    /// Else what this function finds in the message; an empty text is nothing.
    pub fn or_business(
        mut self,
        find: impl Fn(&dyn Message) -> Option<String> + Send + Sync + 'static,
    ) -> MessageId {
        self.0.push(IdSource::Business(Arc::new(find)));
        self
    }

    /// Else the message's place.
    pub fn or_offset(mut self) -> MessageId {
        self.0.push(IdSource::Offset);
        self
    }

    /// The id of a message as it is in the record's key. What would be too long for a key is there as its SHA-256.
    /// `None`: no source has one.
    pub fn of(&self, message: &dyn Message) -> Option<String> {
        let mut id = self.0.iter().find_map(|source| source.of(message))?;
        if let Some(again) = message.header(REDRIVE_HEADER) {
            id = format!("{id}:redrive:{}", text(again));
        }
        if id.chars().nth(MAX_KEY_CHARS).is_some() {
            let kind = id.split(':').next().unwrap_or_default();
            return Some(format!(
                "{kind}-sha256:{}",
                hex::encode(Sha256::digest(&id))
            ));
        }
        Some(id)
    }
}

impl IdSource {
    fn of(&self, message: &dyn Message) -> Option<String> {
        match self {
            IdSource::Headers(names) => {
                let mut id = "header".to_owned();
                for name in names.iter() {
                    let value = message.header(name).filter(|value| !value.is_empty())?;
                    let value = text(value);
                    // With several, where one ends must not be a matter of its content.
                    let length = match names.len() {
                        1 => String::new(),
                        _ => format!("{}:", value.len()),
                    };
                    id = format!("{id}:{name}:{length}{value}");
                }
                Some(id)
            }
            IdSource::Business(find) => {
                let found = find(message).filter(|found| !found.is_empty())?;
                Some(format!("business:{found}"))
            }
            IdSource::Offset => {
                let at = message.position()?;
                Some(format!("offset:{}:{}", at.partition, at.offset))
            }
        }
    }
}

/// Bytes that are no text are written in hexadecimal.
fn text(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) if !text.contains('\0') => Cow::Borrowed(text),
        _ => Cow::Owned(format!("0x{}", hex::encode(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Letter;
    use super::*;

    fn letter() -> Letter {
        Letter::new("orders", "payload").at(2, 41)
    }

    #[test]
    fn the_first_source_that_has_one_is_taken() {
        let id = MessageId::header("a").or_header("b").or_offset();
        let table: [(&[(&str, &str)], &str); 5] = [
            (&[("a", "1"), ("b", "2")], "header:a:1"),
            (&[("b", "2")], "header:b:2"),
            (&[("a", ""), ("b", "2")], "header:b:2"),
            (&[("a", "1"), ("a", "3")], "header:a:3"),
            (&[], "offset:2:41"),
        ];
        for (headers, expected) in table {
            let mut message = letter();
            for (name, value) in headers {
                message = message.header(*name, *value);
            }
            assert_eq!(id.of(&message).as_deref(), Some(expected), "{headers:?}");
        }
    }

    #[test]
    fn a_message_without_an_id_has_none() {
        assert_eq!(MessageId::header("a").of(&letter()), None);
        assert_eq!(MessageId::business(|_| None).of(&letter()), None);
        assert_eq!(
            MessageId::business(|_| Some(String::new())).of(&letter()),
            None
        );
        assert_eq!(MessageId::offset().of(&Letter::new("t", "")), None);
    }

    #[test]
    fn an_event_is_its_source_and_its_id() {
        let id = MessageId::cloud_event();
        let of = |source: &str, event: &str| {
            let message = letter().header("ce_source", source).header("ce_id", event);
            id.of(&message).unwrap()
        };
        assert_ne!(of("/a", "1"), of("/b", "1"));
        // Where one value ends does not depend on what is in it.
        assert_ne!(of("a:ce_id:1:b", "c"), of("a", "b:ce_id:1:c"));
        assert_eq!(id.of(&letter().header("ce_id", "1")), None);
    }

    #[test]
    fn a_long_id_is_hashed_and_stays_another_one() {
        let id = MessageId::header("a");
        let of = |value: &str| id.of(&letter().header("a", value)).unwrap();
        let long = "ä".repeat(MAX_KEY_CHARS);
        assert!(of(&long).starts_with("header-sha256:"));
        assert_ne!(of(&long), of(&format!("{long}x")));
        let longest = "x".repeat(MAX_KEY_CHARS - "header:a:".len());
        assert!(of(&longest).starts_with("header:a:xxx"));
    }

    #[test]
    fn bytes_that_are_no_text_are_an_id_too() {
        let id = MessageId::header("a");
        let message = letter().header("a", vec![0xff, 0x00]);
        assert_eq!(id.of(&message).unwrap(), "header:a:0xff00");
    }

    #[test]
    fn what_is_driven_again_is_another_message() {
        let id = MessageId::header("a");
        let first = letter().header("a", "1");
        let again = first.clone().header(REDRIVE_HEADER, "2");
        assert_eq!(id.of(&again).unwrap(), "header:a:1:redrive:2");
        assert_ne!(id.of(&first), id.of(&again));
    }
}
