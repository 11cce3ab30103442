//! `include/idempotency.h` is made from the source of the glue, and so is what LuaJIT reads
//! (`kong/plugin/kong/plugins/idempotency/cdef.lua`). `UPDATE_HEADER=1 cargo test -p idempotency-core-ffi --test
//! header` writes both anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use syn::{Attribute, Expr, FnArg, Item, Lit, Meta, Pat, ReturnType, Type, Visibility};

const FILES: [&str; 6] = ["mod", "config", "reply", "batch", "request", "execution"];

/// The name of a Rust type in C: `IgBytes` is `ig_bytes`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// A type in C, up to and with the space or star before a name.
fn c_type(ty: &Type) -> String {
    match ty {
        Type::Ptr(pointer) => {
            let constant = match pointer.mutability {
                None => "const ",
                Some(_) => "",
            };
            format!("{constant}{}*", c_type(&pointer.elem))
        }
        Type::Path(path) => {
            let name = path.path.segments.last().unwrap().ident.to_string();
            let c = match name.as_str() {
                "u8" => "uint8_t".to_owned(),
                "u32" => "uint32_t".to_owned(),
                "u64" => "uint64_t".to_owned(),
                "i32" => "int32_t".to_owned(),
                "i64" => "int64_t".to_owned(),
                "usize" => "size_t".to_owned(),
                ours if ours.starts_with("Ig") => snake(ours),
                other => panic!("{other} has no form in C"),
            };
            format!("{c} ")
        }
        _ => panic!("a type that has no form in C"),
    }
}

/// The documentation of an item as a comment; what only Rust must know of it is left out.
fn comment(attributes: &[Attribute], indent: &str) -> String {
    let mut lines = Vec::new();
    for attribute in attributes.iter().filter(|a| a.path().is_ident("doc")) {
        let Meta::NameValue(pair) = &attribute.meta else {
            continue;
        };
        let Expr::Lit(literal) = &pair.value else {
            continue;
        };
        let Lit::Str(text) = &literal.lit else {
            continue;
        };
        lines.push(text.value().trim().to_owned());
    }
    if let Some(safety) = lines.iter().position(|line| line == "# Safety") {
        lines.truncate(safety);
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    assert!(!lines.is_empty(), "undocumented");
    let mut out = format!("{indent}/* ");
    out.push_str(&lines.join(&format!("\n{indent} * ")));
    out.push_str(" */\n");
    out
}

fn is_repr_c(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("repr")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|ident| ident == "C")
    })
}

#[derive(Default)]
struct Made {
    constants: String,
    handles: String,
    structs: BTreeMap<usize, String>,
    functions: String,
}

fn read(source: &str, made: &mut Made) {
    for item in syn::parse_file(source).unwrap().items {
        match item {
            Item::Const(item) if matches!(item.vis, Visibility::Public(_)) => {
                let value = number(&item.expr);
                made.constants += &comment(&item.attrs, "  ");
                let _ = writeln!(made.constants, "  {} = {},", item.ident, value);
            }
            Item::Struct(item) if matches!(item.vis, Visibility::Public(_)) => {
                let name = snake(&item.ident.to_string());
                let said = comment(&item.attrs, "");
                if !is_repr_c(&item.attrs) {
                    let _ = write!(made.handles, "\n{said}typedef struct {name} {name};\n");
                    continue;
                }
                let mut fields = String::new();
                for field in &item.fields {
                    fields += &comment(&field.attrs, "  ");
                    let name = field.ident.as_ref().unwrap();
                    let _ = writeln!(fields, "  {}{name};", c_type(&field.ty));
                }
                let place = made.structs.len();
                let text = format!("\n{said}typedef struct {name} {{\n{fields}}} {name};\n");
                made.structs.insert(place, text);
            }
            Item::Fn(item) if item.sig.abi.is_some() => {
                let back = match &item.sig.output {
                    ReturnType::Default => "void ".to_owned(),
                    ReturnType::Type(_, ty) => c_type(ty),
                };
                let mut arguments = Vec::new();
                for argument in &item.sig.inputs {
                    let FnArg::Typed(argument) = argument else {
                        panic!("a method");
                    };
                    let Pat::Ident(name) = &*argument.pat else {
                        panic!("an argument without a name");
                    };
                    arguments.push(format!("{}{}", c_type(&argument.ty), name.ident));
                }
                if arguments.is_empty() {
                    arguments.push("void".to_owned());
                }
                let name = &item.sig.ident;
                let said = comment(&item.attrs, "");
                let arguments = arguments.join(", ");
                let _ = write!(made.functions, "\n{said}{back}{name}({arguments});\n");
            }
            _ => {}
        }
    }
}

