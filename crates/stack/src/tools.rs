//! Where the programs are.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// The Envoys that the project is tested with, as the scripts read them too.
const ENVOY_VERSIONS: &str = include_str!("../../../envoy/VERSIONS");

/// The newest Envoy that the project is tested with.
fn newest_envoy() -> &'static str {
    ENVOY_VERSIONS
        .lines()
        .find_map(|line| line.strip_prefix("newest "))
        .unwrap_or_default()
}

/// The Envoy program.
///
/// # Errors
///
/// If there is none; the message says how to get it.
pub fn envoy() -> Result<PathBuf, Error> {
    if let Some(path) = from_env("ENVOY_BIN")? {
        return Ok(path);
    }
    let installed = format!("tools/envoy-{}/envoy", newest_envoy());
    let installed = target_dir().map(|dir| dir.join(installed));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::split_paths(&on_path).map(|dir| dir.join("envoy"));
    installed
        .into_iter()
        .chain(candidates)
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new("no Envoy found: run `scripts/get-envoy.sh`, or set ENVOY_BIN to its path")
        })
}

/// The oldest PostgreSQL that the store works with.
const OLDEST_POSTGRES: u32 = 15;

/// The directory of PostgreSQL's programs.
///
/// # Errors
///
/// If there is none; the message says how to get it.
pub fn postgres_bin() -> Result<PathBuf, Error> {
    if let Some(dir) = std::env::var_os("POSTGRES_BIN").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir));
    }
    // Debian keeps each major version in a directory of its own, and its servers off the PATH.
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let newest = versions
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(version, bin)| *version >= OLDEST_POSTGRES && bin.join("initdb").is_file())
        .max();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).find(|dir| dir.join("initdb").is_file());
    newest.map(|(_, bin)| bin).or(on_path).ok_or_else(|| {
        Error::new(
            "no PostgreSQL server found: run `scripts/get-postgres.sh`, or set POSTGRES_BIN to \
             the directory of its programs",
        )
    })
}

/// The program of the idempotency service.
///
/// # Errors
///
/// If it is not built; the message says how to build it.
pub fn idempotencyd() -> Result<PathBuf, Error> {
    built("IDEMPOTENCYD_BIN", "idempotencyd")
}

/// The program of the demo upstream.
///
/// # Errors
///
/// If it is not built; the message says how to build it.
pub fn demo_upstream() -> Result<PathBuf, Error> {
    built("DEMO_UPSTREAM_BIN", "demo-upstream")
}

/// The program that plays Kong's host.
///
/// # Errors
///
/// If it is not built; the message says how to build it.
pub fn kong_host() -> Result<PathBuf, Error> {
    built("KONG_HOST_BIN", "kong-host")
}

/// The program that is the library's HTTP layer as a gateway.
///
/// # Errors
///
/// If it is not built; the message says how to build it.
pub fn layer_host() -> Result<PathBuf, Error> {
    built("LAYER_HOST_BIN", "layer-host")
}

/// The program of a complete Kong.
///
/// # Errors
///
/// If `KONG` names no directory with a `bin/kong`.
pub fn kong() -> Result<PathBuf, Error> {
    let prefix = std::env::var_os("KONG").filter(|prefix| !prefix.is_empty());
    let program = prefix.map(|prefix| PathBuf::from(prefix).join("bin/kong"));
    program.filter(|program| program.is_file()).ok_or_else(|| {
        Error::new("KONG must be a directory with the bin/kong of a complete Kong 3.9")
    })
}

/// The directory of the C library that the Lua plugin loads.
///
/// # Errors
///
/// If it is not built.
pub fn core_library() -> Result<PathBuf, Error> {
    let program = std::env::current_exe().unwrap_or_default();
    let near = program.ancestors().skip(1).take(2);
    // (Beside a test is what was built for it; one directory up may be an older one.)
    let mut dirs = near.flat_map(|dir| [dir.to_owned(), dir.join("deps")]);
    let found = dirs.find(|dir| dir.join("libidempotency_core_ffi.so").is_file());
    found.ok_or_else(|| Error::new("no libidempotency_core_ffi.so found: run `make build`"))
}

