//! What the service and the billing consumer share. See `README.md`.
#![forbid(unsafe_code)]

pub mod demo;
mod settings;
pub mod steps;

pub use settings::{database, Settings};

use serde::{Deserialize, Serialize};

/// The topic of the events, and where its dead letters go.
pub const TOPIC: &str = "orders";
/// Dead letters of [`TOPIC`].
pub const DEAD_LETTERS: &str = "orders.dead";
/// The header that carries an event's id.
pub const EVENT_ID: &str = "event-id";

/// An error that ends a program.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a client orders.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NewOrder {
    /// Who.
    pub customer: String,
    /// What.
    pub item: String,
}

/// The event that an order was placed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct OrderPlaced {
    /// Which.
    pub order: i64,
    /// Who ordered it.
    pub customer: String,
    /// What was ordered.
    pub item: String,
}
