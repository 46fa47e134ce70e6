//! Which principal may be which user, in which database.
//!
//! Knows ARNs; does not know how a principal was proven. Pure.

use crate::config::IamMapping;

/// Somebody who was proven to be who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// A role's own ARN, or what else the proof names.
    pub name: String,
    /// The Lambda function that was proven with it.
    pub function: Option<String>,
}

/// Who may be whom.
#[derive(Clone, Debug)]
pub struct Map(Vec<IamMapping>);

impl Map {
    pub fn new(entries: &[IamMapping]) -> Map {
        Map(entries.to_vec())
    }

    /// Whether anybody at all may be this user there.
    pub fn has(&self, user: &str, database: &str) -> bool {
        self.leading_to(user, database).next().is_some()
    }

    pub fn admits(&self, principal: &Principal, user: &str, database: &str) -> bool {
        let function = principal.function.as_deref();
        let fits = |entry: &IamMapping| {
            same_principal(&entry.principal, &principal.name)
                && (entry.functions.is_empty()
                    || function
                        .is_some_and(|it| entry.functions.iter().any(|of| same_function(of, it))))
        };
        self.leading_to(user, database).any(fits)
    }

    fn leading_to<'a>(
        &'a self,
        user: &'a str,
        database: &'a str,
    ) -> impl Iterator<Item = &'a IamMapping> {
        let named = |list: &[String], name: &str| list.iter().any(|listed| listed == name);
        self.0.iter().filter(move |entry| {
            named(&entry.users, user)
                && (entry.databases.is_empty() || named(&entry.databases, database))
        })
    }
}

/// The principal behind what GetCallerIdentity says: a session of a role is that role. `None`: an account's root,
/// who may be nobody.
pub fn caller(arn: &str) -> Option<Principal> {
    let name = match parts(arn) {
        Some((_, _, _, "root")) => return None,
        Some((partition, "sts", account, resource)) => match resource.strip_prefix("assumed-role/")
        {
            Some(session) => {
                let (role, _) = session.split_once('/')?;
                format!("arn:{partition}:iam::{account}:role/{role}")
            }
            None => arn.to_owned(),
        },
        Some(_) => arn.to_owned(),
        None => return None,
    };
    Some(Principal {
        name,
        function: None,
    })
}

/// Partition, service, account and resource.
fn parts(arn: &str) -> Option<(&str, &str, &str, &str)> {
    let mut parts = arn.splitn(6, ':');
    let mut next = || parts.next();
    match (next()?, next()?, next()?, next()?, next()?, next()?) {
        ("arn", partition, service, "", account, resource) if !account.is_empty() => {
            Some((partition, service, account, resource))
        }
        _ => None,
    }
}

/// A role's name is its own within the account, whatever its path, which sessions don't tell.
fn same_principal(configured: &str, proven: &str) -> bool {
    fn role(arn: &str) -> Option<(&str, &str, &str)> {
        let (partition, "iam", account, resource) = parts(arn)? else {
            return None;
        };
        let path = resource.strip_prefix("role/")?;
        let name = path.rsplit('/').next().filter(|name| !name.is_empty())?;
        Some((partition, account, name))
    }
    match (role(configured), role(proven)) {
        (Some(configured), Some(proven)) => configured == proven,
        _ => configured == proven,
    }
}

/// A function without a version named stands for all its versions.
fn same_function(configured: &str, proven: &str) -> bool {
    let version = proven.strip_prefix(configured);
    version.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "arn:aws:iam::123456789012:role/orders-fn";
    const FUNCTION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:orders";

    fn map(principal: &str, functions: &[&str], databases: &[&str]) -> Map {
        let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        Map::new(&[IamMapping {
            principal: principal.to_owned(),
            functions: owned(functions),
            users: owned(&["orders_rw"]),
            databases: owned(databases),
        }])
    }

    #[test]
    fn a_session_is_its_role_in_its_account() {
        let plain = map(ROLE, &[], &[]);
        let with_path = map(
            "arn:aws:iam::123456789012:role/service-role/orders-fn",
            &[],
            &[],
        );
        for (arn, admitted) in [
            (
                "arn:aws:sts::123456789012:assumed-role/orders-fn/orders",
                true,
            ),
            (
                "arn:aws:sts::123456789012:assumed-role/orders-fn/a:b/c",
                true,
            ),
            (
                "arn:aws:sts::999999999999:assumed-role/orders-fn/orders",
                false,
            ),
            (
                "arn:aws-cn:sts::123456789012:assumed-role/orders-fn/orders",
                false,
            ),
            (
                "arn:aws:sts::123456789012:assumed-role/orders-fn-2/orders",
                false,
            ),
            ("arn:aws:sts::123456789012:assumed-role/x/orders-fn", false),
            ("arn:aws:sts::123456789012:assumed-role/orders-fn", false),
            ("arn:aws:iam::123456789012:user/orders-fn", false),
            ("arn:aws:sts::123456789012:federated-user/orders-fn", false),
            ("arn:aws:iam::123456789012:root", false),
            ("arn:aws:iam::123456789012", false),
            ("", false),
        ] {
            for map in [&plain, &with_path] {
                let seen = caller(arn).is_some_and(|who| map.admits(&who, "orders_rw", "orders"));
                assert_eq!(seen, admitted, "{arn}");
            }
        }
        let root = map("arn:aws:iam::123456789012:root", &[], &[]);
        let who = caller("arn:aws:iam::123456789012:root");
        assert!(who.is_none_or(|who| !root.admits(&who, "orders_rw", "orders")));
        let user = "arn:aws:iam::123456789012:user/ops/ann";
        assert!(map(user, &[], &[]).admits(&caller(user).unwrap(), "orders_rw", "x"));
    }

    #[test]
    fn user_database_and_function_must_fit() {
        let map = map(ROLE, &[FUNCTION], &["orders"]);
        let with = |function: Option<&str>| Principal {
            name: ROLE.to_owned(),
            function: function.map(str::to_owned),
        };
        for (function, user, database, admitted) in [
            (Some(FUNCTION), "orders_rw", "orders", true),
            (
                Some("arn:aws:lambda:eu-west-1:123456789012:function:orders:7"),
                "orders_rw",
                "orders",
                true,
            ),
            (
                Some("arn:aws:lambda:eu-west-1:123456789012:function:orders2"),
                "orders_rw",
                "orders",
                false,
            ),
            (None, "orders_rw", "orders", false),
            (Some(FUNCTION), "orders_rw", "other", false),
            (Some(FUNCTION), "admin", "orders", false),
        ] {
            let seen = map.admits(&with(function), user, database);
            assert_eq!(seen, admitted, "{function:?} {user} {database}");
        }
        assert!(map.has("orders_rw", "orders") && !map.has("admin", "orders"));
    }
}
