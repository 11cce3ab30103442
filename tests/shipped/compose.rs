//! The compose files: form, and everything that they name.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::report::{self, Report};
use crate::repository::{elements, members, read, root, strings, variables, versions, yaml};
use crate::{dockerfile, kong_settings, parts};

pub const STACKS: [&str; 2] = ["kong", "envoy"];

pub fn path(stack: &str) -> String {
    format!("{stack}/docker-compose.yaml")
}

/// Replaces `${NAME:-default}` by the default.
pub fn interpolated(text: &str) -> String {
    let Some((before, rest)) = text.split_once("${") else {
        return text.to_owned();
    };
    let (inner, after) = rest.split_once('}').unwrap_or((rest, ""));
    let default = inner.split_once(":-").map_or("", |(_, default)| default);
    format!("{before}{default}{}", interpolated(after))
}

/// What is wrong with a stack's compose file.
pub fn faults(stack: &str, document: &Value) -> Vec<String> {
    let mut report = Report::default();
    known(&mut report, "", document, &["name", "services", "volumes"]);
    let name = document["name"].as_str().unwrap_or_default();
    let plain = |c: char| c.is_ascii_lowercase() || c == '-';
    report.expect(
        !name.is_empty() && name.chars().all(plain),
        "name: is missing or odd",
    );
    for (name, service) in members(&document["services"]) {
        Service {
            stack,
            name,
            service,
            document,
        }
        .check(&mut report);
    }
    for (volume, settings) in members(&document["volumes"]) {
        report.expect(
            settings.is_null(),
            format!("volumes.{volume}: has settings"),
        );
        let mut mounts = members(&document["services"]).flat_map(|(_, s)| strings(&s["volumes"]));
        let used = mounts.any(|mount| mount.starts_with(&format!("{volume}:")));
        report.expect(used, format!("volumes.{volume}: nobody mounts it"));
    }
    report.expect(
        order(document).is_some(),
        "depends_on: goes round in a circle, or names no service",
    );
    report.faults()
}

fn known(report: &mut Report, at: &str, value: &Value, names: &[&str]) {
    for (name, _) in members(value) {
        report.expect(names.contains(&name), format!("{at}{name}: not known here"));
    }
}

/// The services in an order in which they can start.
fn order(document: &Value) -> Option<Vec<&str>> {
    let mut started: Vec<&str> = Vec::new();
    let services: Vec<(&str, &Value)> = members(&document["services"]).collect();
    while started.len() < services.len() {
        let (next, _) = services.iter().find(|(name, service)| {
            !started.contains(name)
                && members(&service["depends_on"]).all(|(needed, _)| started.contains(&needed))
        })?;
        started.push(next);
    }
    Some(started)
}

struct Service<'a> {
    stack: &'a str,
    name: &'a str,
    service: &'a Value,
    document: &'a Value,
}

