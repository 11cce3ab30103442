//! What is found in a file.

use super::document::{Document, Place};
use super::place::Inner;
use serde_json::Value;
use std::fmt;

/// One thing that is wrong, or worth a thought.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    pub place: Option<Place>,
    /// Only worth a thought: nothing is refused for it.
    pub is_note: bool,
    pub text: String,
    pub hint: Option<String>,
}

/// The findings in one document, with their places.
pub(super) struct Findings<'a> {
    document: &'a Document,
    /// Of a document that stands inside another one.
    inner: Option<&'a Inner>,
    pub found: Vec<Finding>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(document: &'a Document, inner: Option<&'a Inner>) -> Findings<'a> {
        Findings {
            document,
            inner,
            found: Vec::new(),
        }
    }

    /// Where a value of the document is in the file.
    pub(super) fn place(&self, of: &Value) -> Option<Place> {
        self.outer(self.document.member(of))
    }

    pub(super) fn outer(&self, place: Option<Place>) -> Option<Place> {
        match self.inner {
            Some(inner) => place.map(|place| inner.outer(place)),
            None => place,
        }
    }

    /// Something is wrong there.
    pub(super) fn wrong(&mut self, at: &Value, text: impl Into<String>) {
        let place = self.place(at);
        self.push(place, false, text.into(), None);
    }

    /// Something there is worth a thought.
    pub(super) fn note(&mut self, at: &Value, text: impl Into<String>) {
        let place = self.place(at);
        self.push(place, true, text.into(), None);
    }

    pub(super) fn push(
        &mut self,
        place: Option<Place>,
        is_note: bool,
        text: String,
        hint: Option<String>,
    ) {
        self.found.push(Finding {
            place,
            is_note,
            text,
            hint,
        });
    }
}

/// `3:5: rules[0].wait_ms: must be …`, and the hint on a line of its own.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        if self.is_note {
            f.write_str("note: ")?;
        }
        f.write_str(&self.text)
    }
}
