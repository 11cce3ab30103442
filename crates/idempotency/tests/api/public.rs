//! What of a crate its users see.

use crate::source::{cfgs_of, modules, Module};
use std::collections::BTreeMap;
use std::path::Path;
use syn::{
    parse_quote, Attribute, Block, Fields, ImplItem, Item, TraitItem, Type, UseTree, Visibility,
};

/// One item: without bodies, private parts and documentation.
pub struct Public {
    /// The public module in which users find it.
    pub module: String,
    pub item: Item,
    /// Where it is written: its names mean what that module says.
    pub home: usize,
}

/// Everything public, and the modules in which it is written.
pub fn public(src: &Path) -> (Vec<Public>, Vec<Module>) {
    let modules = modules(src);
    let mut all = Vec::new();
    // Which types are public, and where users find them.
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    for (at, module) in modules.iter().enumerate().filter(|(_, m)| m.is_public) {
        let name = module.path.join("::");
        for item in &module.items {
            match item {
                Item::Use(shared) if is_public(&shared.vis) => {
                    let cfgs = cfgs_of(&shared.attrs);
                    for (path, alias) in expanded(&modules, at, leaves(&shared.tree)) {
                        match definition(&modules, at, &path) {
                            Some((home, item)) if path.last() == Some(&alias) => {
                                types.insert(alias, name.clone());
                                let around = [&module.cfgs[..], &cfgs[..], &modules[home].cfgs[..]];
                                push(&mut all, &name, item, home, &around.concat());
                            }
                            _ => {
                                let whole = match path.last() == Some(&alias) {
                                    true => path.join("::"),
                                    false => format!("{} as {alias}", path.join("::")),
                                };
                                let item = format!("pub use {whole};");
                                let item: Item = syn::parse_str(&item).expect("a use");
                                let around = [&module.cfgs[..], &cfgs[..]].concat();
                                push(&mut all, &name, &item, at, &around);
                            }
                        }
                    }
                }
                item => {
                    if let Some(defined) = name_of(item) {
                        types.insert(defined, name.clone());
                        push(&mut all, &name, item, at, &module.cfgs);
                    }
                }
            }
        }
    }
    for (home, module) in modules.iter().enumerate() {
        for item in &module.items {
            let Item::Impl(block) = item else { continue };
            let Type::Path(of) = block.self_ty.as_ref() else {
                continue;
            };
            let of = of.path.segments.last().expect("a type has a name");
            if let Some(name) = types.get(&of.ident.to_string()) {
                push(&mut all, name, item, home, &module.cfgs);
            }
        }
    }
    (all, modules)
}

fn push(all: &mut Vec<Public>, module: &str, item: &Item, home: usize, cfgs: &[Attribute]) {
    if let Some(item) = cleaned(item.clone(), cfgs) {
        all.push(Public {
            module: module.to_owned(),
            item,
            home,
        });
    }
}

/// Paths that a `use` names, each with the name that it gets.
pub fn leaves(tree: &UseTree) -> Vec<(Vec<String>, String)> {
    match tree {
        UseTree::Path(path) => {
            let mut below = leaves(&path.tree);
            for (names, alias) in &mut below {
                if names.is_empty() {
                    // `use a::{self}`
                    *alias = path.ident.to_string();
                }
                names.insert(0, path.ident.to_string());
            }
            below
        }
        UseTree::Name(name) if name.ident == "self" => vec![(Vec::new(), String::new())],
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            vec![(vec![name.clone()], name)]
        }
        UseTree::Rename(name) => {
            let path = match name.ident == "self" {
                true => Vec::new(),
                false => vec![name.ident.to_string()],
            };
            vec![(path, name.rename.to_string())]
        }
        UseTree::Glob(_) => vec![(vec!["*".to_owned()], "*".to_owned())],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
    }
}

/// With what `*` stands for in this crate.
fn expanded(
    modules: &[Module],
    at: usize,
    leaves: Vec<(Vec<String>, String)>,
) -> Vec<(Vec<String>, String)> {
    let one = |(path, alias): (Vec<String>, String)| {
        let home = match path.split_last() {
            Some((star, parents)) if star == "*" => home(modules, at, parents),
            _ => None,
        };
        let Some(home) = home else {
            return vec![(path, alias)];
        };
        let parents = &path[..path.len() - 1];
        let names = modules[home].items.iter().filter_map(name_of);
        names
            .map(|name| ([parents, std::slice::from_ref(&name)].concat(), name))
            .collect()
    };
    leaves.into_iter().flat_map(one).collect()
}

/// The module of this crate that a path means in another one.
fn home(modules: &[Module], at: usize, path: &[String]) -> Option<usize> {
    let mut from = modules[at].path.clone();
    let mut rest = path;
    while let Some((first, behind)) = rest.split_first() {
        match first.as_str() {
            "crate" => from.clear(),
            "super" => drop(from.pop()),
            "self" => {}
            _ => break,
        }
        rest = behind;
    }
    from.extend_from_slice(rest);
    modules.iter().position(|m| m.path == from)
}

