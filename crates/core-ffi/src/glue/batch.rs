//! Messages to the service.

use super::{
    guarded, now, put, slice, IgBytes, IgConfig, IgRequest, IG_AGAIN, IG_DONE, IG_FAULT, IG_FULL,
};
use crate::batch::{Batch, Read};
use std::time::Duration;

/// A message with operations of one or more requests. Once it is answered, it is for `ig_request_answer` and
/// `ig_request_renewed`; a new one is needed for more operations.
pub struct IgBatch {
    pub(super) batch: Batch,
    /// When it was encoded last: it is sent no earlier.
    pub(super) sent: Duration,
}

fn place(place: Option<usize>) -> i32 {
    place.map_or(IG_FULL, |place| i32::try_from(place).unwrap_or(IG_FULL))
}

/// An empty message. NULL after a defect, or where `config` is NULL. To be freed with `ig_batch_free`.
///
/// # Safety
///
/// `config` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_batch_new(config: *const IgConfig) -> *mut IgBatch {
    guarded(std::ptr::null_mut(), || {
        let Some(config) = (unsafe { config.as_ref() }) else {
            return std::ptr::null_mut();
        };
        let batch = Batch::new(config.plugin.clone());
        Box::into_raw(Box::new(IgBatch { batch, sent: now() }))
    })
}

/// Frees a message. NULL is allowed.
///
/// # Safety
///
/// `batch` must come from `ig_batch_new`, and be used no more.
#[no_mangle]
pub unsafe extern "C" fn ig_batch_free(batch: *mut IgBatch) {
    guarded((), || {
        if !batch.is_null() {
            drop(unsafe { Box::from_raw(batch) });
        }
    });
}

/// Adds the pending operation of a request: its place in the message, from 0, or `IG_FULL`. An empty message takes
/// every operation.
///
/// # Safety
///
/// Both must be live handles or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_batch_add(batch: *mut IgBatch, request: *mut IgRequest) -> i32 {
    let (Some(batch), Some(request)) = (unsafe { (batch.as_mut(), request.as_mut()) }) else {
        return IG_FAULT;
    };
    request.on(|exchange| match exchange.is_pending() {
        true => place(exchange.add_to(&mut batch.batch, now())),
        false => IG_FAULT,
    })
}

/// Adds the renewal of a request's lease: its place in the message, from 0, or `IG_FULL`; `IG_FAULT`: it holds none.
///
/// # Safety
///
/// Both must be live handles or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_batch_add_renewal(batch: *mut IgBatch, request: *mut IgRequest) -> i32 {
    let (Some(batch), Some(request)) = (unsafe { (batch.as_mut(), request.as_mut()) }) else {
        return IG_FAULT;
    };
    request.on(|exchange| match exchange.renewal() {
        Some((renewal, trace, _)) => place(batch.batch.add(renewal, trace, false)),
        None => IG_FAULT,
    })
}

/// The message, to be sent with POST to `operations_path`. Borrowed until the next call with this message.
///
/// # Safety
///
/// `batch` must be a live handle or NULL, `out` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_batch_message(batch: *mut IgBatch, out: *mut IgBytes) -> i32 {
    guarded(IG_FAULT, || {
        let Some(batch) = (unsafe { batch.as_mut() }) else {
            return IG_FAULT;
        };
        batch.sent = now();
        let message = IgBytes::of(batch.batch.message(batch.sent));
        unsafe { put(out, message) };
        IG_DONE
    })
}

/// The message was answered with this status and body; status 0: no answer came. `IG_DONE`: each operation has its
/// result; `IG_AGAIN`: send the message again, which happens once.
///
/// # Safety
///
/// `batch` must be a live handle or NULL, `body` must point to `len` bytes.
#[no_mangle]
pub unsafe extern "C" fn ig_batch_answer(
    batch: *mut IgBatch,
    status: u32,
    body: *const u8,
    len: usize,
) -> i32 {
    guarded(IG_FAULT, || {
        let Some(batch) = (unsafe { batch.as_mut() }) else {
            return IG_FAULT;
        };
        let status = u16::try_from(status).unwrap_or(0);
        let body = unsafe { slice(body, len) };
        match batch.batch.answer(status, body, now()) {
            Read::Done => IG_DONE,
            Read::Again => IG_AGAIN,
        }
    })
}
