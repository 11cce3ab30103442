//! Requests.

use super::reply::listed;
use super::{
    guarded, now, owner, put, slice, IgBatch, IgBytes, IgConfig, IgField, IgFields, IgReply,
    IG_AGAIN, IG_BODY, IG_CALL, IG_DELIVER, IG_DONE, IG_EXECUTE, IG_FAULT, IG_LATER, IG_PASS,
    IG_RELAY, IG_REPLY, IG_WAIT,
};
use crate::batch;
use crate::call::CallFailed;
use crate::exchange::{Exchange, Known, Names, Step};
use idempotency_core::decide::RequestHead;
use idempotency_core::headers::Headers;
use idempotency_core::problem::Problem;
use idempotency_protocol::Wire;

/// A request that is protected, refused, or passed with fields to be removed.
pub struct IgRequest {
    pub(super) exchange: Exchange,
    config: std::sync::Arc<crate::plugin::Plugin>,
    /// A panic was caught: nothing is known of it any more.
    faulted: bool,
    fields: Vec<IgField>,
    text: Vec<u8>,
    wire: Wire,
}

/// A request before its body.
#[repr(C)]
pub struct IgHead {
    /// As sent.
    pub method: IgBytes,
    /// Path and query as the client sent them.
    pub target: IgBytes,
    /// The host that the client asked for, with its port.
    pub authority: IgBytes,
    /// All fields.
    pub fields: IgFields,
    /// What is known of the properties that `ig_config_properties` names.
    pub properties: IgFields,
    /// The client's address, for people.
    pub client: IgBytes,
    /// What the gateway calls the request, for people.
    pub request_id: IgBytes,
    /// 1: there is no body.
    pub bodiless: u32,
    /// 1: not all fields are there.
    pub truncated: u32,
}

pub(super) fn code(step: Step) -> i32 {
    match step {
        Step::Pass => IG_PASS,
        Step::Reply => IG_REPLY,
        Step::Body => IG_BODY,
        Step::Call => IG_CALL,
        Step::Wait => IG_WAIT,
        Step::Execute => IG_EXECUTE,
        Step::Relay => IG_RELAY,
        Step::Deliver => IG_DELIVER,
        Step::Done => IG_DONE,
        Step::Later => IG_LATER,
    }
}

impl IgRequest {
    /// Runs one call. After a panic nothing is known of the request.
    pub(super) fn on(&mut self, run: impl FnOnce(&mut Exchange) -> i32) -> i32 {
        if self.faulted {
            return IG_FAULT;
        }
        self.faulted = true;
        let exchange = &mut self.exchange;
        match guarded(None, || Some(run(exchange))) {
            Some(code) => {
                self.faulted = false;
                code
            }
            None => IG_FAULT,
        }
    }
}

/// # Safety
///
/// `request` must be a live handle or NULL.
pub(super) unsafe fn on(request: *mut IgRequest, run: impl FnOnce(&mut Exchange) -> i32) -> i32 {
    match unsafe { request.as_mut() } {
        Some(request) => request.on(run),
        None => IG_FAULT,
    }
}

/// # Safety
///
/// `request` must be a live handle or NULL, `out` NULL or room for the answer.
pub(super) unsafe fn fields_of(
    request: *mut IgRequest,
    out: *mut IgFields,
    of: impl FnOnce(&Exchange) -> &[(bytes::Bytes, bytes::Bytes)],
) -> i32 {
    guarded(IG_FAULT, || {
        let Some(request) = (unsafe { request.as_mut() }) else {
            return IG_FAULT;
        };
        let told = listed(of(&request.exchange), &mut request.fields);
        unsafe { put(out, told) };
        IG_DONE
    })
}

/// # Safety
///
/// `request` must be a live handle or NULL, `out` NULL or room for the answer.
unsafe fn text_of(
    request: *mut IgRequest,
    out: *mut IgBytes,
    of: impl FnOnce(&Exchange) -> Vec<u8>,
) -> i32 {
    guarded(IG_FAULT, || {
        let Some(request) = (unsafe { request.as_mut() }) else {
            return IG_FAULT;
        };
        request.text = of(&request.exchange);
        unsafe { put(out, IgBytes::of(&request.text)) };
        IG_DONE
    })
}