/// The item of this crate that a path means in a module.
fn definition<'m>(modules: &'m [Module], at: usize, path: &[String]) -> Option<(usize, &'m Item)> {
    let (name, parents) = path.split_last()?;
    let home = home(modules, at, parents)?;
    let items = &modules[home].items;
    if let Some(item) = items.iter().find(|i| name_of(i).as_ref() == Some(name)) {
        return Some((home, item));
    }
    // Handed on by that module.
    items.iter().find_map(|item| match item {
        Item::Use(shared) if is_public(&shared.vis) => {
            let mut leaves = leaves(&shared.tree).into_iter();
            let (path, _) = leaves.find(|(_, alias)| alias == name)?;
            // A crate that is handed on as it is.
            if path == [name.clone()] {
                return None;
            }
            // One name that means itself is another crate, handed on whole.
            match path.as_slice() {
                [whole] if whole == name => None,
                path => definition(modules, home, path),
            }
        }
        _ => None,
    })
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Of a public item; `None` for all others.
fn name_of(item: &Item) -> Option<String> {
    let (visibility, name) = match item {
        Item::Const(i) => (&i.vis, &i.ident),
        Item::Enum(i) => (&i.vis, &i.ident),
        Item::Fn(i) => (&i.vis, &i.sig.ident),
        Item::Static(i) => (&i.vis, &i.ident),
        Item::Struct(i) => (&i.vis, &i.ident),
        Item::Trait(i) => (&i.vis, &i.ident),
        Item::Type(i) => (&i.vis, &i.ident),
        _ => return None,
    };
    is_public(visibility).then(|| name.to_string())
}

const KEPT: [&str; 4] = ["cfg", "derive", "must_use", "non_exhaustive"];

fn clean(attributes: &mut Vec<Attribute>) {
    attributes.retain(|a| KEPT.iter().any(|kept| a.path().is_ident(kept)));
    for attribute in attributes {
        // Why something must be used is prose.
        if attribute.path().is_ident("must_use") {
            *attribute = parse_quote!(#[must_use]);
        }
    }
}

fn nothing() -> Block {
    parse_quote!({})
}

fn cleaned(mut item: Item, cfgs: &[Attribute]) -> Option<Item> {
    match &mut item {
        Item::Enum(i) => {
            for variant in &mut i.variants {
                clean(&mut variant.attrs);
                for field in &mut variant.fields {
                    field.attrs.clear();
                }
            }
        }
        Item::Fn(i) => *i.block = nothing(),
        Item::Struct(i) => fields(&mut i.fields),
        Item::Trait(i) => {
            for item in &mut i.items {
                match item {
                    TraitItem::Fn(f) => {
                        clean(&mut f.attrs);
                        f.default = f.default.as_ref().map(|_| nothing());
                    }
                    TraitItem::Const(c) => c.attrs.clear(),
                    TraitItem::Type(t) => t.attrs.clear(),
                    _ => {}
                }
            }
        }
        Item::Impl(i) => {
            let of_trait = i.trait_.is_some();
            i.items.retain(|item| match item {
                ImplItem::Type(_) => true,
                ImplItem::Fn(f) => !of_trait && is_public(&f.vis),
                ImplItem::Const(c) => !of_trait && is_public(&c.vis),
                _ => false,
            });
            if i.items.is_empty() && !of_trait {
                return None;
            }
            for item in &mut i.items {
                match item {
                    ImplItem::Fn(f) => {
                        clean(&mut f.attrs);
                        f.block = nothing();
                    }
                    ImplItem::Const(c) => c.attrs.clear(),
                    ImplItem::Type(t) => t.attrs.clear(),
                    _ => {}
                }
            }
        }
        _ => {}
    }
    let attributes = match &mut item {
        Item::Const(i) => &mut i.attrs,
        Item::Enum(i) => &mut i.attrs,
        Item::Fn(i) => &mut i.attrs,
        Item::Impl(i) => &mut i.attrs,
        Item::Static(i) => &mut i.attrs,
        Item::Struct(i) => &mut i.attrs,
        Item::Trait(i) => &mut i.attrs,
        Item::Type(i) => &mut i.attrs,
        Item::Use(i) => &mut i.attrs,
        _ => return None,
    };
    clean(attributes);
    for cfg in cfgs {
        if !attributes.contains(cfg) {
            attributes.insert(0, cfg.clone());
        }
    }
    Some(item)
}

/// Private fields are left out.
fn fields(fields: &mut Fields) {
    match fields {
        Fields::Named(named) => {
            let kept = std::mem::take(&mut named.named).into_iter();
            named.named = kept.filter(|f| is_public(&f.vis)).collect();
            named.named.iter_mut().for_each(|f| f.attrs.clear());
        }
        Fields::Unnamed(unnamed) => {
            let kept = std::mem::take(&mut unnamed.unnamed).into_iter();
            unnamed.unnamed = kept.filter(|f| is_public(&f.vis)).collect();
        }
        Fields::Unit => {}
    }
}
