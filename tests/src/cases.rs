//! On which hosts a case holds. The declarations stand in the cases themselves, decide what runs,
//! and are what `docs/cases.md` is made of.

use idempotency_stack::Host;

/// Whether the case runs on the chosen host; if not, says so. What is for Envoy is for Envoy with the native module,
/// too, but for what [`not_on!`](crate::not_on) says.
pub fn runs_on(hosts: &[Host], why: &str) -> bool {
    let host = Host::chosen();
    let alike = match host {
        Host::Native => Host::Envoy,
        other => other,
    };
    let runs = hosts.contains(&host) || hosts.contains(&alike);
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

/// Whether the case runs on the chosen host, which is none of these; if not, says so.
pub fn runs_elsewhere(hosts: &[Host], why: &str) -> bool {
    let host = Host::chosen();
    let runs = !hosts.contains(&host);
    if !runs {
        eprintln!("not on {}: {why}", host.name());
    }
    runs
}

/// Declares that a case is not for some hosts, and why: `not_on!(Native, "it executes inline only")`. There the
/// case ends here.
#[macro_export]
macro_rules! not_on {
    ($($host:ident)|+, $why:literal) => {
        if !$crate::cases::runs_elsewhere(&[$(idempotency_stack::Host::$host),+], $why) {
            return;
        }
    };
}

/// What is expected depends on the host, and why:
/// `by_host!("chunked bodies are refused on Kong", envoy: 201, kong: 411)`. `kong` means the filter in Kong, played or
/// real. Every other host expects what Envoy does, unless it is named, in this order:
/// `by_host!("…", envoy: 503, kong: 502, layer: 502, lua: 504, native: 504)`.
#[macro_export]
macro_rules! by_host {
    ($why:literal, envoy: $envoy:expr
        $(, kong: $kong:expr)? $(, layer: $layer:expr)? $(, lua: $lua:expr)? $(, native: $native:expr)? $(,)?) => {{
        const _WHY: &str = $why;
        match idempotency_stack::Host::chosen() {
            $(host if host.is_kong() => $kong,)?
            $(idempotency_stack::Host::Layer => $layer,)?
            $(idempotency_stack::Host::KongLua => $lua,)?
            $(idempotency_stack::Host::Native => $native,)?
            _ => $envoy,
        }
    }};
}
