//! Reads the source and checks what a machine can check of its style.
//!
//! Each rule is a function from one file to findings, a test that applies it to every file, and a
//! table of planted snippets on which it must fire or stay silent: a check that cannot fail is
//! worth nothing. The scanner knows comments and literals, not the grammar; a rule that would need
//! a real parser belongs into clippy. Only `std`.

use std::fs;
use std::path::{Path, PathBuf};

/// Ranks of the modules. A file imports lower ranks and its own module, never higher.
const RANKS: [(u8, &[&str]); 7] = [
    (0, &["limits", "time", "rng"]),
    (1, &["wire"]),
    (2, &["swarm"]),
    (3, &["tracker"]),
    (4, &["dataplane", "control", "load", "top"]),
    (5, &["config", "check", "runtime", "logging"]),
    (6, &["main", "cli", "lib", "corpus"]),
];
/// The highest rank of the sans-IO core.
const CORE_RANK: u8 = 3;
/// From this rank on, modules of one rank may import each other.
const SHELL_RANK: u8 = 5;
/// All that `swarm` may know of `wire`.
const WIRE_FOR_SWARM: [&str; 3] = ["id", "addr", "announce"];
/// Where `unsafe` may stand: a folder ends in a slash.
const UNSAFE_PLACES: [&str; 4] = [
    "src/dataplane/ring/",
    "src/dataplane/steering.rs",
    "src/load/batch.rs",
    "src/swarm/machine.rs",
];
/// Crates that are named in few places, and these places.
const CONFINED: [(&str, &[&str]); 2] = [
    ("glommio", &["src/dataplane/", "src/runtime.rs", "src/runtime/"]),
    ("tokio", &["src/control/", "src/runtime.rs", "src/runtime/", "src/top/"]),
];
/// Modules in which whatever goes on the way to somebody is an answer.
const ANSWERING: [&str; 4] = ["tracker", "dataplane", "control", "runtime"];
/// How connections of one's own begin, but to a socket of this machine's files.
const CONNECTING: [&str; 3] = ["connect", "connect_timeout", "Connect"];
/// What the core must not use of `std`: sockets, files, clocks, threads and the process.
const STD_OUTSIDE_THE_CORE: [&[&str]; 10] = [
    &["time", "Instant"],
    &["time", "SystemTime"],
    &["net", "TcpListener"],
    &["net", "TcpStream"],
    &["net", "UdpSocket"],
    &["env"],
    &["fs"],
    &["os"],
    &["process"],
    &["thread"],
];
/// Crates and keywords that the core must not use.
const WORDS_OUTSIDE_THE_CORE: [&str; 4] = ["async", "log", "rustix", "tracing"];
/// The only file of the core that calls the kernel, for memory as an allocator would.
const MEMORY: &str = "src/swarm/machine.rs";
/// The only files that print.
const PRINTERS: [&str; 2] = ["src/main.rs", "src/cli.rs"];
/// Characters of a line.
const COLUMNS_MAX: usize = 100;
/// Lines of a source file without its tests.
const LINES_MAX: usize = 600;
/// Marks of unfinished work, allowed beside a link. Split, so that a search finds only real ones.
const UNFINISHED: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
/// What a comment must not mention, in lower case: how the code came to be instead of what is true.
const HISTORY: [&str; 2] = [concat!("sess", "ion"), concat!("issue", " #")];

/// A line number from 1 and what is wrong there.
type Finding = (usize, String);
/// A rule about one file.
type Check = fn(&Source) -> Vec<Finding>;

