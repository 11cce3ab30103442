//! The end-to-end cases and the hosts that each holds on, read from the cases themselves: what
//! `only_on!` and `by_host!` say there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The hosts, as `only_on!` names them, and the heads of their columns.
const HOSTS: [(&str, &str); 7] = [
    ("Envoy", "Envoy"),
    ("KongHost", "Kong, played"),
    ("Nginx", "nginx"),
    ("Kong", "Kong"),
    ("KongLua", "Kong, Lua"),
    ("Layer", "layer"),
    ("Native", "native"),
];

/// One file of cases.
pub struct Module {
    pub name: String,
    /// Its first sentences: what the cases in it are about.
    pub idea: String,
    pub cases: Vec<Case>,
}

/// One case.
pub struct Case {
    pub name: String,
    /// The hosts that it is for.
    pub hosts: BTreeSet<String>,
    /// Why it is not for the others, and what it expects of Kong other than of Envoy.
    pub differences: BTreeSet<String>,
}

/// A function or a static of a module.
#[derive(Default)]
struct Item {
    is_case: bool,
    hosts: Option<BTreeSet<String>>,
    /// The hosts that it is not for.
    left_out: BTreeSet<String>,
    reasons: BTreeSet<String>,
    /// How many differences it declares.
    declared: usize,
    /// Names that occur in it.
    uses: BTreeSet<String>,
}

