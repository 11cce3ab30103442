//! From the grant to the record: what was sent, and what came back.

use super::request::{code, fields_of, on};
use super::{
    guarded, now, slice, IgBatch, IgField, IgFields, IgRequest, IG_DONE, IG_FAULT, IG_LOST,
};
use crate::exchange::Cut;

/// The answer or the request was cut: the connection broke, or what came was no HTTP.
pub const IG_CUT_BROKEN: i32 = 1;
/// Nothing came in time.
pub const IG_CUT_LATE: i32 = 2;
/// It is whole.
pub const IG_WHOLE: i32 = 0;

fn cut(code: i32) -> Cut {
    match code {
        IG_CUT_LATE => Cut::Late,
        _ => Cut::Broken,
    }
}

/// The fields that go upstream: the client's and ours. Without `host`, `content-length` and those of the connection,
/// which the host writes.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `out` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_request_forwarded(request: *mut IgRequest, out: *mut IgFields) -> i32 {
    unsafe { fields_of(request, out, |exchange| exchange.forwarded()) }
}

/// To be asked once, with a connection to the upstream at hand and before the first byte is sent: `IG_EXECUTE`, or
/// `IG_REPLY` where the lease is too old. From `IG_EXECUTE` on, the request counts as sent.
///
/// # Safety
///
/// `request` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_may_send(request: *mut IgRequest) -> i32 {
    unsafe { on(request, |exchange| code(exchange.may_send(now()))) }
}

/// The upstream could not be reached; nothing was sent. `IG_CALL`; after `IG_DELIVER` the host makes the answer
/// itself.
///
/// # Safety
///
/// `request` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_unreachable(request: *mut IgRequest) -> i32 {
    unsafe { on(request, |exchange| code(exchange.unreachable())) }
}

/// The request was sent, wholly or in part, and no head of an answer came. `how`: `IG_CUT_BROKEN` or `IG_CUT_LATE`.
/// `IG_CALL`.
///
/// # Safety
///
/// `request` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_unanswered(request: *mut IgRequest, how: i32) -> i32 {
    unsafe {
        on(request, |exchange| {
            code(exchange.unanswered_by_upstream(cut(how)))
        })
    }
}

/// The head of the upstream's final answer has come (no status below 200): `IG_DELIVER`. What `fields` points to is
/// copied. Its body follows with `ig_request_piece`, and `ig_request_ended` ends it.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `fields` must point to `count` fields.
#[no_mangle]
pub unsafe extern "C" fn ig_request_answered(
    request: *mut IgRequest,
    status: u32,
    fields: *const IgField,
    count: usize,
) -> i32 {
    let status = u16::try_from(status).unwrap_or(0);
    let fields = IgFields {
        data: fields,
        len: count,
    };
    unsafe {
        on(request, |exchange| {
            code(exchange.answered(status, fields.copied()))
        })
    }
}

/// The fields of the upstream's answer that the client gets, without its length.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `out` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_request_passed(request: *mut IgRequest, out: *mut IgFields) -> i32 {
    unsafe { fields_of(request, out, |exchange| exchange.passed()) }
}

/// More of the body of the upstream's answer: `IG_DONE`.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `data` must point to `len` bytes.
#[no_mangle]
pub unsafe extern "C" fn ig_request_piece(
    request: *mut IgRequest,
    data: *const u8,
    len: usize,
) -> i32 {
    unsafe {
        on(request, |exchange| {
            exchange.piece(slice(data, len));
            IG_DONE
        })
    }
}

/// The upstream's answer has trailers, which no replay can carry: `IG_DONE`. Before `ig_request_ended`.
///
/// # Safety
///
/// `request` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_trailers(request: *mut IgRequest) -> i32 {
    unsafe {
        on(request, |exchange| {
            exchange.trailers();
            IG_DONE
        })
    }
}

/// The upstream's answer has ended: `IG_WHOLE`, `IG_CUT_BROKEN` or `IG_CUT_LATE`. `IG_CALL`; then `ig_request_answer`
/// says `IG_DELIVER`, or `IG_REPLY` where the client must not get what came. (If it has some of it already, its
/// connection must be broken.)
///
/// # Safety
///
/// `request` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_ended(request: *mut IgRequest, how: i32) -> i32 {
    let cut = (how != IG_WHOLE).then(|| cut(how));
    unsafe { on(request, |exchange| code(exchange.ended(cut))) }
}

/// Fields to add to the upstream's answer, if its head has not left.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `out` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_request_additions(request: *mut IgRequest, out: *mut IgFields) -> i32 {
    unsafe { fields_of(request, out, |exchange| exchange.additions()) }
}

/// In how many milliseconds the lease of this request is to be renewed (0: now); -1: it holds none.
///
/// # Safety
///
/// `request` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_renewal_ms(request: *const IgRequest) -> i64 {
    guarded(-1, || {
        let request = unsafe { request.as_ref() };
        let Some((_, _, due)) = request.and_then(|request| request.exchange.renewal()) else {
            return -1;
        };
        i64::try_from(due.saturating_sub(now()).as_millis()).unwrap_or(i64::MAX)
    })
}

/// What came of the renewal with this place in an answered message: `IG_DONE` or `IG_LOST`.
///
/// # Safety
///
/// Both must be live handles or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_renewed(
    request: *mut IgRequest,
    batch: *const IgBatch,
    place: i32,
) -> i32 {
    let Some(batch) = (unsafe { batch.as_ref() }) else {
        return IG_FAULT;
    };
    let place = usize::try_from(place).unwrap_or(usize::MAX);
    unsafe {
        on(request, |exchange| {
            let held = exchange.renewed(&batch.batch.result(place), batch.sent);
            if held {
                IG_DONE
            } else {
                IG_LOST
            }
        })
    }
}