/// One file, with its characters sorted into code, comments and literals.
struct Source {
    /// Relative to the repository, with forward slashes.
    path: String,
    text: String,
    /// `text` with comments and the contents of literals blanked; the lines stay where they are.
    code: String,
    /// `text` with everything but comments blanked.
    comments: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let (code, comments) = split(text);
        Self { path: path.to_owned(), text: text.to_owned(), code, comments }
    }

    /// The module below the crate's root that this file is part of; `None` outside of `src`.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split_once('/').map_or_else(|| inside.trim_end_matches(".rs"), |(dir, _)| dir))
    }

    fn is_below(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            if place.ends_with('/') { self.path.starts_with(place) } else { self.path == *place }
        })
    }

    /// `code` up to the tests at the foot of the file; nothing of a file that holds only tests.
    fn code_without_tests(&self) -> &str {
        if self.path.ends_with("/tests.rs") || !self.path.starts_with("src/") {
            return "";
        }
        let mut at = 0;
        let mut attribute = None;
        for line in self.code.split_inclusive('\n') {
            let words = line.trim();
            if words.starts_with("#[cfg(") && has_word(words, "test") {
                attribute = Some(at);
            } else if words.starts_with("mod tests {") {
                return &self.code[..attribute.unwrap_or(at)];
            } else if !words.starts_with("#[") {
                attribute = None;
            }
            at += line.len();
        }
        &self.code
    }
}

/// Splits `text` into code and comments, each with the rest blanked.
fn split(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut at = 0;
    while at < chars.len() {
        let (is_comment, keep, end) = token(&chars, at);
        for (offset, &c) in chars[at..end].iter().enumerate() {
            let blank = if c == '\n' { '\n' } else { ' ' };
            comments.push(if is_comment { c } else { blank });
            code.push(if !is_comment && offset < keep { c } else { blank });
        }
        at = end;
    }
    (code, comments)
}

/// The token at `at`: whether it is a comment, how many of its characters are code, and its end.
/// The opening quote of a literal stays in the code, as a border between words.
fn token(chars: &[char], at: usize) -> (bool, usize, usize) {
    let next = |offset: usize| chars.get(at + offset).copied().unwrap_or('\n');
    match chars[at] {
        '/' if next(1) == '/' => {
            let length = chars[at..].iter().position(|&c| c == '\n');
            (true, 0, length.map_or(chars.len(), |length| at + length))
        }
        '/' if next(1) == '*' => (true, 0, block_comment_end(chars, at)),
        '"' => (false, 1, literal_end(chars, at + 1, '"')),
        '\'' if next(1) == '\\' => (false, 1, literal_end(chars, at + 1, '\'')),
        '\'' if next(2) == '\'' => (false, 1, at + 3),
        c if is_word(c) => {
            let length = chars[at..].iter().take_while(|&&c| is_word(c)).count();
            let after = &chars[at + length..];
            let hashes = after.iter().take_while(|&&c| c == '#').count();
            let word: String = chars[at..at + length].iter().collect();
            if ["r", "br", "cr"].contains(&word.as_str()) && after.get(hashes) == Some(&'"') {
                let close: Vec<char> = format!("\"{}", "#".repeat(hashes)).chars().collect();
                let inside = at + length + hashes + 1;
                let end = chars[inside..].windows(hashes + 1).position(|tail| tail == close);
                (false, 1, end.map_or(chars.len(), |end| inside + end + hashes + 1))
            } else {
                (false, length, at + length)
            }
        }
        _ => (false, 1, at + 1),
    }
}

/// The position after the block comment that opens at `at`; they nest.
fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut end) = (0, at);
    while end + 1 < chars.len() {
        match (chars[end], chars[end + 1]) {
            ('/', '*') => (depth, end) = (depth + 1, end + 2),
            ('*', '/') => (depth, end) = (depth - 1, end + 2),
            _ => end += 1,
        }
        if depth == 0 {
            return end;
        }
    }
    chars.len()
}

/// The position after the literal whose contents begin at `at`.
fn literal_end(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    chars.len().min(at + 1)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands in `text` as a whole word, and not as a lifetime.
fn word_positions<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        let after = text[at + word.len()..].chars().next().unwrap_or(' ');
        !is_word(before) && before != '\'' && !is_word(after)
    })
}

fn has_word(text: &str, word: &str) -> bool {
    word_positions(text, word).next().is_some()
}

/// The number of the line that holds byte `at`.
fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

