//! `deploy/helm` and `deploy/kubernetes`, without a cluster: the chart rendered by Helm's own engine, manifests
//! held against the schemas of the API, and what the patches make of a gateway's configuration on a real Envoy.

mod basics;
mod chart;
mod envoy_gateway;
mod istio;
mod kong;
mod manifests;
mod proxy;
mod schemas;
mod service;

pub use chart::deploy_tools;
