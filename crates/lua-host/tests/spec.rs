//! The plugin's unit tests, under LuaJIT alone: `kong/plugin/spec`.

use idempotency_lua_host::tools;
use std::process::Command;

#[test]
fn the_plugins_own_tests_pass_under_luajit() {
    if !tools::has_luajit() {
        return;
    }
    let plugin = tools::repository().join("kong/plugin");
    let library = tools::library_dir().expect("libidempotency_core_ffi.so is built");
    let output = Command::new("luajit")
        .arg(plugin.join("spec/run.lua"))
        .arg(&plugin)
        .arg(library)
        .output()
        .expect("luajit runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{wrong}");
    // One that ran nothing would pass, too.
    let passed = said.split(' ').next().and_then(|n| n.parse().ok());
    assert!(passed >= Some(20), "{said}");
}