/// Every path in `code` that begins with `root`, as line and segments after the root. A group
/// `root::{a, b::c}` gives several; `*` and `self` count as segments.
fn paths(code: &str, root: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for at in word_positions(code, root) {
        let rest = &code[at + root.len()..];
        let mut tails = Vec::new();
        tree(rest, &mut Vec::new(), &mut tails);
        let line = line_of(code, at);
        found.extend(tails.into_iter().filter(|tail| !tail.is_empty()).map(|tail| (line, tail)));
    }
    found
}

/// Reads what follows a segment, `::b::{c, d}`, and pushes each whole path. Returns the rest.
fn tree<'a>(code: &'a str, stem: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let Some(code) = code.trim_start().strip_prefix("::").map(str::trim_start) else {
        found.push(stem.clone());
        return code;
    };
    if let Some(mut inside) = code.strip_prefix('{') {
        loop {
            inside = inside.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if inside.is_empty() || inside.starts_with('}') {
                return inside.strip_prefix('}').unwrap_or(inside);
            }
            let before = inside.len();
            inside = segment(inside, stem, found);
            // An alias or something unexpected: on to the next comma or brace.
            let skip = inside.find([',', '}']).unwrap_or(inside.len());
            inside = &inside[skip..];
            assert!(inside.len() < before);
        }
    }
    segment(code, stem, found)
}

/// Reads one segment and what follows it.
fn segment<'a>(code: &'a str, stem: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let length = code.find(|c| !is_word(c)).unwrap_or(code.len());
    let length = if code.starts_with('*') { 1 } else { length };
    if length == 0 {
        // `Vec::<u8>` and the like: the path ends here.
        found.push(stem.clone());
        return code;
    }
    stem.push(code[..length].to_owned());
    let rest = tree(&code[length..], stem, found);
    stem.pop();
    rest
}

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(_, modules)| modules.contains(&module)).map(|&(rank, _)| rank)
}

/// Imports point downwards.
fn ranks(file: &Source) -> Vec<Finding> {
    let Some(module) = file.module() else { return Vec::new() };
    let Some(own) = rank(module) else {
        return vec![(1, format!("`{module}` has no rank: give it one in tests/tidy.rs"))];
    };
    let mut found = Vec::new();
    for root in ["crate", "throng", "super"] {
        for (line, path) in paths(&file.code, root) {
            let target = path[0].as_str();
            let whole = format!("{root}::{}", path.join("::"));
            let Some(other) = rank(target) else {
                if target == "*" && root != "super" {
                    found.push((line, format!("`{whole}` hides what is imported: name it")));
                }
                continue;
            };
            if target == module {
                continue;
            }
            if other > own {
                let what = format!("rank {own} imports rank {other}, `{whole}`");
                found.push((line, format!("{what}: move it down or pass it in")));
            } else if other == own && own < SHELL_RANK {
                let what = format!("`{module}` imports `{whole}` of its own rank {own}");
                found.push((line, format!("{what}: let a higher rank bring the two together")));
            } else if module == "swarm" && target == "wire" {
                let part = path.get(1).map_or("", String::as_str);
                if !WIRE_FOR_SWARM.contains(&part) {
                    let may = WIRE_FOR_SWARM.join(", ");
                    found.push((line, format!("`{whole}`: of wire, swarm may import only {may}")));
                }
            }
        }
    }
    found
}

/// `unsafe` stands in the listed places alone.
fn unsafe_places(file: &Source) -> Vec<Finding> {
    if file.is_below(&UNSAFE_PLACES) {
        return Vec::new();
    }
    word_positions(&file.code, "unsafe")
        .map(|at| {
            let places = UNSAFE_PLACES.join(", ");
            let what = format!("`unsafe` outside of {places}: use a safe wrapper from there");
            (line_of(&file.code, at), what)
        })
        .collect()
}

/// The executors are named in few places.
fn confined_crates(file: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, places) in CONFINED {
        if file.module().is_some() && !file.is_below(places) {
            found.extend(word_positions(&file.code, name).map(|at| {
                let what = format!("`{name}` outside of {}: wrap it there", places.join(", "));
                (line_of(&file.code, at), what)
            }));
        }
    }
    found
}

