//! What is compared: one row is one way through one Envoy.

/// Where the service keeps its records. Each one gets a service and an Envoy of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Store {
    /// Embedded; an operation is on disk before it is acknowledged.
    Durable,
    /// Embedded; an operation is on disk shortly after.
    Relaxed,
}

/// What the requests of a row meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Envoy without the filter: what everything is compared with.
    Bare,
    /// The filter is there, and no rule concerns the request.
    Unprotected,
    /// Every request has a new key and is executed in the filter chain.
    Inline,
    /// Every request has a new key and is executed by the gateway itself.
    Detached,
    /// Every request is answered from its record.
    Replay,
}

/// A row of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Name in the JSON file and on the command line.
    pub id: &'static str,
    /// Name in the table.
    pub label: &'static str,
    /// What its requests meet.
    pub way: Way,
    /// The store behind it. The unprotected row goes through an Envoy whose store is not asked.
    pub store: Option<Store>,
    /// Through the other Envoy of a comparison (`--against`).
    pub other: bool,
}

/// All rows, in the order in which a round runs them. The first is the one that ratios are of.
pub const ROWS: [Row; 8] = [
    row("bare", "bare Envoy", Way::Bare, None),
    row(
        "unprotected",
        "unprotected route",
        Way::Unprotected,
        Some(Store::Relaxed),
    ),
    row(
        "inline-relaxed",
        "first request, inline, relaxed",
        Way::Inline,
        Some(Store::Relaxed),
    ),
    row(
        "inline-durable",
        "first request, inline, durable",
        Way::Inline,
        Some(Store::Durable),
    ),
    row(
        "detached-relaxed",
        "first request, detached, relaxed",
        Way::Detached,
        Some(Store::Relaxed),
    ),
    row(
        "detached-durable",
        "first request, detached, durable",
        Way::Detached,
        Some(Store::Durable),
    ),
    row(
        "replay-relaxed",
        "replay, relaxed",
        Way::Replay,
        Some(Store::Relaxed),
    ),
    row(
        "replay-durable",
        "replay, durable",
        Way::Replay,
        Some(Store::Durable),
    ),
];

const fn row(id: &'static str, label: &'static str, way: Way, store: Option<Store>) -> Row {
    Row {
        id,
        label,
        way,
        store,
        other: false,
    }
}

/// Its id, with a mark if it is the other one of a comparison.
impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = if self.other { "+other" } else { "" };
        f.pad(&format!("{}{mark}", self.id))
    }
}

impl Way {
    /// Path of its requests. The filter's rules go by it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Bare | Self::Unprotected => "/plain",
            Self::Inline => "/inline",
            Self::Detached => "/detached",
            Self::Replay => "/replay",
        }
    }

    /// Whether every request reaches the upstream; otherwise none does.
    pub fn executes(self) -> bool {
        self != Self::Replay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_is_the_reference() {
        assert_eq!(ROWS.map(|row| row.way)[0], Way::Bare);
        let mut ids = ROWS.map(|row| row.id);
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(ROWS
            .iter()
            .all(|row| (row.way == Way::Bare) == row.store.is_none()));
    }
}
