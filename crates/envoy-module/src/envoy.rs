//! Envoy's callbacks with Rust's types. Nothing here keeps what Envoy lends: it is copied before a call returns.
//!
//! The unsafe part of all of them is the same. Slices that are passed live until the callback returns. What
//! Envoy lends lives at least until the next callback for the same stream. And a stream or configuration is
//! alive: the callers ([`crate::host`], [`crate::unit`]) keep no [`Object`] longer than Envoy says it lives.
#![allow(unsafe_code)]

use crate::abi::{body, Callbacks, Field, Object, Slice, SUCCESS};
use bytes::Bytes;
use std::sync::OnceLock;

static ENVOY: OnceLock<Callbacks> = OnceLock::new();

/// Notes where Envoy's callbacks are, once.
pub fn set(callbacks: Callbacks) {
    let _ = ENVOY.set(callbacks);
}

/// Envoy's callbacks; `None` before the module was initialised, when Envoy calls no hook.
fn envoy() -> Option<&'static Callbacks> {
    ENVOY.get()
}

/// Why a callback did nothing: the stream has ended, or Envoy refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

type Done<T = ()> = Result<T, Refused>;

fn done(ok: bool) -> Done {
    ok.then_some(()).ok_or(Refused)
}

/// Writes a line to Envoy's log; the levels have the numbers of proxy-wasm's.
pub fn log(level: u32, message: &str) {
    if let Some(envoy) = envoy() {
        // SAFETY: see the module.
        unsafe { (envoy.log)(level, Slice::of(message.as_bytes())) };
    }
}

/// The first value of a header.
pub fn header(stream: Object, map: u32, name: &str) -> Done<Option<Bytes>> {
    let envoy = envoy().ok_or(Refused)?;
    let mut value = Slice::NULL;
    // SAFETY: see the module; the callback writes to a local.
    let found = unsafe {
        (envoy.http_get_header)(
            stream,
            map,
            Slice::of(name.as_bytes()),
            &mut value,
            0,
            std::ptr::null_mut(),
        )
    };
    // SAFETY: it is copied at once.
    Ok(found.then(|| Bytes::copy_from_slice(unsafe { value.bytes() })))
}

/// All fields of a header map, in their order, in one allocation.
pub fn headers(stream: Object, map: u32) -> Done<Vec<(Bytes, Bytes)>> {
    let envoy = envoy().ok_or(Refused)?;
    // SAFETY: see the module.
    let count = unsafe { (envoy.http_get_headers_size)(stream, map) };
    if count == 0 {
        return Ok(Vec::new());
    }
    let empty = Field {
        name: Slice::NULL,
        value: Slice::NULL,
    };
    let mut fields = vec![empty; count];
    // SAFETY: the callback fills as many fields as it has just counted; nothing runs in between.
    done(unsafe { (envoy.http_get_headers)(stream, map, fields.as_mut_ptr()) })?;
    let length = fields.iter().map(|f| f.name.len + f.value.len).sum();
    let mut text = Vec::with_capacity(length);
    for field in &fields {
        // SAFETY: copied before anything can change the map.
        text.extend_from_slice(unsafe { field.name.bytes() });
        // SAFETY: as above.
        text.extend_from_slice(unsafe { field.value.bytes() });
    }
    let mut text = Bytes::from(text);
    let pairs = fields.iter().map(|field| {
        let name = text.split_to(field.name.len.min(text.len()));
        let value = text.split_to(field.value.len.min(text.len()));
        (name, value)
    });
    Ok(pairs.collect())
}

/// Sets a header to one value.
pub fn set_header(stream: Object, map: u32, name: &[u8], value: &[u8]) -> Done {
    let envoy = envoy().ok_or(Refused)?;
    // SAFETY: see the module. (A slice has an address, even an empty one: it does not mean "remove".)
    done(unsafe { (envoy.http_set_header)(stream, map, Slice::of(name), Slice::of(value)) })
}

/// Adds a field beside those of its name.
pub fn add_header(stream: Object, map: u32, name: &[u8], value: &[u8]) -> Done {
    let envoy = envoy().ok_or(Refused)?;
    // SAFETY: see the module.
    done(unsafe { (envoy.http_add_header)(stream, map, Slice::of(name), Slice::of(value)) })
}

/// Removes all fields of a name.
pub fn remove_header(stream: Object, map: u32, name: &[u8]) -> Done {
    let envoy = envoy().ok_or(Refused)?;
    // SAFETY: see the module.
    done(unsafe { (envoy.http_set_header)(stream, map, Slice::of(name), Slice::NULL) })
}

/// Which body a hook was called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The request's.
    Request,
    /// The response's.
    Response,
}

/// What Envoy holds of a body, and the piece that has just come, as one.
#[derive(Debug, Default)]
pub struct Pieces {
    chunks: Vec<Slice>,
    /// How many bytes there are.
    pub len: usize,
}

