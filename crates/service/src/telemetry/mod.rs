//! What the service tells about itself: metrics and logs.

pub(crate) mod labels;
pub mod logs;
pub(crate) mod metrics;
pub(crate) mod refusals;
pub(crate) mod repeats;
