//! Who may call what: three roles, each with its own bearer tokens.
//!
//! | role has tokens | listener | `insecure_no_auth` | gateway | upstream | operator |
//! |---|---|---|---|---|---|
//! | yes | any | any | token | token | token |
//! | no | local (loopback, Unix socket) | no | open | closed | closed |
//! | no | local | yes | open | open | open |
//! | no | other | no | (refused at start) | closed | closed |
//! | no | other | yes | open | open | closed |
//!
//! A token of another role is 403 everywhere, also where the role is open.

use crate::config::TokenFiles;
use http::{header, HeaderMap};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Lock, complete, wait.
    Gateway,
    /// Settle its own executions.
    Upstream,
    /// Read and change records.
    Operator,
}

impl Role {
    /// The role's name.
    pub fn name(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Upstream => "upstream",
            Role::Operator => "operator",
        }
    }
}

/// One configured token. Only its hash is kept: comparing hashes in constant time tells nothing
/// of the token, its length included, and a memory dump does not hold it.
#[derive(Clone)]
struct Token {
    role: Role,
    name: Arc<str>,
    digest: [u8; 32],
}

/// All configured tokens.
#[derive(Clone, Default)]
pub struct Tokens {
    tokens: Vec<Token>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.tokens.iter().map(|t| (t.role, &t.name)))
            .finish()
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

impl Tokens {
    /// Adds `[NAME:]TOKEN`. A token is RFC 6750's `b64token`, which has no `:`.
    pub fn add(&mut self, role: Role, text: &str) -> Result<(), String> {
        let text = text.trim();
        let count = self.tokens.iter().filter(|t| t.role == role).count();
        let (name, token) = match text.split_once(':') {
            Some((name, token)) => (name.trim().to_owned(), token.trim()),
            None => (format!("{}-{}", role.name(), count + 1), text),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err("a token's name is 1 to 64 letters, digits, '-', '.', '_'".into());
        }
        if token.is_empty() || !token.chars().all(|c| plain(c) || "~+/=".contains(c)) {
            return Err("a token is made of letters, digits and -._~+/= only".into());
        }
        let digest = digest(token.as_bytes());
        if let Some(other) = self.tokens.iter().find(|t| t.digest == digest) {
            if other.role == role {
                return Ok(());
            }
            return Err(format!(
                "this is also a token of the {} role",
                other.role.name()
            ));
        }
        self.tokens.push(Token {
            role,
            name: name.into(),
            digest,
        });
        Ok(())
    }

    /// Adds the tokens in the files: one per line, `#` starts a comment line. The errors carry
    /// the setting that named the file.
    pub fn add_files(&mut self, files: &TokenFiles) -> Vec<(String, String)> {
        let mut errors = Vec::new();
        for (role, paths) in [
            (Role::Gateway, &files.gateway),
            (Role::Upstream, &files.upstream),
            (Role::Operator, &files.operator),
        ] {
            self.add_role_files(role, paths, &mut errors);
        }
        errors
    }

    fn add_role_files(
        &mut self,
        role: Role,
        paths: &[PathBuf],
        errors: &mut Vec<(String, String)>,
    ) {
        for (i, path) in paths.iter().enumerate() {
            if let Err(message) = self.add_file(role, path) {
                let field = format!("{}_token_files[{i}]", role.name());
                errors.push((field, format!("{}: {message}", path.display())));
            }
        }
    }

    fn add_file(&mut self, role: Role, path: &Path) -> Result<(), String> {
        let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
        let mut found = false;
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            self.add(role, line)
                .map_err(|message| format!("line {}: {message}", n + 1))?;
            found = true;
        }
        // An empty file would silently open or close the role.
        if found {
            Ok(())
        } else {
            Err("holds no token".into())
        }
    }

    /// Whether the role has tokens.
    pub fn has(&self, role: Role) -> bool {
        self.tokens.iter().any(|t| t.role == role)
    }

    /// Whose token this is. Every configured token is compared, so that the time tells nothing.
    fn find(&self, presented: &[u8]) -> Option<&Token> {
        let presented = digest(presented);
        let mut found = None;
        for token in &self.tokens {
            if bool::from(token.digest.ct_eq(&presented)) {
                found = Some(token);
            }
        }
        found
    }
}

/// Who calls, after the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's name; `anonymous` where the role is open.
    pub name: Arc<str>,
}

