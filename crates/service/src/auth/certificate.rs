//! What a certificate allows, alone and together with a token.

use super::{Authority, Presented};
use crate::tls::Identity;
use std::sync::Arc;

/// What a connection has shown of its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// It was not asked for a certificate: no TLS, or TLS without `tls_client_ca`.
    NotAsked,
    /// It was, and has shown none.
    Nothing,
    /// A certificate that was verified.
    Certificate(Arc<Identity>),
}

impl Authority {
    /// Puts certificate and token together; see the table of [`super`].
    pub(super) fn with_certificate(&self, shown: &Shown, token: Presented) -> Presented {
        let identity = match shown {
            Shown::NotAsked => return token,
            Shown::Nothing if self.certificate_required => return Presented::NoCertificate,
            Shown::Nothing => return token,
            Shown::Certificate(identity) => identity,
        };
        if identity.has_ended() {
            return Presented::Ended(identity.shown());
        }
        let Some(roles) = &self.roles else {
            return token;
        };
        match (roles.of(identity), token) {
            (None, _) => Presented::NoRole(identity.shown()),
            (Some((role, name)), Presented::Nothing) => Presented::Known(role, name),
            (Some((certificate, _)), Presented::Known(token, _)) if certificate != token => {
                Presented::Mixed { certificate, token }
            }
            // Of the same role, and one that nobody knows is never overlooked.
            (Some(_), token) => token,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Denied, Role, Tokens, Way};
    use super::*;
    use crate::tls::Roles;
    use http::{header, HeaderMap};

    const GATEWAY: &str = "gateway-secret-0123";
    const OPERATOR: &str = "operator-secret-0123";

    fn authority(required: bool, roles: Option<&str>) -> Authority {
        let mut tokens = Tokens::default();
        tokens.add(Role::Gateway, &format!("gw:{GATEWAY}")).unwrap();
        tokens
            .add(Role::Operator, &format!("alice:{OPERATOR}"))
            .unwrap();
        let roles = roles.map(|text| Roles::parse(text).unwrap());
        Authority::new(tokens, false).with_certificates(required, roles)
    }

    fn certificate(name: &str, not_after: i64) -> Shown {
        Shown::Certificate(Arc::new(Identity {
            names: vec![name.parse().unwrap()],
            not_after,
        }))
    }

    /// Who may act as a gateway, or why not.
    fn gateway(authority: &Authority, shown: &Shown, token: &str) -> Result<String, Denied> {
        let mut headers = HeaderMap::new();
        if !token.is_empty() {
            let value = format!("Bearer {token}").parse().unwrap();
            headers.insert(header::AUTHORIZATION, value);
        }
        let presented = authority.presented(shown, &headers);
        let checked = authority.check(Role::Gateway, &presented, Way::Network);
        checked.map(|caller| caller.name.to_string())
    }

    #[test]
    fn the_table_of_the_module() {
        let roles = "gateway dns:envoy\noperator dns:alice\n";
        let with_roles = authority(true, Some(roles));
        let may = |shown: &Shown, token| gateway(&with_roles, shown, token);
        let envoy = certificate("dns:envoy", i64::MAX);
        let alice = certificate("dns:alice", i64::MAX);
        let bob = certificate("dns:bob", i64::MAX);
        let over = certificate("dns:envoy", 1);
        for token in ["", GATEWAY, OPERATOR, "nobody-has-this-one"] {
            assert_eq!(may(&Shown::Nothing, token), Err(Denied::NoCertificate));
            assert_eq!(may(&bob, token), Err(Denied::NoRole));
            assert_eq!(may(&over, token), Err(Denied::Ended));
        }
        assert_eq!(may(&envoy, ""), Ok("dns:envoy".to_owned()));
        assert_eq!(may(&envoy, GATEWAY), Ok("gw".to_owned()));
        assert_eq!(
            may(&envoy, OPERATOR),
            Err(Denied::Mixed(Role::Gateway, Role::Operator))
        );
        assert_eq!(
            may(&envoy, "nobody-has-this-one"),
            Err(Denied::Unauthenticated)
        );
        assert_eq!(may(&alice, ""), Err(Denied::WrongRole(Role::Gateway)));
        assert_eq!(
            may(&alice, GATEWAY),
            Err(Denied::Mixed(Role::Operator, Role::Gateway))
        );
        // Unix sockets and plain listeners ask for none.
        assert_eq!(may(&Shown::NotAsked, GATEWAY), Ok("gw".to_owned()));
        assert_eq!(may(&Shown::NotAsked, ""), Err(Denied::Unauthenticated));
    }

    #[test]
    fn without_roles_or_where_it_is_optional_tokens_decide() {
        let bob = certificate("dns:bob", i64::MAX);
        let without_roles = authority(true, None);
        assert_eq!(gateway(&without_roles, &bob, GATEWAY), Ok("gw".to_owned()));
        assert_eq!(
            gateway(&without_roles, &bob, ""),
            Err(Denied::Unauthenticated)
        );
        let optional = authority(false, Some("gateway dns:envoy"));
        let nothing = Shown::Nothing;
        assert_eq!(gateway(&optional, &nothing, GATEWAY), Ok("gw".to_owned()));
        assert_eq!(
            gateway(&optional, &nothing, ""),
            Err(Denied::Unauthenticated)
        );
        assert_eq!(gateway(&optional, &bob, GATEWAY), Err(Denied::NoRole));
    }
}
