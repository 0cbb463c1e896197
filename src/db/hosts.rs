//! Reads the PostgreSQL servers that a URL lists.

/// The parameter of a URL that says which kind of server the client needs.
const KIND: &str = "target_session_attrs";
/// The parameter of a URL that says whether the hosts are PgBouncer.
const POOLER: &str = "pgbouncer";

/// The PostgreSQL servers of a URL.
#[derive(Debug, PartialEq, Eq)]
pub struct Servers {
    /// A URL with one host for each server, in the order of the hosts. Is not empty.
    pub urls: Vec<String>,
    /// Whether the hosts are PgBouncer, which may give each transaction another session.
    pub is_pooled: bool,
}

/// Reads a URL. Its hosts are separated by commas, as libpq reads them:
/// `postgres://USER:PASSWORD@HOST1:5432,HOST2:5432/DATABASE?target_session_attrs=read-write&pgbouncer=true`.
///
/// The resulting URLs have no `target_session_attrs`, because boxoffice itself looks for the writable server, and no
/// `pgbouncer`. Fails with the reason if `url` is not a URL of PostgreSQL, or asks for another kind of server. The
/// reason does not quote `url`, which may contain a password.
pub fn servers(url: &str) -> Result<Servers, &'static str> {
    let is_postgres = |scheme: &str| matches!(scheme, "postgres" | "postgresql");
    let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| is_postgres(scheme)).ok_or(
        "the database URL cannot be read: write postgres://USER:PASSWORD@HOST/DATABASE, or sqlite://FILE?mode=rwc",
    )?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let (login, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let (mut parameters, mut is_pooled) = (Vec::new(), false);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            (KIND, "read-write" | "primary") | (POOLER, "false") => {}
            (POOLER, "true") => is_pooled = true,
            (KIND, _) => {
                return Err(
                    "boxoffice needs a writable PostgreSQL server: set target_session_attrs to read-write, or leave \
                     it out",
                );
            }
            (POOLER, _) => return Err("pgbouncer in the database URL must be true or false"),
            _ => parameters.push(pair),
        }
    }
    let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
    let urls = hosts.split(',').map(|host| format!("{scheme}://{login}{host}{path}{query}")).collect();
    Ok(Servers { urls, is_pooled })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_one_host_stays_the_same() {
        for url in [
            "postgres://127.0.0.1/boxoffice",
            "postgresql://u:p@db.example:5433/boxoffice?sslmode=require&options=-c%20a=b",
            "postgres://u:p,w@db/boxoffice",
            "postgres:///boxoffice?host=/run/postgresql",
            "postgres://[::1]:5432",
        ] {
            assert_eq!(servers(url).unwrap(), Servers { urls: vec![url.to_owned()], is_pooled: false });
        }
    }

    #[test]
    fn each_host_becomes_a_url_with_the_same_login_database_and_parameters() {
        let url = "postgres://u:p@a:5432,[::1]:5433,c/db?target_session_attrs=read-write&sslmode=require";
        let expected = [
            "postgres://u:p@a:5432/db?sslmode=require",
            "postgres://u:p@[::1]:5433/db?sslmode=require",
            "postgres://u:p@c/db?sslmode=require",
        ];
        assert_eq!(servers(url).unwrap().urls, expected);
        let urls = servers("postgres://a,b?target_session_attrs=primary").unwrap().urls;
        assert_eq!(urls, ["postgres://a", "postgres://b"]);
    }

    #[test]
    fn a_url_says_whether_its_hosts_are_pgbouncer() {
        for (parameter, is_pooled) in [("true", true), ("false", false)] {
            let url = format!("postgres://a/db?pgbouncer={parameter}&sslmode=require");
            let urls = vec!["postgres://a/db?sslmode=require".to_owned()];
            assert_eq!(servers(&url).unwrap(), Servers { urls, is_pooled });
        }
        assert!(servers("postgres://a/db?pgbouncer").unwrap_err().contains("true or false"));
    }

    #[test]
    fn another_kind_of_server_and_another_kind_of_url_are_refused() {
        for kind in ["any", "read-only", "standby", "prefer-standby", ""] {
            let reason = servers(&format!("postgres://u:opensesame@a,b/db?target_session_attrs={kind}")).unwrap_err();
            assert!(reason.contains("read-write") && !reason.contains("opensesame"), "{reason}");
        }
        for url in ["mysql://a/db", "postgres", ""] {
            assert!(servers(url).unwrap_err().contains("postgres://"), "{url}");
        }
    }
}
