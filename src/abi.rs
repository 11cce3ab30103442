//! The proxy-wasm ABI 0.2.1: imports as a [`Host`], exports as calls of [`Filter`]. The only module
//! with `unsafe`, and the only one that is not built natively.
//!
//! Written against the ABI itself and not through the SDK, see `docs/adr/0001-abi-glue.md`: the
//! SDK panics on statuses and header bytes that hosts do give, routes a callout's answer only to
//! the stream that asked, and takes header values as `&str`.
#![allow(unsafe_code)]

use crate::filter::Filter;
use crate::host::action::{CONTINUE, PAUSE};
use crate::host::status::{NOT_FOUND, OK, PARSE_FAILURE};
use crate::host::{Buffer, Direction, Host, HostError, HostResult, Level, Map, MetricKind};
use crate::stream::Flow;
use bytes::Bytes;
use std::alloc::{alloc, Layout};
use std::cell::RefCell;
use std::ptr::{null_mut, NonNull};

#[link(wasm_import_module = "env")]
extern "C" {
    fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        length: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(
        buffer: u32,
        start: usize,
        length: usize,
        data: *const u8,
        size: usize,
    ) -> u32;
    fn proxy_get_property(
        path: *const u8,
        path_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
    ) -> u32;
    fn proxy_set_property(
        path: *const u8,
        path_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_close_stream(stream: u32) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_http_call(
        target: *const u8,
        target_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout_ms: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_register_shared_queue(name: *const u8, name_size: usize, token: *mut u32) -> u32;
    fn proxy_enqueue_shared_queue(token: u32, data: *const u8, size: usize) -> u32;
    fn proxy_dequeue_shared_queue(token: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, by: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_done() -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
extern "C" {
    fn random_get(buffer: *mut u8, size: usize) -> u16;
    fn environ_sizes_get(count: *mut usize, size: *mut usize) -> u16;
    fn environ_get(places: *mut usize, text: *mut u8) -> u16;
}

fn status(code: u32) -> HostResult<()> {
    if code == OK {
        Ok(())
    } else {
        Err(HostError(code))
    }
}

/// Takes memory that the host filled after asking [`proxy_on_memory_allocate`] for it.
fn take(data: *mut u8, size: usize) -> Bytes {
    if data.is_null() || size == 0 {
        return Bytes::new();
    }
    // SAFETY: the host allocated exactly `size` bytes through `proxy_on_memory_allocate`, filled
    // them, and gives them up (proxy-wasm ABI 0.2.1, "memory ownership").
    Bytes::from(unsafe { Vec::from_raw_parts(data, size, size) })
}

/// The ABI's form of a header map: count, sizes, then zero-terminated names and values.
fn serialise(pairs: &[(Bytes, Bytes)]) -> Vec<u8> {
    let text: usize = pairs.iter().map(|(n, v)| n.len() + v.len() + 10).sum();
    let mut out = Vec::with_capacity(4 + text);
    let le = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    out.extend_from_slice(&le(pairs.len()));
    for (name, value) in pairs {
        out.extend_from_slice(&le(name.len()));
        out.extend_from_slice(&le(value.len()));
    }
    for (name, value) in pairs {
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    }
    out
}

fn deserialise(data: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let number = |at: usize| -> Option<usize> {
        let bytes: [u8; 4] = data.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if data.is_empty() {
        return Some(Vec::new());
    }
    let count = number(0)?;
    let mut at = count.checked_mul(8)?.checked_add(4)?;
    let mut pairs = Vec::with_capacity(count.min(data.len() / 10 + 1));
    for i in 0..count {
        let (name, value) = (number(4 + i * 8)?, number(8 + i * 8)?);
        let name_end = at.checked_add(name)?;
        let value_end = name_end.checked_add(1)?.checked_add(value)?;
        if value_end > data.len() {
            return None;
        }
        pairs.push((
            data.slice(at..name_end),
            data.slice(name_end + 1..value_end),
        ));
        at = value_end + 1;
    }
    Some(pairs)
}

/// The real host.
struct Abi;

impl Host for Abi {
    fn now_ns(&self) -> u64 {
        let mut time = 0;
        // SAFETY: writes to a local.
        unsafe { proxy_get_current_time_nanoseconds(&mut time) };
        time
    }

    fn random(&self, buffer: &mut [u8]) -> HostResult<()> {
        // SAFETY: the host writes `len` bytes into the slice.
        status(u32::from(unsafe {
            random_get(buffer.as_mut_ptr(), buffer.len())
        }))
    }

    fn environment(&self, name: &str) -> Option<Bytes> {
        let (mut count, mut size) = (0, 0);
        // SAFETY: writes to two locals.
        if unsafe { environ_sizes_get(&mut count, &mut size) } != 0 {
            return None;
        }
        let (mut places, mut text) = (vec![0; count], vec![0; size]);
        // SAFETY: writes as many places, and as many bytes, as it has just said. Nothing else runs in between.
        if unsafe { environ_get(places.as_mut_ptr(), text.as_mut_ptr()) } != 0 {
            return None;
        }
        let mut pairs = text.split(|byte| *byte == 0);
        let value = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        value.map(Bytes::copy_from_slice)
    }

    fn log(&self, level: Level, message: &str) {
        // SAFETY: passes a slice to be read. A log line that cannot be written is lost.
        unsafe { proxy_log(level as u32, message.as_ptr(), message.len()) };
    }

    fn set_context(&self, context: u32) -> HostResult<()> {
        // SAFETY: no memory is passed.
        status(unsafe { proxy_set_effective_context(context) })
    }

    fn header(&self, map: Map, name: &str) -> HostResult<Option<Bytes>> {
        let (mut data, mut size) = (null_mut(), 0);
        // SAFETY: passes a slice to be read; the host writes to two locals.
        let code = unsafe {
            proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), &mut data, &mut size)
        };
        match code {
            OK if data.is_null() => Ok(None),
            OK => Ok(Some(take(data, size))),
            NOT_FOUND => Ok(None),
            other => Err(HostError(other)),
        }
    }

    fn headers(&self, map: Map) -> HostResult<Vec<(Bytes, Bytes)>> {
        let (mut data, mut size) = (null_mut(), 0);
        // SAFETY: the host writes to two locals.
        status(unsafe { proxy_get_header_map_pairs(map as u32, &mut data, &mut size) })?;
        deserialise(&take(data, size)).ok_or(HostError(PARSE_FAILURE))
    }

    fn set_header(&self, map: Map, name: &[u8], value: &[u8]) -> HostResult<()> {
        // SAFETY: passes two slices to be read.
        status(unsafe {
            proxy_replace_header_map_value(
                map as u32,
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            )
        })
    }

    fn add_header(&self, map: Map, name: &[u8], value: &[u8]) -> HostResult<()> {
        // SAFETY: passes two slices to be read.
        status(unsafe {
            proxy_add_header_map_value(
                map as u32,
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            )
        })
    }

    fn remove_header(&self, map: Map, name: &[u8]) -> HostResult<()> {
        // SAFETY: passes a slice to be read.
        status(unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
    }

    fn buffer(&self, buffer: Buffer, start: usize, size: usize) -> HostResult<Bytes> {
        let (mut data, mut got) = (null_mut(), 0);
        // SAFETY: the host writes to two locals.
        status(unsafe { proxy_get_buffer_bytes(buffer as u32, start, size, &mut data, &mut got) })?;
        Ok(take(data, got))
    }

    fn prepend_buffer(&self, buffer: Buffer, bytes: &[u8]) -> HostResult<()> {
        // SAFETY: passes a slice to be read. From 0, over 0 bytes: before the first one.
        status(unsafe { proxy_set_buffer_bytes(buffer as u32, 0, 0, bytes.as_ptr(), bytes.len()) })
    }

    fn property(&self, path: &[&str]) -> Option<Bytes> {
        let path = path.join("\0");
        let (mut data, mut size) = (null_mut(), 0);
        // SAFETY: passes a slice to be read; the host writes to two locals.
        let code = unsafe { proxy_get_property(path.as_ptr(), path.len(), &mut data, &mut size) };
        (code == OK && !data.is_null()).then(|| take(data, size))
    }

    fn set_property(&self, path: &[&str], value: &[u8]) -> HostResult<()> {
        let path = path.join("\0");
        // SAFETY: passes two slices to be read.
        status(unsafe {
            proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len())
        })
    }

    fn resume_request(&self) -> HostResult<()> {
        // SAFETY: no memory is passed.
        status(unsafe { proxy_continue_stream(Direction::Request as u32) })
    }

    fn resume_response(&self) -> HostResult<()> {
        // SAFETY: no memory is passed.
        status(unsafe { proxy_continue_stream(Direction::Response as u32) })
    }

    fn reset_stream(&self) -> HostResult<()> {
        // SAFETY: no memory is passed.
        status(unsafe { proxy_close_stream(Direction::Response as u32) })
    }

    fn local_reply(
        &self,
        code: u16,
        details: &str,
        headers: &[(Bytes, Bytes)],
        body: &[u8],
    ) -> HostResult<()> {
        let headers = serialise(headers);
        // SAFETY: passes three slices to be read.
        status(unsafe {
            proxy_send_local_response(
                u32::from(code),
                details.as_ptr(),
                details.len(),
                body.as_ptr(),
                body.len(),
                headers.as_ptr(),
                headers.len(),
                -1,
            )
        })
    }

    fn callout(
        &self,
        target: &str,
        headers: &[(Bytes, Bytes)],
        body: &[u8],
        trailers: &[(Bytes, Bytes)],
        timeout_ms: u64,
    ) -> HostResult<u32> {
        let (headers, trailers) = (serialise(headers), serialise(trailers));
        let timeout_ms = u32::try_from(timeout_ms).unwrap_or(u32::MAX);
        let mut token = 0;
        // SAFETY: passes four slices to be read; the host writes to a local.
        status(unsafe {
            proxy_http_call(
                target.as_ptr(),
                target.len(),
                headers.as_ptr(),
                headers.len(),
                body.as_ptr(),
                body.len(),
                trailers.as_ptr(),
                trailers.len(),
                timeout_ms,
                &mut token,
            )
        })?;
        Ok(token)
    }

    fn register_queue(&self, name: &str) -> HostResult<u32> {
        let mut token = 0;
        // SAFETY: passes a slice to be read; the host writes to a local.
        status(unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &mut token) })?;
        Ok(token)
    }

    fn enqueue(&self, queue: u32) -> HostResult<()> {
        const NOTE: &[u8] = b"!";
        // SAFETY: passes a slice to be read.
        status(unsafe { proxy_enqueue_shared_queue(queue, NOTE.as_ptr(), NOTE.len()) })
    }

    fn dequeue(&self, queue: u32) {
        let (mut data, mut size) = (null_mut(), 0);
        // SAFETY: the host writes to two locals.
        let code = unsafe { proxy_dequeue_shared_queue(queue, &mut data, &mut size) };
        if code == OK {
            drop(take(data, size));
        }
    }

    fn set_tick(&self, period_ms: u32) -> HostResult<()> {
        // SAFETY: no memory is passed.
        status(unsafe { proxy_set_tick_period_milliseconds(period_ms) })
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> HostResult<u32> {
        let mut id = 0;
        // SAFETY: passes a slice to be read; the host writes to a local.
        status(unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &mut id) })?;
        Ok(id)
    }

    fn increment_metric(&self, id: u32, by: i64) -> HostResult<()> {
        // SAFETY: no memory is passed.
        status(unsafe { proxy_increment_metric(id, by) })
    }

    fn record_metric(&self, id: u32, value: u64) -> HostResult<()> {
        // SAFETY: no memory is passed.
        status(unsafe { proxy_record_metric(id, value) })
    }

    fn done(&self) {
        // SAFETY: no memory is passed.
        unsafe { proxy_done() };
    }
}

