//! What is compared: one row is one way through one Envoy.

/// Where the service keeps its records. Each one gets a service of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Store {
    /// Embedded; an operation is on disk shortly after it is acknowledged.
    Relaxed,
    /// Embedded; an operation is on disk before it is acknowledged.
    Durable,
    /// One Redis server.
    Redis,
    /// One PostgreSQL server.
    Postgres,
    /// A cache in Redis, of the service that one would write by hand.
    ByHand,
}

/// What the requests of a row meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Envoy without the filter: what everything is compared with.
    Bare,
    /// Envoy's own `ext_authz` filter asks the service, once per request; no store is behind it.
    ExtAuthz,
    /// A Lua filter makes the same two calls as our filter for a first request.
    Lua,
    /// The filter is there, and no rule concerns the request.
    Unprotected,
    /// The filter is disabled on the request's route.
    Disabled,
    /// Every request has a new key and is executed in the filter chain.
    Inline,
    /// Every request has a new key and is executed by the gateway itself.
    Detached,
    /// Every request is answered from its record.
    Replay,
    /// Every request has a new key; a Lua filter asks the service that one would write by hand.
    ByHand,
    /// The same, and every request is answered from the cache.
    ByHandReplay,
}

/// Which of the Envoys before one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    /// No filter at all.
    Bare,
    /// With `ext_authz`.
    ExtAuthz,
    /// With the Lua filter.
    Lua,
    /// With our filter.
    Filter,
    /// With the Lua filter of the service that one would write by hand.
    ByHand,
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
    /// The store behind it. Some rows have one that is not asked.
    pub store: Option<Store>,
    /// Through the other Envoy of a comparison (`--against`).
    pub other: bool,
}

/// All rows, in the order in which a round runs them. The first is the one that ratios are of.
pub const ROWS: [Row; 19] = [
    row("bare", "bare Envoy", Way::Bare, None),
    row(
        "ext-authz",
        "`ext_authz`: one callout, no store",
        Way::ExtAuthz,
        Some(Store::Relaxed),
    ),
    row(
        "lua",
        "Lua: two callouts, embedded relaxed",
        Way::Lua,
        Some(Store::Relaxed),
    ),
    row(
        "by-hand",
        "by hand: first request, Redis",
        Way::ByHand,
        Some(Store::ByHand),
    ),
    row(
        "by-hand-replay",
        "by hand: replay, Redis",
        Way::ByHandReplay,
        Some(Store::ByHand),
    ),
    row(
        "unprotected",
        "unprotected route",
        Way::Unprotected,
        Some(Store::Relaxed),
    ),
    row(
        "disabled",
        "route on which the filter is disabled",
        Way::Disabled,
        Some(Store::Relaxed),
    ),
    row(
        "inline-relaxed",
        "first request, inline, embedded relaxed",
        Way::Inline,
        Some(Store::Relaxed),
    ),
    row(
        "inline-durable",
        "first request, inline, embedded durable",
        Way::Inline,
        Some(Store::Durable),
    ),
    row(
        "inline-redis",
        "first request, inline, Redis",
        Way::Inline,
        Some(Store::Redis),
    ),
    row(
        "inline-postgres",
        "first request, inline, PostgreSQL",
        Way::Inline,
        Some(Store::Postgres),
    ),
    row(
        "detached-relaxed",
        "first request, detached, embedded relaxed",
        Way::Detached,
        Some(Store::Relaxed),
    ),
    row(
        "detached-durable",
        "first request, detached, embedded durable",
        Way::Detached,
        Some(Store::Durable),
    ),
    row(
        "detached-redis",
        "first request, detached, Redis",
        Way::Detached,
        Some(Store::Redis),
    ),
    row(
        "detached-postgres",
        "first request, detached, PostgreSQL",
        Way::Detached,
        Some(Store::Postgres),
    ),
    row(
        "replay-relaxed",
        "replay, embedded relaxed",
        Way::Replay,
        Some(Store::Relaxed),
    ),
    row(
        "replay-durable",
        "replay, embedded durable",
        Way::Replay,
        Some(Store::Durable),
    ),
    row(
        "replay-redis",
        "replay, Redis",
        Way::Replay,
        Some(Store::Redis),
    ),
    row(
        "replay-postgres",
        "replay, PostgreSQL",
        Way::Replay,
        Some(Store::Postgres),
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

impl Row {
    /// Whether it is worth its time where many things vary: the stores that lose power's last
    /// moments differ from those that do not by what their disk does, not the gateway.
    pub fn is_core(&self) -> bool {
        !matches!(self.store, Some(Store::Durable | Store::Postgres))
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
            Self::Bare | Self::ExtAuthz | Self::Lua | Self::Unprotected | Self::ByHand => "/plain",
            Self::Disabled => "/disabled",
            Self::Inline => "/inline",
            Self::Detached => "/detached",
            Self::Replay | Self::ByHandReplay => "/replay",
        }
    }

    /// Method of its requests. `ext_authz` asks with the method of the request, and the endpoint
    /// that costs the service least takes `GET`.
    pub fn method(self) -> &'static str {
        match self {
            Self::ExtAuthz => "GET",
            _ => "POST",
        }
    }

    /// Whether every request is answered from what is stored.
    pub fn replays(self) -> bool {
        matches!(self, Self::Replay | Self::ByHandReplay)
    }

    /// Whether every request reaches the upstream; otherwise none does.
    pub fn executes(self) -> bool {
        !self.replays()
    }

    /// The Envoy that it goes through.
    pub fn flavour(self) -> Flavour {
        match self {
            Self::Bare => Flavour::Bare,
            Self::ExtAuthz => Flavour::ExtAuthz,
            Self::Lua => Flavour::Lua,
            Self::ByHand | Self::ByHandReplay => Flavour::ByHand,
            _ => Flavour::Filter,
        }
    }
}

impl Store {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relaxed => "embedded relaxed",
            Self::Durable => "embedded durable",
            Self::Redis => "Redis",
            Self::Postgres => "PostgreSQL",
            Self::ByHand => "by hand, Redis",
        }
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
