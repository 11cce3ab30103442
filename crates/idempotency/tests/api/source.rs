//! The modules of a crate, as they are written.

use quote::ToTokens;
use std::path::{Path, PathBuf};
use syn::{Attribute, Item, Meta, Visibility};

/// A module, with everything under which it is compiled.
pub struct Module {
    /// From the crate's root, which is empty.
    pub path: Vec<String>,
    pub is_public: bool,
    /// `cfg` of the module and of those around it.
    pub cfgs: Vec<Attribute>,
    pub items: Vec<Item>,
}

/// All modules of a crate but its tests, the root first.
pub fn modules(src: &Path) -> Vec<Module> {
    let mut modules = Vec::new();
    let root = Module {
        path: Vec::new(),
        is_public: true,
        cfgs: Vec::new(),
        items: read(&src.join("lib.rs")),
    };
    walk(root, src, &mut modules);
    modules
}

fn walk(mut module: Module, dir: &Path, all: &mut Vec<Module>) {
    let mut inner = Vec::new();
    module.items = std::mem::take(&mut module.items)
        .into_iter()
        .flat_map(opened)
        .filter(|item| !is_test(attributes(item)))
        .filter_map(|item| match item {
            Item::Mod(child) => {
                inner.push(child);
                None
            }
            item => Some(item),
        })
        .collect();
    let (path, public, cfgs) = (module.path.clone(), module.is_public, module.cfgs.clone());
    all.push(module);
    for child in inner {
        let name = child.ident.to_string();
        let below = dir.join(&name);
        let items = match child.content {
            Some((_, items)) => items,
            None => match path_of(&child.attrs) {
                // From a root or a `mod.rs`: relative to its folder.
                Some(path) => read(&dir.join(path)),
                None => read(&file(dir, &name)),
            },
        };
        let module = Module {
            path: [&path[..], &[name]].concat(),
            is_public: public && matches!(child.vis, Visibility::Public(_)),
            cfgs: [&cfgs[..], &cfgs_of(&child.attrs)[..]].concat(),
            items,
        };
        walk(module, &below, all);
    }
}

/// What stands in `pin_project!` is an item like any other.
fn opened(item: Item) -> Vec<Item> {
    match item {
        Item::Macro(call) if call.mac.path.is_ident("pin_project") => {
            let inner: syn::File = syn::parse2(call.mac.tokens).expect("items");
            inner.items
        }
        item => vec![item],
    }
}

fn path_of(attributes: &[Attribute]) -> Option<String> {
    let path = attributes.iter().find(|a| a.path().is_ident("path"))?;
    let Meta::NameValue(pair) = &path.meta else {
        return None;
    };
    let text = pair.value.to_token_stream().to_string();
    Some(text.trim_matches('"').to_owned())
}

fn file(dir: &Path, name: &str) -> PathBuf {
    let flat = dir.join(format!("{name}.rs"));
    match flat.is_file() {
        true => flat,
        false => dir.join(name).join("mod.rs"),
    }
}

fn read(path: &Path) -> Vec<Item> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.items
}

/// The attributes of an item.
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

/// The `cfg`s among attributes.
pub fn cfgs_of(attributes: &[Attribute]) -> Vec<Attribute> {
    let cfgs = attributes.iter().filter(|a| a.path().is_ident("cfg"));
    cfgs.cloned().collect()
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        meta => meta.path().is_ident("test"),
    })
}
