//! What a compiled filter asks of its host, and what its hosts ask of it.

use std::collections::BTreeSet;

use wasmparser::{Parser, Payload};

/// Callbacks that ngx_wasm_module calls without looking whether they are there: it crashes where one
/// is missing (measured).
const NEEDED: [&str; 3] = ["proxy_on_done", "proxy_on_log", "proxy_on_delete"];

/// What was found in a module that may be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Size of the file in bytes.
    pub size: usize,
    /// `module.name` of every import.
    pub imports: Vec<String>,
}

/// Checks that a module asks for nothing but the proxy-wasm ABI and, at most, randomness and environment, and has the
/// callbacks that a host depends on: only then do all the hosts run it.
///
/// # Errors
///
/// One line that says what is wrong.
pub fn check(module: &[u8], max_size: usize) -> Result<Report, String> {
    let mut imports = Vec::new();
    let mut exports = BTreeSet::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(|error| format!("not a WebAssembly module: {error}"))?;
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(|error| format!("bad import section: {error}"))?;
                    if !is_allowed(import.module, import.name) {
                        return Err(format!("imports {}.{}", import.module, import.name));
                    }
                    imports.push(format!("{}.{}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(|error| format!("bad export section: {error}"))?;
                    exports.insert(export.name);
                }
            }
            _ => {}
        }
    }
    if let Some(missing) = NEEDED.iter().find(|name| !exports.contains(*name)) {
        return Err(format!(
            "does not export {missing}, which Kong's host calls"
        ));
    }
    if module.len() > max_size {
        return Err(format!("{} bytes, more than {max_size}", module.len()));
    }
    Ok(Report {
        size: module.len(),
        imports,
    })
}

/// Of WASI: randomness, and the variables that the host gives.
const WASI: [&str; 3] = ["random_get", "environ_get", "environ_sizes_get"];

fn is_allowed(module: &str, name: &str) -> bool {
    match module {
        "env" => name.starts_with("proxy_"),
        "wasi_snapshot_preview1" => WASI.contains(&name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with one function type, these imports of functions, and the first one of them exported
    /// under these names.
    fn module(imports: &[(&str, &str)], exports: &[&str]) -> Vec<u8> {
        let short = |length: usize| u8::try_from(length).unwrap();
        let mut exported = vec![short(exports.len())];
        for name in exports {
            exported.push(short(name.len()));
            exported.extend_from_slice(name.as_bytes());
            exported.extend_from_slice(&[0, 0]);
        }
        let mut section = vec![short(imports.len())];
        for (module, name) in imports {
            for text in [module, name] {
                section.push(short(text.len()));
                section.extend_from_slice(text.as_bytes());
            }
            section.extend_from_slice(&[0, 0]);
        }
        let mut octets = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02".to_vec();
        octets.push(short(section.len()));
        octets.extend(section);
        octets.extend([7, short(exported.len())]);
        octets.extend(exported);
        octets
    }

    #[test]
    fn only_the_abi() {
        let good = module(
            &[
                ("env", "proxy_log"),
                ("wasi_snapshot_preview1", "random_get"),
            ],
            &NEEDED,
        );
        let report = check(&good, 1000).unwrap();
        assert_eq!(
            report.imports,
            ["env.proxy_log", "wasi_snapshot_preview1.random_get"]
        );
        for (import, said) in [
            (("env", "abort"), "imports env.abort"),
            (
                ("wasi_snapshot_preview1", "fd_write"),
                "imports wasi_snapshot_preview1.fd_write",
            ),
            (("__wbindgen", "x"), "imports __wbindgen.x"),
        ] {
            assert_eq!(check(&module(&[import], &NEEDED), 1000).unwrap_err(), said);
        }
        assert!(check(&good, 10).unwrap_err().contains("more than 10"));
        assert!(check(b"nonsense", 10)
            .unwrap_err()
            .contains("not a WebAssembly module"));
        for missing in NEEDED {
            let others: Vec<_> = NEEDED.into_iter().filter(|n| *n != missing).collect();
            let said = check(&module(&[("env", "proxy_log")], &others), 1000).unwrap_err();
            assert!(
                said.contains(&format!("does not export {missing},")),
                "{said}"
            );
        }
    }
}
