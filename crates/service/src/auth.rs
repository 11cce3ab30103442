//! Who may call what: three roles, each with its own bearer tokens.
//!
//! | role has tokens | listener | `insecure_no_auth` | gateway | upstream | operator |
//! |---|---|---|---|---|---|
//! | yes | any | any | token | token | token |
//! | no | Unix socket | no | open | closed | closed |
//! | no | TCP | no | a token is made, or refused at start | closed | closed |
//! | no | Unix socket, loopback | yes | open | open | open |
//! | no | other | yes | open | open | closed |
//!
//! A token of another role is 403 everywhere, also where the role is open.
//!
//! Where client certificates are looked at (`tls_client_ca`, over TLS alone), a certificate and a token never add up:
//!
//! | certificate | token | may do |
//! |---|---|---|
//! | none, and `tls_client_auth` is `required` | any | nothing |
//! | none, and it is `optional` | any | what the token may |
//! | any, and there is no file of roles | any | what the token may |
//! | has a role | none | what the role may |
//! | has a role | of the same role | what the role may, in the token's name |
//! | has a role | of another one | nothing |
//! | has no role | any | nothing |
//! | is over by now | any | nothing |
//! | any | one that nobody configured | nothing |

mod certificate;
mod made;
mod session;
mod throttle;

pub(crate) use certificate::Shown;
pub(crate) use made::{add_to as add_made, ensure as ensure_made};
pub(crate) use session::{Session, LIFETIME as SESSION_LIFETIME};
pub(crate) use throttle::Throttle;

use crate::config::TokenFiles;
use crate::tls::Roles;
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

/// Shortest token: 16 random characters of `b64token` cannot be guessed over a network.
const MIN_TOKEN_BYTES: usize = 16;

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
        if token.len() < MIN_TOKEN_BYTES {
            return Err(format!(
                "a token has at least {MIN_TOKEN_BYTES} characters; make one with \
                 `openssl rand -hex 32`"
            ));
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

/// What a request shows of its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented {
    /// No bearer token.
    Nothing,
    /// A token that nobody configured.
    Unknown,
    /// A configured token, or a certificate that has a role.
    Known(Role, Arc<str>),
    /// No certificate, where one is required.
    NoCertificate,
    /// A certificate that was valid when the connection began, and is over by now; its name.
    Ended(Arc<str>),
    /// A certificate that has no role, or names of several roles; its name.
    NoRole(Arc<str>),
    /// A certificate of one role and a token of another one.
    Mixed {
        /// The certificate's role.
        certificate: Role,
        /// The token's.
        token: Role,
    },
}

impl Presented {
    /// It is a configured token or a certificate with a role, of whatever role.
    pub fn is_valid(&self) -> bool {
        matches!(self, Presented::Known(..))
    }

    /// Nothing is allowed with it, whatever is open to everybody.
    pub fn is_hopeless(&self) -> bool {
        !matches!(
            self,
            Presented::Known(..) | Presented::Nothing | Presented::Unknown
        )
    }
}

