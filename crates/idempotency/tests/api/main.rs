//! The public interface: `public-api.txt` lists it, so that a change of it is seen in review, and no type of a
//! backend's driver stands in it outside of that backend's feature.

mod public;
mod source;

use proc_macro2::{TokenStream, TokenTree};
use public::{leaves, public, Public};
use quote::ToTokens;
use source::{attributes, Module};
use std::collections::BTreeMap;
use std::path::Path;
use syn::{File, Item};

fn crates(name: &str) -> std::path::PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("..").join(name).join("src")
}

const HEAD: &str = "\
// The public interface of `idempotency`, as its source has it, with all features. Bodies and private fields are
// left out. Made by `UPDATE_API=1 cargo test -p idempotency --test api`.
";

fn text(item: &Item) -> String {
    prettyplease::unparse(&File {
        shebang: None,
        attrs: Vec::new(),
        items: vec![item.clone()],
    })
}

#[test]
fn the_listing_is_current() {
    let (items, _) = public(&crates("idempotency"));
    let mut by_module: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for public in &items {
        let module = by_module.entry(&public.module).or_default();
        module.push(text(&public.item));
    }
    let mut listing = HEAD.to_owned();
    for (module, mut items) in by_module {
        items.sort();
        items.dedup();
        let name = match module {
            "" => "idempotency".to_owned(),
            module => format!("idempotency::{module}"),
        };
        listing.push_str(&format!("\n// {name}\n\n"));
        listing.push_str(&items.join(""));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("public-api.txt");
    if std::env::var_os("UPDATE_API").is_some() {
        std::fs::write(&path, &listing).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == listing,
        "the public interface has changed: look at it, and run UPDATE_API=1 cargo test -p idempotency --test api"
    );
    assert!(listing.contains("pub struct Guard"));
}

/// A driver's crate, by the beginning of its name, and the features of which one must stand before it.
const DRIVERS: [(&str, &[&str]); 9] = [
    ("fjall", &["embedded"]),
    ("redis", &["redis"]),
    ("tokio_postgres", &["tokio-postgres", "postgres"]),
    ("deadpool", &["postgres", "redis"]),
    ("rustls", &["postgres", "redis", "remote"]),
    ("sqlx", &["sqlx-"]),
    ("rdkafka", &["kafka"]),
    ("axum", &["axum"]),
    ("hyper", &["remote"]),
];

/// The features that an item must name, by the drivers in its signature.
fn drivers(
    item: &Item,
    imported: &BTreeMap<String, String>,
) -> Vec<(String, &'static [&'static str])> {
    fn names(tokens: TokenStream, all: &mut Vec<(String, bool)>) {
        let mut before = None;
        for token in tokens {
            match token {
                TokenTree::Group(group) => names(group.stream(), all),
                TokenTree::Ident(ident) => {
                    // What follows `::` is not a crate.
                    all.push((ident.to_string(), before == Some(':')));
                    before = None;
                    continue;
                }
                TokenTree::Punct(punct) => {
                    before = Some(punct.as_char());
                    continue;
                }
                TokenTree::Literal(_) => {}
            }
            before = None;
        }
    }
    let mut found = Vec::new();
    names(item.to_token_stream(), &mut found);
    let roots = found.into_iter().filter(|(_, is_inner)| !is_inner);
    let mut all: Vec<_> = roots
        .filter_map(|(name, _)| {
            let root = imported.get(&name).unwrap_or(&name);
            let known = DRIVERS.iter().find(|(driver, _)| root.starts_with(driver));
            known.map(|(_, features)| (root.clone(), *features))
        })
        .collect();
    all.dedup();
    all
}

/// Which crate, or module, each imported name comes from.
fn imported(module: &Module) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for item in &module.items {
        if let Item::Use(item) = item {
            for (path, alias) in leaves(&item.tree) {
                all.extend(path.first().map(|root| (alias, root.clone())));
            }
        }
    }
    all
}

fn undeclared(items: &[Public], modules: &[Module]) -> Vec<String> {
    let mut wrong = Vec::new();
    for public in items {
        let cfgs: String = attributes(&public.item)
            .iter()
            .filter(|a| a.path().is_ident("cfg"))
            .map(|a| a.to_token_stream().to_string())
            .collect();
        let mut bare = public.item.clone();
        strip(&mut bare);
        for (driver, features) in drivers(&bare, &imported(&modules[public.home])) {
            let is_named = features.iter().any(|f| cfgs.contains(&format!("\"{f}")));
            if !is_named {
                wrong.push(format!("{driver} in {}", text(&public.item)));
            }
        }
    }
    wrong
}

/// Its attributes name features, not types.
fn strip(item: &mut Item) {
    match item {
        Item::Enum(i) => i.attrs.clear(),
        Item::Fn(i) => i.attrs.clear(),
        Item::Impl(i) => i.attrs.clear(),
        Item::Struct(i) => i.attrs.clear(),
        Item::Trait(i) => i.attrs.clear(),
        Item::Type(i) => i.attrs.clear(),
        Item::Use(i) => i.attrs.clear(),
        _ => {}
    }
}

#[test]
fn no_drivers_type_stands_in_a_signature_that_does_not_name_its_feature() {
    for name in ["idempotency", "store", "client"] {
        let (items, modules) = public(&crates(name));
        assert!(items.len() > 5, "{name}: only {} items", items.len());
        let wrong = undeclared(&items, &modules);
        assert_eq!(wrong, [""; 0], "{name}");
    }
}

#[test]
fn a_driver_that_nobody_asked_for_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let source = "
        mod inner;
        pub use inner::Store;
        #[cfg(feature = \"redis\")]
        pub fn allowed(_: redis::Client) {}
    ";
    let inner = "
        use fjall::Keyspace as Space;
        pub struct Store(Space);
        impl Store {
            pub fn space(&self) -> &Space { &self.0 }
            fn hidden(&self) -> Space { loop {} }
        }
        impl From<tokio_postgres::Client> for Store {}
    ";
    std::fs::write(dir.path().join("lib.rs"), source).unwrap();
    std::fs::write(dir.path().join("inner.rs"), inner).unwrap();
    let (items, modules) = public(dir.path());
    let wrong = undeclared(&items, &modules);
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(
        wrong[0].starts_with("fjall in") && wrong[0].contains("space"),
        "{wrong:?}"
    );
    assert!(wrong[1].starts_with("tokio_postgres in"), "{wrong:?}");
}