thread_local! {
    static FILTER: RefCell<Filter<Abi>> = RefCell::new(Filter::new(Abi));
}

/// Runs one callback. A host that re-enters the VM in the middle of a callback gets `otherwise`.
fn with<T>(otherwise: T, callback: impl FnOnce(&mut Filter<Abi>) -> T) -> T {
    FILTER.with(|filter| match filter.try_borrow_mut() {
        Ok(mut filter) => callback(&mut filter),
        Err(_) => otherwise,
    })
}

fn action(flow: Flow) -> u32 {
    match flow {
        Flow::Continue => CONTINUE,
        Flow::Pause => PAUSE,
    }
}

#[no_mangle]
extern "C" fn proxy_abi_version_0_2_1() {}

#[no_mangle]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    match Layout::array::<u8>(size) {
        // `take` never frees an empty allocation.
        Ok(layout) if layout.size() == 0 => NonNull::dangling().as_ptr(),
        // SAFETY: the layout's size is not zero. Null tells the host that there is no memory.
        Ok(layout) => unsafe { alloc(layout) },
        Err(_) => null_mut(),
    }
}

#[no_mangle]
extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    with((), |f| f.on_context_create(context, parent));
}

/// Kong's host loads no filter without it.
#[no_mangle]
extern "C" fn proxy_on_vm_start(_context: u32, _size: usize) -> u32 {
    1
}