impl Item {
    fn read(&mut self, tokens: impl IntoIterator<Item = TokenTree>) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(name) => {
                    let is_member = at > 0 && is_punct(tokens.get(at - 1), '.');
                    let arguments = match (tokens.get(at + 1), tokens.get(at + 2)) {
                        (Some(TokenTree::Punct(p)), Some(TokenTree::Group(arguments)))
                            if p.as_char() == '!' =>
                        {
                            Some(arguments.stream())
                        }
                        _ => None,
                    };
                    match (name.to_string().as_str(), arguments) {
                        ("only_on", Some(arguments)) => self.only_on(arguments),
                        ("not_on", Some(arguments)) => {
                            self.left_out.extend(names(arguments.clone()));
                            self.declare(arguments);
                        }
                        ("by_host", Some(arguments)) => self.declare(arguments),
                        (name, _) if !is_member => {
                            self.uses.insert(name.to_owned());
                        }
                        _ => {}
                    }
                }
                TokenTree::Group(group) => self.read(group.stream()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    fn declare(&mut self, arguments: TokenStream) {
        self.declared += 1;
        self.reasons.extend(first_text(arguments));
    }

    fn only_on(&mut self, arguments: TokenStream) {
        self.declare(arguments.clone());
        let mut hosts: BTreeSet<_> = names(arguments).collect();
        // What is for Envoy is for Envoy with the native module.
        if hosts.contains("Envoy") {
            hosts.insert("Native".to_owned());
        }
        self.hosts = Some(hosts);
    }
}

/// The names among the arguments of a macro.
fn names(arguments: TokenStream) -> impl Iterator<Item = String> {
    arguments.into_iter().filter_map(|token| match token {
        TokenTree::Ident(name) => Some(name.to_string()),
        _ => None,
    })
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// The first string among the arguments of a macro.
fn first_text(arguments: TokenStream) -> Option<String> {
    arguments.into_iter().find_map(|token| match token {
        TokenTree::Literal(literal) => match syn::Lit::new(literal) {
            syn::Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

/// What a file declares at its top level.
fn items(source: TokenStream) -> Vec<(String, Item)> {
    let mut tokens = source.into_iter().peekable();
    let mut items = Vec::new();
    let mut is_case = false;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
                is_case |= group.stream().to_string() == "test";
            }
            TokenTree::Ident(keyword)
                if ["fn", "static", "const"].contains(&keyword.to_string().as_str()) =>
            {
                let Some(TokenTree::Ident(name)) = tokens.next() else {
                    continue;
                };
                let mut item = Item {
                    is_case: std::mem::take(&mut is_case),
                    ..Item::default()
                };
                for token in tokens.by_ref() {
                    let is_body = matches!(&token, TokenTree::Group(group)
                        if group.delimiter() == Delimiter::Brace);
                    let ends = is_body || is_punct(Some(&token), ';');
                    item.read([token]);
                    if ends {
                        break;
                    }
                }
                items.push((name.to_string(), item));
            }
            _ => {}
        }
    }
    items
}

/// The reasons of an item and of everything in its module that it uses.
fn reasons(
    name: &str,
    items: &BTreeMap<&str, &Item>,
    seen: &mut BTreeSet<String>,
) -> BTreeSet<String> {
    let Some(item) = items.get(name).filter(|_| seen.insert(name.to_owned())) else {
        return BTreeSet::new();
    };
    let mut all = item.reasons.clone();
    for used in &item.uses {
        all.extend(reasons(used, items, seen));
    }
    all
}

fn module(name: &str, source: &str) -> Module {
    let stream: TokenStream = source
        .parse()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let items = items(stream);
    let by_name: BTreeMap<_, _> = items
        .iter()
        .map(|(name, item)| (name.as_str(), item))
        .collect();
    let idea = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .collect::<String>();
    let cases = items.iter().filter(|(_, item)| item.is_case);
    let cases = cases.map(|(name, item)| Case {
        name: name.clone(),
        hosts: match &item.hosts {
            Some(hosts) => hosts - &item.left_out,
            None => {
                let all: BTreeSet<_> = HOSTS.iter().map(|(host, _)| (*host).to_owned()).collect();
                &all - &item.left_out
            }
        },
        differences: reasons(name, &by_name, &mut BTreeSet::new()),
    });
    let module = Module {
        name: name.to_owned(),
        idea: idea.trim().to_owned(),
        cases: cases.collect(),
    };
    let told: BTreeSet<_> = module
        .cases
        .iter()
        .flat_map(|case| &case.differences)
        .collect();
    let seen: usize = items.iter().map(|(_, item)| item.declared).sum();
    let macros = ["by_host!(", "only_on!(", "not_on!("];
    let written: usize = macros.iter().map(|name| source.matches(name).count()).sum();
    assert_eq!(
        seen, written,
        "{name} declares differences in other places than functions"
    );
    for (item_name, item) in &items {
        let lost: Vec<_> = item
            .reasons
            .iter()
            .filter(|reason| !told.contains(reason))
            .collect();
        assert!(
            lost.is_empty(),
            "{name}: {item_name} is used by no case: {lost:?}"
        );
    }
    module
}

/// All modules with cases, by name.
pub fn modules(dir: &Path) -> Vec<Module> {
    let entries =
        std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let files: BTreeSet<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    let modules = files.iter().map(|file| {
        let name = file.file_stem().expect("a name").to_string_lossy();
        let source = std::fs::read_to_string(file).expect("a readable file");
        module(&name, &source)
    });
    modules.filter(|module| !module.cases.is_empty()).collect()
}

/// Cases that are for the Lua plugin in Kong, and not green there yet: most of them ask for counters, log lines or the
/// observe mode of the filter.
const OPEN: [&str; 32] = [
    "config::a_configuration_that_is_no_json_is_a_rejected_one",
    "config::mistakes_are_named_by_path_in_the_log_and_by_check_config_alike",
    "config::with_a_rejected_configuration_only_safe_requests_pass",
    "inline_stream::what_happened_is_counted",
    "leases::a_lease_is_renewed_under_an_upstream_that_is_slower_than_it",
    "leases::a_lease_is_renewed_while_a_response_streams",
    "metrics::every_outcome_has_a_counter_of_its_own",
    "metrics::waits_and_their_replays_are_counted",
    "metrics::whoever_reads_the_metrics_all_the_time_stops_no_worker",
    "observe::a_duplicate_in_flight_runs_at_once",
    "observe::a_response_streams_by_as_it_comes",
    "observe::a_rule_that_observes_leaves_another_one_in_force",
    "observe::every_duplicate_runs_and_is_counted_as_the_replay_it_would_have_been",
    "observe::nothing_is_delayed_or_refused_when_the_service_is_down",
    "observe::requests_and_answers_are_the_same_bytes_as_without_the_filter",
    "observe::what_would_have_been_refused_is_counted_and_runs",
    "odd::odd_answers_are_replayed_byte_for_byte",
    "odd::odd_answers_reach_the_first_client_as_they_are",
    "odd::what_fills_the_gateways_own_limits_is_executed_and_replayed",
    "paths::refusals_say_why",
    "problems::a_rejected_configuration_refuses_whatever_could_be_protected",
    "quotas::observed_it_is_counted_and_everything_runs",
    "service_down::a_wrong_token_never_passes_and_is_told_once",
    "service_down::open_it_runs_marked_as_unprotected_and_the_key_is_as_new_afterwards",
    "settle_down::the_root_delivers_what_many_clients_were_already_told",
    "spellings::every_row_of_the_table",
    "spellings::without_a_valid_configuration_no_forged_field_arrives",
    "storm::a_service_that_stands_still_now_and_then_costs_no_key_a_second_run",
    "storm::refusals_during_an_outage_push_no_outcome_out_of_the_outbox",
    "storm::two_hundred_requests_with_one_key_run_once",
    "streams::a_client_that_leaves_a_stream",
    "streams::a_rule_that_streams_streams",
];

fn is_open(module: &str, case: &str) -> bool {
    OPEN.contains(&format!("{module}::{case}").as_str())
}

/// The page of the documentation.
pub fn page(modules: &[Module]) -> String {
    let mut page = String::from(INTRODUCTION);
    let cases = || modules.iter().flat_map(|module| &module.cases);
    let on = |host: &str| {
        let open = if host == "KongLua" { OPEN.len() } else { 0 };
        cases()
            .filter(|case| case.hosts.contains(host))
            .count()
            .saturating_sub(open)
    };
    let _ = writeln!(
        page,
        "| | host | cases of {} |\n|---|---|--:|",
        cases().count()
    );
    for ((host, head), what) in HOSTS.iter().zip(WHAT) {
        let _ = writeln!(page, "| {head} | {what} | {} |", on(host));
    }
    page.push_str(LEGEND);
    for module in modules {
        let _ = writeln!(
            page,
            "\n## {}\n\n{}\n",
            module.name.replace('_', " "),
            module.idea
        );
        let heads = HOSTS.map(|(_, head)| head).join(" | ");
        let _ = writeln!(
            page,
            "| | {heads} | differs |\n|---|:-:|:-:|:-:|:-:|:-:|:-:|---|"
        );
        for case in &module.cases {
            let signs = HOSTS.map(|(host, _)| {
                if host == "KongLua" && is_open(&module.name, &case.name) {
                    "○"
                } else if case.hosts.contains(host) {
                    "✓"
                } else {
                    "–"
                }
            });
            let differences: Vec<_> = case.differences.iter().map(String::as_str).collect();
            let _ = writeln!(
                page,
                "| {} | {} | {} |",
                case.name.replace('_', " "),
                signs.join(" | "),
                differences.join("; ").replace('|', "\\|"),
            );
        }
    }
    page
}

const INTRODUCTION: &str = "\
# The end-to-end cases, host by host

One list of cases (`tests/gateway`) runs against every host: real requests over real sockets, the same
`idempotency.wasm` in the gateways and the same rules in the library's layer and in the native module, the real service, an upstream
that counts its executions. A case that expects something else of a host than of Envoy says so itself, and
why; this page is made of what the cases say (`cargo run -p idempotency-e2e --example cases_page`), and a
test keeps it current.

";

const WHAT: [&str; 7] = [
    "a real Envoy, the newest and the oldest supported one; also with records in Redis and in \
     PostgreSQL, and with one callout for every operation: `make test`",
    "a host of our own that enforces the rules of Kong's ([kong-facts.md](kong-facts.md)) and fails \
     a case that breaks one: `make test`",
    "a real nginx with Kong's module for WebAssembly and none of Kong's Lua, which is not everywhere \
     to be had: `make test-kong KONG_NGINX=…`",
    "a complete Kong 3.9 without a database, with the settings that we ship: \
     `make test-kong KONG=…`",
    "the same Kong with [the Lua plugin](../kong/plugin/README.md) in place of the filter (○: not green yet): \
     `make test-kong KONG=… BODY=lua`",
    "the [library](library.md)'s HTTP layer in front of a handler that asks the upstream, its records \
     in the service: `make test`",
    "a real Envoy with the filter as a [native module](native-module.md), which executes inline only: \
     `make test-native`",
];

const LEGEND: &str = "
✓ it holds there; – it is not for this host. The last column says what a host does otherwise. One
difference concerns every case and stands in none: on Envoy a client has the last byte of an answer when
its record is stored, on Kong the record follows within milliseconds, and who comes back in between is
told `in-flight`. There the clients of these cases come again, as the answer says.
";