impl Service<'_> {
    fn check(&self, report: &mut Report) {
        let mut inner = Report::default();
        self.all(&mut inner);
        for fault in inner.faults() {
            report.fault(format!("services.{}.{fault}", self.name));
        }
    }

    fn all(&self, report: &mut Report) {
        let service = self.service;
        let keys = [
            "image",
            "build",
            "command",
            "environment",
            "env_file",
            "ports",
            "volumes",
            "depends_on",
            "healthcheck",
            "restart",
            "init",
            "read_only",
            "cap_drop",
            "security_opt",
            "user",
            "tmpfs",
        ];
        known(report, "", service, &keys);
        match (&service["image"], &service["build"]) {
            (Value::String(image), Value::Null) => self.image(report, image),
            (Value::Null, Value::Object(_)) => self.build(report),
            _ => report.fault("image: must have an image or a build"),
        }
        self.ports(report);
        self.mounts(report);
        self.dependencies(report);
        self.health(report);
        self.environment(report);
        self.command(report);
        self.hardening(report);
        self.restart(report);
        report.expect(
            service["init"].is_null() || service["init"] == true,
            "init: is odd",
        );
    }

    /// Nobody writes to an image, is root, has a capability or can get one.
    fn hardening(&self, report: &mut Report) {
        let service = self.service;
        report.expect(service["read_only"] == true, "read_only: is not true");
        report.expect(
            strings(&service["cap_drop"]) == ["ALL"],
            "cap_drop: does not drop ALL",
        );
        report.expect(
            strings(&service["security_opt"]) == ["no-new-privileges:true"],
            "security_opt: is not no-new-privileges",
        );
        let target = service["build"]["target"].as_str();
        let user = service["user"].as_str().map(str::to_owned);
        let user = user.or_else(|| dockerfile::user(target?));
        let is_root = |user: &str| matches!(user.split(':').next(), Some("" | "root" | "0") | None);
        report.expect(
            user.is_some_and(|user| !is_root(&user)),
            "user: it runs as root",
        );
        for mount in strings(&service["tmpfs"]) {
            report.expect(mount.starts_with('/'), "tmpfs: is not absolute");
        }
        if self.name == "redis" {
            self.password(report);
        }
    }

    /// The server asks for one, and its health check and the service know it.
    fn password(&self, report: &mut Report) {
        let command = strings(&self.service["command"]);
        let mut pairs = command.windows(2);
        let password = pairs.find_map(|pair| match pair {
            ["--requirepass", password] => Some(*password),
            _ => None,
        });
        let Some(password) = report.found(password, "command: asks for no password") else {
            return;
        };
        let known = &self.service["environment"]["REDISCLI_AUTH"];
        report.expect(known == password, "environment.REDISCLI_AUTH: is another");
        let service = &self.document["services"]["idempotencyd"];
        let url = environment(self.stack, service).remove("IDEMPOTENCYD_STORE");
        report.expect(
            url.flatten() == Some(format!("redis://:{password}@redis:6379")),
            "command: the service has another password",
        );
    }

    /// Everything that is to run is started again when it ends.
    fn restart(&self, report: &mut Report) {
        let ends = members(&self.document["services"]).any(|(_, other)| {
            let condition = &other["depends_on"][self.name]["condition"];
            condition == "service_completed_successfully"
        });
        let restart = self.service["restart"].as_str();
        report.expect(
            match restart {
                None => ends && self.service["restart"].is_null(),
                Some(policy) => !ends && matches!(policy, "unless-stopped" | "always"),
            },
            "restart: is odd",
        );
    }

    fn image(&self, report: &mut Report, image: &str) {
        let pinned = versions(&format!("{}/VERSIONS", self.stack));
        // Envoy's images have a v before the version.
        let wanted = match image.split_once(':') {
            Some(("envoyproxy/envoy", _)) => pinned.get("newest").map(|v| format!("v{v}")),
            Some((name, _)) => pinned.get(name).cloned(),
            None => None,
        };
        let tag = image.split_once(':').map(|(_, tag)| tag.to_owned());
        report.expect(
            tag.is_some() && tag == wanted,
            format!("image: {image} is not the one of {}/VERSIONS", self.stack),
        );
    }

    fn build(&self, report: &mut Report) {
        let build = &self.service["build"];
        known(
            report,
            "build.",
            build,
            &["context", "dockerfile", "target"],
        );
        let context = root()
            .join(self.stack)
            .join(build["context"].as_str().unwrap_or_default());
        let top = context
            .canonicalize()
            .is_ok_and(|context| context == root());
        report.expect(top, "build.context: is not the top of the repository");
        report.expect(
            build["dockerfile"] == dockerfile::PATH,
            "build.dockerfile: is not there",
        );
        let target = build["target"].as_str().unwrap_or_default();
        report.expect(
            dockerfile::targets().contains(target),
            "build.target: no such stage",
        );
    }

    fn ports(&self, report: &mut Report) {
        for port in strings(&self.service["ports"]) {
            let parts = interpolated(port);
            let parts: Vec<&str> = parts.split(':').collect();
            let right = matches!(parts[..], ["127.0.0.1", host, container]
                if [host, container].iter().all(|port| port.parse::<u16>().is_ok_and(|p| p > 0)));
            report.expect(
                right,
                format!("ports: {port} is not 127.0.0.1:HOST:CONTAINER"),
            );
        }
    }

    fn mounts(&self, report: &mut Report) {
        for mount in strings(&self.service["volumes"]) {
            let parts: Vec<&str> = mount.split(':').collect();
            let (source, target) = match parts[..] {
                [source, target] | [source, target, "ro"] => (source, target),
                _ => {
                    report.fault(format!("volumes: {mount} is not SOURCE:TARGET"));
                    continue;
                }
            };
            report.expect(
                target.starts_with('/'),
                format!("volumes: {target} is not absolute"),
            );
            if source.starts_with(['.', '/', '~']) {
                // A path that is not there would be made, as a directory.
                let file = root().join(self.stack).join(source);
                report.expect(
                    file.is_file() && mount.ends_with(":ro"),
                    format!("volumes: {source} is no file of the repository, or may be written"),
                );
            } else {
                let declared = self.document["volumes"].get(source).is_some();
                report.expect(declared, format!("volumes: {source} is not declared"));
            }
        }
    }

    fn dependencies(&self, report: &mut Report) {
        for (needed, how) in members(&self.service["depends_on"]) {
            let at = format!("depends_on.{needed}");
            let Some(other) = report.found(
                self.document["services"].get(needed),
                format!("{at}: no such service"),
            ) else {
                continue;
            };
            let right = match how["condition"].as_str() {
                Some("service_healthy") => other.get("healthcheck").is_some(),
                // It must be able to end.
                Some("service_completed_successfully") => {
                    other.get("healthcheck").is_none() && other.get("restart").is_none()
                }
                _ => false,
            };
            report.expect(right, format!("{at}: its condition can never hold"));
        }
    }

    fn health(&self, report: &mut Report) {
        let health = &self.service["healthcheck"];
        known(
            report,
            "healthcheck.",
            health,
            &["test", "interval", "timeout", "retries"],
        );
        if health.is_null() {
            return;
        }
        let test = strings(&health["test"]);
        report.expect(
            test.first() == Some(&"CMD")
                && test.len() > 1
                && test.len() == elements(&health["test"]).count(),
            "healthcheck.test: is no command",
        );
        for name in ["interval", "timeout"] {
            let text = health[name].as_str().unwrap_or_default();
            let seconds = text
                .strip_suffix('s')
                .and_then(|text| text.parse::<u32>().ok());
            report.expect(
                seconds.is_some_and(|s| s > 0),
                format!("healthcheck.{name}: is odd"),
            );
        }
        report.expect(health["retries"].is_u64(), "healthcheck.retries: is odd");
        if test.get(1) == Some(&"idempotencyd") {
            let command = test.get(2).copied().unwrap_or_default();
            let known = parts::service_commands().contains(&format!("\n  {command} "));
            report.expect(known, "healthcheck.test: no such command of idempotencyd");
        }
    }

    fn environment(&self, report: &mut Report) {
        for (name, value) in environment(self.stack, self.service) {
            let target = self.service["build"]["target"].as_str();
            let known = match (self.name, target) {
                ("redis", _) => name == "REDISCLI_AUTH",
                (_, Some("idempotencyd")) => parts::service_variables().contains(&name),
                ("kong", _) => kong_settings::VARIABLES
                    .iter()
                    .any(|(known, _)| *known == name),
                _ => false,
            };
            report.expect(known, format!("environment.{name}: nobody reads it"));
            // `yes` and 666 are no strings in YAML.
            report.expect(value.is_some(), format!("environment.{name}: is no string"));
        }
    }

    fn command(&self, report: &mut Report) {
        let command = strings(&self.service["command"]);
        report.expect(
            command.len() == elements(&self.service["command"]).count(),
            "command: not all of it are strings",
        );
        if self.service["build"]["target"] == "demo-upstream" {
            let flags = parts::upstream_flags();
            let mut own = command.iter().filter(|word| word.starts_with('-'));
            report.expect(
                own.all(|flag| flags.contains(*flag)),
                "command: no such flag",
            );
        }
    }
}

