//! What the filter needs of its host: the proxy-wasm ABI as a trait, so that everything above it
//! runs natively in tests. Every call may fail; none may trap.

use bytes::Bytes;

/// A hostcall was refused, with the host's status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError(pub u32);

/// Result of a hostcall.
pub type HostResult<T> = Result<T, HostError>;

/// Status codes of hostcalls that mean something to the filter.
pub mod status {
    /// It is done.
    pub const OK: u32 = 0;
    /// There is no such header.
    pub const NOT_FOUND: u32 = 1;
    /// What the host gave cannot be read.
    pub const PARSE_FAILURE: u32 = 4;
}

/// What a callback of a stream answers.
pub mod action {
    /// Pass it on.
    pub const CONTINUE: u32 = 0;
    /// Hold it.
    pub const PAUSE: u32 = 1;
}

/// A direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// From the client to the upstream.
    Request = 0,
    /// From the upstream to the client.
    Response = 1,
}

/// A header map of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Map {
    /// Request headers.
    Request = 0,
    /// Request trailers.
    RequestTrailers = 1,
    /// Response headers.
    Response = 2,
    /// Headers of a callout's answer.
    CalloutHeaders = 6,
}

/// A buffer of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Buffer {
    /// Request body.
    Request = 0,
    /// Response body.
    Response = 1,
    /// Body of a callout's answer.
    Callout = 4,
    /// The plugin's configuration.
    Configuration = 7,
}

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MetricKind {
    /// Only grows.
    Counter = 0,
    /// Set to a value.
    Gauge = 1,
    /// Distribution.
    Histogram = 2,
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Information.
    Info = 2,
    /// Something that an operator should look into.
    Warn = 3,
    /// Something that an operator must mend.
    Error = 4,
}

/// The hostcalls that the filter makes.
pub trait Host {
    /// Wall clock in nanoseconds since the Unix epoch; may jump.
    fn now_ns(&self) -> u64;
    /// Fills the buffer with random bytes.
    fn random(&self, buffer: &mut [u8]) -> HostResult<()>;
    /// A variable of the environment that the VM was given.
    fn environment(&self, name: &str) -> Option<Bytes>;
    /// Writes a log line.
    fn log(&self, level: Level, message: &str);
    /// Makes the next calls act on another context of this VM.
    fn set_context(&self, context: u32) -> HostResult<()>;
    /// One header value (the first, or several joined by the host).
    fn header(&self, map: Map, name: &str) -> HostResult<Option<Bytes>>;
    /// A whole header map in one call.
    fn headers(&self, map: Map) -> HostResult<Vec<(Bytes, Bytes)>>;
    /// Sets a header to one value.
    fn set_header(&self, map: Map, name: &[u8], value: &[u8]) -> HostResult<()>;
    /// Adds a header beside those of its name.
    fn add_header(&self, map: Map, name: &[u8], value: &[u8]) -> HostResult<()>;
    /// Removes a header.
    fn remove_header(&self, map: Map, name: &[u8]) -> HostResult<()>;
    /// Part of a buffer.
    fn buffer(&self, buffer: Buffer, start: usize, size: usize) -> HostResult<Bytes>;
    /// Puts bytes before those of a buffer.
    fn prepend_buffer(&self, buffer: Buffer, bytes: &[u8]) -> HostResult<()>;
    /// A property; `None` where the host does not know it.
    fn property(&self, path: &[&str]) -> Option<Bytes>;
    /// Sets a property of the current stream, for the access log.
    fn set_property(&self, path: &[&str], value: &[u8]) -> HostResult<()>;
    /// Lets a paused request go on.
    fn resume_request(&self) -> HostResult<()>;
    /// Lets a paused response go on.
    fn resume_response(&self) -> HostResult<()>;
    /// Cuts the stream off.
    fn reset_stream(&self) -> HostResult<()>;
    /// Answers in place of the upstream.
    fn local_reply(
        &self,
        status: u16,
        details: &str,
        headers: &[(Bytes, Bytes)],
        body: &[u8],
    ) -> HostResult<()>;
    /// Starts a callout from the current context; returns its token.
    fn callout(
        &self,
        target: &str,
        headers: &[(Bytes, Bytes)],
        body: &[u8],
        trailers: &[(Bytes, Bytes)],
        timeout_ms: u64,
    ) -> HostResult<u32>;
    /// Registers a queue by which the root is called back; its token.
    fn register_queue(&self, name: &str) -> HostResult<u32>;
    /// Asks for a callback of the root that registered the queue, when the host has worked off what
    /// it is at.
    fn enqueue(&self, queue: u32) -> HostResult<()>;
    /// Takes out what was put in for one callback.
    fn dequeue(&self, queue: u32);
    /// Sets the period of the root's tick.
    fn set_tick(&self, period_ms: u32) -> HostResult<()>;
    /// Declares a metric; returns its id.
    fn define_metric(&self, kind: MetricKind, name: &str) -> HostResult<u32>;
    /// Adds to a counter.
    fn increment_metric(&self, id: u32, by: i64) -> HostResult<()>;
    /// Sets a gauge or adds a value to a histogram.
    fn record_metric(&self, id: u32, value: u64) -> HostResult<()>;
    /// The root has finished what it was asked to finish before it goes.
    fn done(&self);
}
