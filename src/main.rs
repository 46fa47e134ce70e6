//! The command line: reads arguments and configuration, starts what was asked for, says the exit code.
//!
//! Knows nothing of what runs behind the commands.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weir::app::{self, ask, demo, storm, token};
use weir::config::{self, Config, ConfigError};

/// A self-hosted RDS Proxy for PostgreSQL.
#[derive(Parser)]
#[command(version, disable_help_subcommand = true)]
struct Arguments {
    /// Configuration file; else the one that WEIR_CONFIG names; else the environment alone.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Be the proxy; this is what happens without a command, too.
    Run,
    /// Say whether the configuration is right, and print it resolved, secrets left out.
    Check {
        /// Print the reference of all settings instead.
        #[arg(long)]
        reference: bool,
        /// Say instead whether the Weir that runs with this configuration answers /health (for containers).
        #[arg(long, conflicts_with = "reference")]
        alive: bool,
    },
    /// Start a throw-away PostgreSQL, Weir in front of it and some load, to look at.
    Demo(demo::Options),
    /// Play a storm of Lambda-like clients against any PostgreSQL or proxy.
    Bench(storm::Options),
    /// Make a token for a client that comes by IAM, or look at one.
    #[command(args_conflicts_with_subcommands = true)]
    Token {
        #[command(subcommand)]
        check: Option<Token>,
        #[command(flatten)]
        make: token::Make,
    },
}

#[derive(Subcommand)]
enum Token {
    Check(token::Check),
}

/// A wrong configuration, as a wrong command line.
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        None | Some(Command::Run) => serve(arguments),
        Some(Command::Check {
            reference: true, ..
        }) => {
            print(&config::reference_markdown());
            ExitCode::SUCCESS
        }
        Some(Command::Check { alive, .. }) => match load(&arguments) {
            Ok(config) if alive => finish(ask::alive(config.listen.http)),
            Ok(config) => {
                print(&config.redacted_toml());
                ExitCode::SUCCESS
            }
            Err(error) => wrong_configuration(&error),
        },
        Some(Command::Demo(options)) => finish(demo::run(options)),
        Some(Command::Bench(options)) => finish(storm::run(options)),
        Some(Command::Token {
            check: Some(Token::Check(ref check)),
            ..
        }) => check_token(check, &arguments),
        Some(Command::Token { check: None, make }) => make_token(&make),
    }
}

fn make_token(make: &token::Make) -> ExitCode {
    finish(async {
        let token = make.run().await?;
        print(&format!("{}\n", token.expose()));
        Ok::<(), token::MakeError>(())
    })
}

/// Exit code 0: accepted; 1: refused; 2: nothing could be said.
fn check_token(check: &token::Check, arguments: &Arguments) -> ExitCode {
    let iam = match config::load_iam(arguments.config.as_deref(), environment()) {
        Ok(iam) => iam,
        Err(error) => return wrong_configuration(&error),
    };
    match check.run(&iam) {
        Ok(token::Finding::Accepted { note }) => {
            print("accepted\n");
            if let Some(note) = note {
                eprintln!("weir: {note}");
            }
            ExitCode::SUCCESS
        }
        Ok(token::Finding::Refused { reason, hint }) => {
            print(&format!("refused: {reason}\n"));
            if let Some(hint) = hint {
                eprintln!("weir: {hint}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::from(WRONG_CONFIGURATION)
        }
    }
}

fn serve(arguments: Arguments) -> ExitCode {
    let config = match load(&arguments) {
        Ok(config) => config,
        Err(error) => return wrong_configuration(&error),
    };
    match app::run(config, Box::new(move || load(&arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command that needs no more than one thread.
fn finish<T, E: std::error::Error>(command: impl Future<Output = Result<T, E>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(command).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads file and environment; called again for each reload.
fn load(arguments: &Arguments) -> Result<Config, ConfigError> {
    config::load(arguments.config.as_deref(), environment())
}

fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
}

fn wrong_configuration(error: &ConfigError) -> ExitCode {
    eprintln!("weir: {error}");
    ExitCode::from(WRONG_CONFIGURATION)
}

/// `print!` panics when the reader is gone (`weir check | head`).
fn print(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
