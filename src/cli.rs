//! The command line: what may be asked of the program, and how that is explained.
//!
//! Definitions only. Options may stand before or after the command; where both places give
//! overrides, those after it come later and so win.

mod load;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use throng::top::Target;

pub use load::Load;

const EXAMPLES: &str = "\
Examples:
  throng                                     UDP and HTTP on port 6969, built-in defaults
  throng config > throng.toml                write the commented defaults, to be edited
  throng check --config throng.toml          is the file right, and is this machine?
  throng run --config throng.toml
  throng --set announce.interval=20m --set udp.listen=127.0.0.1:7000,[::1]:7000
  THRONG__LOG__LEVEL=debug throng run        the environment overrides the file, --set both
  throng top                                 watch the tracker on this machine
  throng load udp 127.0.0.1:6969             how much does it take? see: throng load udp --help";

/// A BitTorrent tracker engine: thread-per-core, io_uring, UDP and HTTP in one process.
///
/// Without a command it runs the tracker.
#[derive(Debug, Parser)]
#[command(name = "throng", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Verb>,
}

/// The commands as they are written.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the tracker until it is told to stop (SIGTERM, SIGINT); the same as no command
    Run(Options),
    /// Print the commented default configuration, in TOML
    Config,
    /// Check the configuration and this machine, and say what to do about each finding
    Check(Check),
    /// Watch a tracker at work, in the terminal
    Top(Top),
    /// Put load on a tracker, check every answer, and report rates and latencies
    Load {
        #[command(subcommand)]
        load: Box<Load>,
    },
}

/// Where the configuration comes from.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// Configuration file, in TOML; without it the defaults apply
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Override one key of the configuration; may be given several times
    ///
    /// The value is TOML or plain text, and a list may be written with commas:
    /// --set log.level=debug --set workers=2 --set http.listen=127.0.0.1:80,[::1]:80
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// What `throng check` is told.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct Check {
    #[command(flatten)]
    pub options: Options,
    /// Print the findings as JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// What `throng top` is told.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub struct Top {
    /// The admin listener: an address and port, or unix: and a path
    #[arg(default_value = "127.0.0.1:6970")]
    pub target: Target,
    /// File whose first line is the token that the listener wants
    ///
    /// Without it, the environment variable THRONG__ADMIN__TOKEN counts, if there is one.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// What is asked of the program.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Run the tracker.
    Run(Options),
    /// Print the default configuration.
    Config,
    /// Check the configuration and the machine.
    Check(Check),
    /// Watch a tracker.
    Top(Top),
    /// Put load on a tracker.
    Load(Box<Load>),
}

impl Cli {
    /// What is asked, with the options of both places together.
    ///
    /// clap's own global arguments would silently drop the overrides before the command when there
    /// are some after it.
    pub fn into_command(self) -> Command {
        let outer = self.options;
        match self.command {
            None => Command::Run(outer),
            Some(Verb::Run(inner)) => Command::Run(outer.followed_by(inner)),
            Some(Verb::Config) => Command::Config,
            Some(Verb::Check(Check { options, json })) => {
                Command::Check(Check { options: outer.followed_by(options), json })
            }
            Some(Verb::Top(top)) => Command::Top(top),
            Some(Verb::Load { load }) => Command::Load(load),
        }
    }
}

impl Options {
    fn followed_by(mut self, later: Self) -> Self {
        self.config = later.config.or(self.config);
        self.overrides.extend(later.overrides);
        self
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(Cli::into_command)
    }

