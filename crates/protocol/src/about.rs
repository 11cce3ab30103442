//! What a record says of the request that made it, for people who search and for logs. Nothing is decided by it.

use crate::limits::{
    MAX_CLIENT_BYTES, MAX_GATEWAY_BYTES, MAX_METHOD_BYTES, MAX_PATH_BYTES, MAX_REQUEST_ID_BYTES,
    MAX_RULE_BYTES, MAX_TRACE_ID_BYTES,
};

/// A description of a request. Every field may be empty, and each has a longest length in bytes
/// ([`crate::limits`]); what is longer is cut there, since a long path must not stop a payment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Method of the request.
    pub method: String,
    /// Path without the query, which may hold secrets.
    pub path: String,
    /// Name of the rule that protected the request.
    pub rule: String,
    /// Name of the gateway, or of the program that uses the library.
    pub gateway: String,
    /// Id of the request, as the gateway knows it.
    pub request_id: String,
    /// Trace id, 32 hexadecimal digits (W3C Trace Context).
    pub trace_id: String,
    /// Who asked: an address, or the name of a program.
    pub client: String,
}

const LENGTHS: [usize; 7] = [
    MAX_METHOD_BYTES,
    MAX_PATH_BYTES,
    MAX_RULE_BYTES,
    MAX_GATEWAY_BYTES,
    MAX_REQUEST_ID_BYTES,
    MAX_TRACE_ID_BYTES,
    MAX_CLIENT_BYTES,
];

impl About {
    /// All fields, in the order in which they are written.
    pub fn fields(&self) -> [&String; 7] {
        [
            &self.method,
            &self.path,
            &self.rule,
            &self.gateway,
            &self.request_id,
            &self.trace_id,
            &self.client,
        ]
    }

    /// The same, to be changed.
    pub fn fields_mut(&mut self) -> [&mut String; 7] {
        [
            &mut self.method,
            &mut self.path,
            &mut self.rule,
            &mut self.gateway,
            &mut self.request_id,
            &mut self.trace_id,
            &mut self.client,
        ]
    }

    /// Cuts each field to its longest length, between two characters.
    pub fn shorten(&mut self) {
        for (field, most) in self.fields_mut().into_iter().zip(LENGTHS) {
            if field.len() > most {
                let end = (0..=most).rev().find(|end| field.is_char_boundary(*end));
                field.truncate(end.unwrap_or(0));
            }
        }
    }
}
