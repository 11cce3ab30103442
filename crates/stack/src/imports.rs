//! What a compiled filter asks of its host.

use wasmparser::{Parser, Payload};

/// What was found in a module that may be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Size of the file in bytes.
    pub size: usize,
    /// `module.name` of every import.
    pub imports: Vec<String>,
}

/// Checks that a module asks for nothing but the proxy-wasm ABI and, at most, randomness: only
/// then do all the hosts load it.
///
/// # Errors
///
/// One line that says what is wrong.
pub fn check(module: &[u8], max_size: usize) -> Result<Report, String> {
    let mut imports = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(|error| format!("not a WebAssembly module: {error}"))?;
        let Payload::ImportSection(section) = payload else {
            continue;
        };
        for import in section.into_imports() {
            let import = import.map_err(|error| format!("bad import section: {error}"))?;
            if !is_allowed(import.module, import.name) {
                return Err(format!("imports {}.{}", import.module, import.name));
            }
            imports.push(format!("{}.{}", import.module, import.name));
        }
    }
    if module.len() > max_size {
        return Err(format!("{} bytes, more than {max_size}", module.len()));
    }
    Ok(Report {
        size: module.len(),
        imports,
    })
}

fn is_allowed(module: &str, name: &str) -> bool {
    match module {
        "env" => name.starts_with("proxy_"),
        "wasi_snapshot_preview1" => name == "random_get",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with one function type and these imports of functions.
    fn module(imports: &[(&str, &str)]) -> Vec<u8> {
        let short = |length: usize| u8::try_from(length).unwrap();
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
        octets
    }

    #[test]
    fn only_the_abi() {
        let good = module(&[
            ("env", "proxy_log"),
            ("wasi_snapshot_preview1", "random_get"),
        ]);
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
            assert_eq!(check(&module(&[import]), 1000).unwrap_err(), said);
        }
        assert!(check(&good, 10).unwrap_err().contains("more than 10"));
        assert!(check(b"nonsense", 10)
            .unwrap_err()
            .contains("not a WebAssembly module"));
    }
}