    fn options(config: Option<&str>, overrides: &[&str]) -> Options {
        let overrides = overrides.iter().map(|text| (*text).to_owned()).collect();
        Options { config: config.map(PathBuf::from), overrides }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_run() {
        let cases = [
            ("throng", Command::Run(options(None, &[]))),
            ("throng run", Command::Run(options(None, &[]))),
            ("throng --config a", Command::Run(options(Some("a"), &[]))),
            ("throng run --config a", Command::Run(options(Some("a"), &[]))),
            ("throng --config a run", Command::Run(options(Some("a"), &[]))),
            ("throng config", Command::Config),
        ];
        for (line, command) in cases {
            assert_eq!(parse(line).expect(line), command, "{line}");
        }
    }

    #[test]
    fn overrides_keep_their_order_over_both_places() {
        let command = parse("throng --set a=1 --set b=2 run --set a=3 --config x");
        let expected = Command::Run(options(Some("x"), &["a=1", "b=2", "a=3"]));
        assert_eq!(command.expect("is right"), expected);
    }

    #[test]
    fn a_check_is_for_people_unless_json_is_asked_for() {
        for (line, config, json) in [
            ("throng check", None, false),
            ("throng check --config a", Some("a"), false),
            ("throng --config a check", Some("a"), false),
            ("throng check --json", None, true),
            ("throng check --json --config a", Some("a"), true),
            ("throng --config b check --config a --json", Some("a"), true),
        ] {
            let expected = Command::Check(Check { options: options(config, &[]), json });
            assert_eq!(parse(line).expect(line), expected, "{line}");
        }
        let both = Check { options: options(None, &["a=1", "b=2"]), json: true };
        let command = parse("throng --set a=1 check --json --set b=2");
        assert_eq!(command.expect("is right"), Command::Check(both));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for line in [
            "throng walk",
            "throng --port 1",
            "throng --set",
            "throng config --set a=1",
            "throng --json check",
            "throng run --json",
            "throng check --json=yes",
            "throng load",
            "throng top nowhere",
            "throng top --token x",
            "throng load tcp 127.0.0.1:1",
            "throng load udp",
            "throng load udp 127.0.0.1:1 --connections 1",
            "throng load http 127.0.0.1:1 --in-flight 1",
            "throng load http 127.0.0.1:1 --duration 5",
            "throng load ws 127.0.0.1:1 --peers 5",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_load_becomes_a_plan_within_its_bounds() {
        let plan = |line: &str| match parse(line).expect(line) {
            Command::Load(load) => load.plan().map(|plan| {
                let checked = plan.check().map_err(|error| error.to_string());
                (plan, checked)
            }),
            other => panic!("{other:?}"),
        };
        let (udp, checked) = plan("throng load udp 127.0.0.1:6969").expect("loopback");
        assert_eq!((udp.in_flight, udp.sources, udp.close, checked), (256, 4, false, Ok(())));
        let (http, checked) = plan("throng load http [::1]:6969 --close").expect("loopback");
        assert_eq!((http.in_flight, http.sources, http.close, checked), (64, 64, true, Ok(())));
        for wrong in [
            "--threads 0",
            "--in-flight 0",
            "--in-flight 65537",
            "--in-flight 7 --sources 8",
            "--sources 241 --in-flight 300",
            "--peers 3",
            "--swarms 0",
            "--skew 0.5",
            "--skew nan",
            "--seeders 1.1",
            "--rate 0",
            "--duration 25h",
            "--duration 0s",
            "--timeout 2m",
            "--scrape-hashes 75",
            "--mix announce=0",
            "--peers 1000000 --swarms 1",
        ] {
            let (_, checked) =
                plan(&format!("throng load udp 127.0.0.1:6969 {wrong}")).expect(wrong);
            let option = wrong.split(' ').next().expect("an option");
            assert!(checked.expect_err(wrong).contains(option), "{wrong}");
        }
        assert!(plan("throng load udp 192.0.2.1:6969").is_err());
        let (ws, checked) = plan("throng load ws ws://127.0.0.1:6969").expect("loopback");
        assert_eq!((ws.in_flight, ws.peers, ws.num_want, checked), (1_000, 1_000, 5, Ok(())));
        let many = "throng load ws [::1]:6969 --connections 20000 --swarms 9000 --torrents 3";
        let (ws, checked) = plan(many).expect("loopback");
        assert_eq!((ws.sources, ws.peers, checked), (40, 60_000, Ok(())));
        for wrong in [
            "--connections 0",
            "--connections 65537",
            "--offers 11",
            "--torrents 0",
            "--torrents 101",
            "--torrents 5 --swarms 2",
            "--sdp-bytes 699",
            "--sdp-bytes 6001",
            "--answers 1.5",
            "--mix connect=1,announce=1",
        ] {
            let (_, checked) =
                plan(&format!("throng load ws 127.0.0.1:6969 {wrong}")).expect(wrong);
            let option = wrong.split(' ').next().expect("an option");
            assert!(checked.expect_err(wrong).contains(option), "{wrong}");
        }
        assert!(plan("throng load ws ws://192.0.2.1/").is_err());
    }
}
