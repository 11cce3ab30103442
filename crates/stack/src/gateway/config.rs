//! What every host can be told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{json, Value};

use super::{Host, Route};
use crate::envoy::{parts, EnvoyConfig};
use crate::kong::KongSettings;

/// The name under which configurations speak of the service. Envoy has a cluster of that name;
/// Kong's hosts get the address in its place.
const SERVICE: &str = "idempotency";

/// How the gateway reaches the idempotency service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceAddress {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a Unix socket.
    Unix(PathBuf),
    /// Over mTLS, which only Envoy speaks.
    Tls(TlsAddress),
}

/// A service that is called over mTLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsAddress {
    /// Where it is.
    pub address: SocketAddr,
    /// The name that its certificate must have.
    pub name: String,
    /// Envoy's file about its own certificate; see [`crate::Pki::sds_certificate`].
    pub sds_certificate: PathBuf,
    /// Envoy's file about the authority that vouches for the service.
    pub sds_authority: PathBuf,
}

impl TlsAddress {
    /// The service at this address, with what the two sides are given.
    pub fn new(address: SocketAddr, pki: &crate::Pki) -> Self {
        Self {
            address,
            name: crate::pki::SERVICE_NAME.to_owned(),
            sds_certificate: pki.sds_certificate(),
            sds_authority: pki.sds_authority(),
        }
    }
}

impl ServiceAddress {
    /// As hosts without clusters know it.
    fn target(&self) -> String {
        match self {
            ServiceAddress::Tcp(address) => address.to_string(),
            ServiceAddress::Unix(path) => format!("unix:{}", path.display()),
            ServiceAddress::Tls(tls) => tls.address.to_string(),
        }
    }
}

/// Everything that can be chosen about a gateway, whichever it is.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The filter's configuration. `None`: a gateway without the filter, for comparison.
    pub filter: Option<String>,
    /// The upstream.
    pub upstream: SocketAddr,
    /// Where the service is.
    pub service: ServiceAddress,
    /// The routes; the first match wins.
    pub routes: Vec<Route>,
    /// Workers, each with a VM of its own (1).
    pub workers: u16,
    /// How long an upstream may take (15 s).
    pub upstream_timeout: Duration,
    /// What an authentication in front of the filter does: the value of the first header (whom it
    /// trusts) becomes the second one, in place of what a client put there.
    pub identity: Option<(&'static str, &'static str)>,
    /// How large bodies can be that the filter is to read, in bytes (8 MiB).
    pub buffer_bytes: u32,
    /// Variables of the gateway's environment that its VMs are given as well.
    pub environment: Vec<(String, String)>,
    /// What only a complete Kong can be told; other hosts go without it.
    pub kong: KongSettings,
}

impl GatewayConfig {
    /// The filter with this configuration in front of that upstream.
    pub fn new(filter: impl Into<String>, upstream: SocketAddr, service: ServiceAddress) -> Self {
        Self {
            filter: Some(filter.into()),
            ..Self::bare(upstream, service)
        }
    }

    /// The same without the filter.
    pub fn bare(upstream: SocketAddr, service: ServiceAddress) -> Self {
        Self {
            filter: None,
            upstream,
            service,
            routes: Route::defaults(),
            workers: 1,
            upstream_timeout: Duration::from_secs(15),
            identity: None,
            buffer_bytes: 8 << 20,
            environment: Vec::new(),
            kong: KongSettings::default(),
        }
    }

    /// The filter's configuration with the service's address for its name, as hosts without
    /// clusters need it. What
    /// is no configuration stays as it is.
    pub(crate) fn filter_with_address(&self) -> Option<String> {
        let text = self.filter.clone()?;
        let Ok(mut value) = serde_json::from_str::<Value>(&text) else {
            return Some(text);
        };
        match value.pointer_mut("/service/target") {
            Some(target) if *target == SERVICE => {
                *target = json!(self.service.target());
                Some(value.to_string())
            }
            _ => Some(text),
        }
    }

    /// How long the upstream of a route may take.
    pub(crate) fn timeout(&self, route: &Route) -> Duration {
        route.timeout.unwrap_or(self.upstream_timeout)
    }
}

impl From<GatewayConfig> for EnvoyConfig {
    fn from(config: GatewayConfig) -> Self {
        let identity = config.identity.map(|(from, to)| parts::set_from(from, to));
        let native = Host::chosen() == Host::Native;
        let bare = EnvoyConfig::bare(config.upstream, config.service);
        Self {
            filter: config.filter,
            // Where nothing is detached, the only route has the upstream's timeout.
            gateway_timeout: match native {
                true => config.upstream_timeout,
                false => bare.gateway_timeout,
            },
            filters_before: identity.into_iter().collect(),
            routes: config.routes,
            concurrency: config.workers,
            execution_timeout: config.upstream_timeout,
            buffer_limit_bytes: config.buffer_bytes,
            environment: config.environment,
            ..bare
        }
    }
}
