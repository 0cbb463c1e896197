//! The command line: every setting is a flag and an environment variable, with its default in plain sight.

use std::{ffi::OsStr, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::TypedValueParser, error::ErrorKind};
use secrecy::SecretString;

use crate::edge::{Limits, TransportSettings, credential, duration_above_zero};

/// Sells the seats of a concert that everyone wants at the same second.
#[derive(Debug, Parser)]
#[command(name = "boxoffice", version, about)]
pub struct Cli {
    /// What to do; `serve` without one.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings, before or after the command.
    #[command(flatten)]
    pub settings: Settings,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT (the default).
    Serve {
        /// Fill an empty database with a small catalogue and a few users, and print the calls of a first tour.
        #[arg(long)]
        demo: bool,
    },
    /// Bring the schema of the database up to date and exit.
    Migrate,
    /// Ask a running server whether it serves: exits with 0 if so, with 1 if not.
    Health(HealthOptions),
    /// Make API keys for calling services.
    ApiKey {
        /// What to do.
        #[command(subcommand)]
        command: ApiKeyCommand,
    },
    /// Look after the keys in the database that queue tokens are signed with.
    SigningKey {
        /// What to do.
        #[command(subcommand)]
        command: SigningKeyCommand,
    },
}

/// How to ask a server with TLS. It is asked so if a CA is given here, or a certificate in the server's settings.
#[derive(Debug, Clone, Default, Args)]
pub struct HealthOptions {
    /// PEM file of the CA that signed the server's certificate; by default the server's own certificate, which is right where it is
    /// self-signed or stands with its whole chain.
    #[arg(long, env = "BOXOFFICE_HEALTH_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The name that the server's certificate is for; by default the address that is asked.
    #[arg(long, env = "BOXOFFICE_HEALTH_NAME")]
    pub name: Option<String>,
    /// PEM file of the certificate to show, where the server asks for one.
    #[arg(long, env = "BOXOFFICE_HEALTH_CERT", value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    #[arg(long, env = "BOXOFFICE_HEALTH_KEY", value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

/// What to do about API keys.
#[derive(Debug, Clone, Subcommand)]
pub enum ApiKeyCommand {
    /// Make a key and print it, once, with the line that stands for it in the file of keys.
    New {
        /// Who will call with it: letters, digits, `.`, `_` and `-`.
        #[arg(value_parser = holder_name)]
        name: String,
        /// It may also do what the admin does.
        #[arg(long)]
        admin: bool,
    },
}

/// What to do about the signing keys.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum SigningKeyCommand {
    /// Make a new key. All servers sign with it in a few seconds, and older tokens stay good.
    Rotate,
    /// Print the keys without their secrets.
    List,
    /// Delete an older key: tokens that were signed with it are refused from then on.
    Drop {
        /// The id that `list` prints.
        id: i64,
    },
}