/// An nginx with ngx_wasm_module.
///
/// # Errors
///
/// If `KONG_NGINX` does not name one.
pub fn kong_nginx() -> Result<PathBuf, Error> {
    from_env("KONG_NGINX")?.ok_or_else(|| {
        Error::new("KONG_NGINX must be the path of an nginx that has ngx_wasm_module")
    })
}

/// The Lua libraries of that nginx, by which Kong attaches filters: a directory with
/// `resty/core.lua` and `resty/wasmx/proxy_wasm.lua`.
///
/// # Errors
///
/// If `KONG_LUALIB` does not name one.
pub fn kong_lualib() -> Result<PathBuf, Error> {
    let dir = std::env::var_os("KONG_LUALIB").map(PathBuf::from);
    dir.filter(|dir| dir.join("resty/wasmx/proxy_wasm.lua").is_file())
        .ok_or_else(|| {
            Error::new(
                "KONG_LUALIB must be a directory with resty/core.lua and resty/wasmx/proxy_wasm.lua: \
                 filters are attached from Lua, as Kong does it",
            )
        })
}

/// The program of the Redis server.
///
/// # Errors
///
/// If it is not installed; the message says how to get it.
pub fn redis_server() -> Result<PathBuf, Error> {
    if let Some(path) = from_env("REDIS_SERVER_BIN")? {
        return Ok(path);
    }
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&on_path)
        .map(|dir| dir.join("redis-server"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new("no redis-server found: install it (Debian: `apt-get install redis-server`)")
        })
}

/// The library that shows a program another time (`LD_PRELOAD`, `FAKETIME=+1h`).
///
/// # Errors
///
/// If it is not installed; the message says how to get it.
pub fn faketime() -> Result<PathBuf, Error> {
    if let Some(path) = from_env("FAKETIME_LIB")? {
        return Ok(path);
    }
    let architectures = std::fs::read_dir("/usr/lib");
    architectures
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new("no libfaketime found: install it (Debian: `apt-get install libfaketime`)")
        })
}

/// The compiled filter.
///
/// # Errors
///
/// If it is not built; the message says how to build it.
pub fn wasm() -> Result<PathBuf, Error> {
    if let Some(path) = from_env("IDEMPOTENCY_WASM")? {
        return Ok(path);
    }
    target_dir()
        .map(|dir| dir.join("idempotency.wasm"))
        .filter(|path| path.is_file())
        .ok_or_else(|| {
            Error::new("no idempotency.wasm found: run `make wasm`, or set IDEMPOTENCY_WASM")
        })
}

/// The directory that has the native module for Envoy.
///
/// # Errors
///
/// If it is not built; the message says how to build it.
pub fn native_module() -> Result<PathBuf, Error> {
    let file = match from_env("IDEMPOTENCY_NATIVE")? {
        Some(path) => Some(path),
        None => target_dir().map(|dir| dir.join("libidempotency_envoy.so")),
    };
    let dir = file.filter(|path| path.is_file());
    dir.and_then(|path| path.parent().map(Path::to_owned))
        .ok_or_else(|| {
            Error::new(
                "no libidempotency_envoy.so found: run `make native`, or set IDEMPOTENCY_NATIVE",
            )
        })
}

/// Cargo's target directory: the one that the running program is in.
pub fn target_dir() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let marked = |dir: &&Path| dir.join("CACHEDIR.TAG").is_file();
    program.ancestors().find(marked).map(Path::to_owned)
}

fn from_env(name: &str) -> Result<Option<PathBuf>, Error> {
    let Some(path) = std::env::var_os(name).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    if path.is_file() {
        Ok(Some(path))
    } else {
        Err(Error::new(format!("{name}={} is no file", path.display())))
    }
}

/// A program of this workspace: beside the running one, or one directory up (tests run in `deps`).
fn built(variable: &str, name: &str) -> Result<PathBuf, Error> {
    if let Some(path) = from_env(variable)? {
        return Ok(path);
    }
    let program = std::env::current_exe().unwrap_or_default();
    let mut candidates = program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name));
    candidates.find(|path| path.is_file()).ok_or_else(|| {
        Error::new(format!(
            "`{name}` is not built: run `make build`, or set {variable}"
        ))
    })
}
