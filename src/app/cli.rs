//! The command line. Each setting is a flag and an environment variable.

use std::{ffi::OsStr, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::TypedValueParser, error::ErrorKind};
use clap_complete::Shell;
use secrecy::SecretString;

use crate::{
    db::SynchronousCommit,
    edge::{Limits, TransportSettings, credential, duration_above_zero},
    forward::Start,
};

/// Sells the seats of a concert that many users want in the same second.
#[derive(Debug, Parser)]
#[command(name = "boxoffice", version, about)]
pub struct Cli {
    /// The command; `serve` by default.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings. Their flags may be before or after the command.
    #[command(flatten)]
    pub settings: Settings,
}

/// The commands of boxoffice.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Run the server until SIGTERM or SIGINT (the default command).
    Serve {
        /// Fill an empty database with demo concerts and users, print a tour of grpcurl calls, and open a sale.
        #[arg(long)]
        demo: bool,
        /// Number of simulated visitors of the demo's sale, which opens 30 seconds after the start; 0 means none. They
        /// come only if the database was empty and the server has no TLS and no API keys.
        #[arg(
            long,
            env = "BOXOFFICE_DEMO_CROWD",
            default_value = "3000",
            value_parser = clap::value_parser!(u32).range(..=20_000)
        )]
        demo_crowd: u32,
    },
    /// Apply the pending database migrations and exit. `serve` applies them too.
    Migrate,
    /// Check the invariants of seats, payments, wallets and queues in the database. Changes nothing. Exit code 0 if all
    /// invariants hold, 1 if not.
    Check,
    /// Copy the SQLite database to a new file while servers use it, and verify the copy.
    Backup {
        /// Path of the copy. The file must not exist.
        file: PathBuf,
    },
    /// Check whether the server at the address of `--listen` is ready: exit code 0 if it is, 1 if not.
    Health(HealthOptions),
    /// Create the missing venues, concerts and performances of a file on a running server, and update the settings of
    /// its sales. Fails if another value differs.
    Apply(ApplyOptions),
    /// Show the sale of a concert as it runs. Piped output has one line per update.
    Watch(WatchOptions),
    /// Print the feed of events as JSON lines: who changed what, and when.
    Events(EventsOptions),
    /// Send the feed of events on to NATS or to a webhook, until SIGTERM or SIGINT. Several processes may have the same
    /// sink: one sends, and another takes over when it ends.
    Forward(Box<ForwardOptions>),
    /// Create API keys for services that call boxoffice.
    ApiKey {
        /// The subcommand of `api-key`.
        #[command(subcommand)]
        command: ApiKeyCommand,
    },
    /// Rotate, list or drop the signing keys of queue tokens in the database.
    SigningKey {
        /// The subcommand of `signing-key`.
        #[command(subcommand)]
        command: SigningKeyCommand,
    },
    /// Verify the draw of a concert.
    Draw {
        /// The subcommand of `draw`.
        #[command(subcommand)]
        command: DrawCommand,
    },
    /// Print the completion script of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// The server whose AdminService or EventService a command calls. TLS is used if `--ca` or `--tls-cert` is set.
