//! Four layers over each other: defaults, file, environment, command line.
//!
//! A table of plain TOML values starts as the defaults and is written over, key by key, by each
//! layer in turn. Each value is checked against its rule as it arrives, while it is still known
//! where it stands; all that is wrong is reported together.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
#[cfg(any(test, fuzzing))]
use std::sync::LazyLock;

use serde::Deserialize;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Table, Value};

use super::rules::{Expected, KEYS, Key, SECTIONS, conflicts};
use super::{Config, ConfigError, Place, Problem};

/// What an environment variable's name starts with, in either case, to be ours.
const ENVIRONMENT_PREFIX: &str = "THRONG__";

/// The values so far.
struct Layers {
    /// Every key has a value of the right type, form and range.
    values: Table,
    /// Where a value that is not the default comes from.
    places: BTreeMap<&'static str, Place>,
    problems: Vec<Problem>,
}

impl Config {
    /// The defaults, overridden by `file`, then by the variables `THRONG__SECTION__KEY` of
    /// `environment` (in either case), then by `overrides`, each `section.key=value`.
    ///
    /// Values of the last two are TOML if that gives the key's type, else text as it stands; a list
    /// may also be written with commas.
    ///
    /// # Errors
    /// The file cannot be read or is not TOML; or all of: unknown keys, values of the wrong type,
    /// form or range, and, if there are none of those, values that contradict each other.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &[String],
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::new()?;
        if let Some(path) = file {
            let text = fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
            layers.put_file(&path.display().to_string(), &text)?;
        }
        layers.put_environment(environment);
        layers.put_overrides(overrides);
        layers.finish()
    }

    /// Checks a configuration that was made by hand; [`Config::load`] has already done so.
    ///
    /// # Errors
    /// All that is wrong, as in [`Config::load`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut layers = Layers::new()?;
        let mut values = tabulate(self)?;
        for key in &KEYS {
            if let Some(value) = take(&mut values, key) {
                layers.put(key, value, Place::Default);
            }
        }
        layers.finish().map(drop)
    }
}

impl Layers {
    /// The defaults.
    fn new() -> Result<Self, ConfigError> {
        let values = tabulate(&Config::default())?;
        Ok(Self { values, places: BTreeMap::new(), problems: Vec::new() })
    }

