//! What Envoy calls. Nothing is decided here: pointers become references, and a panic goes no further.
//!
//! Every pointer that Envoy hands in is one that it got from a hook here and that it has not given back, or lives
//! until the hook returns: that is what the ABI says of its calls, and the reason of every `SAFETY` below.
#![allow(unsafe_code)]

use crate::abi::{self, status, Field, Object, Slice, SUCCESS};
use crate::home::Home;
use crate::host::Answer;
use crate::unit::{self, Handle, Unit};
use crate::{check, envoy, ticker};
use bytes::Bytes;
use std::cell::RefCell;
use std::ffi::{c_char, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::null;
use std::sync::Arc;

thread_local! {
    /// The filters of this worker, one for each configuration.
    static UNITS: RefCell<Vec<Arc<Unit>>> = const { RefCell::new(Vec::new()) };
}

/// Runs a hook; a panic, which the units have not caught already, gives `otherwise`.
fn guard<T>(otherwise: T, hook: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(hook)).unwrap_or(otherwise)
}

/// What a configuration's pointer means.
///
/// # Safety
///
/// It is from `envoy_dynamic_module_on_http_filter_config_new`, and not destroyed.
unsafe fn home(config: *const c_void) -> Option<Arc<Home>> {
    if config.is_null() {
        return None;
    }
    let config = config.cast::<Home>();
    // SAFETY: the caller's promise; the count is of the Arc that is made of it.
    unsafe {
        Arc::increment_strong_count(config);
        Some(Arc::from_raw(config))
    }
}

/// What a stream's pointer means. It stays valid, although the stream may be destroyed in the middle of its hook.
///
/// # Safety
///
/// It is from `envoy_dynamic_module_on_http_filter_new`, and not destroyed.
unsafe fn handle(stream: *const c_void) -> Option<Arc<Handle>> {
    if stream.is_null() {
        return None;
    }
    let stream = stream.cast::<Handle>();
    // SAFETY: as above.
    unsafe {
        Arc::increment_strong_count(stream);
        Some(Arc::from_raw(stream))
    }
}

/// Runs a hook of a stream that says what becomes of it.
///
/// # Safety
///
/// As for [`handle`].
unsafe fn stream_hook(stream: *const c_void, hook: impl FnOnce(&Arc<Handle>) -> u32) -> u32 {
    guard(status::HOLD, || {
        // SAFETY: the caller's promise.
        let handle = unsafe { handle(stream) };
        handle.map_or(status::HOLD, |handle| hook(&handle))
    })
}

/// The answer of a callout.
///
/// # Safety
///
/// Envoy lends both arrays until the hook returns.
unsafe fn answer(
    result: u32,
    fields: *const Field,
    count: usize,
    chunks: *const Slice,
    chunk_count: usize,
) -> Option<Answer> {
    if result != SUCCESS || count == 0 {
        return None;
    }
    // SAFETY: the caller's promise.
    unsafe {
        Some(Answer {
            fields: count,
            status: envoy::status_of(fields, count),
            body: envoy::join(chunks, chunk_count),
        })
    }
}

/// The module is loaded. Null refuses it.
#[no_mangle]
extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    guard(null(), || {
        let callbacks = match abi::Callbacks::find() {
            Ok(callbacks) => callbacks,
            Err(name) => {
                // There may be no log to write to.
                eprintln!("idempotency: this Envoy has no {name:?}; the native module needs 1.39.1 or later");
                return null();
            }
        };
        envoy::set(callbacks);
        // The place goes to Envoy's log; what the panic means for streams is the unit's.
        std::panic::set_hook(Box::new(|info| {
            envoy::log(4, &format!("idempotency: a defect: {info}"));
        }));
        if !abi::stay() {
            envoy::log(
                4,
                "idempotency: the module cannot be kept in memory, so it is not loaded",
            );
            return null();
        }
        abi::version()
    })
}

/// A configuration is loaded, on the main thread. Null refuses it.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    config: Object,
    _name: Slice,
    text: Slice,
) -> *const c_void {
    guard(null(), || {
        // SAFETY: see the module.
        let text = Bytes::copy_from_slice(unsafe { text.bytes() });
        let faults = check::unsupported(&text);
        for fault in &faults {
            envoy::log(4, &format!("idempotency: configuration refused: {fault}"));
        }
        if !faults.is_empty() {
            return null();
        }
        let Some(home) = Home::new(config, text) else {
            return null();
        };
        if !unit::rehearse(&home) || !ticker::watch(&home) {
            return null();
        }
        Arc::into_raw(home).cast()
    })
}

/// A configuration is destroyed, on whichever thread had it last.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(config: *const c_void) {
    guard((), || {
        if config.is_null() {
            return;
        }
        // SAFETY: see the module; it is not used again.
        let home = unsafe { Arc::from_raw(config.cast::<Home>()) };
        let left: usize = home.units().iter().map(|unit| unit.close()).sum();
        if left > 0 {
            let line = format!(
                "idempotency: {left} calls or more were under way when the configuration went; their leases run out"
            );
            envoy::log(3, &line);
        }
        drop(home.end());
    });
}

/// The filter of this worker for a configuration.
fn unit_of(home: &Arc<Home>) -> Option<Arc<Unit>> {
    UNITS.with(|units| {
        let mut units = units.try_borrow_mut().ok()?;
        if let Some(unit) = units.iter().find(|unit| unit.is_of(home)) {
            return Some(Arc::clone(unit));
        }
        units.retain(|unit| unit.is_alive());
        let unit = Unit::new(home)?;
        home.add(&unit);
        units.push(Arc::clone(&unit));
        Some(unit)
    })
}