/// The tracker never connects to anybody, lest its peers say to whom.
fn no_connections_of_its_own(file: &Source) -> Vec<Finding> {
    let is_test = file.path.contains("/tests/");
    if is_test || !file.module().is_some_and(|module| ANSWERING.contains(&module)) {
        return Vec::new();
    }
    let code = file.code_without_tests();
    let calls = CONNECTING.iter().flat_map(|word| word_positions(code, word).map(|at| (at, *word)));
    let mut found = Vec::new();
    for (at, word) in calls {
        let before = code[..at].trim_end();
        let begins = match word {
            // The name of a request, too.
            "Connect" => before.ends_with("opcode::"),
            _ => before.ends_with('.') || before.ends_with("::"),
        };
        if begins && !before.ends_with("UnixStream::") {
            let what = format!("`{word}`: a tracker answers, and connects to nobody");
            found.push((line_of(code, at), what));
        }
    }
    found
}

/// Every file says first what it holds.
fn opening_docs(file: &Source) -> Vec<Finding> {
    if file.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![(1, "begin the file with `//! `: what it holds, its invariant, its limits".to_owned())]
}

/// Lines fit side by side on a screen, and every character is what it looks like.
fn lines(file: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            found.push((
                index + 1,
                format!("{columns} columns: {COLUMNS_MAX} at the most, break the line"),
            ));
        }
        if let Some(odd) = line.chars().find(|&c| !matches!(c, ' '..='~')) {
            let escape = odd.escape_unicode();
            found.push((index + 1, format!("{odd:?} is not printable ASCII: write {escape}")));
        }
    }
    found
}

/// Nothing is half done, and nothing prints or panics in passing.
fn stray_marks(file: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, line) in file.comments.lines().enumerate() {
        for mark in UNFINISHED {
            if has_word(line, mark) && !line.contains("https://") {
                found.push((index + 1, format!("{mark} without a link: do it, or link to it")));
            }
        }
    }
    let mut forbid = |code: &str, word: &str, advice: &str| {
        for (at, _) in code.match_indices(word) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if word.starts_with('.') || !is_word(before) {
                found.push((line_of(code, at), format!("`{word}`: {advice}")));
            }
        }
    };
    for word in ["todo!", "unimplemented!"] {
        forbid(&file.code, word, "finish it or leave it out");
    }
    forbid(&file.code, "dbg!", "remove it");
    let code = file.code_without_tests();
    forbid(code, ".unwrap()", "return an error, or `expect(\"why it cannot fail\")`");
    if !file.is_below(&PRINTERS) {
        for word in ["println!", "eprintln!", "print!", "eprint!"] {
            forbid(code, word, "only main.rs and cli.rs print; log it or return it");
        }
    }
    found
}

/// The core has no socket, file, clock, thread, `async` or log line.
fn core_without_io(file: &Source) -> Vec<Finding> {
    if file.module().and_then(rank).is_none_or(|rank| rank > CORE_RANK) {
        return Vec::new();
    }
    let code = file.code_without_tests();
    let mut found = Vec::new();
    for (line, mut path) in paths(code, "std") {
        let whole = path.join("::");
        // `use std::time` and `use std::time::*` bring in all of it.
        path.retain(|segment| segment != "*" && segment != "self");
        let hit = STD_OUTSIDE_THE_CORE
            .iter()
            .any(|banned| path.iter().zip(*banned).all(|(segment, part)| segment == part));
        if hit {
            let what = format!("`std::{whole}` in rank 0 to {CORE_RANK}");
            found.push((line, format!("{what}: hand in the value or return what is to be done")));
        }
    }
    for word in WORDS_OUTSIDE_THE_CORE {
        if word == "rustix" && file.path == MEMORY {
            continue;
        }
        for at in word_positions(code, word) {
            let is_path = code[at + word.len()..].starts_with("::");
            if word == "async" || is_path {
                let what = format!("`{word}` in rank 0 to {CORE_RANK}");
                let advice = "return what happened and let a higher rank act on it";
                found.push((line_of(code, at), format!("{what}: {advice}")));
            }
        }
    }
    found
}

