//! What the service tells about itself: metrics, logs and traces.

pub(crate) mod labels;
pub mod logs;
pub(crate) mod metrics;
pub(crate) mod rates;
pub(crate) mod refusals;
pub(crate) mod repeats;
pub(crate) mod rules;
mod sealing;
pub(crate) mod store_time;
pub(crate) mod tls;
pub(crate) mod traces;