/// Why a caller is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// 401: no token, or one that nobody configured.
    Unauthenticated,
    /// 403: a token of another role.
    WrongRole(Role),
    /// 403: the role has no tokens, and is not open on this listener.
    Closed(Role),
}

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Authority {
    tokens: Tokens,
    insecure_no_auth: bool,
    anonymous: Arc<str>,
    gateway_has_tokens: bool,
}

impl Authority {
    /// Rules with these tokens.
    pub fn new(tokens: Tokens, insecure_no_auth: bool) -> Authority {
        let gateway_has_tokens = tokens.has(Role::Gateway);
        Authority {
            tokens,
            insecure_no_auth,
            anonymous: "anonymous".into(),
            gateway_has_tokens,
        }
    }

    /// Whether callers without a token have the role on such a listener.
    pub fn is_open(&self, role: Role, local: bool) -> bool {
        match role {
            Role::Gateway => !self.gateway_has_tokens && (local || self.insecure_no_auth),
            Role::Upstream => self.insecure_no_auth && !self.tokens.has(role),
            Role::Operator => local && self.insecure_no_auth && !self.tokens.has(role),
        }
    }

    /// Decides whether the sender of these headers has the role.
    pub fn check(&self, role: Role, headers: &HeaderMap, local: bool) -> Result<Caller, Denied> {
        let open = self.is_open(role, local);
        let Some(presented) = bearer(headers) else {
            return match (open, self.tokens.has(role)) {
                (true, _) => Ok(Caller {
                    name: self.anonymous.clone(),
                }),
                (false, true) => Err(Denied::Unauthenticated),
                (false, false) => Err(Denied::Closed(role)),
            };
        };
        match self.tokens.find(presented) {
            Some(token) if token.role == role => Ok(Caller {
                name: token.name.clone(),
            }),
            Some(_) => Err(Denied::WrongRole(role)),
            None if open => Ok(Caller {
                name: self.anonymous.clone(),
            }),
            None if self.tokens.has(role) => Err(Denied::Unauthenticated),
            None => Err(Denied::Closed(role)),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(token: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(
                header::AUTHORIZATION,
                format!("Bearer {token}").parse().unwrap(),
            );
        }
        headers
    }

    #[test]
    fn the_table_of_the_module() {
        use Role::{Gateway, Operator, Upstream};
        for (local, insecure, open) in [
            (true, false, vec![Gateway]),
            (true, true, vec![Gateway, Upstream, Operator]),
            (false, false, vec![]),
            (false, true, vec![Gateway, Upstream]),
        ] {
            let authority = Authority::new(Tokens::default(), insecure);
            for role in [Gateway, Upstream, Operator] {
                let allowed = authority.check(role, &headers(None), local).is_ok();
                assert_eq!(allowed, open.contains(&role), "{role:?} {local} {insecure}");
            }
        }
    }

    #[test]
    fn tokens_close_their_role_and_only_theirs() {
        let mut tokens = Tokens::default();
        tokens.add(Role::Operator, "alice:s3cret").unwrap();
        let authority = Authority::new(tokens, true);
        let check = |role, token| authority.check(role, &headers(token), true);
        assert_eq!(
            &*check(Role::Operator, Some("s3cret")).unwrap().name,
            "alice"
        );
        assert_eq!(check(Role::Operator, None), Err(Denied::Unauthenticated));
        assert_eq!(
            check(Role::Operator, Some("other")),
            Err(Denied::Unauthenticated)
        );
        assert_eq!(
            check(Role::Gateway, Some("s3cret")),
            Err(Denied::WrongRole(Role::Gateway))
        );
        assert!(check(Role::Gateway, None).is_ok());
    }

    #[test]
    fn one_token_one_role() {
        let mut tokens = Tokens::default();
        tokens.add(Role::Gateway, "a:same").unwrap();
        assert!(tokens.add(Role::Gateway, "b:same").is_ok());
        assert!(tokens.add(Role::Operator, "same").is_err());
        for bad in ["", "a:", ":x", "na me:x", "spa ce", "uml\u{e4}ut"] {
            assert!(tokens.add(Role::Gateway, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn schemes_other_than_bearer_are_no_token() {
        let mut headers = HeaderMap::new();
        for (value, token) in [
            ("bearer x", Some(&b"x"[..])),
            ("Basic x", None),
            ("Bearer", None),
            ("", None),
        ] {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            assert_eq!(bearer(&headers), token, "{value}");
        }
    }
}