/// Looks at a body inside of a hook for it.
pub fn pieces(stream: Object, of: Body) -> Pieces {
    let Some(envoy) = envoy() else {
        return Pieces::default();
    };
    let (received, buffered, is_same) = match of {
        Body::Request => (
            body::RECEIVED_REQUEST,
            body::BUFFERED_REQUEST,
            envoy.http_received_buffered_request_body,
        ),
        Body::Response => (
            body::RECEIVED_RESPONSE,
            body::BUFFERED_RESPONSE,
            envoy.http_received_buffered_response_body,
        ),
    };
    let mut pieces = Pieces::default();
    // SAFETY: see the module.
    unsafe {
        // What another filter held comes as the piece itself; to read both would be to read it twice.
        if !is_same(stream) {
            pieces.add(envoy, stream, buffered);
        }
        pieces.add(envoy, stream, received);
    }
    pieces
}

impl Pieces {
    /// # Safety
    ///
    /// The stream is alive, and this is a hook of it.
    unsafe fn add(&mut self, envoy: &Callbacks, stream: Object, body: u32) {
        // SAFETY: the caller's promise; the callback fills as many chunks as it has just counted.
        unsafe {
            if (envoy.http_get_body_size)(stream, body) == 0 {
                return;
            }
            let count = (envoy.http_get_body_chunks_size)(stream, body);
            let start = self.chunks.len();
            self.chunks.resize(start + count, Slice::NULL);
            let Some(room) = self.chunks.get_mut(start..) else {
                return;
            };
            if !(envoy.http_get_body_chunks)(stream, body, room.as_mut_ptr()) {
                self.chunks.truncate(start);
            }
        }
        self.len = self.chunks.iter().map(|chunk| chunk.len).sum();
    }

    /// A copy of a part; `None`: there is not so much.
    ///
    /// # Safety
    ///
    /// The hook that these were looked up in has not returned, and has not changed the body.
    pub unsafe fn copy(&self, start: usize, length: usize) -> Option<Bytes> {
        if start.checked_add(length)? > self.len {
            return None;
        }
        let mut skip = start;
        let mut out = Vec::with_capacity(length);
        for chunk in &self.chunks {
            // SAFETY: the caller's promise.
            let bytes = unsafe { chunk.bytes() };
            let rest = bytes.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(bytes.len());
            let wanted = rest.len().min(length - out.len());
            out.extend_from_slice(rest.get(..wanted).unwrap_or_default());
        }
        (out.len() == length).then(|| out.into())
    }
}

// SAFETY: looked at only inside of the hook, by its thread; see `copy`.
unsafe impl Send for Pieces {}

/// Copies the body of a callout's answer.
///
/// # Safety
///
/// Envoy lends `count` chunks at `chunks` until the hook returns.
pub unsafe fn join(chunks: *const Slice, count: usize) -> Bytes {
    if chunks.is_null() || count == 0 {
        return Bytes::new();
    }
    // SAFETY: the caller's promise.
    let chunks = unsafe { std::slice::from_raw_parts(chunks, count) };
    let mut out = Vec::with_capacity(chunks.iter().map(|chunk| chunk.len).sum());
    for chunk in chunks {
        // SAFETY: as above.
        out.extend_from_slice(unsafe { chunk.bytes() });
    }
    out.into()
}

/// The value of `:status` among the fields of a callout's answer.
///
/// # Safety
///
/// Envoy lends `count` fields at `fields` until the hook returns.
pub unsafe fn status_of(fields: *const Field, count: usize) -> Option<Bytes> {
    if fields.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let fields = unsafe { std::slice::from_raw_parts(fields, count) };
    fields.iter().find_map(|field| {
        // SAFETY: as above.
        let (name, value) = unsafe { (field.name.bytes(), field.value.bytes()) };
        (name == b":status").then(|| Bytes::copy_from_slice(value))
    })
}

/// Puts a value into the stream's filter state.
pub fn set_filter_state(stream: Object, key: &str, value: &[u8]) -> Done {
    let envoy = envoy().ok_or(Refused)?;
    let (key, value) = (Slice::of(key.as_bytes()), Slice::of(value));
    // SAFETY: see the module.
    done(unsafe { (envoy.http_set_filter_state_bytes)(stream, key, value) })
}

