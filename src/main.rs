//! Arguments and exit codes; the only place that prints.

mod cli;
mod logging;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use throng::config::{Config, ConfigError, DEFAULT_TOML};

use cli::{Cli, Command, Options};

/// Standard output or the log cannot be written (`EX_IOERR` of sysexits.h).
const EXIT_IO: u8 = 74;
/// The configuration is missing or wrong (`EX_CONFIG` of sysexits.h). A service manager should not
/// try again: `RestartPreventExitStatus=78`.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let ended = match Cli::parse().into_command() {
        Command::Config => print(DEFAULT_TOML),
        Command::Run(options) => load(&options).and_then(|config| start_log(&config)),
        Command::Check(options) => load(&options).map(drop),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => ExitCode::from(code),
    }
}

/// The configuration, or the exit code after saying what is wrong with it.
fn load(options: &Options) -> Result<Config, u8> {
    // Lossily: a variable of ours that is not UTF-8 is then refused by its rule, not overlooked.
    let environment = std::env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    });
    Config::load(options.config.as_deref(), environment, &options.overrides)
        .map_err(|error: ConfigError| complain(&error, EXIT_CONFIG))
}

fn start_log(config: &Config) -> Result<(), u8> {
    logging::init(&config.log).map_err(|error| complain(&error, EXIT_CONFIG))
}

/// Prints `text` on standard output. A reader that left early (`throng config | head`) is content.
fn print(text: &str) -> Result<(), u8> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(complain(&error, EXIT_IO)),
        _ => Ok(()),
    }
}

/// Says what went wrong, each line under the program's name, and returns `code`.
fn complain(error: &dyn std::error::Error, code: u8) -> u8 {
    let mut stderr = io::stderr().lock();
    for line in error.to_string().lines() {
        // Nobody is left to be told that standard error is closed.
        let _ = writeln!(stderr, "throng: {line}");
    }
    code
}