/// Files stay readable in one sitting.
fn file_length(file: &Source) -> Vec<Finding> {
    let count = file.code_without_tests().lines().count();
    if count < LINES_MAX {
        return Vec::new();
    }
    vec![(count, format!("{count} lines without tests, {LINES_MAX} or more: split it by idea"))]
}

/// Comments tell what is true, not how it came to be.
fn comments_without_history(file: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, line) in file.comments.to_lowercase().lines().enumerate() {
        for word in HISTORY {
            if line.contains(word) {
                let what = format!("a comment mentions `{word}`");
                found.push((index + 1, format!("{what}: say what is true now and why")));
            }
        }
    }
    found
}

/// Every dependency of the manifest says above it what it saves us.
fn explained_dependencies(file: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let (mut inside, mut previous) = (false, "");
    for (index, line) in file.text.lines().enumerate() {
        let table = line.trim().strip_prefix('[').map(|head| head.trim_end_matches(']'));
        let own_table = table.is_some_and(|head| head.contains("dependencies."));
        if let Some(head) = table {
            inside = head.ends_with("dependencies");
        }
        let is_entry = inside && line.starts_with(|c: char| c.is_alphanumeric());
        if (is_entry || own_table) && !previous.trim_start().starts_with('#') {
            let advice = "no comment above this dependency: say in one line what it saves us";
            found.push((index + 1, advice.to_owned()));
        }
        previous = line;
    }
    found
}

/// The repository's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let inside = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
    Source::new(&inside.replace('\\', "/"), &text)
}

/// Adds the `.rs` files below `folder`, in order of their names, without what cargo makes.
fn collect(folder: &Path, files: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a readable folder").path()).collect();
    entries.sort();
    for path in entries {
        if path.ends_with("target") {
            continue;
        } else if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(read(&path));
        }
    }
}

/// Fails with all findings of `check`, one a line.
fn hold(check: Check) {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        collect(&root().join(folder), &mut files);
    }
    for known in ["src/lib.rs", "src/wire/addr.rs", "tests/tidy.rs"] {
        assert!(files.iter().any(|file| file.path == known), "{known} was not read");
    }
    report(check, &files);
}

fn report(check: Check, files: &[Source]) {
    let found: Vec<String> = files
        .iter()
        .flat_map(|file| {
            check(file).into_iter().map(|(line, what)| format!("{}:{line}: {what}", file.path))
        })
        .collect();
    assert!(found.is_empty(), "{} found:\n{}", found.len(), found.join("\n"));
}

#[test]
fn imports_point_to_lower_ranks() {
    hold(ranks);
}

#[test]
fn unsafe_stands_in_its_places() {
    hold(unsafe_places);
}

#[test]
fn executors_are_named_in_their_places() {
    hold(confined_crates);
}

#[test]
fn the_tracker_connects_to_nobody() {
    hold(no_connections_of_its_own);
}

#[test]
fn files_begin_with_their_docs() {
    hold(opening_docs);
}

#[test]
fn lines_are_short_and_ascii() {
    hold(lines);
}

#[test]
fn nothing_is_half_done_or_prints() {
    hold(stray_marks);
}

#[test]
fn the_core_does_no_io() {
    hold(core_without_io);
}

#[test]
fn files_are_short() {
    hold(file_length);
}

#[test]
fn comments_tell_no_history() {
    hold(comments_without_history);
}

#[test]
fn dependencies_say_what_they_save() {
    report(explained_dependencies, &[read(&root().join("Cargo.toml"))]);
}

