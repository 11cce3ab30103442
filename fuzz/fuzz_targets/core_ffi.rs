//! The C ABI: calls in any order, with any bytes, as a host with a defect would make them. No crash, no panic that is
//! not caught, and nothing is executed whose key was not granted.
#![no_main]
// It calls what C calls.
#![allow(unsafe_code)]

use idempotency_core_ffi::glue::*;
use libfuzzer_sys::fuzz_target;
use std::ptr::null_mut;

const CONFIG: &str = r#"{"service":{"target":"unix:/s"},"rules":[
    {"match":{"path_prefix":"/pay"},"scope":"global","wait_ms":50},
    {"match":{"path_prefix":"/json"},"scope":{"header":"x-tenant"},"key":{"from":"/id"},
     "fingerprint":{"body":"json"},"on_service_failure":"pass"}]}"#;

/// The input, piece by piece.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }
}

fn borrowed(bytes: &[u8]) -> IgBytes {
    IgBytes {
        data: bytes.as_ptr(),
        len: bytes.len(),
    }
}

/// Reads all of it, as a host would.
unsafe fn read(bytes: &IgBytes) -> usize {
    match bytes.data.is_null() {
        true => 0,
        false => unsafe { std::slice::from_raw_parts(bytes.data, bytes.len) }
            .iter()
            .filter(|byte| **byte != 0)
            .count(),
    }
}

unsafe fn read_fields(fields: &IgFields) {
    if !fields.data.is_null() {
        for field in unsafe { std::slice::from_raw_parts(fields.data, fields.len) } {
            unsafe {
                read(&field.name);
                read(&field.value);
            }
        }
    }
}

unsafe fn run(input: &mut Input) {
    unsafe {
        let own = input.byte() == 255;
        let json = if own {
            input.bytes()
        } else {
            CONFIG.as_bytes()
        };
        let config = ig_config_new(json.as_ptr(), json.len());
        let (method, target) = match input.byte() % 4 {
            0 => (&b"POST"[..], &b"/pay"[..]),
            1 => (&b"POST"[..], &b"/json"[..]),
            2 => (&b"POST"[..], input.bytes()),
            _ => (input.bytes(), input.bytes()),
        };
        let mut fields = vec![IgField {
            name: borrowed(b"Idempotency-Key"),
            value: borrowed(b"k"),
        }];
        for _ in 0..input.byte() % 4 {
            let (name, value) = (borrowed(input.bytes()), borrowed(input.bytes()));
            fields.push(IgField { name, value });
        }
        let list = IgFields {
            data: fields.as_ptr(),
            len: fields.len(),
        };
        let head = IgHead {
            method: borrowed(method),
            target: borrowed(target),
            authority: borrowed(b"api"),
            fields: list,
            properties: list,
            client: borrowed(b""),
            request_id: borrowed(b"r"),
            bodiless: u32::from(input.byte() & 1),
            truncated: u32::from(input.byte() & 1),
        };
        let mut request = null_mut();
        ig_decide(config, &head, &mut request);
        let mut batch = ig_batch_new(config);
        let (mut sent, mut executed) = (false, false);
        while !input.0.is_empty() {
            match input.byte() % 18 {
                0 | 1 => {
                    let piece = input.bytes();
                    ig_request_body(request, piece.as_ptr(), piece.len())
                }
                2 | 3 => ig_request_begin(request),
                4 => ig_batch_add(batch, request),
                5 => ig_batch_add_renewal(batch, request),
                6 => {
                    let mut message = std::mem::zeroed::<IgBytes>();
                    let code = ig_batch_message(batch, &mut message);
                    read(&message);
                    code
                }
                7 => {
                    let (status, body) = (u32::from(input.byte()) * 4, input.bytes());
                    ig_batch_answer(batch, status, body.as_ptr(), body.len())
                }
                8 => {
                    let code = ig_request_answer(request, batch, i32::from(input.byte()) - 2);
                    executed |= code == IG_EXECUTE;
                    code
                }
                9 => ig_request_renewed(request, batch, i32::from(input.byte())),
                10 => {
                    let (status, body) = (u32::from(input.byte()) * 4, input.bytes());
                    ig_request_waited(request, status, body.as_ptr(), body.len())
                }
                11 => {
                    let code = ig_request_may_send(request);
                    assert!(code != IG_EXECUTE || executed, "sent without a grant");
                    assert!(code != IG_EXECUTE || !sent, "sent twice");
                    sent |= code == IG_EXECUTE;
                    code
                }
                12 => ig_request_unreachable(request),
                13 => ig_request_unanswered(request, i32::from(input.byte())),
                14 => ig_request_answered(
                    request,
                    u32::from(input.byte()) * 4,
                    fields.as_ptr(),
                    fields.len(),
                ),
                15 => {
                    let piece = input.bytes();
                    ig_request_piece(request, piece.as_ptr(), piece.len());
                    ig_request_ended(request, i32::from(input.byte() % 3))
                }
                16 => ig_request_abort(request),
                _ => {
                    ig_batch_free(batch);
                    batch = ig_batch_new(config);
                    IG_DONE
                }
            };
            let mut list = std::mem::zeroed::<IgFields>();
            for get in [
                ig_request_strip,
                ig_request_forwarded,
                ig_request_passed,
                ig_request_additions,
            ] {
                if get(request, &mut list) == IG_DONE {
                    read_fields(&list);
                }
            }
            let mut reply = std::mem::zeroed::<IgReply>();
            if ig_request_reply(request, &mut reply) == IG_DONE {
                assert!((200..=599).contains(&reply.status));
                read_fields(&reply.fields);
                read(&reply.body);
            }
            let mut text = std::mem::zeroed::<IgBytes>();
            if ig_request_why(request, &mut text) == IG_DONE {
                read(&text);
            }
        }
        ig_batch_free(batch);
        ig_request_free(request);
        ig_config_free(config);
    }
}

fuzz_target!(|data: &[u8]| {
    // A panic that is caught at the border would go unseen.
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    unsafe { run(&mut Input(data)) }
});
