//! Envoy's C ABI for dynamic modules, as far as this module uses it: types, and the callbacks that Envoy
//! exports. Declared here from Envoy's documentation of the ABI, and looked up by name when the module is
//! loaded. An Envoy that lacks one of them refuses the module with a message, and does not crash later.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void, CStr};

/// Bytes that somebody else owns: Envoy until the end of the hook, or this module until the callback returns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    pub ptr: *const u8,
    pub len: usize,
}

impl Slice {
    /// No bytes. As a header's value it means: remove the header.
    pub const NULL: Slice = Slice {
        ptr: std::ptr::null(),
        len: 0,
    };

    /// Lends bytes to a callback.
    pub fn of(bytes: &[u8]) -> Slice {
        Slice {
            ptr: bytes.as_ptr(),
            len: bytes.len(),
        }
    }

    /// The bytes.
    ///
    /// # Safety
    ///
    /// They must still be alive: what Envoy lends is, until the hook ends or the map that they are in changes.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.ptr.is_null() || self.len == 0 {
            return &[];
        }
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

/// A header field; the layout is that of [`Slice`] twice.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: Slice,
    pub value: Slice,
}

/// A pointer to an object of Envoy's: a stream, a configuration, a scheduler. It is handed back to Envoy and
/// never followed here.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object(pub *mut c_void);

// SAFETY: the address is only a name here. Which thread may hand it back to Envoy is said where that is done.
unsafe impl Send for Object {}
// SAFETY: as above.
unsafe impl Sync for Object {}

/// Header maps.
pub mod map {
    pub const REQUEST: u32 = 0;
    pub const REQUEST_TRAILERS: u32 = 1;
    pub const RESPONSE: u32 = 2;
}

/// Bodies: the piece that a hook was called for, and what Envoy holds of those before.
pub mod body {
    pub const RECEIVED_REQUEST: u32 = 0;
    pub const BUFFERED_REQUEST: u32 = 1;
    pub const RECEIVED_RESPONSE: u32 = 2;
    pub const BUFFERED_RESPONSE: u32 = 3;
}

/// What hooks answer. For headers and trailers the hold is `StopIteration`, for bodies
/// `StopIterationAndBuffer`; both have this number.
pub mod status {
    pub const CONTINUE: u32 = 0;
    pub const HOLD: u32 = 1;
}

/// The result of a callback that can fail.
pub const SUCCESS: u32 = 0;

macro_rules! callbacks {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        /// Envoy's side of the ABI.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug)]
        pub struct Callbacks {
            $($(#[$doc])* pub $name: unsafe extern "C" fn($($kind),*) $(-> $ret)?,)*
        }

        impl Callbacks {
            /// Looks all of them up in the running program; the name of the first that is missing.
            pub fn find() -> Result<Callbacks, &'static CStr> {
                Ok(Callbacks {
                    $($name: {
                        const NAME: &CStr = match CStr::from_bytes_with_nul(
                            concat!("envoy_dynamic_module_callback_", stringify!($name), "\0").as_bytes(),
                        ) {
                            Ok(name) => name,
                            Err(_) => c"",
                        };
                        let found = symbol(NAME).ok_or(NAME)?;
                        // SAFETY: Envoy exports a function of this name with this signature, since 1.39.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($kind),*) $(-> $ret)?,
                            >(found)
                        }
                    },)*
                })
            }
        }
    };
}

