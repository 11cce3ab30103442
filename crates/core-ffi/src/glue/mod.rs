//! The C ABI. `include/idempotency.h` is made from this module and those below it: names in snake case, documentation
//! as it stands here.
//!
//! Pointers to data may be NULL where their length is 0. A NULL handle is answered with `IG_FAULT`, 0 or nothing.

mod batch;
mod config;
mod execution;
mod reply;
mod request;

use bytes::Bytes;
use idempotency_protocol::Owner;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

pub use batch::*;
pub use config::*;
pub use execution::*;
pub use reply::*;
pub use request::*;

/// Version of this interface. Another number is another interface.
pub const IG_ABI: i32 = 1;
/// There is no room in this message; send it, and take another one.
pub const IG_FULL: i32 = -2;
/// A defect, or a NULL handle: refuse the request (`ig_fault_reply`), then `ig_request_abort`.
pub const IG_FAULT: i32 = -1;
/// Let the request go on: it is not protected.
pub const IG_PASS: i32 = 0;
/// Answer the client with `ig_request_reply`.
pub const IG_REPLY: i32 = 1;
/// Give the request's body, piece by piece (`ig_request_body`), then `ig_request_begin`.
pub const IG_BODY: i32 = 2;
/// An operation is pending: `ig_batch_add`, send the message, `ig_batch_answer`, then `ig_request_answer`.
pub const IG_CALL: i32 = 3;
/// Send `ig_request_wait` to the path for waits, then `ig_request_waited`.
pub const IG_WAIT: i32 = 4;
/// Connect to the upstream, ask `ig_request_may_send`, and send `ig_request_forwarded`.
pub const IG_EXECUTE: i32 = 5;
/// Let the request go on with the fields of `ig_request_forwarded`: it is another gateway's execution.
pub const IG_RELAY: i32 = 6;
/// Give the client the upstream's answer.
pub const IG_DELIVER: i32 = 7;
/// Nothing is left to do.
pub const IG_DONE: i32 = 8;
/// The pending operation got no answer: send it again later.
pub const IG_LATER: i32 = 9;
/// The service is of an earlier release: send the message again, as `ig_batch_message` is now.
pub const IG_AGAIN: i32 = 10;
/// The lease is lost.
pub const IG_LOST: i32 = 11;

/// Bytes that are borrowed from a handle, until its next call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IgBytes {
    /// NULL where there are none.
    pub data: *const u8,
    /// How many.
    pub len: usize,
}

/// A header field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IgField {
    /// In any case; in lower case where it comes from here.
    pub name: IgBytes,
    /// As it is.
    pub value: IgBytes,
}

/// Header fields in their order; names may repeat.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IgFields {
    /// The first one.
    pub data: *const IgField,
    /// How many.
    pub len: usize,
}

impl IgBytes {
    const NONE: IgBytes = IgBytes {
        data: std::ptr::null(),
        len: 0,
    };

    fn of(bytes: &[u8]) -> IgBytes {
        match bytes.is_empty() {
            true => IgBytes::NONE,
            false => IgBytes {
                data: bytes.as_ptr(),
                len: bytes.len(),
            },
        }
    }

    /// # Safety
    ///
    /// It must point to as many readable bytes as it says.
    unsafe fn copied(&self) -> Bytes {
        Bytes::copy_from_slice(unsafe { slice(self.data, self.len) })
    }
}

impl IgFields {
    const NONE: IgFields = IgFields {
        data: std::ptr::null(),
        len: 0,
    };

    fn of(fields: &[IgField]) -> IgFields {
        match fields.is_empty() {
            true => IgFields::NONE,
            false => IgFields {
                data: fields.as_ptr(),
                len: fields.len(),
            },
        }
    }

    /// # Safety
    ///
    /// It must point to as many fields as it says, and each of them to its bytes.
    unsafe fn copied(&self) -> Vec<(Bytes, Bytes)> {
        let fields = unsafe { slice(self.data, self.len) };
        let copied = fields
            .iter()
            .map(|field| unsafe { (field.name.copied(), field.value.copied()) });
        copied.collect()
    }
}

/// # Safety
///
/// `data` must point to `len` values that stay as they are while the slice lives.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    match data.is_null() || len == 0 {
        true => &[],
        false => unsafe { std::slice::from_raw_parts(data, len) },
    }
}

/// # Safety
///
/// `to` must be NULL or point to room for a value.
unsafe fn put<T>(to: *mut T, value: T) {
    if !to.is_null() {
        unsafe { to.write(value) };
    }
}

/// No panic crosses the border.
fn guarded<T>(otherwise: T, run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(otherwise)
}

/// A clock that does not go back.
fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// A token that nobody has had; `None`: the system gives no random numbers.
fn owner() -> Option<Owner> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).ok()?;
    Some(Owner(random))
}

/// The version of the interface of this library: `IG_ABI` of the header that it was built with.
#[no_mangle]
pub extern "C" fn ig_abi() -> i32 {
    IG_ABI
}

#[cfg(test)]
mod tests;