/// A number as it is written.
fn number(expression: &Expr) -> String {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(number) => number.base10_digits().to_owned(),
            _ => panic!("no number"),
        },
        Expr::Unary(minus) => format!("-{}", number(&minus.expr)),
        _ => panic!("no number"),
    }
}

/// What a compiler of C, and LuaJIT, read.
fn declarations() -> String {
    let mut made = Made::default();
    for file in FILES {
        let path = format!("{}/src/glue/{file}.rs", env!("CARGO_MANIFEST_DIR"));
        read(&std::fs::read_to_string(path).unwrap(), &mut made);
    }
    let structs: String = made.structs.into_values().collect();
    format!(
        "enum {{\n{}}};\n{}{structs}{}",
        made.constants, made.handles, made.functions
    )
}

fn header() -> String {
    format!(
        "/* The core of the Idempotency Gateway for hosts that are not written in Rust. Made from crates/core-ffi/src/glue:\n \
         * UPDATE_HEADER=1 cargo test -p idempotency-core-ffi --test header\n *\n \
         * Nothing is allocated for the caller to free but handles. Bytes that go in are read before a function returns.\n \
         * Bytes that come out are borrowed from a handle, until the next call with it. A handle belongs to one thread at a\n \
         * time; a configuration may be shared. */\n\
         #ifndef IDEMPOTENCY_H\n#define IDEMPOTENCY_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n\
         #ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n{}\n#ifdef __cplusplus\n}}\n#endif\n\n#endif\n",
        declarations()
    )
}

/// Without comments: LuaJIT reads it each time that it starts.
fn cdef() -> String {
    let mut text = String::new();
    let mut inside = false;
    for line in declarations().lines() {
        inside |= line.trim_start().starts_with("/*");
        if !inside && !line.is_empty() {
            text += line;
            text.push('\n');
        }
        inside &= !line.ends_with("*/");
    }
    format!(
        "-- What LuaJIT must know of the library. Made from crates/core-ffi/src/glue, as include/idempotency.h there, which\n\
         -- explains it: UPDATE_HEADER=1 cargo test -p idempotency-core-ffi --test header\n\
         return [[\n{text}]]\n"
    )
}

fn must_be(file: &str, wanted: &str) {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(file);
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, wanted).unwrap();
    }
    let present = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        present == wanted,
        "{file} is stale: UPDATE_HEADER=1 cargo test -p idempotency-core-ffi --test header"
    );
}

#[test]
fn the_header_is_that_of_the_code() {
    must_be("crates/core-ffi/include/idempotency.h", &header());
}

#[test]
fn what_luajit_reads_is_that_of_the_code() {
    must_be("kong/plugin/kong/plugins/idempotency/cdef.lua", &cdef());
}

/// A header that does not compile, or that an ABI check of C would refuse, helps nobody.
#[test]
fn a_compiler_of_c_takes_the_header() {
    for (language, extension) in [("c", "c"), ("c++", "cc")] {
        let source = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("header.{extension}"));
        let text =
            "#include \"idempotency.h\"\nint main(void) { return ig_abi() == IG_ABI ? 0 : 1; }\n";
        std::fs::write(&source, text).unwrap();
        let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
        let status = std::process::Command::new("cc")
            .args(["-x", language, "-Wall", "-Wextra", "-pedantic", "-Werror"])
            .args(["-fsyntax-only", "-I", include])
            .arg(&source)
            .status()
            .expect("a compiler of C");
        assert!(status.success(), "{language}");
    }
}
