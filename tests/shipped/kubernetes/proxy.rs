//! A gateway's Envoy as its control plane would configure it: listeners, clusters and routes from files, as they
//! would come over xDS.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use idempotency_stack::http::Request;
use idempotency_stack::{ports, tools, Process, Tokens};
use serde_json::{json, Value};
use tempfile::TempDir;

/// What a control plane hands to an Envoy.
#[derive(Debug, Clone)]
pub struct Xds {
    /// What the proxy starts with.
    pub bootstrap: Value,
    pub listeners: Vec<Value>,
    pub clusters: Vec<Value>,
    /// By the names that listeners ask for.
    pub routes: Vec<Value>,
}

impl Xds {
    /// A base configuration of `tests/shipped/kubernetes/base`.
    pub fn base(name: &str) -> Xds {
        let mut file =
            crate::repository::yaml(&format!("tests/shipped/kubernetes/base/{name}.yaml"));
        let mut list = |name: &str| match file[name].take() {
            Value::Array(list) => list,
            other => panic!("{name}: {other}"),
        };
        Xds {
            listeners: list("listeners"),
            clusters: list("clusters"),
            routes: list("routes"),
            bootstrap: file["bootstrap"].take(),
        }
    }

    /// Moves whatever listens on `port` to another one, here.
    pub fn listen_instead(&mut self, port: u16, here: u16) {
        let mut moved = 0;
        for listener in &mut self.listeners {
            let Some(address) = listener.pointer_mut("/address/socket_address") else {
                continue;
            };
            if address["port_value"] == port {
                *address = json!({ "address": "127.0.0.1", "port_value": here });
                moved += 1;
            }
        }
        assert_eq!(moved, 1, "listeners on {port}");
    }

    /// Leads a cluster to an address here, whatever name or discovery it had.
    pub fn lead(&mut self, cluster: &str, to: SocketAddr) {
        let mut found = self.clusters.iter_mut().filter(|c| c["name"] == cluster);
        let cluster_ = found
            .next()
            .unwrap_or_else(|| panic!("no cluster {cluster}"));
        let members = cluster_.as_object_mut().unwrap();
        members.remove("eds_cluster_config");
        members.insert("type".to_owned(), json!("STATIC"));
        let address = json!({ "socket_address": { "address": to.ip(), "port_value": to.port() } });
        members.insert(
            "load_assignment".to_owned(),
            json!({
                "cluster_name": cluster,
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
            }),
        );
    }
}

/// A running Envoy with such a configuration.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    pub address: SocketAddr,
    admin: SocketAddr,
    _dir: TempDir,
}

impl Proxy {
    /// Starts it with the token in its environment, and waits until its listeners are there. Clients go to `port`.
    pub fn start(xds: Xds, port: u16) -> Proxy {
        let dir = tempfile::tempdir().unwrap();
        let [address, admin] =
            [port, ports::free()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let bootstrap = write(dir.path(), xds, admin);
        let mut command = Command::new(tools::envoy().unwrap());
        command.env("IDEMPOTENCY_TOKEN", Tokens::default().gateway);
        command.arg("-c").arg(bootstrap).args([
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "--disable-hot-restart",
        ]);
        let mut process = Process::start("envoy", command, dir.path().join("envoy.log")).unwrap();
        let ready = || {
            let answer = Request::get("/ready").send(admin);
            answer.is_ok_and(|answer| answer.status == 200)
        };
        process.await_ready(Duration::from_secs(60), ready).unwrap();
        let proxy = Proxy {
            process,
            address,
            admin,
            _dir: dir,
        };
        assert!(
            !proxy.process.log().contains("rejected"),
            "{}",
            proxy.process.log()
        );
        proxy
    }

    /// What the admin interface says.
    pub fn admin(&self, target: &str) -> String {
        Request::get(target).send(self.admin).unwrap().text()
    }
}

/// Listeners ask for their routes over ADS; here those are in a file.
fn routes_from(file: &Path, at: &mut Value) {
    match at {
        Value::Object(members) => {
            if let Some(rds) = members.get_mut("rds") {
                rds["config_source"] = json!({
                    "path_config_source": { "path": file },
                    "resource_api_version": "V3",
                });
            }
            members
                .values_mut()
                .for_each(|inner| routes_from(file, inner));
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| routes_from(file, inner)),
        _ => {}
    }
}

fn write(dir: &Path, xds: Xds, admin: SocketAddr) -> std::path::PathBuf {
    let Xds {
        mut bootstrap,
        mut listeners,
        clusters,
        routes,
    } = xds;
    let at = |name: &str| dir.join(format!("{name}.json"));
    listeners
        .iter_mut()
        .for_each(|listener| routes_from(&at("routes"), listener));
    let source = |name: &str| {
        json!({
            "path_config_source": { "path": at(name) },
            "resource_api_version": "V3",
        })
    };
    bootstrap["node"] = json!({ "id": "test", "cluster": "test" });
    bootstrap["admin"] = json!({ "address": { "socket_address": {
        "address": admin.ip(), "port_value": admin.port(),
    } } });
    bootstrap["dynamic_resources"] =
        json!({ "lds_config": source("listeners"), "cds_config": source("clusters") });
    for (name, kind, resources) in [
        ("listeners", "listener.v3.Listener", listeners),
        ("clusters", "cluster.v3.Cluster", clusters),
        ("routes", "route.v3.RouteConfiguration", routes),
    ] {
        let typed = resources.into_iter().map(|mut resource| {
            resource["@type"] = json!(format!("type.googleapis.com/envoy.config.{kind}"));
            resource
        });
        let response = json!({ "version_info": "1", "resources": typed.collect::<Vec<_>>() });
        std::fs::write(at(name), response.to_string()).unwrap();
    }
    std::fs::write(at("bootstrap"), bootstrap.to_string()).unwrap();
    at("bootstrap")
}
