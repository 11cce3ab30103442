//! Configurations.

use super::{guarded, put, slice, IgBytes, IgField, IgFields, IG_DONE, IG_FAULT};
use crate::plugin::Plugin;
use idempotency_protocol::{CONTENT_TYPE, OPERATIONS_PATH, WAIT_PATH};
use std::sync::Arc;

/// A configuration, accepted or not. It may be shared by threads, and must outlive its requests' calls only: they
/// keep what they need of it.
pub struct IgConfig {
    pub(super) plugin: Arc<Plugin>,
    /// Names of properties.
    names: Vec<IgField>,
}

/// Where the idempotency service is, and how it is called.
#[repr(C)]
pub struct IgService {
    /// `unix:/path`, `host` or `host:port`.
    pub target: IgBytes,
    /// The value of `Host`.
    pub authority: IgBytes,
    /// The value of `Authorization`; none: it is not sent.
    pub bearer: IgBytes,
    /// The value of `Content-Type`.
    pub content_type: IgBytes,
    /// Where messages of `ig_batch` are sent with POST.
    pub operations_path: IgBytes,
    /// Where messages of `ig_request_wait` are sent with POST.
    pub wait_path: IgBytes,
    /// Longest time for an answer, in milliseconds. A wait takes its own time besides.
    pub timeout_ms: u64,
    /// Most messages that are out at a time; 0: no message carries more than one operation.
    pub max_in_flight: u32,
    /// Most operations in one message.
    pub max_operations: u32,
    /// 1: over TLS.
    pub tls: u32,
}

/// Reads a configuration (JSON, as docs/configuration.md has it). Always gives a handle: one that was rejected
/// (`ig_config_errors`) refuses requests. NULL only after a defect. To be freed with `ig_config_free`.
///
/// # Safety
///
/// `json` must point to `len` bytes.
#[no_mangle]
pub unsafe extern "C" fn ig_config_new(json: *const u8, len: usize) -> *mut IgConfig {
    guarded(std::ptr::null_mut(), || {
        let json = unsafe { slice(json, len) };
        let plugin = Plugin::new(json, |name| std::env::var(name).ok());
        let properties = plugin.ready().map_or(&[][..], |ready| &ready.properties);
        let names = properties.iter().map(|name| IgField {
            name: IgBytes::of(name.as_bytes()),
            value: IgBytes::NONE,
        });
        let names = names.collect();
        let plugin = Arc::new(plugin);
        Box::into_raw(Box::new(IgConfig { plugin, names }))
    })
}

/// Frees a configuration. NULL is allowed.
///
/// # Safety
///
/// `config` must come from `ig_config_new`, and be used no more.
#[no_mangle]
pub unsafe extern "C" fn ig_config_free(config: *mut IgConfig) {
    guarded((), || {
        if !config.is_null() {
            drop(unsafe { Box::from_raw(config) });
        }
    });
}

/// Why a configuration was rejected: one line for each fault, with the path of its field. None: it was accepted.
/// Borrowed as long as the configuration lives.
///
/// # Safety
///
/// `config` must be a live handle or NULL.
#[no_mangle]
pub unsafe extern "C" fn ig_config_errors(config: *const IgConfig, out: *mut IgBytes) -> i32 {
    guarded(IG_FAULT, || {
        let Some(config) = (unsafe { config.as_ref() }) else {
            return IG_FAULT;
        };
        unsafe { put(out, IgBytes::of(config.plugin.errors().as_bytes())) };
        IG_DONE
    })
}

/// Where the service is. `IG_FAULT` where the configuration was rejected. Borrowed as long as the configuration
/// lives.
///
/// # Safety
///
/// `config` must be a live handle or NULL, `out` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_config_service(config: *const IgConfig, out: *mut IgService) -> i32 {
    guarded(IG_FAULT, || {
        let config = unsafe { config.as_ref() };
        let Some(ready) = config.and_then(|config| config.plugin.ready()) else {
            return IG_FAULT;
        };
        let service = &ready.service;
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let told = IgService {
            target: IgBytes::of(service.target.as_bytes()),
            authority: IgBytes::of(&service.authority),
            bearer: IgBytes::of(service.bearer.as_deref().unwrap_or_default()),
            content_type: IgBytes::of(CONTENT_TYPE.as_bytes()),
            operations_path: IgBytes::of(OPERATIONS_PATH.as_bytes()),
            wait_path: IgBytes::of(WAIT_PATH.as_bytes()),
            timeout_ms: service.timeout_ms,
            max_in_flight: small(service.batch.max_in_flight),
            max_operations: small(service.batch.max_operations),
            tls: u32::from(service.tls),
        };
        unsafe { put(out, told) };
        IG_DONE
    })
}

/// The names of the properties that this configuration asks for (`kong.route_id`, `kong.consumer.custom_id`, …): each
/// request must tell those that it has. Values are empty. Borrowed as long as the configuration lives.
///
/// # Safety
///
/// `config` must be a live handle or NULL, `out` NULL or room for the answer.
#[no_mangle]
pub unsafe extern "C" fn ig_config_properties(config: *const IgConfig, out: *mut IgFields) -> i32 {
    guarded(IG_FAULT, || {
        let Some(config) = (unsafe { config.as_ref() }) else {
            return IG_FAULT;
        };
        unsafe { put(out, IgFields::of(&config.names)) };
        IG_DONE
    })
}
