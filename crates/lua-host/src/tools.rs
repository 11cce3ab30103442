//! Programs and libraries that tests need, and what to do where they are not there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The Debian packages of an nginx with Lua, as one set: `lua-resty-core` and the module must fit each other.
pub const PACKAGES: &str =
    "libnginx-mod-http-lua lua-resty-core lua-resty-lrucache lua-cjson nginx-light luajit2";

/// The repository.
pub fn repository() -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    std::fs::canonicalize(root).unwrap_or_else(|_| root.into())
}

/// Where the C library is that was built with the running program.
pub fn library_dir() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let near = program.ancestors().skip(1).take(2);
    let mut dirs = near.flat_map(|dir| [dir.to_owned(), dir.join("deps")]);
    // (Beside a test is what was built for it; one directory up may be an older one.)
    dirs.find(|dir| dir.join("libidempotency_core_ffi.so").is_file())
}

/// The service: what `IDEMPOTENCYD_BIN` names, or what is built beside the running program.
pub fn idempotencyd() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("IDEMPOTENCYD_BIN").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let program = std::env::current_exe().ok()?;
    let mut dirs = program.ancestors().skip(1).take(2);
    let found = dirs.find(|dir| dir.join("idempotencyd").is_file());
    found.map(|dir| dir.join("idempotencyd"))
}

fn runs(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// The directory of nginx' modules.
pub fn nginx_modules() -> PathBuf {
    PathBuf::from("/usr/lib/nginx/modules")
}

/// Whether something that a test needs is there. Where it is not, CI fails, and elsewhere the skip is told by name.
fn there(what: &str, is: bool) -> bool {
    if !is {
        let needed =
            format!("{what} is missing: scripts/need-lua.sh, or apt-get install {PACKAGES}");
        assert!(std::env::var_os("CI").is_none(), "{needed}");
        eprintln!("skipped: {needed}");
    }
    is
}

/// Whether there is an nginx with Lua, and the service.
pub fn can_run() -> bool {
    let module = nginx_modules().join("ngx_http_lua_module.so").is_file();
    let core = Path::new("/usr/share/lua/5.1/resty/core.lua").is_file();
    let nginx = runs("nginx", &["-v"]) || runs("/usr/sbin/nginx", &["-v"]);
    there("an nginx with Lua", module && core && nginx)
        && there("libidempotency_core_ffi.so", library_dir().is_some())
        && there("idempotencyd (make build)", idempotencyd().is_some())
}

/// Whether there is a LuaJIT to run the plugin's unit tests.
pub fn has_luajit() -> bool {
    there("LuaJIT", runs("luajit", &["-v"]))
}