#[derive(Debug, Clone, Default, Args)]
pub struct AdminOptions {
    /// Address of the admin listener. The default is the address of `--admin-listen`.
    #[arg(long, env = "BOXOFFICE_ADMIN_ADDRESS", value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// API key with the admin right, if the server requires one. For `events`, the right `events` is enough. Set
    /// the key with the environment variable: other users of the machine can read command lines.
    #[arg(long, env = "BOXOFFICE_API_KEY", hide_env_values = true, value_parser = secret)]
    pub api_key: Option<SecretString>,
    /// PEM file of the CA that signed the server's certificate. The default is the file of `--tls-cert`, which works if
    /// that certificate is self-signed or its file holds the whole chain.
    #[arg(long, env = "BOXOFFICE_ADMIN_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Name in the server's certificate. The default is the host of the address.
    #[arg(long, env = "BOXOFFICE_ADMIN_NAME")]
    pub name: Option<String>,
    /// PEM file of the client certificate, if the server requires one.
    #[arg(long, env = "BOXOFFICE_ADMIN_CERT", value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file of the private key of the client certificate.
    #[arg(long, env = "BOXOFFICE_ADMIN_KEY", value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

/// Options of `apply`.
#[derive(Debug, Clone, Args)]
pub struct ApplyOptions {
    /// YAML file that declares the sale; `-` reads standard input. deploy/sale.yaml is an example.
    pub file: PathBuf,
    /// Print what would change, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// The server.
    #[command(flatten)]
    pub admin: AdminOptions,
}

/// Options of `watch`.
#[derive(Debug, Clone, Args)]
pub struct WatchOptions {
    /// The code of the concert.
    pub concert_code: String,
    /// Time between two updates, 200ms to 1h.
    #[arg(long, default_value = "1s", value_parser = duration_above_zero)]
    pub interval: Duration,
    /// The server.
    #[command(flatten)]
    pub admin: AdminOptions,
}

/// Options of `events`.
#[derive(Debug, Clone, Args)]
pub struct EventsOptions {
    /// Print the events after this number. Default: all events that are kept.
    #[arg(long, value_name = "NUMBER")]
    pub after: Option<i64>,
    /// Then print each new event until Ctrl-C.
    #[arg(long)]
    pub follow: bool,
    /// Print only the events of this concert.
    #[arg(long, value_name = "CODE")]
    pub concert: Option<String>,
    /// Print only the events of these kinds, separated by commas, such as `payment_made,payment_refunded`.
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub kinds: Vec<String>,
    /// The server.
    #[command(flatten)]
    pub admin: AdminOptions,
}

/// Options of `forward`. The command also uses the settings of the database and of the HTTP listener.
#[derive(Clone, Args, derive_more::Debug)]
pub struct ForwardOptions {
    /// The sink: `nats://HOST:4222` or `tls://HOST:4222` for NATS JetStream, `https://HOST/PATH` for a webhook.
    #[arg(long, value_name = "URL", env = "BOXOFFICE_FORWARD_TO", hide_env_values = true)]
    // The URL may contain a password.
    #[debug("***")]
    pub to: String,
    /// Name of the sink. Its cursor and its metrics have this name. Default: the URL without a password and a query.
    #[arg(long, env = "BOXOFFICE_FORWARD_NAME")]
    pub name: Option<String>,
    /// The first event that a new sink receives: `oldest`, `newest` (the next new event), or the number of an event. A
    /// sink that has a cursor ignores this option.
    #[arg(long, value_name = "NUMBER", env = "BOXOFFICE_FORWARD_FROM", default_value = "oldest")]
    pub from: Start,
    /// Secret that signs webhooks: `whsec_` and the base64 of 24 to 64 bytes. During a change of the secret, give both
    /// secrets with a space between them. Set the secret with the environment variable or the file: other users of the
    /// machine can read command lines.
    #[arg(long, env = "BOXOFFICE_FORWARD_SECRET", hide_env_values = true, value_parser = secret)]
    pub secret: Option<SecretString>,
    /// File with the secret that signs webhooks.
    #[arg(long, value_name = "FILE", env = "BOXOFFICE_FORWARD_SECRET_FILE")]
    pub secret_file: Option<PathBuf>,
    /// The `source` of the CloudEvents. Give each database its own source if they share a receiver.
    #[arg(long, env = "BOXOFFICE_FORWARD_SOURCE", default_value = "boxoffice")]
    pub source: String,
    /// PEM file of the CA that signed the certificate of the sink. Default: public CAs.
    #[arg(long, value_name = "FILE", env = "BOXOFFICE_FORWARD_CA")]
    pub ca: Option<PathBuf>,
    /// Allow webhooks to private addresses and to addresses of this machine, also with `http`.
    #[arg(long, env = "BOXOFFICE_FORWARD_ALLOW_PRIVATE_ADDRESSES")]
    pub allow_private_addresses: bool,
}

/// Options of `health` for a server with TLS. TLS is used if `--ca` or `--tls-cert` is set.
#[derive(Debug, Clone, Default, Args)]
pub struct HealthOptions {
    /// PEM file of the CA that signed the server's certificate. The default is the file of `--tls-cert`, which works if
    /// that certificate is self-signed or its file also holds the certificate of its CA.
    #[arg(long, env = "BOXOFFICE_HEALTH_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Name that the server's certificate must have. The default is the IP address of `--listen`.
    #[arg(long, env = "BOXOFFICE_HEALTH_NAME")]
    pub name: Option<String>,
    /// PEM file of the client certificate, if the server requires one.
    #[arg(long, env = "BOXOFFICE_HEALTH_CERT", value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file of the private key of the client certificate.
    #[arg(long, env = "BOXOFFICE_HEALTH_KEY", value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

/// The commands for API keys.
#[derive(Debug, Clone, Subcommand)]
pub enum ApiKeyCommand {
    /// Create an API key. Prints the key, which is shown only once, and its line for the API keys file.
    New {
        /// Name of the calling service: 1 to 64 letters, digits, `.`, `_` or `-`.
        #[arg(value_parser = holder_name)]
        name: String,
        /// Give the key the admin right, so that it may also call AdminService and EventService.
        #[arg(long)]
        admin: bool,
        /// Give the key the events right, so that it may call EventService and no other service.
        #[arg(long, conflicts_with = "admin")]
        events: bool,
    },
}

/// The commands for draws.
#[derive(Debug, Clone, Subcommand)]
pub enum DrawCommand {
    /// Check that the seed matches the commitment, and print the place of each requested queue number. The figures come
    /// from the flags, or from a server. The exit code is 1 if the seed does not match.
    Verify(VerifyOptions),
}

/// Options of `draw verify`: the figures of the draw, or `--concert` and `--server`.
#[derive(Debug, Clone, Args)]
pub struct VerifyOptions {
    /// The published seed, in hexadecimal.
    #[arg(long, value_name = "HEX", required_unless_present = "concert", conflicts_with = "concert")]
    pub seed: Option<String>,
    /// The salt; empty by default.
    #[arg(long, default_value = "", conflicts_with = "concert")]
    pub salt: String,
    /// The commitment that was published before the opening, in hexadecimal. With `--concert`, the default is the
    /// commitment of the server: give the commitment that you noted before the opening instead.
    #[arg(long, value_name = "HEX", required_unless_present = "concert")]
    pub commitment: Option<String>,
    /// The number of participants.
    #[arg(long, value_name = "COUNT", required_unless_present = "concert", conflicts_with = "concert")]
    pub participants: Option<u32>,
    /// The queue numbers whose places are printed, separated by commas.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = clap::value_parser!(i64).range(1..))]
    pub number: Vec<i64>,
    /// The code of the concert whose figures are read from a server.
    #[arg(long, value_name = "CODE")]
    pub concert: Option<String>,
    /// Address of the public services of the server: `http://HOST:PORT` or `https://HOST:PORT`. The default is the
    /// address of `--listen`.
    #[arg(long, value_name = "URL", requires = "concert")]
    pub server: Option<String>,
    /// PEM file of the CA that signed the server's certificate, for `https`. The default is the file of `--tls-cert`.
    #[arg(long, value_name = "FILE", requires = "concert")]
    pub ca: Option<PathBuf>,
    /// API key, if the server requires one.
    #[arg(long, env = "BOXOFFICE_API_KEY", hide_env_values = true, value_parser = secret)]
    pub api_key: Option<SecretString>,
}

/// The commands for signing keys.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum SigningKeyCommand {
    /// Create a new signing key. All servers sign with it after 15 to 20 seconds. Older tokens stay valid.
    Rotate,
    /// Print all signing keys without their secrets.
    List,
    /// Delete an older signing key. Its tokens become invalid within about 5 seconds.
    Drop {
        /// Id of the key, as `signing-key list` prints it.
        id: i64,
    },
}

/// The settings of the server.
#[derive(Clone, Args, derive_more::Debug)]
pub struct Settings {
    /// Database URL: `sqlite://FILE?mode=rwc` or `postgres://USER:PASSWORD@HOST/DATABASE`. PostgreSQL may have several
    /// hosts: `postgres://USER:PASSWORD@HOST1:5432,HOST2:5432/DATABASE`.
    #[arg(
        long,
        global = true,
        env = "BOXOFFICE_DATABASE_URL",
        hide_env_values = true,
        default_value = "sqlite://boxoffice.db?mode=rwc"
    )]
    // The URL may contain a password.
    #[debug("***")]
    pub database_url: String,
    /// Level of PostgreSQL's `synchronous_commit`. With `on`, PostgreSQL confirms a commit after the server and its
    /// synchronous standby, if it has one, have written the commit to disk. With `remote_apply`, PostgreSQL also
    /// waits until queries on the standby see the commit.
    #[arg(
        long,
        global = true,
        env = "BOXOFFICE_SYNCHRONOUS_COMMIT",
        default_value = "on",
        value_parser = synchronous_commit
    )]
    pub synchronous_commit: SynchronousCommit,
    /// Address of the public services. Port 0 selects a free port, which is logged.
    #[arg(long, global = true, env = "BOXOFFICE_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Address of AdminService. Port 0 selects a free port, which is logged.
    #[arg(long, global = true, env = "BOXOFFICE_ADMIN_LISTEN", default_value = "127.0.0.1:50052")]
    pub admin_listen: SocketAddr,
    /// Address of the probes, the Prometheus metrics and the live page over HTTP. Off by default; `serve --demo` serves
    /// them on 127.0.0.1:8080, or on a free port if another program uses port 8080. Port 0 selects a free port, which
    /// is logged.
    #[arg(long, global = true, env = "BOXOFFICE_HTTP_LISTEN")]
    pub http_listen: Option<SocketAddr>,
    /// Host names under which clients reach the HTTP listener, separated by commas. `localhost` and IP addresses need
    /// not be listed.
    #[arg(long, global = true, env = "BOXOFFICE_HTTP_HOSTS", value_delimiter = ',')]
    pub http_hosts: Vec<String>,
    /// Interval between two promotions. A promotion admits waiting users.
    #[arg(
        long,
        global = true,
        env = "BOXOFFICE_PROMOTE_INTERVAL",
        default_value = "2s",
        value_parser = duration_above_zero
    )]
    pub promote_interval: Duration,
    /// Interval between two cleanups of ended admissions and holds. Admissions and holds end on time even without a
    /// cleanup.
    #[arg(
        long,
        global = true,
        env = "BOXOFFICE_EXPIRE_INTERVAL",
        default_value = "10s",
        value_parser = duration_above_zero
    )]
    pub expire_interval: Duration,
    /// Duration of an admission, from its promotion. An unused admission ends earlier if a shorter maximum time until
    /// the first use applies.
    #[arg(
        long,
        global = true,
        env = "BOXOFFICE_ADMISSION_TTL",
        default_value = "10m",
        value_parser = duration_above_zero
    )]
    pub admission_ttl: Duration,
    /// Maximum time from the promotion until the first use of an admission. An unused admission ends after this time. A
    /// concert can have its own value. Off by default.
    #[arg(long, global = true, env = "BOXOFFICE_CLAIM_TTL", value_parser = duration_above_zero)]
    pub claim_ttl: Option<Duration>,
    /// Target for the GetPosition calls per second of all waiting users together. Users far back in the queue poll less
    /// often.
    #[arg(long, global = true, env = "BOXOFFICE_POLL_BUDGET", default_value = "5000")]
    pub poll_budget: u32,
    /// Duration of a hold. A hold ends at the latest when its admission ends.
    #[arg(long, global = true, env = "BOXOFFICE_HOLD_TTL", default_value = "5m", value_parser = duration_above_zero)]
    pub hold_ttl: Duration,
    /// Maximum time that a stopping server waits for in-flight calls, after the lame-duck time.
    #[arg(
        long,
        global = true,
        env = "BOXOFFICE_DRAIN_TIMEOUT",
        default_value = "10s",
        value_parser = duration_above_zero
    )]
    pub drain_timeout: Duration,
    /// Time for which ended tokens, unpaid reservations and request ids are kept; at least 1 day.
    #[arg(long, global = true, env = "BOXOFFICE_RETENTION", default_value = "90d", value_parser = retention)]
    pub retention: Duration,
    /// Time for which the events of the feed are kept; at least 1 day.
    #[arg(long, global = true, env = "BOXOFFICE_EVENT_RETENTION", default_value = "30d", value_parser = retention)]
    pub event_retention: Duration,
    /// ISO 4217 code of the currency. All amounts are in its smallest unit.
    #[arg(long, global = true, env = "BOXOFFICE_CURRENCY", default_value = "KRW", value_parser = currency)]
    pub currency: String,
    /// Secret that signs queue tokens, at least 32 characters. By default, the server creates a key in the database.
    #[arg(long, global = true, env = "BOXOFFICE_TOKEN_KEY", hide_env_values = true, value_parser = SecretParser)]
    pub token_key: Option<SecretString>,
    /// Log level, or directives like `info,boxoffice=debug`.
    #[arg(long, global = true, env = "BOXOFFICE_LOG", default_value = "info")]
    pub log: String,
    /// Log format.
    #[arg(long, global = true, env = "BOXOFFICE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// The limits of the gRPC listeners.
    #[command(flatten)]
    pub limits: Limits,
    /// TLS and API keys.
    #[command(flatten)]
    pub transport: TransportSettings,
}

