//! What the service tells about itself: metrics and logs.

mod histogram;
pub mod logs;
pub(crate) mod metrics;