/// Decides from the head of a request: `IG_PASS`, `IG_REPLY` or `IG_BODY`. `*out` is NULL where nothing is left to do
/// with the request; else a handle to be freed with `ig_request_free`. `IG_FAULT`: refuse it. What `head` points to is
/// copied.
///
/// # Safety
///
/// `config` must be a live handle or NULL, `head` must be whole, `out` must be room for a pointer.
#[no_mangle]
pub unsafe extern "C" fn ig_decide(
    config: *const IgConfig,
    head: *const IgHead,
    out: *mut *mut IgRequest,
) -> i32 {
    guarded(IG_FAULT, || {
        let (Some(config), Some(head)) = (unsafe { (config.as_ref(), head.as_ref()) }) else {
            return IG_FAULT;
        };
        if out.is_null() {
            return IG_FAULT;
        }
        unsafe { put(out, std::ptr::null_mut()) };
        let properties = unsafe { head.properties.copied() };
        let read = unsafe {
            RequestHead {
                method: head.method.copied(),
                target: head.target.copied(),
                authority: head.authority.copied(),
                headers: Headers::lowered(head.fields.copied()),
                bodiless: head.bodiless != 0,
                truncated: head.truncated != 0,
                forged: false,
            }
        };
        let names = unsafe {
            Names {
                client: head.client.copied(),
                request_id: head.request_id.copied(),
            }
        };
        let (step, exchange) = Exchange::decide(&config.plugin, read, &Known(&properties), names);
        if let Some(exchange) = exchange {
            let request = Box::new(IgRequest {
                exchange,
                config: config.plugin.clone(),
                faulted: false,
                fields: Vec::new(),
                text: Vec::new(),
                wire: Wire::Two,
            });
            unsafe { put(out, Box::into_raw(request)) };
        }
        code(step)
    })
}

/// Frees a request. NULL is allowed. What is still pending is lost: its lease runs out into *unknown*.
///
/// # Safety
///
/// `request` must come from `ig_decide`, and be used no more.
#[no_mangle]
pub unsafe extern "C" fn ig_request_free(request: *mut IgRequest) {
    guarded((), || {
        if !request.is_null() {
            drop(unsafe { Box::from_raw(request) });
        }
    });
}

/// Names of fields that must be removed from the request, whatever becomes of it. Values are empty.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `out` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_request_strip(request: *mut IgRequest, out: *mut IgFields) -> i32 {
    guarded(IG_FAULT, || {
        let Some(request) = (unsafe { request.as_mut() }) else {
            return IG_FAULT;
        };
        let names = request.exchange.strip().iter().map(|name| IgField {
            name: IgBytes::of(name),
            value: IgBytes::NONE,
        });
        request.fields = names.collect();
        unsafe { put(out, IgFields::of(&request.fields)) };
        IG_DONE
    })
}

/// The longest body that is accepted, in bytes: nothing behind it needs to be read.
///
/// # Safety
///
/// `request` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_max_body(request: *const IgRequest) -> u64 {
    guarded(0, || {
        let request = unsafe { request.as_ref() };
        request.map_or(0, |request| request.exchange.max_body_bytes() as u64)
    })
}

/// 1: the rule says that answers stream, and none of them is held back.
///
/// # Safety
///
/// `request` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_streams(request: *const IgRequest) -> i32 {
    guarded(0, || {
        let request = unsafe { request.as_ref() };
        request.map_or(0, |request| i32::from(request.exchange.streams()))
    })
}

/// More of the request's body: `IG_BODY`, or `IG_REPLY` where it is too long.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `data` must point to `len` bytes.
#[no_mangle]
pub unsafe extern "C" fn ig_request_body(
    request: *mut IgRequest,
    data: *const u8,
    len: usize,
) -> i32 {
    unsafe { on(request, |exchange| code(exchange.body(slice(data, len)))) }
}

/// The body is whole: `IG_CALL`, `IG_REPLY` or `IG_PASS`.
///
/// # Safety
///
/// `request` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_begin(request: *mut IgRequest) -> i32 {
    let begin = |exchange: &mut Exchange| match owner() {
        Some(owner) => code(exchange.begin(owner, now())),
        // Without randomness two gateways could be one owner: nothing can be protected.
        None => {
            let why = "The system gives no random numbers.";
            code(exchange.refuse_as(Problem::Misconfigured, 0, why))
        }
    };
    unsafe { on(request, begin) }
}

/// Refuses a request whose form cannot be protected, with this status (0: 400). `detail` is for the client, UTF-8.
/// Only before `ig_request_begin`.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `detail` must point to `len` bytes.
#[no_mangle]
pub unsafe extern "C" fn ig_request_refuse(
    request: *mut IgRequest,
    status: u32,
    detail: *const u8,
    len: usize,
) -> i32 {
    let status = u16::try_from(status).unwrap_or(0);
    unsafe {
        on(request, |exchange| {
            let detail = String::from_utf8_lossy(slice(detail, len));
            code(exchange.refuse_as(Problem::UnsupportedRequest, status, &detail))
        })
    }
}