/// A service's variables, those of its `env_file` too; `None` for a value that is no string.
pub fn environment(stack: &str, service: &Value) -> BTreeMap<String, Option<String>> {
    let files = strings(&service["env_file"]);
    let files = files
        .iter()
        .flat_map(|file| variables(&format!("{stack}/{file}")));
    let mut all: BTreeMap<_, _> = files.map(|(name, value)| (name, Some(value))).collect();
    for (name, value) in members(&service["environment"]) {
        all.insert(name.to_owned(), value.as_str().map(Into::into));
    }
    all
}

#[test]
fn the_stacks_are_well_formed_and_name_what_exists() {
    for stack in STACKS {
        report::none(faults(stack, &yaml(&path(stack))));
    }
}

/// The idempotency service, its Redis and the demo upstream are started alike.
#[test]
fn the_parts_that_both_stacks_have_are_the_same() {
    let [kong, envoy] = STACKS.map(|stack| yaml(&path(stack))["services"].clone());
    for part in ["redis", "demo-upstream", "filter"] {
        assert_eq!(kong[part], envoy[part], "{part}");
    }
    for field in ["build", "depends_on", "healthcheck", "restart"] {
        assert_eq!(
            kong["idempotencyd"][field], envoy["idempotencyd"][field],
            "{field}"
        );
    }
    let [kong, envoy] = STACKS.map(|stack| versions(&format!("{stack}/VERSIONS")));
    assert_eq!(kong["redis"], envoy["redis"]);
}

/// No pin is left behind.
#[test]
fn every_pinned_image_is_used() {
    let texts = [read("kong/docker-compose.yaml"), read(dockerfile::PATH)].concat();
    for (image, version) in versions("kong/VERSIONS") {
        assert!(
            texts.contains(&format!("{image}:{version}")),
            "{image} {version}"
        );
    }
}
