//! nginx with the plugin.

use crate::client;
use crate::process::{free_port, until, Directory, Process};
use crate::service::Service;
use crate::tools::{library_dir, nginx_modules, repository};
use serde_json::{json, Value};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// How it is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The rules of the plugin's configuration.
    pub rules: Value,
    /// Fields of `service` besides its target and its token. A target `tcp` is its TCP address.
    pub service: Value,
    /// Where unprotected and granted requests go.
    pub upstream: SocketAddr,
    /// How long the upstream may take, in milliseconds.
    pub read_timeout: u64,
    /// Workers of nginx.
    pub workers: usize,
    /// TLS stands before the upstream, and its certificate is verified.
    pub tls: Option<Trust>,
}

/// Whom the gateway trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Whoever made the upstream's certificate.
    Upstream,
    /// Somebody else.
    Other,
}

/// A running gateway.
#[derive(Debug)]
pub struct Host {
    nginx: Process,
    address: SocketAddr,
    http2: SocketAddr,
    /// The service behind it.
    pub service: Service,
    dir: Directory,
}

impl Host {
    /// Starts both and waits until they are ready.
    ///
    /// # Panics
    ///
    /// If one of them does not start: it is for tests.
    pub fn start(options: &Options) -> Host {
        let service = Service::start();
        let dir = Directory::new();
        let mut target = json!({
            "target": format!("unix:{}", service.socket().display()),
            "token": service.token(),
            "timeout_ms": 1000,
        });
        if let (Some(target), Some(more)) = (target.as_object_mut(), options.service.as_object()) {
            target.extend(more.clone());
            if target["target"] == "tcp" {
                target["target"] = json!(service.address().to_string());
            }
        }
        let (scheme, port) = match options.tls {
            None => ("http", options.upstream.port()),
            Some(_) => ("https", free_port()),
        };
        let settings = json!({
            "plugin": { "service": target, "rules": options.rules },
            "upstream": {
                "scheme": scheme,
                "host": options.upstream.ip().to_string(),
                "name": options.tls.map(|_| NAME),
                "port": port,
                "connect_timeout": 1000,
                "send_timeout": 1000,
                "read_timeout": options.read_timeout,
            },
        });
        let file = dir.path().join("settings.json");
        std::fs::write(&file, settings.to_string()).expect("a file");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let http2 = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let conf = dir.path().join("nginx.conf");
        let tls = options
            .tls
            .map(|trust| before(&dir, trust, port, options.upstream));
        let tls = tls.unwrap_or_default();
        std::fs::write(&conf, configuration(options.workers, address, http2, &tls))
            .expect("a file");
        std::fs::create_dir_all(dir.path().join("logs")).expect("a directory");
        let mut command = Command::new(match std::path::Path::new("/usr/sbin/nginx").is_file() {
            true => "/usr/sbin/nginx",
            false => "nginx",
        });
        command.arg("-p").arg(dir.path()).arg("-c").arg(&conf);
        let mut nginx = Process::start(command, &dir.path().join("nginx.out"));
        let up = || TcpStream::connect(address).is_ok();
        if !until(Duration::from_secs(10), up) {
            let said = |name| std::fs::read_to_string(dir.path().join(name));
            panic!(
                "nginx does not listen: {:?} {:?}",
                said("nginx.out"),
                said("logs/error.log")
            );
        }
        assert!(!nginx.is_over());
        Host {
            nginx,
            address,
            http2,
            service,
            dir,
        }
    }

    /// Where it listens for HTTP/1.1.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for HTTP/2 without TLS.
    pub fn http2(&self) -> SocketAddr {
        self.http2
    }

    /// What nginx and the plugin have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("logs/error.log")).unwrap_or_default()
    }

    /// What a worker tells of itself.
    pub fn state(&self) -> Value {
        let request = client::post("/plugin-state", "none", "").method("GET");
        let answer = request.without("Idempotency-Key").send(self.address);
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    /// Tells nginx to read its configuration anew, as `kong reload` does.
    pub fn reload(&self) {
        self.nginx.signal("HUP");
    }

    /// Tells nginx to finish and end, as `kong quit` does.
    pub fn quit(&self) {
        self.nginx.signal("QUIT");
    }

    /// Whether nginx has ended.
    pub fn is_over(&mut self) -> bool {
        self.nginx.is_over()
    }
}

/// What an upstream with TLS is called.
const NAME: &str = "upstream.test";

/// TLS before the upstream, as a server of the same nginx.
fn before(dir: &Directory, trust: Trust, port: u16, upstream: SocketAddr) -> String {
    for name in ["upstream", "other"] {
        let made = Command::new("openssl")
            .current_dir(dir.path())
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "1", "-subj", &format!("/CN={NAME}")])
            .args(["-addext", &format!("subjectAltName=DNS:{NAME}")])
            .args([
                "-keyout",
                &format!("{name}.key"),
                "-out",
                &format!("{name}.crt"),
            ])
            .output()
            .expect("openssl, which scripts/test.sh installs");
        assert!(made.status.success(), "{made:?}");
    }
    let trusted = match trust {
        Trust::Upstream => "upstream",
        Trust::Other => "other",
    };
    let dir = dir.path().display();
    format!(
        "  lua_ssl_trusted_certificate {dir}/{trusted}.crt;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {dir}/upstream.crt;
    ssl_certificate_key {dir}/upstream.key;
    location / {{ proxy_pass http://{upstream}; }}
  }}
"
    )
}

/// Of Kong's template: what the plugin meets.
fn configuration(workers: usize, address: SocketAddr, http2: SocketAddr, tls: &str) -> String {
    let modules = nginx_modules();
    let modules = modules.display();
    let root = repository();
    let root = root.display();
    let library = library_dir().expect("the C library is built");
    let library = library.display();
    format!(
        r#"load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
daemon off;
user root;
worker_processes {workers};
worker_shutdown_timeout 30s;
error_log logs/error.log info;
pid logs/nginx.pid;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_body_buffer_size 8k;
  client_max_body_size 0;
  underscores_in_headers on;
  lua_socket_log_errors off;
  lua_package_path "{root}/kong/plugin/?.lua;{root}/crates/lua-host/lua/?.lua;;";
  lua_package_cpath "{library}/?.so;;";
  init_by_lua_block {{
    stand_in = require "stand_in"
    stand_in.init(ngx.config.prefix() .. "settings.json")
  }}
  init_worker_by_lua_block {{ stand_in.init_worker() }}
{tls}  server {{
    listen {address};
    listen {http2} http2;
    location = /plugin-state {{ content_by_lua_block {{ stand_in.state() }} }}
    location / {{
      set $upstream_scheme "";
      set $upstream_uri "";
      set $upstream_host "";
      set $upstream_x_forwarded_for "";
      set $upstream_x_forwarded_proto "";
      set $upstream_x_forwarded_host "";
      set $upstream_x_forwarded_port "";
      set $upstream_x_forwarded_path "";
      set $upstream_x_forwarded_prefix "";
      set $peer "";
      access_by_lua_block {{ stand_in.access() }}
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $upstream_host;
      proxy_pass http://$peer$upstream_uri;
    }}
  }}
}}
"#
    )
}
