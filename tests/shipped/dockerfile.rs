//! `kong/Dockerfile`.

use std::collections::BTreeSet;

use crate::report::{self, Report};
use crate::repository::{read, root, versions};

pub const PATH: &str = "kong/Dockerfile";

/// One `FROM` and what follows it.
#[derive(Debug)]
pub struct Stage {
    pub name: String,
    pub image: String,
    /// Instruction and its arguments; continued lines are joined.
    pub steps: Vec<(String, String)>,
}

impl Stage {
    /// The arguments of the last instruction of this name, which is the one that counts.
    pub fn last(&self, instruction: &str) -> Option<&str> {
        let mut found = self.steps.iter().rev();
        let step = found.find(|(name, _)| name == instruction)?;
        Some(&step.1)
    }
}

pub fn stages(text: &str) -> Vec<Stage> {
    let text: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty())
        .map(|line| match line.strip_suffix('\\') {
            Some(continued) => continued.to_owned(),
            None => format!("{line}\n"),
        })
        .collect();
    let mut stages: Vec<Stage> = Vec::new();
    for line in text.lines() {
        let (instruction, arguments) = line.split_once(' ').unwrap_or((line, ""));
        if instruction == "FROM" {
            let (image, name) = arguments.split_once(" AS ").unwrap_or((arguments, ""));
            stages.push(Stage {
                name: name.to_owned(),
                image: image.to_owned(),
                steps: Vec::new(),
            });
        } else if let Some(stage) = stages.last_mut() {
            stage
                .steps
                .push((instruction.to_owned(), arguments.trim().to_owned()));
        }
    }
    stages
}

/// The targets that a compose file can name.
pub fn targets() -> BTreeSet<String> {
    stages(&read(PATH))
        .into_iter()
        .map(|stage| stage.name)
        .collect()
}

/// The user of a target, where it or what it stands on names one.
pub fn user(target: &str) -> Option<String> {
    let stages = stages(&read(PATH));
    let mut name = target.to_owned();
    while let Some(stage) = stages.iter().find(|stage| stage.name == name) {
        if let Some(user) = stage.last("USER") {
            return Some(user.to_owned());
        }
        name.clone_from(&stage.image);
    }
    None
}

pub fn faults(text: &str) -> Vec<String> {
    let mut report = Report::default();
    let pinned = versions("kong/VERSIONS");
    let stages = stages(text);
    let ignored = read(".dockerignore");
    for (i, stage) in stages.iter().enumerate() {
        let at = &stage.name;
        let earlier = |name: &str| stages.iter().take(i).find(|s| s.name == name);
        report.expect(!at.is_empty(), format!("FROM {}: has no name", stage.image));
        if earlier(&stage.image).is_none() {
            let (image, tag) = stage.image.split_once(':').unwrap_or((&stage.image, ""));
            report.expect(
                pinned.get(image).is_some_and(|version| version == tag),
                format!("{at}: {} is not the image of kong/VERSIONS", stage.image),
            );
        }
        for (instruction, arguments) in &stage.steps {
            match instruction.as_str() {
                "COPY" => {
                    let words: Vec<&str> = arguments.split_whitespace().collect();
                    let (flags, paths): (Vec<&str>, Vec<&str>) =
                        words.iter().partition(|word| word.starts_with("--"));
                    let from = flags.iter().find_map(|flag| flag.strip_prefix("--from="));
                    for source in &paths[..paths.len().saturating_sub(1)] {
                        match from {
                            Some(from) => report.expect(
                                earlier(from).is_some_and(|stage| makes(stage, source)),
                                format!("{at}: stage {from} makes no {source}"),
                            ),
                            None => report.expect(
                                root().join(source).exists()
                                    && !ignored.lines().any(|line| line == format!("/{source}")),
                                format!("{at}: {source} is not in the repository"),
                            ),
                        }
                    }
                }
                "ENTRYPOINT" | "CMD" => report.expect(
                    serde_json::from_str::<Vec<String>>(arguments).is_ok(),
                    format!("{at}: {instruction} is no list, so that a shell would be process 1"),
                ),
                "USER" => report.expect(
                    // The base has made it.
                    stages.iter().take(i).any(|stage| {
                        let runs = stage.steps.iter().filter(|(name, _)| name == "RUN");
                        runs.clone()
                            .any(|(_, run)| run.contains("useradd") && run.ends_with(arguments))
                    }),
                    format!("{at}: nobody has made the user {arguments}"),
                ),
                "RUN" => {
                    for word in arguments.split_whitespace() {
                        if let Some(script) = word.strip_prefix("scripts/") {
                            let exists = root().join("scripts").join(script).is_file();
                            report.expect(exists, format!("{at}: there is no {word}"));
                        }
                    }
                }
                "WORKDIR" => {}
                _ => report.fault(format!("{at}: {instruction} is not known here")),
            }
        }
    }
    report.faults()
}

/// Whether a stage makes a file: an `install` puts something of that name into that directory.
fn makes(stage: &Stage, path: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut commands = stage
        .steps
        .iter()
        .filter(|(instruction, _)| instruction == "RUN")
        .flat_map(|(_, run)| run.split("&&"));
    commands.any(|command| {
        let words: Vec<&str> = command.split_whitespace().collect();
        words.first() == Some(&"install")
            && words.contains(&directory)
            && words.iter().any(|word| word.ends_with(&format!("/{name}")))
    })
}

#[test]
fn the_dockerfile_fits_the_repository() {
    report::none(faults(&read(PATH)));
}

#[test]
fn the_compiler_is_one_that_builds_this() {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("rust-version = \"").unwrap();
    let oldest = rest.split('"').next().unwrap();
    let number = |version: &str| -> Vec<u32> {
        let number = version.split('-').next().unwrap();
        number
            .split('.')
            .map(|part| part.parse().unwrap())
            .collect()
    };
    let used = versions("kong/VERSIONS")["rust"].clone();
    assert!(number(&used) >= number(oldest), "{used} < {oldest}");
}

/// What the build stage compiles is what this workspace has, and the images start it by name.
#[test]
fn the_programs_are_those_of_the_workspace() {
    let stages = stages(&read(PATH));
    let build = stages.iter().find(|stage| stage.name == "build").unwrap();
    let words = build
        .steps
        .iter()
        .flat_map(|(_, run)| run.split_whitespace());
    let words: Vec<&str> = words.collect();
    for (package, program) in [
        ("idempotency-service", "idempotencyd"),
        ("idempotency-demo-upstream", "demo-upstream"),
    ] {
        assert!(
            words.windows(2).any(|pair| pair == ["--package", package]),
            "{package}"
        );
        let directory = package.trim_start_matches("idempotency-");
        let manifest = read(&format!("crates/{directory}/Cargo.toml"));
        assert!(
            manifest.contains(&format!("name = \"{package}\"")),
            "{package}"
        );
        assert!(
            manifest.contains(&format!("[[bin]]\nname = \"{program}\"")),
            "{program}"
        );
        let stage = stages.iter().find(|stage| stage.name == program).unwrap();
        assert_eq!(stage.last("ENTRYPOINT"), Some(&*format!("[\"{program}\"]")));
        let copied = stage.last("COPY").unwrap();
        assert!(
            copied.ends_with(&format!("/{program} /usr/local/bin/")),
            "{copied}"
        );
    }
}