    /// Puts what the TOML `text` says; `file` is its name in messages.
    fn put_file(&mut self, file: &str, text: &str) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            file: file.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        let place_of = |at: usize| Place::File { file: file.to_owned(), line: line_of(text, at) };
        for (name, value) in in_order(table.into_inner()) {
            let place = place_of(name.span().start);
            let name = name.into_inner();
            let is_section = SECTIONS.contains(&name.as_ref());
            match value.into_inner() {
                DeValue::Table(section) if is_section => {
                    for (leaf, value) in in_order(section) {
                        let place = place_of(leaf.span().start);
                        self.put_named(&format!("{name}.{}", leaf.get_ref()), value, place);
                    }
                }
                // Not gone into: one message for the section, and not one for each of its keys.
                DeValue::Table(_) if find(&name).is_none() => {
                    let nearest = nearest_section(&name);
                    self.report_unknown("section", &name, place, nearest);
                }
                value => self.put_named(&name, Spanned::new(0..0, value), place),
            }
        }
        Ok(())
    }

    /// Puts the variables that are ours. Two whose names differ only in case name one key; the
    /// order of the environment means nothing, so the last in the alphabet's order wins.
    fn put_environment(&mut self, environment: impl Iterator<Item = (String, String)>) {
        let mut ours: Vec<_> = environment
            .filter_map(|(name, value)| {
                let (prefix, rest) = name.split_at_checked(ENVIRONMENT_PREFIX.len())?;
                let path = rest.to_ascii_lowercase().replace("__", ".");
                prefix.eq_ignore_ascii_case(ENVIRONMENT_PREFIX).then_some((name, path, value))
            })
            .collect();
        ours.sort();
        for (name, path, text) in ours {
            self.put_text(&path, &text, Place::Environment(name));
        }
    }

    /// Puts what `--set` says, in order.
    fn put_overrides(&mut self, overrides: &[String]) {
        for text in overrides {
            match text.split_once('=') {
                Some((path, value)) => self.put_text(path.trim(), value, Place::CommandLine),
                None => self.problems.push(Problem::NotAnAssignment { text: text.clone() }),
            }
        }
    }

    /// Puts a value of the file under the name that was written.
    fn put_named(&mut self, path: &str, value: Spanned<DeValue<'_>>, place: Place) {
        let Some(key) = self.known(path, &place) else { return };
        // `toml` keeps numbers as text until here; one that does not fit is refused here.
        match Value::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => self.put(key, value, place),
            Err(_) => self.problems.push(Problem::Value {
                key: key.path,
                place,
                expected: key.expected.to_string(),
                found: "a number too large to be read".to_owned(),
            }),
        }
    }

    /// Puts a text of the environment or the command line under the name that was written.
    fn put_text(&mut self, path: &str, text: &str, place: Place) {
        if let Some(key) = self.known(path, &place) {
            self.put(key, interpret(&key.expected, text), place);
        }
    }

    /// Puts a value if it is right, reports it if it is not.
    fn put(&mut self, key: &'static Key, value: Value, place: Place) {
        if let Err(problem) = key.check(&value, &place) {
            self.problems.push(problem);
            return;
        }
        let (section, leaf) = split(key.path);
        let table = match section {
            Some(section) => self.values.get_mut(section).and_then(Value::as_table_mut),
            None => Some(&mut self.values),
        };
        if let Some(table) = table {
            table.insert(leaf.to_owned(), value);
            self.places.insert(key.path, place);
        }
    }

    /// The key of that name, or `None` and a report.
    fn known(&mut self, path: &str, place: &Place) -> Option<&'static Key> {
        let key = find(path);
        if key.is_none() {
            match SECTIONS.iter().find(|section| **section == path) {
                Some(section) => self.problems.push(Problem::Value {
                    key: section,
                    place: place.clone(),
                    expected: "a section of keys".to_owned(),
                    found: "a value".to_owned(),
                }),
                None => self.report_unknown("key", path, place.clone(), nearest_key(path)),
            }
        }
        key
    }

    fn report_unknown(
        &mut self,
        kind: &'static str,
        path: &str,
        place: Place,
        nearest: Option<&'static str>,
    ) {
        // Escaped: a name comes from outside and must not break the line of its message.
        let path = path.escape_debug().to_string();
        self.problems.push(Problem::Unknown { kind, path, place, nearest });
    }

    /// The configuration, if nothing is wrong with it.
    fn finish(self) -> Result<Config, ConfigError> {
        if !self.problems.is_empty() {
            return Err(ConfigError::Invalid(self.problems));
        }
        let config = Config::deserialize(self.values).map_err(unrepresentable)?;
        let place_of = |key: &str| self.places.get(key).cloned().unwrap_or(Place::Default);
        let problems = conflicts(&config, place_of);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems)) }
    }
}

/// `config` as a table of plain values.
fn tabulate(config: &Config) -> Result<Table, ConfigError> {
    Table::try_from(config).map_err(unrepresentable)
}

fn unrepresentable(error: impl ToString) -> ConfigError {
    ConfigError::Invalid(vec![Problem::Unrepresentable(error.to_string())])
}

/// Takes the value of `key` out of `values`.
fn take(values: &mut Table, key: &Key) -> Option<Value> {
    match split(key.path) {
        (Some(section), leaf) => values.get_mut(section)?.as_table_mut()?.remove(leaf),
        (None, leaf) => values.remove(leaf),
    }
}

/// `text` as a value for a key that expects `expected`; the rule checks it afterwards.
fn interpret(expected: &Expected, text: &str) -> Value {
    match text.trim().parse::<Value>() {
        Ok(value) if expected.has_type_of(&value) => value,
        _ if matches!(expected, Expected::List(_)) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
        _ => Value::String(text.trim().to_owned()),
    }
}

