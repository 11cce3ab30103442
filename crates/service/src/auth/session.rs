//! Sessions of the operators' page.
//!
//! A browser shows a cookie instead of a token. It says whose session it is and until when, and is signed with what
//! the service keeps of the operator's token (its hash). So no session is kept anywhere: every service that knows
//! the token takes the cookie, and a token that is taken away ends the sessions that it began.

use super::{Authority, Denied, Role, Token};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::sync::Arc;
use std::time::Duration;

/// How long a session lasts.
pub(crate) const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// A session that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// Name of the operator's token.
    pub name: Arc<str>,
    /// What forms of this session have to send along. A page of another origin cannot read it.
    pub form_token: String,
}

/// A signature over some words, for one purpose. Words have no zero bytes.
fn sign(token: &Token, purpose: &str, words: &[&str]) -> Option<Hmac<Sha256>> {
    // A key of any length will do, so this never fails.
    let mut mac = Hmac::<Sha256>::new_from_slice(&token.digest).ok()?;
    mac.update(b"idempotencyd-page\0");
    for word in [purpose].iter().chain(words) {
        mac.update(word.as_bytes());
        mac.update(b"\0");
    }
    Some(mac)
}

fn signature(token: &Token, purpose: &str, words: &[&str]) -> Option<String> {
    let mac = sign(token, purpose, words)?;
    Some(hex::encode(mac.finalize().into_bytes()))
}

impl Authority {
    /// Begins a session: the value of its cookie.
    ///
    /// # Errors
    ///
    /// A token that nobody configured, or that of another role.
    pub(crate) fn begin_session(&self, token: &str, now_ms: u64) -> Result<String, Denied> {
        let token = self.tokens.find(token.trim().as_bytes());
        let token = token.ok_or(Denied::Unauthenticated)?;
        if token.role != Role::Operator {
            return Err(Denied::WrongRole(Role::Operator));
        }
        let lifetime = u64::try_from(LIFETIME.as_millis()).unwrap_or(u64::MAX);
        let until = now_ms.saturating_add(lifetime).to_string();
        let signed = signature(token, "session", &[&until, &token.name]);
        let signed = signed.ok_or(Denied::Unauthenticated)?;
        Ok(format!("{until}:{}:{signed}", token.name))
    }

    /// The session of a cookie, if it is in force.
    pub(crate) fn session(&self, cookie: &str, now_ms: u64) -> Option<Session> {
        let (until, rest) = cookie.split_once(':')?;
        let (name, signed) = rest.split_once(':')?;
        if until.parse::<u64>().ok()? <= now_ms {
            return None;
        }
        let signed = hex::decode(signed).ok()?;
        // Two tokens may have one name while they are rotated.
        let operators = |token: &&Token| token.role == Role::Operator && &*token.name == name;
        let token = self.tokens.tokens.iter().filter(operators).find(|token| {
            sign(token, "session", &[until, name])
                .is_some_and(|mac| mac.verify_slice(&signed).is_ok())
        })?;
        Some(Session {
            name: Arc::clone(&token.name),
            form_token: signature(token, "form", &[cookie])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tokens;
    use super::*;

    const TOKEN: &str = "operator-secret-0123";

    fn authority(tokens: &[(Role, &str)]) -> Authority {
        let mut all = Tokens::default();
        for (role, token) in tokens {
            all.add(*role, token).unwrap();
        }
        Authority::new(all, false)
    }

    fn alice() -> Authority {
        authority(&[
            (Role::Operator, "alice:operator-secret-0123"),
            (Role::Gateway, "gw:gateway-secret-0123"),
        ])
    }

    #[test]
    fn a_session_lasts_its_time_and_ends_with_its_token() {
        let alice = alice();
        let cookie = alice.begin_session(TOKEN, 5_000).unwrap();
        let session = alice.session(&cookie, 6_000).unwrap();
        assert_eq!(&*session.name, "alice");
        let lifetime = u64::try_from(LIFETIME.as_millis()).unwrap();
        assert!(alice.session(&cookie, 5_000 + lifetime - 1).is_some());
        assert!(alice.session(&cookie, 5_000 + lifetime).is_none());
        let other = authority(&[(Role::Operator, "alice:another-secret-0123")]);
        assert!(other.session(&cookie, 6_000).is_none());
        let both = authority(&[
            (Role::Operator, "alice:another-secret-0123"),
            (Role::Operator, "alice:operator-secret-0123"),
        ]);
        assert_eq!(both.session(&cookie, 6_000), Some(session), "rotation");
    }

    #[test]
    fn only_operators_and_nothing_made_up() {
        let alice = alice();
        assert_eq!(
            alice.begin_session("gateway-secret-0123", 0),
            Err(Denied::WrongRole(Role::Operator))
        );
        assert_eq!(
            alice.begin_session("no-such-secret-0123", 0),
            Err(Denied::Unauthenticated)
        );
        let cookie = alice.begin_session(TOKEN, 5_000).unwrap();
        let (until, rest) = cookie.split_once(':').unwrap();
        let later = format!("9{until}:{rest}");
        let renamed = cookie.replace(":alice:", ":bob:");
        let cut = &cookie[..cookie.len() - 2];
        for bad in [
            later.as_str(),
            &renamed,
            cut,
            "",
            ":",
            "1:alice:",
            "x:alice:00",
        ] {
            assert_eq!(alice.session(bad, 0), None, "{bad}");
        }
        let again = alice.begin_session(TOKEN, 5_001).unwrap();
        let token = |cookie: &str| alice.session(cookie, 6_000).unwrap().form_token;
        assert_ne!(token(&cookie), token(&again));
    }
}