#[no_mangle]
extern "C" fn proxy_on_configure(context: u32, size: usize) -> u32 {
    u32::from(with(true, |f| f.on_configure(context, size)))
}

#[no_mangle]
extern "C" fn proxy_on_tick(context: u32) {
    with((), |f| f.on_tick(context));
}

#[no_mangle]
extern "C" fn proxy_on_request_headers(context: u32, _count: u32, end: u32) -> u32 {
    with(PAUSE, |f| action(f.on_request_headers(context, end != 0)))
}

#[no_mangle]
extern "C" fn proxy_on_request_body(context: u32, size: usize, end: u32) -> u32 {
    with(PAUSE, |f| {
        action(f.on_request_body(context, size, end != 0))
    })
}

#[no_mangle]
extern "C" fn proxy_on_request_trailers(context: u32, _count: u32) -> u32 {
    with(PAUSE, |f| action(f.on_request_trailers(context)))
}

#[no_mangle]
extern "C" fn proxy_on_response_headers(context: u32, _count: u32, end: u32) -> u32 {
    with(PAUSE, |f| action(f.on_response_headers(context, end != 0)))
}

#[no_mangle]
extern "C" fn proxy_on_response_body(context: u32, size: usize, end: u32) -> u32 {
    with(PAUSE, |f| {
        action(f.on_response_body(context, size, end != 0))
    })
}

#[no_mangle]
extern "C" fn proxy_on_response_trailers(context: u32, _count: u32) -> u32 {
    with(PAUSE, |f| action(f.on_response_trailers(context)))
}

#[no_mangle]
extern "C" fn proxy_on_http_call_response(
    context: u32,
    token: u32,
    headers: u32,
    size: usize,
    trailers: u32,
) {
    let headers = usize::try_from(headers).unwrap_or(0);
    let trailers = usize::try_from(trailers).unwrap_or(0);
    with((), |f| {
        f.on_callout(context, token, headers, size, trailers)
    });
}

#[no_mangle]
extern "C" fn proxy_on_queue_ready(context: u32, queue: u32) {
    with((), |f| f.on_queue_ready(context, queue));
}

#[no_mangle]
extern "C" fn proxy_on_done(context: u32) -> u32 {
    u32::from(with(true, |f| f.on_done(context)))
}

/// Does nothing: `proxy_on_done` has come just before. It must be there all the same, since
/// ngx_wasm_module calls it without looking, and its worker dies where it is missing (measured).
#[no_mangle]
extern "C" fn proxy_on_log(_context: u32) {}

#[no_mangle]
extern "C" fn proxy_on_delete(context: u32) {
    with((), |f| f.on_delete(context));
}