/// Lines of the manifest in `tests/core` that name a dependency otherwise than `whole` does.
fn strange_dependencies(core: &str, whole: &str) -> Vec<String> {
    let tables = core.split("\n[").filter(|table| {
        table.starts_with("dependencies]") || table.starts_with("dev-dependencies]")
    });
    tables
        .flat_map(|table| table.lines().skip(1))
        .filter(|line| line.contains('=') && !whole.lines().any(|known| known == *line))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_core_by_itself_has_the_dependencies_of_the_whole() {
    let [core, whole] =
        ["tests/core/Cargo.toml", "Cargo.toml"].map(|path| read(&root().join(path)).text);
    assert_eq!(strange_dependencies(&core, &whole), Vec::<String>::new());
    let older = core.replace("\nmemchr = \"", "\nmemchr = \"0.");
    assert_eq!(strange_dependencies(&older, &whole).len(), 1);
}

/// Applies `check` to planted text: path, text, and the lines on which it must fire.
fn planted(check: Check, snippets: &[(&str, &str, &[usize])]) {
    assert!(snippets.iter().any(|(_, _, lines)| !lines.is_empty()), "nothing fires");
    assert!(snippets.iter().any(|(_, _, lines)| lines.is_empty()), "nothing is silent");
    for (path, text, lines) in snippets {
        let found = check(&Source::new(path, text));
        let mut fired: Vec<usize> = found.iter().map(|&(line, _)| line).collect();
        fired.sort_unstable();
        assert_eq!(fired, *lines, "{path}: {text}\n{found:?}");
    }
}

#[test]
fn comments_and_literals_are_told_from_code() {
    for (text, code, comments) in [
        ("a // b\nc", "a     \nc", "  // b"),
        ("a /* b /* c */ d */ e", "a                   e", "  /* b /* c */ d */"),
        ("f(\"a // b\", c)", "f(\"       , c)", ""),
        (r#"f("\"a", b)"#, r#"f("    , b)"#, ""),
        (r###"r#"a"b"#; c"###, "r       ; c", ""),
        ("r#fn + 'a' + '\\'' + b'x'", "r#fn + '   + '    + b'", ""),
        ("f::<'a>('b') // c", "f::<'a>('  )", "             // c"),
        ("/* open", "", "/* open"),
        ("\"open \\", "\"", ""),
    ] {
        let found = split(text);
        assert_eq!(found.0.len(), text.len(), "{text}");
        assert_eq!((found.0.trim_end(), found.1.trim_end()), (code, comments), "{text}");
    }
}

#[test]
fn paths_are_read_out_of_groups() {
    let code =
        "use crate::a::{b, c::{self, d as e}, f::*};\nlet x = crate :: g::<u8>::h + mycrate::i;";
    let read: Vec<String> =
        paths(code, "crate").into_iter().map(|(at, path)| format!("{at} {path:?}")).collect();
    assert_eq!(
        read,
        [
            "1 [\"a\", \"b\"]",
            "1 [\"a\", \"c\", \"self\"]",
            "1 [\"a\", \"c\", \"d\"]",
            "1 [\"a\", \"f\", \"*\"]",
            "2 [\"g\"]",
        ]
    );
    assert_eq!(paths("pub(crate) fn f() {}", "crate"), []);
    assert_eq!(paths("use crate::{", "crate"), []);
}

#[test]
fn tests_at_the_foot_are_told_from_code() {
    let text = "a\n#[cfg(test)]\nmod model;\nb\n#[cfg(test)]\n#[expect(x)]\nmod tests {\nc\n}\n";
    let file = Source::new("src/rng.rs", text);
    assert_eq!(file.code_without_tests(), "a\n#[cfg(test)]\nmod model;\nb\n");
    assert_eq!(Source::new("src/rng/tests.rs", text).code_without_tests(), "");
}

#[test]
fn planted_imports_are_found() {
    let dataplane = "src/dataplane/udp.rs";
    planted(
        ranks,
        &[
            ("src/wire/udp.rs", "use crate::limits::A;\nuse crate::swarm::B;", &[2]),
            ("src/wire/udp.rs", "use crate::{limits, tracker::X};", &[1]),
            ("src/wire/udp.rs", "fn f() { crate::runtime::stop() }", &[1]),
            ("src/wire/mod.rs", "use super::swarm::SwarmStore;", &[1]),
            ("src/wire/udp.rs", "use super::super::swarm::SwarmStore;", &[1]),
            ("src/wire/udp.rs", "use super::id::InfoHash; use crate::wire::addr;", &[]),
            ("src/wire/udp.rs", "// crate::swarm\nconst A: &str = \"crate::swarm\";", &[]),
            ("src/wire/udp.rs", "use crate::*;", &[1]),
            ("src/rng.rs", "use crate::limits::A;", &[1]),
            ("src/swarm/mod.rs", "use crate::wire::{addr::PeerAddr, udp::View};", &[1]),
            ("src/swarm/mod.rs", "use crate::wire;\nuse crate::wire::*;", &[1, 2]),
            ("src/swarm/mod.rs", "use crate::wire::{addr::PeerAddr, id::InfoHash};", &[]),
            (dataplane, "use crate::control::Command;", &[1]),
            (dataplane, "use crate::config::Config;", &[1]),
            (dataplane, "use crate::{dataplane::ring, tracker::Tracker, time::Seconds};", &[]),
            ("src/load/http.rs", "use crate::dataplane::http;", &[1]),
            ("src/runtime.rs", "use crate::{config::Config, control, dataplane};", &[]),
            ("src/config.rs", "use throng::cli;", &[1]),
            ("src/main.rs", "use throng::{config, runtime};", &[]),
            ("src/util.rs", "", &[1]),
            ("tests/loopback.rs", "use throng::runtime;", &[]),
        ],
    );
}

#[test]
fn planted_unsafe_is_found() {
    planted(
        unsafe_places,
        &[
            ("src/wire/udp.rs", "\nfn f() { unsafe { g() } }", &[2]),
            ("src/dataplane/socket2.rs", "unsafe fn f() {}", &[1]),
            ("src/dataplane/udp.rs", "#![expect(unsafe_code, reason = \"unsafe\")]", &[]),
            ("src/dataplane/udp.rs", "// unsafe\nconst A: &str = \"unsafe\";", &[]),
            ("src/dataplane/ring/slots.rs", "unsafe { f() }", &[]),
            ("src/dataplane/socket.rs", "unsafe { f() }", &[1]),
        ],
    );
}

#[test]
fn planted_executors_are_found() {
    planted(
        confined_crates,
        &[
            ("src/control/admin.rs", "use glommio::Task;", &[1]),
            ("src/dataplane/http.rs", "use glommio::Task;\nuse tokio::net;", &[2]),
            ("src/tracker/mod.rs", "fn f() { tokio::spawn() }", &[1]),
            ("src/control/admin.rs", "use tokio::net; // unlike glommio", &[]),
            ("src/runtime.rs", "use {glommio::X, tokio::Y};", &[]),
        ],
    );
}

#[test]
fn planted_connections_are_found() {
    planted(
        no_connections_of_its_own,
        &[
            ("src/dataplane/ring/mod.rs", "let x =\nopcode::Connect::new(fd);", &[2]),
            ("src/control/stats.rs", "TcpStream::connect(peer)?;", &[1]),
            ("src/tracker/web.rs", "socket\n    .connect(peer)?;", &[2]),
            ("src/runtime/mod.rs", "TcpStream::connect_timeout(&peer, second)", &[1]),
            ("src/runtime/mod.rs", "use rustix::net::connect;", &[1]),
            ("src/control/admin.rs", "UnixStream::connect(path)", &[]),
            ("src/tracker/udp.rs", "Request::Connect => connect(source), // .connect(", &[]),
            ("src/load/sockets.rs", "socket.connect(peer)", &[]),
            ("src/dataplane/worker/tests/faults.rs", "socket.connect(peer)", &[]),
        ],
    );
}

#[test]
fn planted_openings_are_found() {
    planted(
        opening_docs,
        &[
            ("src/rng.rs", "use std::fmt;\n", &[1]),
            ("src/rng.rs", "#![expect(unsafe_code)]\n//! Docs.\n", &[1]),
            ("benches/wire.rs", "// Docs.\n", &[1]),
            ("src/rng.rs", "//! Docs.\n#![expect(unsafe_code)]\n", &[]),
        ],
    );
}

#[test]
fn planted_lines_are_found() {
    let fits = "x".repeat(COLUMNS_MAX);
    planted(
        lines,
        &[
            ("src/rng.rs", &format!("{fits}\n{fits}x\n"), &[2]),
            ("src/rng.rs", "// \u{2014}\n\u{a0}\n\tx\n", &[1, 2, 3]),
            ("src/rng.rs", &fits, &[]),
        ],
    );
}

#[test]
fn planted_marks_are_found() {
    let mark = UNFINISHED[0];
    planted(
        stray_marks,
        &[
            ("tests/bep15.rs", &format!("// {mark}: later\n// {mark}: https://a.b/c\n"), &[1]),
            ("src/rng.rs", &format!("/* {} */\nconst A: &str = \"{mark}\";", UNFINISHED[3]), &[1]),
            ("src/rng.rs", "f(todo!());\nunimplemented!();\ndbg!(1);", &[1, 2, 3]),
            ("benches/wire.rs", "dbg!(1);", &[1]),
            ("src/rng.rs", "f().unwrap();\nf().unwrap_or(1);", &[1]),
            ("src/rng.rs", "println!();\neprintln!();\nprint!();", &[1, 2, 3]),
            ("src/rng.rs", "#[cfg(test)]\nmod tests {\nf().unwrap();\nprintln!();\n}", &[]),
            ("src/main.rs", "println!(); // unwrap() and println!", &[]),
            ("tests/simulation.rs", "println!(); f().unwrap();", &[]),
        ],
    );
}

#[test]
fn planted_io_is_found() {
    planted(
        core_without_io,
        &[
            ("src/swarm/machine.rs", "rustix::mm::munmap();", &[]),
            ("src/swarm/slab.rs", "rustix::mm::munmap();", &[1]),
            ("src/tracker/mod.rs", "use std::time::{Duration, Instant};", &[1]),
            ("src/tracker/mod.rs", "use std::time;\nuse std::net::*;", &[1, 2]),
            ("src/swarm/mod.rs", "std::thread::spawn(f);\nstd::fs::read(p);", &[1, 2]),
            ("src/time.rs", "std::time::SystemTime::now()", &[1]),
            ("src/wire/udp.rs", "use std::net::{IpAddr, UdpSocket};", &[1]),
            ("src/wire/udp.rs", "tracing::info!();\nasync fn f() {}", &[1, 2]),
            ("src/wire/udp.rs", "use std::{net::IpAddr, time::Duration, fmt};", &[]),
            ("src/wire/udp.rs", "let log = 1; // tracing::info", &[]),
            ("src/wire/udp.rs", "#[cfg(test)]\nmod tests {\nuse std::thread;\n}", &[]),
            ("src/dataplane/udp.rs", "use std::net::UdpSocket; async fn f() {}", &[]),
        ],
    );
}

#[test]
fn planted_length_is_found() {
    let long = "x\n".repeat(LINES_MAX);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
    planted(
        file_length,
        &[
            ("src/rng.rs", &long, &[LINES_MAX]),
            ("src/rng.rs", &long[2..], &[]),
            ("src/rng.rs", &tests, &[]),
            ("tests/bep15.rs", &long, &[]),
        ],
    );
}

#[test]
fn planted_history_is_found() {
    let [first, second] = HISTORY;
    planted(
        comments_without_history,
        &[
            ("src/rng.rs", &format!("\n/// {}", first.to_uppercase()), &[2]),
            ("src/rng.rs", &format!("//! See {second}7."), &[1]),
            ("src/rng.rs", &format!("let {first} = 1;"), &[]),
        ],
    );
}

#[test]
fn planted_dependencies_are_found() {
    planted(
        explained_dependencies,
        &[
            ("Cargo.toml", "[dependencies]\n# Why.\na = \"1\"\nb = { path = \"b\" }\n", &[4]),
            ("Cargo.toml", "[dev-dependencies]\na = \"1\"\n", &[2]),
            ("Cargo.toml", "[target.'cfg(unix)'.dependencies]\na.workspace = true\n", &[2]),
            ("Cargo.toml", "[dependencies.a]\nversion = \"1\"\n", &[1]),
            ("Cargo.toml", "# Why.\n[dependencies.a]\nversion = \"1\"\n", &[]),
            ("Cargo.toml", "[package]\nname = \"a\"\n[dependencies]\n", &[]),
        ],
    );
}