/// The formats of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain text for people.
    Text,
    /// One JSON object per line.
    Json,
}

fn retention(text: &str) -> Result<Duration, String> {
    let retention = duration_above_zero(text)?;
    if retention >= Duration::from_secs(86_400) { Ok(retention) } else { Err("must be at least 1d".to_owned()) }
}

fn synchronous_commit(text: &str) -> Result<SynchronousCommit, String> {
    match text {
        "on" => Ok(SynchronousCommit::On),
        "remote_apply" => Ok(SynchronousCommit::RemoteApply),
        "off" | "local" | "remote_write" => {
            Err("acknowledged writes could be lost with this level; use `on` or `remote_apply`".to_owned())
        }
        _ => Err("must be `on` or `remote_apply`".to_owned()),
    }
}

fn currency(text: &str) -> Result<String, String> {
    let valid = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if valid { Ok(text.to_owned()) } else { Err("must be three capital letters, like KRW".to_owned()) }
}

fn holder_name(text: &str) -> Result<String, String> {
    if credential::is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 64 letters, digits, `.`, `_` or `-`".to_owned())
    }
}

fn secret(text: &str) -> Result<SecretString, String> {
    Ok(text.into())
}

/// Parses a secret. Its error message does not repeat the rejected value.
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
                let sentence = "the token key is invalid; give UTF-8 text of at least 32 characters\n";
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
            ["boxoffice", "--retention", "23h"],
            ["boxoffice", "--token-key", "short"],
            ["boxoffice", "--listen", "here"],
            ["boxoffice", "--max-calls", "0"],
            ["boxoffice", "--call-timeout", "0s"],
            ["boxoffice", "--synchronous-commit", "off"],
            ["boxoffice", "--synchronous-commit", "local"],
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
