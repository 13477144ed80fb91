//! Arguments and exit codes; the only place that prints.

mod cli;
mod logging;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use throng::check;
use throng::config::{Config, ConfigError, DEFAULT_TOML};
use throng::control::finding::{Finding, Level};
use throng::control::signals;
use throng::load::plan::LoadError;
use throng::load::report::{Progress, Verdict};
use throng::runtime::{self, RunError};

use cli::{Cli, Command, Load, Options, Top};

/// Input or output failed: a socket, standard output, a worker's ring (`EX_IOERR` of sysexits.h).
const EXIT_IO: u8 = 74;
/// The configuration is missing or wrong (`EX_CONFIG` of sysexits.h). A service manager should not
/// try again: `RestartPreventExitStatus=78`.
const EXIT_CONFIG: u8 = 78;
/// An address to listen on is taken, by another tracker perhaps (the number of EADDRINUSE).
const EXIT_ADDRESS_TAKEN: u8 = 98;
/// `throng check` found a problem.
const EXIT_PROBLEM: u8 = 1;
/// The command line is wrong, as clap says it.
const EXIT_USAGE: u8 = 2;
/// `throng load` had no answer at all (`EX_UNAVAILABLE` of sysexits.h).
const EXIT_UNANSWERED: u8 = 69;
/// `throng load` had wrong answers (`EX_PROTOCOL` of sysexits.h).
const EXIT_WRONG: u8 = 76;

/// The same variable as for the tracker itself.
const TOKEN_VARIABLE: &str = "THRONG__ADMIN__TOKEN";

/// Small allocations from size classes, memory given back to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let ended = match Cli::parse().into_command() {
        Command::Config => print(DEFAULT_TOML),
        Command::Run(options) => read(&options).and_then(|config| run(&config)),
        Command::Check(asked) => check(&asked.options, asked.json),
        Command::Top(options) => top(options),
        Command::Load(options) => load(&options),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => ExitCode::from(code),
    }
}

/// The configuration, or the exit code after saying what is wrong with it.
fn read(options: &Options) -> Result<Config, u8> {
    gather(options).map_err(|error| complain(&error, EXIT_CONFIG))
}

fn gather(options: &Options) -> Result<Config, ConfigError> {
    // Lossily: a variable of ours that is not UTF-8 is then refused by its rule, not overlooked.
    let environment = std::env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    });
    Config::load(options.config.as_deref(), environment, &options.overrides)
}

fn run(config: &Config) -> Result<(), u8> {
    let log = logging::init(&config.log).map_err(|error| complain(&error, EXIT_CONFIG))?;
    runtime::run(config, log).map_err(|error| refuse(&error))
}

fn check(options: &Options, json: bool) -> Result<(), u8> {
    let config = gather(options).map_err(|error| {
        if json {
            let remedy = "mend it; `throng config` prints all that there is".to_owned();
            let finding = Finding::new(Level::Problem, "configuration", error.to_string(), remedy);
            // The exit code tells those whose standard output is closed.
            let _ = print(&check::json(&[finding]));
        }
        complain(&error, EXIT_CONFIG)
    })?;
    let findings = runtime::check(&config).map_err(|error| refuse(&error))?;
    print(&if json { check::json(&findings) } else { check::render(&findings) })?;
    if check::worst(&findings) == Level::Problem { Err(EXIT_PROBLEM) } else { Ok(()) }
}

fn top(options: Top) -> Result<(), u8> {
    let token = match options.token_file {
        Some(path) => {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                complain(&io::Error::other(format!("{}: {error}", path.display())), EXIT_CONFIG)
            })?;
            Some(text.lines().next().unwrap_or_default().trim().to_owned())
        }
        None => std::env::var(TOKEN_VARIABLE).ok(),
    };
    if !io::stdout().is_terminal() {
        return Err(complain(&io::Error::other("top needs a terminal to draw in"), EXIT_USAGE));
    }
    let stop = Arc::new(AtomicBool::new(false));
    signals::raise_on_interrupt(stop.clone()).map_err(|error| complain(&error, EXIT_IO))?;
    let target = options.target.with_token(token);
    throng::top::run(target, &stop).map_err(|error| complain(&error, EXIT_IO))
}

fn load(options: &Load) -> Result<(), u8> {
    let refuse = |error: LoadError| {
        let code = match error {
            _ if error.is_usage() => EXIT_USAGE,
            _ if error.is_silence() => EXIT_UNANSWERED,
            _ => EXIT_IO,
        };
        complain(&error, code)
    };
    let plan = options.plan().map_err(refuse)?;
    let stop = Arc::new(AtomicBool::new(false));
    signals::raise_on_interrupt(stop.clone()).map_err(|error| complain(&error, EXIT_IO))?;
    let common = options.common();
    let mut line = ProgressLine { overwrites: io::stderr().is_terminal(), columns: 0 };
    let mut tell = |progress: &Progress| {
        if !common.quiet {
            line.show(progress);
        }
    };
    let report = throng::load::run(&plan, &stop, &mut tell);
    line.clear();
    let report = report.map_err(refuse)?;
    print(&if common.json { report.json() } else { report.to_string() })?;
    match report.verdict() {
        Verdict::Verified => Ok(()),
        Verdict::Unanswered => Err(EXIT_UNANSWERED),
        Verdict::Wrong => Err(EXIT_WRONG),
    }
}

/// One line on standard error: written over itself on a terminal, else a line each time.
struct ProgressLine {
    overwrites: bool,
    /// Of the line that stands there; 0: none does.
    columns: usize,
}

impl ProgressLine {
    fn show(&mut self, progress: &Progress) {
        let text = progress.to_string();
        // Nobody is left to be told that standard error is closed.
        let _ = if self.overwrites {
            write!(io::stderr(), "\r{text:columns$}", columns = self.columns)
        } else {
            writeln!(io::stderr(), "{text}")
        };
        self.columns = text.len();
    }

    fn clear(&mut self) {
        if self.overwrites && self.columns > 0 {
            let _ = write!(io::stderr(), "\r{:columns$}\r", "", columns = self.columns);
        }
    }
}

fn refuse(error: &RunError) -> u8 {
    let code = match error {
        error if error.is_address_taken() => EXIT_ADDRESS_TAKEN,
        error if error.is_configuration() => EXIT_CONFIG,
        _ => EXIT_IO,
    };
    complain(error, code)
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
