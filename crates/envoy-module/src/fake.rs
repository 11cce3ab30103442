//! An Envoy for tests of the glue: it notes what it is asked, and calls back where the real one does. Each test
//! thread has its own.
#![allow(unsafe_code)]

use crate::abi::{Callbacks, Field, Object, Slice, SUCCESS};
use crate::envoy;
use std::cell::RefCell;
use std::ffi::c_void;

/// A callout that was sent: whose it is (a stream's address, or 0 for the main thread), its number, its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub whose: usize,
    pub id: u64,
    pub body: Vec<u8>,
}

/// What was asked of Envoy.
#[derive(Default)]
pub struct Asked {
    pub sent: Vec<Sent>,
    /// Answers and cuts, and resumes: the stream and what it was.
    pub done: Vec<(usize, String)>,
    pub main_rung: usize,
    pub rung: usize,
    /// Called back when a request goes on, as Envoy does when its router answers at once.
    pub on_resume: Option<fn(usize)>,
    /// How many callouts each has sent.
    numbers: std::collections::BTreeMap<usize, u64>,
    /// Callouts are refused.
    pub refuses: bool,
}

thread_local! {
    static ASKED: RefCell<Asked> = RefCell::default();
}

/// What was asked of it so far, and its settings.
pub fn asked<T>(look: impl FnOnce(&mut Asked) -> T) -> T {
    ASKED.with(|asked| look(&mut asked.borrow_mut()))
}

/// The pointer of a stream.
pub fn stream(number: usize) -> Object {
    Object(number as *mut c_void)
}

const HEADERS: [(&str, &str); 5] = [
    (":method", "POST"),
    (":path", "/charges"),
    (":authority", "a"),
    ("idempotency-key", ""),
    ("content-type", "application/json"),
];

/// The key of a stream's request.
fn key(stream: Object) -> &'static [u8] {
    let key = format!("key-{}", stream.0 as usize);
    Box::leak(key.into_boxed_str()).as_bytes()
}

unsafe extern "C" fn log(_: u32, line: Slice) {
    println!("{}", String::from_utf8_lossy(unsafe { line.bytes() }));
}

unsafe extern "C" fn get_header(
    stream: Object,
    _: u32,
    name: Slice,
    value: *mut Slice,
    _: usize,
    _: *mut usize,
) -> bool {
    let name = unsafe { name.bytes() };
    let known = HEADERS.iter().find(|(n, _)| n.as_bytes() == name);
    let found = match known {
        Some(("idempotency-key", _)) => key(stream),
        Some((_, value)) => value.as_bytes(),
        None => return false,
    };
    unsafe { *value = Slice::of(found) };
    true
}

unsafe extern "C" fn headers_size(_: Object, map: u32) -> usize {
    if map == crate::abi::map::REQUEST {
        HEADERS.len()
    } else {
        0
    }
}

unsafe extern "C" fn get_headers(stream: Object, _: u32, fields: *mut Field) -> bool {
    for (at, (name, value)) in HEADERS.iter().enumerate() {
        let value = match *name {
            "idempotency-key" => key(stream),
            _ => value.as_bytes(),
        };
        let field = Field {
            name: Slice::of(name.as_bytes()),
            value: Slice::of(value),
        };
        unsafe { *fields.add(at) = field };
    }
    true
}

unsafe extern "C" fn change_header(_: Object, _: u32, _: Slice, _: Slice) -> bool {
    true
}

unsafe extern "C" fn send_response(
    stream: Object,
    status: u32,
    _: *const Field,
    _: usize,
    _: Slice,
    _: Slice,
) {
    asked(|a| a.done.push((stream.0 as usize, status.to_string())));
}

unsafe extern "C" fn send_head(stream: Object, _: *const Field, _: usize, _: bool) {
    asked(|a| a.done.push((stream.0 as usize, "head".to_owned())));
}

unsafe extern "C" fn send_data(stream: Object, _: Slice, _: bool) {
    asked(|a| a.done.push((stream.0 as usize, "body".to_owned())));
}

unsafe extern "C" fn size(_: Object, _: u32) -> usize {
    0
}

unsafe extern "C" fn chunks(_: Object, _: u32, _: *mut Slice) -> bool {
    false
}

unsafe extern "C" fn no(_: Object) -> bool {
    false
}