/// How a request reached the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through a Unix socket, whose permissions say who may.
    Unix,
    /// Through a TCP port that only this machine can reach; every program and every web page on
    /// it can.
    Loopback,
    /// Through any other TCP port.
    Network,
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
    /// 401: no certificate, where one is required.
    NoCertificate,
    /// 401: the certificate's time is over.
    Ended,
    /// 403: the certificate has no role.
    NoRole,
    /// 403: certificate and token are of different roles.
    Mixed(Role, Role),
}

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Authority {
    tokens: Tokens,
    insecure_no_auth: bool,
    anonymous: Arc<str>,
    gateway_has_tokens: bool,
    /// A certificate has to be shown, over TLS.
    certificate_required: bool,
    /// Which certificate has which role; `None`: certificates have none.
    roles: Option<Roles>,
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
            certificate_required: false,
            roles: None,
        }
    }

    /// The same, with what is said of certificates.
    pub fn with_certificates(self, required: bool, roles: Option<Roles>) -> Authority {
        Authority {
            certificate_required: required,
            roles,
            ..self
        }
    }

    /// Replaces the tokens.
    pub(crate) fn set_tokens(&mut self, tokens: Tokens) {
        self.gateway_has_tokens = tokens.has(Role::Gateway);
        self.tokens = tokens;
    }

    /// Replaces what certificates may do.
    pub(crate) fn set_roles(&mut self, roles: Option<Roles>) {
        self.roles = roles;
    }

    /// Whether callers without a token have the role on this way.
    pub fn is_open(&self, role: Role, way: Way) -> bool {
        let local = way != Way::Network;
        match role {
            Role::Gateway => {
                !self.gateway_has_tokens && (way == Way::Unix || self.insecure_no_auth)
            }
            Role::Upstream => self.insecure_no_auth && !self.tokens.has(role),
            Role::Operator => local && self.insecure_no_auth && !self.tokens.has(role),
        }
    }

    /// What the connection and these headers show together.
    pub(crate) fn presented(&self, shown: &Shown, headers: &HeaderMap) -> Presented {
        self.with_certificate(shown, self.token(headers))
    }

    fn token(&self, headers: &HeaderMap) -> Presented {
        match bearer(headers) {
            None => Presented::Nothing,
            Some(presented) => match self.tokens.find(presented) {
                None => Presented::Unknown,
                Some(token) => Presented::Known(token.role, token.name.clone()),
            },
        }
    }

    /// Decides whether the sender has the role.
    pub fn check(&self, role: Role, presented: &Presented, way: Way) -> Result<Caller, Denied> {
        match presented {
            Presented::Known(theirs, name) if *theirs == role => Ok(Caller { name: name.clone() }),
            Presented::Known(..) => Err(Denied::WrongRole(role)),
            Presented::NoCertificate => Err(Denied::NoCertificate),
            Presented::Ended(_) => Err(Denied::Ended),
            Presented::NoRole(_) => Err(Denied::NoRole),
            Presented::Mixed { certificate, token } => Err(Denied::Mixed(*certificate, *token)),
            _ if self.is_open(role, way) => Ok(Caller {
                name: self.anonymous.clone(),
            }),
            _ if self.tokens.has(role) => Err(Denied::Unauthenticated),
            _ => Err(Denied::Closed(role)),
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

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn the_table_of_the_module() {
        use Role::{Gateway, Operator, Upstream};
        for (way, insecure, open) in [
            (Way::Unix, false, vec![Gateway]),
            (Way::Unix, true, vec![Gateway, Upstream, Operator]),
            (Way::Loopback, false, vec![]),
            (Way::Loopback, true, vec![Gateway, Upstream, Operator]),
            (Way::Network, false, vec![]),
            (Way::Network, true, vec![Gateway, Upstream]),
        ] {
            let authority = Authority::new(Tokens::default(), insecure);
            for role in [Gateway, Upstream, Operator] {
                for presented in [Presented::Nothing, Presented::Unknown] {
                    let allowed = authority.check(role, &presented, way).is_ok();
                    assert_eq!(allowed, open.contains(&role), "{role:?} {way:?} {insecure}");
                }
            }
        }
    }

    #[test]
    fn tokens_close_their_role_and_only_theirs() {
        let mut tokens = Tokens::default();
        tokens
            .add(Role::Operator, &format!("alice:{TOKEN}"))
            .unwrap();
        let authority = Authority::new(tokens, true);
        let check = |role, token| {
            authority.check(
                role,
                &authority.presented(&Shown::NotAsked, &headers(token)),
                Way::Unix,
            )
        };
        assert_eq!(&*check(Role::Operator, Some(TOKEN)).unwrap().name, "alice");
        assert_eq!(check(Role::Operator, None), Err(Denied::Unauthenticated));
        assert_eq!(
            check(Role::Operator, Some("another-and-long-one")),
            Err(Denied::Unauthenticated)
        );
        assert_eq!(
            check(Role::Gateway, Some(TOKEN)),
            Err(Denied::WrongRole(Role::Gateway))
        );
        assert!(check(Role::Gateway, None).is_ok());
    }

    #[test]
    fn one_token_one_role() {
        let mut tokens = Tokens::default();
        tokens.add(Role::Gateway, &format!("a:{TOKEN}")).unwrap();
        assert!(tokens.add(Role::Gateway, &format!("b:{TOKEN}")).is_ok());
        assert!(tokens.add(Role::Operator, TOKEN).is_err());
        let long = "x".repeat(MIN_TOKEN_BYTES);
        for bad in [
            "".into(),
            "a:".into(),
            format!(":{long}"),
            format!("na me:{long}"),
        ] {
            assert!(tokens.add(Role::Gateway, &bad).is_err(), "{bad}");
        }
        for bad in [
            "a space and more than enough",
            "uml\u{e4}ut-and-more-than-enough",
        ] {
            assert!(tokens.add(Role::Gateway, bad).is_err(), "{bad}");
        }
        let short = "x".repeat(MIN_TOKEN_BYTES - 1);
        let error = tokens.add(Role::Gateway, &short).unwrap_err();
        assert!(
            error.contains("at least 16") && !error.contains(&short),
            "{error}"
        );
        assert!(tokens.add(Role::Gateway, &long).is_ok());
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
