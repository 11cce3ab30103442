//! Which role the holder of a certificate has: a file with a line for each name.
//!
//! ```text
//! # role     name of the certificate
//! gateway    dns:envoy.example.org
//! gateway    uri:spiffe://example.org/ns/edge/sa/*
//! operator   dns:alice.ops.example.org
//! ```

use super::identity::{Identity, San};
use crate::auth::Role;
use std::sync::Arc;

/// The lines of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(Vec<(Role, San)>);

impl Roles {
    /// Reads the text of the file: a role and a name per line, `#` begins a comment line.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its line. A file without a role is an error as well: it is more likely
    /// broken than meant.
    pub fn parse(text: &str) -> Result<Roles, String> {
        let mut roles: Vec<(Role, San)> = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = entry(line).map_err(|message| format!("line {}: {message}", n + 1))?;
            match roles.iter().find(|(_, name)| *name == entry.1) {
                Some((role, name)) if *role != entry.0 => {
                    return Err(format!(
                        "line {}: {name} has the {} role already; one certificate, one role",
                        n + 1,
                        role.name()
                    ));
                }
                Some(_) => {}
                None => roles.push(entry),
            }
        }
        if roles.is_empty() {
            return Err("gives no role".to_owned());
        }
        Ok(Roles(roles))
    }

    /// Whether some certificate may have the role.
    pub(crate) fn give(&self, role: Role) -> bool {
        self.0.iter().any(|(given, _)| *given == role)
    }

    /// The role of a certificate, and the name by which it has it. None if its names have no role, or several.
    pub(crate) fn of(&self, identity: &Identity) -> Option<(Role, Arc<str>)> {
        let names = identity.names.iter();
        let mut found = names.filter_map(|name| {
            let entry = self.0.iter().find(|(_, entry)| entry.means(name));
            entry.map(|(role, _)| (*role, name))
        });
        let (role, name) = found.next()?;
        let one = found.all(|(other, _)| other == role);
        one.then(|| (role, name.to_string().into()))
    }
}

fn entry(line: &str) -> Result<(Role, San), String> {
    let mut words = line.split_whitespace();
    let (Some(role), Some(name), None) = (words.next(), words.next(), words.next()) else {
        return Err("write a role and a name, as `gateway dns:envoy.example.org`".to_owned());
    };
    let all = [Role::Gateway, Role::Upstream, Role::Operator];
    let Some(role) = all.into_iter().find(|known| known.name() == role) else {
        return Err(format!(
            "`{role}` is not one of gateway, upstream, operator"
        ));
    };
    Ok((role, name.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(names: &[&str]) -> Identity {
        Identity {
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            not_after: i64::MAX,
        }
    }

    #[test]
    fn a_certificate_has_the_role_of_its_names() {
        let text =
            "# all\n\ngateway dns:envoy\n gateway\turi:spiffe://e/gw/* \noperator dns:alice\n\
                    gateway dns:envoy\n";
        let roles = Roles::parse(text).unwrap();
        let of = |names: &[&str]| {
            let found = roles.of(&identity(names));
            found.map(|(role, name)| (role, name.to_string()))
        };
        let gateway = |name: &str| Some((Role::Gateway, name.to_owned()));
        assert_eq!(of(&["dns:envoy"]), gateway("dns:envoy"));
        assert_eq!(
            of(&["dns:other", "uri:spiffe://e/gw/1"]),
            gateway("uri:spiffe://e/gw/1")
        );
        assert_eq!(
            of(&["dns:alice"]),
            Some((Role::Operator, "dns:alice".to_owned()))
        );
        assert_eq!(of(&["dns:bob"]), None);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["dns:alice", "dns:envoy"]), None, "two roles are none");
        assert!(roles.give(Role::Gateway) && !roles.give(Role::Upstream));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, said) in [
            ("", "gives no role"),
            ("# gateway dns:x", "gives no role"),
            ("\ngateway", "line 2: write a role"),
            ("gateway dns:a dns:b", "line 1: write a role"),
            ("admin dns:a", "line 1: `admin` is not one of"),
            ("gateway a", "line 1: `a`: write dns:"),
            (
                "gateway dns:a\noperator dns:A",
                "line 2: dns:a has the gateway role",
            ),
        ] {
            let error = Roles::parse(text).unwrap_err();
            assert!(error.starts_with(said), "{text:?}: {error}");
        }
    }
}