/// How the service runs.
#[derive(Clone, Args, derive_more::Debug)]
pub struct Settings {
    /// `sqlite://FILE?mode=rwc` or `postgres://USER:PASSWORD@HOST/DATABASE`.
    #[arg(
        long,
        global = true,
        env = "BOXOFFICE_DATABASE_URL",
        hide_env_values = true,
        default_value = "sqlite://boxoffice.db?mode=rwc"
    )]
    // It may hold a password.
    #[debug("***")]
    pub database_url: String,
    /// Where the public services listen; port 0 takes a free one and logs it.
    #[arg(long, global = true, env = "BOXOFFICE_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Where AdminService listens.
    #[arg(long, global = true, env = "BOXOFFICE_ADMIN_LISTEN", default_value = "127.0.0.1:50052")]
    pub admin_listen: SocketAddr,
    /// Where Prometheus reads metrics over HTTP; nowhere by default.
    #[arg(long, global = true, env = "BOXOFFICE_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,
    /// How often waiting tokens are admitted.
    #[arg(long, global = true, env = "BOXOFFICE_PROMOTE_INTERVAL", default_value = "2s", value_parser = duration_above_zero)]
    pub promote_interval: Duration,
    /// How often admissions and holds that are over are tidied up.
    #[arg(long, global = true, env = "BOXOFFICE_EXPIRE_INTERVAL", default_value = "10s", value_parser = duration_above_zero)]
    pub expire_interval: Duration,
    /// How long an admission lasts.
    #[arg(long, global = true, env = "BOXOFFICE_ADMISSION_TTL", default_value = "10m", value_parser = duration_above_zero)]
    pub admission_ttl: Duration,
    /// How long who is admitted may take for a first sign of life, where the concert does not say; by default as long as the admission.
    #[arg(long, global = true, env = "BOXOFFICE_CLAIM_TTL", value_parser = duration_above_zero)]
    pub claim_ttl: Option<Duration>,
    /// How many calls a second all who wait may make together; who is far back is told to ask less often.
    #[arg(long, global = true, env = "BOXOFFICE_POLL_BUDGET", default_value = "5000")]
    pub poll_budget: u32,
    /// How long a hold lasts, within its admission.
    #[arg(long, global = true, env = "BOXOFFICE_HOLD_TTL", default_value = "5m", value_parser = duration_above_zero)]
    pub hold_ttl: Duration,
    /// How long a stopping server waits for calls under way.
    #[arg(long, global = true, env = "BOXOFFICE_DRAIN_TIMEOUT", default_value = "10s", value_parser = duration_above_zero)]
    pub drain_timeout: Duration,
    /// ISO-4217 code of the currency of all amounts.
    #[arg(long, global = true, env = "BOXOFFICE_CURRENCY", default_value = "KRW", value_parser = currency)]
    pub currency: String,
    /// Secret that queue tokens are signed with, at least 32 characters; made once and kept in the database by default.
    #[arg(long, global = true, env = "BOXOFFICE_TOKEN_KEY", hide_env_values = true, value_parser = SecretParser)]
    pub token_key: Option<SecretString>,
    /// What is logged: a level, or directives like `info,boxoffice=debug`.
    #[arg(long, global = true, env = "BOXOFFICE_LOG", default_value = "info")]
    pub log: String,
    /// How it is logged.
    #[arg(long, global = true, env = "BOXOFFICE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// How much is taken on.
    #[command(flatten)]
    pub limits: Limits,
    /// Who may connect and call.
    #[command(flatten)]
    pub transport: TransportSettings,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn currency(text: &str) -> Result<String, String> {
    let valid = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if valid { Ok(text.to_owned()) } else { Err("must be three capital letters like KRW".to_owned()) }
}

fn holder_name(text: &str) -> Result<String, String> {
    if credential::is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("must be letters, digits, `.`, `_` or `-`".to_owned())
    }
}

/// Reads a secret, and does not print one that it refuses.
#[derive(Clone)]
struct SecretParser;

impl TypedValueParser for SecretParser {
    type Value = SecretString;

    fn parse_ref(
        &self,
        cmd: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<SecretString, clap::Error> {
        match value.to_str() {
            Some(text) if text.len() >= 32 => Ok(text.into()),
            _ => {
                let sentence = "the token key must have at least 32 characters\n";
                Err(clap::Error::raw(ErrorKind::ValueValidation, sentence).with_cmd(cmd))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_go_before_or_after_the_command() {
        for args in [["boxoffice", "--hold-ttl", "500ms", "serve"], ["boxoffice", "serve", "--hold-ttl", "500ms"]] {
            let cli = Cli::try_parse_from(args).unwrap();
            assert_eq!(cli.settings.hold_ttl, Duration::from_millis(500));
        }
    }

    #[test]
    fn ill_formed_settings_are_refused() {
        for args in [
            ["boxoffice", "--hold-ttl", "0s"],
            ["boxoffice", "--hold-ttl", "5"],
            ["boxoffice", "--currency", "won"],
            ["boxoffice", "--token-key", "short"],
            ["boxoffice", "--listen", "here"],
            ["boxoffice", "--max-calls", "0"],
            ["boxoffice", "--call-timeout", "0s"],
        ] {
            assert!(Cli::try_parse_from(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let key = "0123456789abcdef0123456789abcdef";
        let url = "postgres://boxoffice:opensesame@127.0.0.1/boxoffice";
        let cli = Cli::try_parse_from(["boxoffice", "--token-key", key, "--database-url", url]).unwrap();
        let printed = format!("{cli:?} {cli:#?}");
        assert!(!printed.contains(key) && !printed.contains("opensesame"), "{printed}");
        let refused = Cli::try_parse_from(["boxoffice", "--token-key", "opensesame"]).unwrap_err();
        let printed = format!("{refused} {refused:?}");
        assert!(printed.contains("32 characters") && !printed.contains("opensesame"), "{printed}");
    }
}