unsafe extern "C" fn set_state(_: Object, _: Slice, _: Slice) -> bool {
    true
}

unsafe extern "C" fn metadata<T>(_: Object, _: u32, _: Slice, _: Slice, _: *mut T) -> bool {
    false
}

unsafe extern "C" fn attribute<T>(_: Object, _: u32, _: *mut T) -> bool {
    false
}

unsafe extern "C" fn resume_request(stream: Object) {
    let number = stream.0 as usize;
    asked(|a| a.done.push((number, "request goes on".to_owned())));
    if let Some(back) = asked(|a| a.on_resume) {
        back(number);
    }
}

unsafe extern "C" fn resume_response(stream: Object) {
    asked(|a| {
        a.done
            .push((stream.0 as usize, "response goes on".to_owned()))
    });
}

unsafe extern "C" fn reset(stream: Object, _: u32, _: Slice) {
    asked(|a| a.done.push((stream.0 as usize, "cut".to_owned())));
}

fn send(whose: usize, id: *mut u64, body: Slice) -> u32 {
    asked(|a| {
        if a.refuses {
            return 4;
        }
        // Envoy counts for each by itself.
        let last = a.numbers.entry(whose).or_default();
        *last += 1;
        let number = *last;
        unsafe { *id = number };
        let body = unsafe { body.bytes() }.to_vec();
        a.sent.push(Sent {
            whose,
            id: number,
            body,
        });
        SUCCESS
    })
}

unsafe extern "C" fn callout(
    stream: Object,
    id: *mut u64,
    _: Slice,
    _: *const Field,
    _: usize,
    body: Slice,
    _: u64,
) -> u32 {
    send(stream.0 as usize, id, body)
}

unsafe extern "C" fn main_callout(
    _: Object,
    id: *mut u64,
    _: Slice,
    _: *const Field,
    _: usize,
    body: Slice,
    _: u64,
) -> u32 {
    send(0, id, body)
}

unsafe extern "C" fn scheduler(object: Object) -> Object {
    object
}

unsafe extern "C" fn ring(_: Object, _: u64) {
    asked(|a| a.rung += 1);
}

unsafe extern "C" fn ring_main(_: Object, _: u64) {
    asked(|a| a.main_rung += 1);
}

unsafe extern "C" fn delete(_: Object) {}

unsafe extern "C" fn define(_: Object, _: Slice, _: *const Slice, _: usize, id: *mut usize) -> u32 {
    unsafe { *id = 0 };
    SUCCESS
}

unsafe extern "C" fn count(_: Object, _: usize, _: *const Slice, _: usize, _: u64) -> u32 {
    SUCCESS
}

/// Makes this Envoy the one of this process.
pub fn install() {
    envoy::set(Callbacks {
        log,
        http_get_header: get_header,
        http_get_headers_size: headers_size,
        http_get_headers: get_headers,
        http_set_header: change_header,
        http_add_header: change_header,
        http_send_response: send_response,
        http_send_response_headers: send_head,
        http_send_response_data: send_data,
        http_get_body_size: size,
        http_get_body_chunks_size: size,
        http_get_body_chunks: chunks,
        http_received_buffered_request_body: no,
        http_received_buffered_response_body: no,
        http_set_filter_state_bytes: set_state,
        http_get_metadata_string: metadata,
        http_get_metadata_number: metadata,
        http_get_metadata_bool: metadata,
        http_filter_get_attribute_string: attribute,
        http_filter_get_attribute_int: attribute,
        http_filter_continue_decoding: resume_request,
        http_filter_continue_encoding: resume_response,
        http_filter_reset_stream: reset,
        http_filter_http_callout: callout,
        http_filter_scheduler_new: scheduler,
        http_filter_scheduler_commit: ring,
        http_filter_scheduler_delete: delete,
        http_filter_config_scheduler_new: scheduler,
        http_filter_config_scheduler_commit: ring_main,
        http_filter_config_scheduler_delete: delete,
        http_filter_config_http_callout: main_callout,
        http_filter_config_define_counter: define,
        http_filter_config_define_gauge: define,
        http_filter_config_define_histogram: define,
        http_filter_config_increment_counter: count,
        http_filter_config_increment_gauge: count,
        http_filter_config_decrement_gauge: count,
        http_filter_config_set_gauge: count,
        http_filter_config_record_histogram_value: count,
    });
}
