//! Documents: what they link to exists, and README leads to all of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::repository::root;

fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            documents(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The links of a text that lead to files of ours.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let links = text.split("](").skip(1);
    links
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.contains("://") && !link.contains(char::is_whitespace))
}

#[test]
fn links_lead_somewhere() {
    let mut files = Vec::new();
    documents(&root(), &mut files);
    assert!(files.len() > 10, "{files:?}");
    let mut broken = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for link in links(&text) {
            let (path, part) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => file.parent().unwrap().join(path),
            };
            let there = target.exists()
                && (part.is_empty()
                    || std::fs::read_to_string(&target)
                        .unwrap_or_default()
                        .lines()
                        .any(|line| line.starts_with('#') && anchor(line) == part));
            if !there {
                broken.push(format!("{}: {link}", file.display()));
            }
        }
    }
    crate::report::none(broken);
}

#[test]
fn readme_leads_to_every_document() {
    let mut reached = BTreeSet::new();
    let mut next = vec![root().join("README.md")];
    while let Some(file) = next.pop() {
        let file = file.canonicalize().unwrap();
        // A directory is shown with its README, or as a list of its files.
        if file.is_dir() {
            let readme = file.join("README.md");
            if readme.exists() {
                next.push(readme);
            } else {
                documents(&file, &mut next);
            }
            continue;
        }
        if !reached.insert(file.clone()) || file.extension().is_none_or(|ending| ending != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let paths = links(&text).filter_map(|link| link.split('#').next());
        let paths = paths.filter(|path| !path.is_empty());
        next.extend(paths.map(|path| file.parent().unwrap().join(path)));
    }
    let mut files = Vec::new();
    documents(&root(), &mut files);
    let files = files.into_iter().map(|file| file.canonicalize().unwrap());
    let lost = files.filter(|file| !reached.contains(file));
    crate::report::none(lost.map(|file| file.display().to_string()).collect());
}