/// A path as its section, if any, and the name within.
fn split(path: &str) -> (Option<&str>, &str) {
    path.split_once('.').map_or((None, path), |(section, leaf)| (Some(section), leaf))
}

fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The key that `path` was probably meant to be: a letter or two astray, or in the wrong section.
fn nearest_key(path: &str) -> Option<&'static str> {
    let (_, leaf) = split(path);
    let score = |known: &'static str| {
        let whole = strsim::osa_distance(path, known);
        // Names that are alike in another section are one step further than those in this one.
        let within = strsim::osa_distance(leaf, split(known).1) + 1;
        (whole.min(within), whole)
    };
    // Lengths that differ by more than a slip need no closer look: names of any length are cheap.
    let may_be_near = |known: &&str| {
        is_near(lengths_apart(path, known), leaf)
            || is_near(lengths_apart(leaf, split(known).1) + 1, leaf)
    };
    let keys = KEYS.iter().map(|key| key.path);
    let nearest = keys.filter(may_be_near).min_by_key(|known| score(known))?;
    is_near(score(nearest).0, leaf).then_some(nearest)
}

fn nearest_section(name: &str) -> Option<&'static str> {
    let score = |known: &str| strsim::osa_distance(name, known);
    let may_be_near = |known: &&str| is_near(lengths_apart(name, known), name);
    let nearest = SECTIONS.into_iter().filter(may_be_near).min_by_key(|known| score(known))?;
    is_near(score(nearest), name).then_some(nearest)
}

/// How many edits it takes at the least to make one of the other.
fn lengths_apart(a: &str, b: &str) -> usize {
    a.chars().count().abs_diff(b.chars().count())
}

/// Whether so many edits of `name` are a slip rather than another word.
fn is_near(edits: usize, name: &str) -> bool {
    edits <= 1 + name.len() / 3
}

/// The entries of `table` as they stand in the file, so that problems are reported from its top.
fn in_order<'a>(table: DeTable<'a>) -> Vec<(Spanned<DeString<'a>>, Spanned<DeValue<'a>>)> {
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

/// The line, counted from 1, of the byte at `at`.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// Reads the first lines of `bytes` as overrides, and all of it as a configuration file: never
/// panics, and what is accepted passes its own check and reads back from its own text.
///
/// # Panics
/// It does not hold.
#[cfg(any(test, fuzzing))]
pub fn check(bytes: &[u8]) {
    // Enough for each of them to meet the ones before; more only cost a fuzzer time.
    const OVERRIDES_MAX: usize = 4;
    // Made once: a fuzzer pays for every branch that an input takes, and most inputs set nothing.
    static DEFAULTS: LazyLock<Table> =
        LazyLock::new(|| tabulate(&Config::default()).expect("the defaults can be written"));

    let text = String::from_utf8_lossy(bytes);
    let mut layers =
        Layers { values: DEFAULTS.clone(), places: BTreeMap::new(), problems: Vec::new() };
    layers.put_overrides(&text.lines().take(OVERRIDES_MAX).map(str::to_owned).collect::<Vec<_>>());
    let _ = ConfigError::Invalid(layers.problems.split_off(0)).to_string();
    if !layers.places.is_empty() {
        // What was accepted alone: hardly any text is both, overrides and a file.
        let (values, places) = (layers.values.clone(), layers.places.clone());
        check_whole(Layers { values, places, problems: Vec::new() }.finish());
    }
    let read = layers.put_file("fuzz", &text);
    if read.is_ok() && layers.problems.is_empty() && layers.places.is_empty() {
        return;
    }
    check_whole(read.and_then(|()| layers.finish()));
}

/// What is accepted passes its own check and reads back from its own text; what is not says why.
#[cfg(any(test, fuzzing))]
fn check_whole(read: Result<Config, ConfigError>) {
    match read {
        Ok(config) => {
            config.validate().expect("what was loaded is valid");
            let written = toml::to_string(&config).expect("a valid configuration can be written");
            let again = toml::from_str(&written).expect("what was written can be read");
            assert_eq!(config, again);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