callbacks! {
    fn log(level: u32, message: Slice);
    fn http_get_header(stream: Object, map: u32, name: Slice, value: *mut Slice, index: usize, count: *mut usize) -> bool;
    fn http_get_headers_size(stream: Object, map: u32) -> usize;
    fn http_get_headers(stream: Object, map: u32, fields: *mut Field) -> bool;
    fn http_set_header(stream: Object, map: u32, name: Slice, value: Slice) -> bool;
    fn http_add_header(stream: Object, map: u32, name: Slice, value: Slice) -> bool;
    fn http_send_response(stream: Object, status: u32, fields: *const Field, count: usize, body: Slice, details: Slice);
    fn http_send_response_headers(stream: Object, fields: *const Field, count: usize, end: bool);
    fn http_send_response_data(stream: Object, body: Slice, end: bool);
    fn http_get_body_size(stream: Object, body: u32) -> usize;
    fn http_get_body_chunks_size(stream: Object, body: u32) -> usize;
    fn http_get_body_chunks(stream: Object, body: u32, chunks: *mut Slice) -> bool;
    fn http_received_buffered_request_body(stream: Object) -> bool;
    fn http_received_buffered_response_body(stream: Object) -> bool;
    fn http_set_filter_state_bytes(stream: Object, key: Slice, value: Slice) -> bool;
    fn http_get_metadata_string(stream: Object, source: u32, namespace: Slice, key: Slice, value: *mut Slice) -> bool;
    fn http_get_metadata_number(stream: Object, source: u32, namespace: Slice, key: Slice, value: *mut f64) -> bool;
    fn http_get_metadata_bool(stream: Object, source: u32, namespace: Slice, key: Slice, value: *mut bool) -> bool;
    fn http_filter_get_attribute_string(stream: Object, attribute: u32, value: *mut Slice) -> bool;
    fn http_filter_get_attribute_int(stream: Object, attribute: u32, value: *mut u64) -> bool;
    fn http_filter_continue_decoding(stream: Object);
    fn http_filter_continue_encoding(stream: Object);
    fn http_filter_reset_stream(stream: Object, reason: u32, details: Slice);
    fn http_filter_http_callout(stream: Object, id: *mut u64, cluster: Slice, fields: *const Field, count: usize, body: Slice, timeout_ms: u64) -> u32;
    fn http_filter_scheduler_new(stream: Object) -> Object;
    fn http_filter_scheduler_commit(scheduler: Object, event: u64);
    fn http_filter_scheduler_delete(scheduler: Object);
    fn http_filter_config_scheduler_new(config: Object) -> Object;
    fn http_filter_config_scheduler_commit(scheduler: Object, event: u64);
    fn http_filter_config_scheduler_delete(scheduler: Object);
    fn http_filter_config_http_callout(config: Object, id: *mut u64, cluster: Slice, fields: *const Field, count: usize, body: Slice, timeout_ms: u64) -> u32;
    fn http_filter_config_define_counter(config: Object, name: Slice, labels: *const Slice, count: usize, id: *mut usize) -> u32;
    fn http_filter_config_define_gauge(config: Object, name: Slice, labels: *const Slice, count: usize, id: *mut usize) -> u32;
    fn http_filter_config_define_histogram(config: Object, name: Slice, labels: *const Slice, count: usize, id: *mut usize) -> u32;
    fn http_filter_config_increment_counter(config: Object, id: usize, labels: *const Slice, count: usize, by: u64) -> u32;
    fn http_filter_config_increment_gauge(config: Object, id: usize, labels: *const Slice, count: usize, by: u64) -> u32;
    fn http_filter_config_decrement_gauge(config: Object, id: usize, labels: *const Slice, count: usize, by: u64) -> u32;
    fn http_filter_config_set_gauge(config: Object, id: usize, labels: *const Slice, count: usize, value: u64) -> u32;
    fn http_filter_config_record_histogram_value(config: Object, id: usize, labels: *const Slice, count: usize, value: u64) -> u32;
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a name that ends with a zero; the default handle searches the program itself.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// The version of the ABI to name to this Envoy: since 1.40 it is another one, and what is used here is the
/// same in both.
pub fn version() -> *const c_char {
    let newer = symbol(c"envoy_dynamic_module_callback_log_v2").is_some();
    if newer { c"v0.2.0" } else { c"v0.1.0" }.as_ptr()
}

/// Keeps this library in memory to the end of the process, whatever Envoy's configuration says: it has a
/// thread of its own, and code that is unmapped under a thread is a crash.
pub fn stay() -> bool {
    // SAFETY: `dladdr` fills the struct for an address of this library, or answers 0; the path that it gives
    // belongs to the loader, and is opened again, not loaded anew.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let own: extern "C" fn() = anchor;
        if libc::dladdr(own as *const c_void, &mut info) == 0 || info.dli_fname.is_null() {
            return false;
        }
        let flags = libc::RTLD_NOW | libc::RTLD_NODELETE;
        !libc::dlopen(info.dli_fname, flags).is_null()
    }
}

extern "C" fn anchor() {}