/// What came of the pending operation, which has this place in an answered message: `IG_CALL`, `IG_WAIT`, `IG_REPLY`,
/// `IG_EXECUTE`, `IG_RELAY`, `IG_DELIVER`; of an operation that nobody waits for `IG_DONE` or `IG_LATER`. After
/// `IG_REPLY` and `IG_DELIVER` another operation may be pending (`ig_request_pending`): deliver it in the background.
///
/// # Safety
///
/// Both must be live handles or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_answer(
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
            code(exchange.answer(batch.batch.result(place), now()))
        })
    }
}

/// 1: an operation is to be sent to the service.
///
/// # Safety
///
/// `request` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_pending(request: *const IgRequest) -> i32 {
    guarded(0, || {
        let request = unsafe { request.as_ref() };
        request.map_or(0, |request| i32::from(request.exchange.is_pending()))
    })
}

/// The message of a wait, to be sent with POST to `wait_path`, and how long it may take, in milliseconds, besides
/// `timeout_ms`. `IG_FAULT`: its time is over; then `ig_request_waited` with status 0.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `out` and `wait_ms` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_request_wait(
    request: *mut IgRequest,
    out: *mut IgBytes,
    wait_ms: *mut u64,
) -> i32 {
    guarded(IG_FAULT, || {
        let Some(request) = (unsafe { request.as_mut() }) else {
            return IG_FAULT;
        };
        let now = now();
        let Some(wait) = request.exchange.wait(now) else {
            return IG_FAULT;
        };
        request.wire = request.config.wire(now);
        request.text = wait.encode_for(request.wire);
        unsafe {
            put(wait_ms, wait.wait_ms);
            put(out, IgBytes::of(&request.text));
        }
        IG_DONE
    })
}

/// The wait was answered with this status and body; status 0: it was not. `IG_REPLY`, `IG_CALL`, or `IG_AGAIN`: send
/// `ig_request_wait` once more.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `body` must point to `len` bytes.
#[no_mangle]
pub unsafe extern "C" fn ig_request_waited(
    request: *mut IgRequest,
    status: u32,
    body: *const u8,
    len: usize,
) -> i32 {
    let Some(request) = (unsafe { request.as_mut() }) else {
        return IG_FAULT;
    };
    let status = u16::try_from(status).unwrap_or(0);
    if status == 400 && request.wire == Wire::Two {
        request.config.refused(now());
        return IG_AGAIN;
    }
    request.on(|exchange| {
        let mut results = batch::read(status, unsafe { slice(body, len) }, 1);
        let result = results.pop().unwrap_or(Err(CallFailed::Unanswered));
        match owner() {
            Some(owner) => code(exchange.waited(result, owner, now())),
            None => IG_FAULT,
        }
    })
}

/// What the client gets. `IG_FAULT`: nothing was said yet.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `out` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_request_reply(request: *mut IgRequest, out: *mut IgReply) -> i32 {
    guarded(IG_FAULT, || {
        let Some(request) = (unsafe { request.as_mut() }) else {
            return IG_FAULT;
        };
        let Some(reply) = request.exchange.reply() else {
            return IG_FAULT;
        };
        let told = IgReply {
            status: u32::from(reply.status),
            fields: listed(&reply.headers, &mut request.fields),
            body: IgBytes::of(&reply.body),
        };
        unsafe { put(out, told) };
        IG_DONE
    })
}

/// For the log: a word that names what happened, and its reason (`key-reused: …`); no keys and no payloads. None where
/// there is nothing to tell.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `out` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_request_why(request: *mut IgRequest, out: *mut IgBytes) -> i32 {
    unsafe { text_of(request, out, |exchange| exchange.why().as_bytes().to_vec()) }
}

/// By which name logs know the record; none while it is not known.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `out` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_request_log_id(request: *mut IgRequest, out: *mut IgBytes) -> i32 {
    unsafe { text_of(request, out, |exchange| exchange.log_id().into_bytes()) }
}

/// The name of the rule that matched; none where none did.
///
/// # Safety
///
/// `request` must be a live handle or NULL, `out` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_request_rule(request: *mut IgRequest, out: *mut IgBytes) -> i32 {
    unsafe { text_of(request, out, |exchange| exchange.rule().as_bytes().to_vec()) }
}

/// The host goes no further with this request, whatever it was doing (also after `IG_FAULT`). `IG_CALL`: an operation
/// is pending, to be delivered in the background; `IG_DONE`: nothing is.
///
/// # Safety
///
/// `request` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_request_abort(request: *mut IgRequest) -> i32 {
    guarded(IG_FAULT, || {
        let Some(request) = (unsafe { request.as_mut() }) else {
            return IG_FAULT;
        };
        request.exchange.give_up();
        // What is pending can be delivered, whatever happened before.
        request.faulted = false;
        match request.exchange.is_pending() {
            true => IG_CALL,
            false => IG_DONE,
        }
    })
}
