//! Consumers of Kafka on a real broker, with records in a real Redis; consumers are killed where a case says so.

mod cases;
mod flow;
mod killed;
mod mock;
mod stores;
mod support;
