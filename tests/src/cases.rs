//! On which hosts a case holds. The declarations stand in the cases themselves, decide what runs,
//! and are what `docs/cases.md` is made of.

use idempotency_stack::Host;

/// Whether the case runs on the chosen host; if not, says so.
pub fn runs_on(hosts: &[Host], why: &str) -> bool {
    let host = Host::chosen();
    let runs = hosts.contains(&host);
    if !runs {
        eprintln!("not on {}: {why}", host.name());
    }
    runs
}

/// Declares that a case is for some hosts only, and why: `only_on!(Envoy, "Kong has no trailers")`,
/// `only_on!(Envoy | KongHost, "…")`. Elsewhere the case ends here.
#[macro_export]
macro_rules! only_on {
    ($($host:ident)|+, $why:literal) => {
        if !$crate::cases::runs_on(&[$(idempotency_stack::Host::$host),+], $why) {
            return;
        }
    };
}

/// What is expected depends on the host, and why:
/// `by_host!("chunked bodies are refused on Kong", envoy: 201, kong: 411)`. The library's layer expects what
/// Envoy does, unless it says otherwise: `by_host!("…", envoy: 503, kong: 502, layer: 502)`. So does Kong's Lua
/// plugin (`lua: 502`): `kong` means the filter in Kong.
#[macro_export]
macro_rules! by_host {
    ($why:literal, envoy: $envoy:expr, kong: $kong:expr $(,)?) => {{
        const _WHY: &str = $why;
        if idempotency_stack::Host::chosen().is_kong() {
            $kong
        } else {
            $envoy
        }
    }};
    ($why:literal, envoy: $envoy:expr, kong: $kong:expr, lua: $lua:expr $(,)?) => {{
        const _WHY: &str = $why;
        let host = idempotency_stack::Host::chosen();
        if host == idempotency_stack::Host::KongLua {
            $lua
        } else if host.is_kong() {
            $kong
        } else {
            $envoy
        }
    }};
    ($why:literal, envoy: $envoy:expr, kong: $kong:expr, layer: $layer:expr, lua: $lua:expr $(,)?) => {{
        const _WHY: &str = $why;
        let host = idempotency_stack::Host::chosen();
        if host == idempotency_stack::Host::KongLua {
            $lua
        } else if host == idempotency_stack::Host::Layer {
            $layer
        } else if host.is_kong() {
            $kong
        } else {
            $envoy
        }
    }};
    ($why:literal, envoy: $envoy:expr, lua: $lua:expr $(,)?) => {{
        const _WHY: &str = $why;
        if idempotency_stack::Host::chosen() == idempotency_stack::Host::KongLua {
            $lua
        } else {
            $envoy
        }
    }};
    ($why:literal, envoy: $envoy:expr, kong: $kong:expr, layer: $layer:expr $(,)?) => {{
        const _WHY: &str = $why;
        let host = idempotency_stack::Host::chosen();
        if host == idempotency_stack::Host::Layer {
            $layer
        } else if host.is_kong() {
            $kong
        } else {
            $envoy
        }
    }};
}
