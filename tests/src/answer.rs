//! What came back.

use std::fmt;

/// A whole answer, byte-exact. Names are in lower case.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// In the order received, repeated names kept.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Without its transfer coding.
    pub body: Vec<u8>,
    /// Trailers, if there were any.
    pub trailers: Vec<(String, Vec<u8>)>,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub struct Broken {
    /// What had arrived, if at least the head had.
    pub partial: Option<Answer>,
    /// The client's words.
    pub why: String,
}

impl Answer {
    /// All values of a header, as text.
    pub fn all(&self, name: &str) -> Vec<String> {
        let values = self.headers.iter().filter(|(n, _)| n == name);
        values
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    /// The only value of a header, as text; `None` without the header.
    ///
    /// # Panics
    ///
    /// If the header is repeated.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        assert!(all.len() < 2, "`{name}` occurs more than once: {self:?}");
        all.pop()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as JSON, for an answer of the demo upstream with `echo=1`: the value that the
    /// upstream received for a request header, `None` without it, several joined by `, `.
    pub fn echoed(&self, name: &str) -> Option<String> {
        let json = self.json();
        let headers = json["headers"].as_array()?;
        let values: Vec<_> = headers
            .iter()
            .filter(|pair| pair[0] == name)
            .filter_map(|pair| pair[1].as_str())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

/// Bodies are shown as text and never whole.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "answer {}", self.status)?;
        for (name, value) in self.headers.iter().chain(&self.trailers) {
            writeln!(f, "  {name}: {}", String::from_utf8_lossy(value))?;
        }
        let shown = self.body.get(..400).unwrap_or(&self.body);
        let shown = String::from_utf8_lossy(shown);
        write!(f, "  ({} bytes) {shown}", self.body.len())
    }
}