/// A text, a number or a truth of the stream's dynamic metadata; the latter two in the octets that proxy-wasm has
/// for them.
pub fn metadata(stream: Object, namespace: &str, key: &str) -> Option<Bytes> {
    const DYNAMIC: u32 = 0;
    let envoy = envoy()?;
    let mut value = Slice::NULL;
    let (namespace, key) = (Slice::of(namespace.as_bytes()), Slice::of(key.as_bytes()));
    let (mut number, mut truth) = (0.0_f64, false);
    // SAFETY: see the module; the callbacks write to locals, and a text is copied at once.
    unsafe {
        if (envoy.http_get_metadata_string)(stream, DYNAMIC, namespace, key, &mut value) {
            return Some(Bytes::copy_from_slice(value.bytes()));
        }
        if (envoy.http_get_metadata_number)(stream, DYNAMIC, namespace, key, &mut number) {
            return Some(Bytes::copy_from_slice(&number.to_le_bytes()));
        }
        (envoy.http_get_metadata_bool)(stream, DYNAMIC, namespace, key, &mut truth)
            .then(|| Bytes::copy_from_slice(&[u8::from(truth)]))
    }
}

/// An attribute that is a text.
pub fn text_attribute(stream: Object, attribute: u32) -> Option<Bytes> {
    let envoy = envoy()?;
    let mut value = Slice::NULL;
    // SAFETY: see the module; the callback writes to a local, which is copied at once.
    unsafe {
        (envoy.http_filter_get_attribute_string)(stream, attribute, &mut value)
            .then(|| Bytes::copy_from_slice(value.bytes()))
    }
}

/// An attribute that is a number.
pub fn number_attribute(stream: Object, attribute: u32) -> Option<u64> {
    let envoy = envoy()?;
    let mut value = 0;
    // SAFETY: see the module; the callback writes to a local.
    unsafe { (envoy.http_filter_get_attribute_int)(stream, attribute, &mut value) }.then_some(value)
}

/// Lets a held request go on. Envoy calls hooks of this stream, and of no other, before it returns.
pub fn resume_request(stream: Object) {
    if let Some(envoy) = envoy() {
        // SAFETY: see the module.
        unsafe { (envoy.http_filter_continue_decoding)(stream) };
    }
}

/// Lets a held response go on; as above.
pub fn resume_response(stream: Object) {
    if let Some(envoy) = envoy() {
        // SAFETY: see the module.
        unsafe { (envoy.http_filter_continue_encoding)(stream) };
    }
}

/// Cuts a stream off; it ends before this returns.
pub fn reset(stream: Object) {
    const LOCAL_RESET: u32 = 0;
    if let Some(envoy) = envoy() {
        let details = Slice::of(b"idempotency");
        // SAFETY: see the module.
        unsafe { (envoy.http_filter_reset_stream)(stream, LOCAL_RESET, details) };
    }
}

fn fields(headers: &[(Bytes, Bytes)]) -> Vec<Field> {
    let field = |(name, value): &(Bytes, Bytes)| Field {
        name: Slice::of(name),
        value: Slice::of(value),
    };
    headers.iter().map(field).collect()
}

/// Answers in place of the upstream, by way of Envoy's local replies.
pub fn local_reply(
    stream: Object,
    status: u16,
    headers: &[(Bytes, Bytes)],
    body: &[u8],
    details: &str,
) {
    if let Some(envoy) = envoy() {
        let fields = fields(headers);
        let details = Slice::of(details.as_bytes());
        // SAFETY: see the module. Envoy has made its own headers of the fields when it returns.
        unsafe {
            (envoy.http_send_response)(
                stream,
                u32::from(status),
                fields.as_ptr(),
                fields.len(),
                Slice::of(body),
                details,
            );
        }
    }
}

/// Sends the head of an answer as it is, with `:status` among its fields.
pub fn send_head(stream: Object, headers: &[(Bytes, Bytes)], end: bool) {
    if let Some(envoy) = envoy() {
        let fields = fields(headers);
        // SAFETY: see the module.
        unsafe { (envoy.http_send_response_headers)(stream, fields.as_ptr(), fields.len(), end) };
    }
}

/// Sends the body of that answer, and ends it.
pub fn send_body(stream: Object, body: &[u8]) {
    if let Some(envoy) = envoy() {
        // SAFETY: see the module.
        unsafe { (envoy.http_send_response_data)(stream, Slice::of(body), true) };
    }
}

/// What a callout sends.
#[derive(Clone, Debug)]
pub struct Message {
    /// The cluster.
    pub cluster: String,
    /// Headers with pseudo headers.
    pub headers: Vec<(Bytes, Bytes)>,
    /// Body.
    pub body: Bytes,
}

/// Who a callout belongs to, in Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A stream, on its worker: it is cancelled without a word when the stream ends.
    Stream(Object),
    /// The filter's configuration, on the main thread.
    Config(Object),
}

