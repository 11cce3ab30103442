//! Answers to clients.

use super::{guarded, put, IgBytes, IgField, IgFields, IG_DONE, IG_FAULT};
use idempotency_core::reply::LocalReply;
use std::sync::LazyLock;

/// An answer to send to the client in place of the upstream's.
#[repr(C)]
pub struct IgReply {
    /// HTTP status.
    pub status: u32,
    /// Its fields, without `content-length`.
    pub fields: IgFields,
    /// Its body, byte by byte.
    pub body: IgBytes,
}

/// Fields as C sees them. They point into what they are made of.
pub(super) fn listed(fields: &[(bytes::Bytes, bytes::Bytes)], out: &mut Vec<IgField>) -> IgFields {
    out.clear();
    out.extend(fields.iter().map(|(name, value)| IgField {
        name: IgBytes::of(name),
        value: IgBytes::of(value),
    }));
    IgFields::of(out)
}

/// One reply, and its fields as C sees them.
struct Fault {
    reply: LocalReply,
    fields: Vec<IgField>,
}

// What its pointers lead to is made once, and never changed or freed.
unsafe impl Send for Fault {}
unsafe impl Sync for Fault {}

static FAULT: LazyLock<Fault> = LazyLock::new(|| {
    let reply = crate::defect_reply();
    let mut fields = Vec::new();
    listed(&reply.headers, &mut fields);
    Fault { reply, fields }
});

/// What a client gets after `IG_FAULT`: 503. Borrowed for ever.
///
/// # Safety
///
/// `out` must be NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_fault_reply(out: *mut IgReply) -> i32 {
    guarded(IG_FAULT, || {
        let told = IgReply {
            status: u32::from(FAULT.reply.status),
            fields: IgFields::of(&FAULT.fields),
            body: IgBytes::of(&FAULT.reply.body),
        };
        unsafe { put(out, told) };
        IG_DONE
    })
}