/// A stream begins. Null closes it.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_new(
    config: *const c_void,
    stream: Object,
) -> *const c_void {
    guard(null(), || {
        // SAFETY: see the module.
        let unit = unsafe { home(config) }.and_then(|home| unit_of(&home));
        let handle = unit.and_then(|unit| unit.begin(stream));
        handle.map_or(null(), |handle| Arc::into_raw(Arc::new(handle)).cast())
    })
}

#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    _envoy: Object,
    stream: *const c_void,
    end: bool,
) -> u32 {
    // SAFETY: see the module.
    unsafe { stream_hook(stream, |handle| handle.unit.request_headers(handle, end)) }
}

#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_body(
    _envoy: Object,
    stream: *const c_void,
    end: bool,
) -> u32 {
    // SAFETY: see the module.
    unsafe { stream_hook(stream, |handle| handle.unit.request_body(handle, end)) }
}

#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_trailers(
    _envoy: Object,
    stream: *const c_void,
) -> u32 {
    // SAFETY: see the module.
    unsafe { stream_hook(stream, |handle| handle.unit.request_trailers(handle)) }
}

#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    _envoy: Object,
    stream: *const c_void,
    end: bool,
) -> u32 {
    // SAFETY: see the module.
    unsafe { stream_hook(stream, |handle| handle.unit.response_headers(handle, end)) }
}

#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_body(
    _envoy: Object,
    stream: *const c_void,
    end: bool,
) -> u32 {
    // SAFETY: see the module.
    unsafe { stream_hook(stream, |handle| handle.unit.response_body(handle, end)) }
}

#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_trailers(
    _envoy: Object,
    stream: *const c_void,
) -> u32 {
    // SAFETY: see the module.
    unsafe { stream_hook(stream, |handle| handle.unit.response_trailers(handle)) }
}

/// A stream ends; from here on Envoy is not called for it.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_stream_complete(
    _envoy: Object,
    stream: *const c_void,
) {
    // SAFETY: see the module.
    guard((), || {
        if let Some(handle) = unsafe { handle(stream) } {
            handle.unit.end(&handle);
        }
    });
}

/// A stream is no more.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_destroy(stream: *const c_void) {
    guard((), || {
        if stream.is_null() {
            return;
        }
        // SAFETY: see the module; it is not used again.
        let handle = unsafe { Arc::from_raw(stream.cast::<Handle>()) };
        // If Envoy has not said before that it ends.
        handle.unit.end(&handle);
    });
}

/// The answer of a callout that a stream carries.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_http_callout_done(
    _envoy: Object,
    stream: *const c_void,
    id: u64,
    result: u32,
    fields: *const Field,
    count: usize,
    chunks: *const Slice,
    chunk_count: usize,
) {
    guard((), || {
        // SAFETY: see the module.
        let answer = unsafe { answer(result, fields, count, chunks, chunk_count) };
        // SAFETY: see the module.
        if let Some(handle) = unsafe { handle(stream) } {
            handle.unit.answered(&handle, id, answer);
        }
    });
}

/// The answer of a callout of the main thread.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_http_callout_done(
    _envoy: Object,
    config: *const c_void,
    id: u64,
    result: u32,
    fields: *const Field,
    count: usize,
    chunks: *const Slice,
    chunk_count: usize,
) {
    guard((), || {
        // SAFETY: see the module.
        let answer = unsafe { answer(result, fields, count, chunks, chunk_count) };
        // SAFETY: see the module.
        if let Some(home) = unsafe { home(config) } {
            home.answered(id, answer);
        }
    });
}

/// A bell was rung, for a worker.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(
    _envoy: Object,
    stream: *const c_void,
    _event: u64,
) {
    guard((), || {
        // SAFETY: see the module.
        if let Some(handle) = unsafe { handle(stream) } {
            handle.unit.scheduled();
        }
    });
}

/// A bell was rung, for the main thread.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_scheduled(
    _envoy: Object,
    config: *const c_void,
    _event: u64,
) {
    guard((), || {
        // SAFETY: see the module.
        if let Some(home) = unsafe { home(config) } {
            home.turn();
        }
    });
}

/// Routes have no configuration of their own: one is refused, and not ignored.
#[no_mangle]
extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_new(
    _name: Slice,
    _text: Slice,
) -> *const c_void {
    envoy::log(
        4,
        "idempotency: the filter takes no configuration at a route",
    );
    null()
}

#[no_mangle]
extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_destroy(_config: *const c_void) {
}

/// What Envoy asks to be there, and is not used: callouts that stream, and a full client.
macro_rules! unused {
    ($($name:ident($($kind:ty),*);)*) => {
        $(
            #[no_mangle]
            extern "C" fn $name($(_: $kind),*) {}
        )*
    };
}

unused! {
    envoy_dynamic_module_on_http_filter_http_stream_headers(Object, *const c_void, u64, *const Field, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_data(Object, *const c_void, u64, *const Slice, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_trailers(Object, *const c_void, u64, *const Field, usize);
    envoy_dynamic_module_on_http_filter_http_stream_complete(Object, *const c_void, u64);
    envoy_dynamic_module_on_http_filter_http_stream_reset(Object, *const c_void, u64, u32);
    envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(Object, *const c_void);
    envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(Object, *const c_void);
}