/// Starts a callout; its number among those of the caller. An answer that Envoy makes at once, because it
/// cannot send, comes before this returns, under a number that nobody knows, and is `Refused` here.
pub fn callout(caller: Caller, message: &Message, timeout_ms: u64) -> Done<u64> {
    let envoy = envoy().ok_or(Refused)?;
    let (call, object) = match caller {
        Caller::Stream(stream) => (envoy.http_filter_http_callout, stream),
        Caller::Config(config) => (envoy.http_filter_config_http_callout, config),
    };
    let fields = fields(&message.headers);
    let mut id = 0;
    // SAFETY: see the module; the callback writes to a local, and copies what it sends.
    let result = unsafe {
        call(
            object,
            &mut id,
            Slice::of(message.cluster.as_bytes()),
            fields.as_ptr(),
            fields.len(),
            Slice::of(&message.body),
            timeout_ms,
        )
    };
    done(result == SUCCESS).map(|()| id)
}

/// Calls a hook of a stream on its worker, from any thread. After the stream's end it does nothing.
#[derive(Debug)]
pub struct Bell(Object);

impl Bell {
    /// For a stream, on its worker.
    pub fn new(stream: Object) -> Option<Bell> {
        // SAFETY: see the module.
        let scheduler = unsafe { (envoy()?.http_filter_scheduler_new)(stream) };
        (!scheduler.0.is_null()).then_some(Bell(scheduler))
    }

    /// Asks for the hook, `on_http_filter_scheduled`.
    pub fn ring(&self, event: u64) {
        if let Some(envoy) = envoy() {
            // SAFETY: it is deleted when this is dropped, and not before.
            unsafe { (envoy.http_filter_scheduler_commit)(self.0, event) };
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if let Some(envoy) = envoy() {
            // SAFETY: nobody else has it.
            unsafe { (envoy.http_filter_scheduler_delete)(self.0) };
        }
    }
}

/// Calls a hook of a configuration on the main thread, from any thread. After the configuration's end it does
/// nothing.
#[derive(Debug)]
pub struct MainBell(Object);

impl MainBell {
    /// For a configuration, on the main thread.
    pub fn new(config: Object) -> Option<MainBell> {
        // SAFETY: see the module.
        let scheduler = unsafe { (envoy()?.http_filter_config_scheduler_new)(config) };
        (!scheduler.0.is_null()).then_some(MainBell(scheduler))
    }

    /// Asks for the hook, `on_http_filter_config_scheduled`.
    pub fn ring(&self) {
        if let Some(envoy) = envoy() {
            // SAFETY: it is deleted when this is dropped, and not before.
            unsafe { (envoy.http_filter_config_scheduler_commit)(self.0, 0) };
        }
    }
}

impl Drop for MainBell {
    fn drop(&mut self) {
        if let Some(envoy) = envoy() {
            // SAFETY: nobody else has it.
            unsafe { (envoy.http_filter_config_scheduler_delete)(self.0) };
        }
    }
}

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Set, or moved up and down.
    Gauge,
    /// Distribution.
    Histogram,
}

/// Defines a metric, while the configuration is loaded; Envoy's number for it.
pub fn define_metric(config: Object, kind: Kind, name: &str) -> Done<usize> {
    let envoy = envoy().ok_or(Refused)?;
    let define = match kind {
        Kind::Counter => envoy.http_filter_config_define_counter,
        Kind::Gauge => envoy.http_filter_config_define_gauge,
        Kind::Histogram => envoy.http_filter_config_define_histogram,
    };
    let mut id = 0;
    // SAFETY: see the module; the callback writes to a local. There are no labels.
    let result = unsafe {
        define(
            config,
            Slice::of(name.as_bytes()),
            std::ptr::null(),
            0,
            &mut id,
        )
    };
    done(result == SUCCESS).map(|()| id)
}

/// Adds to a counter or a gauge, from any thread.
pub fn add_to_metric(config: Object, kind: Kind, id: usize, by: i64) -> Done {
    let envoy = envoy().ok_or(Refused)?;
    let change = match (kind, by >= 0) {
        (Kind::Counter, true) => envoy.http_filter_config_increment_counter,
        (Kind::Gauge, true) => envoy.http_filter_config_increment_gauge,
        (Kind::Gauge, false) => envoy.http_filter_config_decrement_gauge,
        _ => return Err(Refused),
    };
    // SAFETY: see the module. There are no labels.
    done(unsafe { change(config, id, std::ptr::null(), 0, by.unsigned_abs()) } == SUCCESS)
}

/// Sets a gauge, or adds a value to a distribution, from any thread.
pub fn record_metric(config: Object, kind: Kind, id: usize, value: u64) -> Done {
    let envoy = envoy().ok_or(Refused)?;
    let record = match kind {
        Kind::Gauge => envoy.http_filter_config_set_gauge,
        Kind::Histogram => envoy.http_filter_config_record_histogram_value,
        Kind::Counter => return Err(Refused),
    };
    // SAFETY: see the module. There are no labels.
    done(unsafe { record(config, id, std::ptr::null(), 0, value) } == SUCCESS)
}
