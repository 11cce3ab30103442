//! What only the border itself can get wrong.

use super::*;
use std::ptr::{null, null_mut};

const CONFIG: &[u8] = br#"{"service":{"target":"unix:/s"},"rules":[
    {"match":{"path":"/pay"},"scope":"global"}]}"#;

fn field(name: &'static str, value: &'static str) -> IgField {
    IgField {
        name: IgBytes::of(name.as_bytes()),
        value: IgBytes::of(value.as_bytes()),
    }
}

fn head(method: &'static str, fields: &[IgField]) -> IgHead {
    IgHead {
        method: IgBytes::of(method.as_bytes()),
        target: IgBytes::of(b"/pay"),
        authority: IgBytes::of(b"api"),
        fields: IgFields::of(fields),
        properties: IgFields::NONE,
        client: IgBytes::NONE,
        request_id: IgBytes::NONE,
        bodiless: 0,
        truncated: 0,
    }
}

unsafe fn bytes(of: &IgBytes) -> &[u8] {
    unsafe { slice(of.data, of.len) }
}

#[test]
fn a_panic_is_an_answer_that_refuses_and_ends_the_handle() {
    unsafe {
        let config = ig_config_new(CONFIG.as_ptr(), CONFIG.len());
        let fields = [field("Idempotency-Key", "k")];
        let mut request = null_mut();
        assert_eq!(
            ig_decide(config, &head("POST", &fields), &mut request),
            IG_BODY
        );
        let caught = (*request).on(|_| panic!("told on the error output; this is a test"));
        assert_eq!(caught, IG_FAULT);
        // Nothing is known of it any more.
        assert_eq!(ig_request_begin(request), IG_FAULT);
        assert_eq!(ig_request_abort(request), IG_DONE);
        assert_eq!(guarded(IG_FAULT, || panic!("so is this")), IG_FAULT);
        let mut reply = std::mem::zeroed::<IgReply>();
        assert_eq!(ig_fault_reply(&mut reply), IG_DONE);
        assert_eq!(reply.status, 503);
        // It may have been sent: nothing may say that it was not executed.
        let told = String::from_utf8_lossy(bytes(&reply.body));
        assert!(
            told.contains("cannot tell whether it was executed"),
            "{told}"
        );
        ig_request_free(request);
        ig_config_free(config);
    }
}

#[test]
fn no_handle_is_no_crash() {
    unsafe {
        assert_eq!(ig_decide(null(), null(), null_mut()), IG_FAULT);
        assert_eq!(ig_config_errors(null(), null_mut()), IG_FAULT);
        assert_eq!(ig_config_service(null(), null_mut()), IG_FAULT);
        assert_eq!(ig_config_properties(null(), null_mut()), IG_FAULT);
        assert!(ig_batch_new(null()).is_null());
        assert_eq!(ig_batch_add(null_mut(), null_mut()), IG_FAULT);
        assert_eq!(ig_batch_add_renewal(null_mut(), null_mut()), IG_FAULT);
        assert_eq!(ig_batch_message(null_mut(), null_mut()), IG_FAULT);
        assert_eq!(ig_batch_answer(null_mut(), 200, null(), 0), IG_FAULT);
        assert_eq!(ig_request_body(null_mut(), null(), 0), IG_FAULT);
        assert_eq!(ig_request_begin(null_mut()), IG_FAULT);
        assert_eq!(ig_request_answer(null_mut(), null(), 0), IG_FAULT);
        assert_eq!(ig_request_waited(null_mut(), 0, null(), 0), IG_FAULT);
        assert_eq!(ig_request_abort(null_mut()), IG_FAULT);
        assert_eq!(ig_request_pending(null()), 0);
        assert_eq!(ig_request_renewal_ms(null()), -1);
        ig_config_free(null_mut());
        ig_request_free(null_mut());
        ig_batch_free(null_mut());
    }
}

#[test]
fn what_comes_out_stays_until_the_next_call() {
    unsafe {
        let config = ig_config_new(CONFIG.as_ptr(), CONFIG.len());
        let mut errors = IgBytes::NONE;
        assert_eq!(ig_config_errors(config, &mut errors), IG_DONE);
        assert_eq!(bytes(&errors), b"");
        let mut service = std::mem::zeroed::<IgService>();
        assert_eq!(ig_config_service(config, &mut service), IG_DONE);
        assert_eq!(bytes(&service.target), b"unix:/s");
        assert_eq!(bytes(&service.operations_path), b"/v1/operations");

        let mut request = null_mut();
        assert_eq!(
            ig_decide(config, &head("POST", &[]), &mut request),
            IG_REPLY
        );
        // A request needs its configuration no more.
        ig_config_free(config);
        let mut reply = std::mem::zeroed::<IgReply>();
        assert_eq!(ig_request_reply(request, &mut reply), IG_DONE);
        assert_eq!(reply.status, 400);
        let fields = slice(reply.fields.data, reply.fields.len);
        assert_eq!(bytes(&fields[0].name), b"content-type");
        assert_eq!(bytes(&fields[0].value), b"application/problem+json");
        let mut why = IgBytes::NONE;
        assert_eq!(ig_request_why(request, &mut why), IG_DONE);
        assert!(bytes(&why).starts_with(b"missing-key: "));
        ig_request_free(request);
    }
}
