//! The access lists: read from their files, changed by operators, handed to the workers.
//!
//! A file is what holds. Whoever changes a list by the API changes its file: the new text is read
//! as a whole first, put beside the old file, and takes its place in one step. So the API, the file
//! and a reload never disagree, a line that is wrong changes nothing, and no crash leaves half a
//! list. It costs a copy of the file.

use std::any::Any;
use std::collections::HashSet;
use std::fmt::{self, Display};
use std::fs::{self, File};
use std::hash::Hash;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use serde::Serialize;

use crate::tracker::access::hashes::{HashList, parse_hex};
use crate::tracker::access::networks::{NetworkList, parse_network};
use crate::tracker::access::{Access, BadLine, content, lines};
use crate::wire::id::InfoHash;

/// What some editors put before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A list.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    /// Swarms that are served, and no others.
    Allow,
    /// Swarms that are not.
    Deny,
    /// Networks that are not listened to.
    Ban,
}

impl Name {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::Ban];

    /// The key of the configuration that names its file.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Allow => "access.allow",
            Self::Deny => "access.deny",
            Self::Ban => "access.ban",
        }
    }
}

impl FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_it = |name: &Self| name.key().strip_prefix("access.") == Some(text);
        Self::ALL.into_iter().find(is_it).ok_or(())
    }
}

/// Why a list stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// There is no such list.
    #[error("{} names no file", name.key())]
    NoFile {
        /// Which.
        name: Name,
    },
    /// Its file cannot be read, or not be replaced.
    #[error("{} {}: {source}", name.key(), path.display())]
    File {
        /// Which.
        name: Name,
        /// Where.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Its file has a line that is wrong.
    #[error("{} {}: {source}", name.key(), path.display())]
    Line {
        /// Which.
        name: Name,
        /// Where.
        path: PathBuf,
        /// Which line.
        source: BadLine,
    },
    /// What was to be put in or taken out has one.
    #[error("what was sent: {0}")]
    Sent(BadLine),
}

/// What is to be done to a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Its file is read again.
    Reload,
    /// This text takes its place.
    Replace(Vec<u8>),
    /// These lines are put in, unless they are there.
    Add(Vec<u8>),
    /// These lines are taken out, if they are there.
    Remove(Vec<u8>),
}

/// A list as it is now.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Status {
    /// Which.
    pub list: Name,
    /// Where it is kept.
    pub file: String,
    /// How many entries it has.
    pub entries: usize,
    /// Bytes of memory.
    pub bytes: usize,
}

/// Called with the lists that are in force from now on.
pub type Publish = Box<dyn Fn(&Access) + Send + Sync>;

/// The lists of one tracker.
#[derive(Clone)]
pub struct Lists(Arc<Mutex<Inner>>);

struct Inner {
    /// By [`Name`].
    files: [Option<PathBuf>; 3],
    access: Access,
    /// Lists that were replaced. Memory of millions of hashes takes milliseconds to give back, so
    /// it is not left to the last worker that uses one.
    retired: Vec<Arc<dyn Any + Send + Sync>>,
    publish: Publish,
}

/// What a file says.
enum Parsed {
    Hashes(Arc<HashList>),
    Networks(Arc<NetworkList>),
}

/// Reads the lists that have a file.
///
/// # Errors
/// The first that cannot be used.
pub fn read(files: &[Option<PathBuf>; 3]) -> Result<Access, ListError> {
    let mut access = Access::default();
    for (name, path) in Name::ALL.into_iter().zip(files) {
        if let Some(path) = path {
            let text = read_file(name, path)?;
            drop(put(&mut access, name, parse_file(name, path, &text)?));
        }
    }
    Ok(access)
}

impl Lists {
    /// `access` is what [`read`] found in `files`.
    #[must_use]
    pub fn new(files: [Option<PathBuf>; 3], access: Access, publish: Publish) -> Self {
        Self(Arc::new(Mutex::new(Inner { files, access, retired: Vec::new(), publish })))
    }

    /// Changes a list. Takes seconds if it has millions of entries, so call it where that does no
    /// harm; changes wait for each other.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub fn change(&self, name: Name, change: Change) -> Result<Status, ListError> {
        self.lock().change(name, change)
    }

    /// Reads the files of all lists again: what came of each that has one.
    #[must_use]
    pub fn reload(&self) -> Vec<(Name, Result<Status, ListError>)> {
        let mut inner = self.lock();
        let names = Name::ALL.into_iter().filter(|&name| inner.files[name as usize].is_some());
        let names: Vec<Name> = names.collect();
        names.into_iter().map(|name| (name, inner.change(name, Change::Reload))).collect()
    }

    /// The lists that have a file.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        let inner = self.lock();
        Name::ALL.into_iter().filter_map(|name| inner.status(name)).collect()
    }

    /// Whether an entry, as it would stand in the file, is in force: an address or a network that
    /// is within banned ones, too.
    ///
    /// # Errors
    /// It is no entry of this list, or there is no such list.
    pub fn has(&self, name: Name, entry: &str) -> Result<bool, ListError> {
        let inner = self.lock();
        if inner.files[name as usize].is_none() {
            return Err(ListError::NoFile { name });
        }
        let (access, entry) = (inner.access.clone(), entry.trim().as_bytes());
        drop(inner);
        let hashes = |list: Option<Arc<HashList>>| {
            let hash = parse_hex(entry).ok_or(ListError::Sent(HashList::bad_line(1)))?;
            Ok(list.is_some_and(|list| list.contains(&hash)))
        };
        match name {
            Name::Allow => hashes(access.allow),
            Name::Deny => hashes(access.deny),
            Name::Ban => {
                let network =
                    parse_network(entry).ok_or(ListError::Sent(NetworkList::bad_line(1)))?;
                Ok(access.ban.is_some_and(|list| list.covers(&network)))
            }
        }
    }

    /// Gives back the memory of lists that no worker uses any more. Call it now and then.
    pub fn tidy(&self) {
        // Whoever changes a list just now does not wait for this, nor this for it.
        if let Ok(mut inner) = self.0.try_lock() {
            inner.retired.retain(|list| Arc::strong_count(list) > 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A list is replaced as a whole or not at all.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn change(&mut self, name: Name, change: Change) -> Result<Status, ListError> {
        let Some(path) = self.files[name as usize].clone() else {
            return Err(ListError::NoFile { name });
        };
        let failed = |source| ListError::File { name, path: path.clone(), source };
        let before = match &change {
            Change::Add(_) | Change::Remove(_) => mark(&path).map_err(failed)?,
            Change::Reload | Change::Replace(_) => None,
        };
        let (text, parsed) = match change {
            Change::Reload => (None, parse_file(name, &path, &read_file(name, &path)?)?),
            Change::Replace(text) => {
                let parsed = parse(name, &text).map_err(ListError::Sent)?;
                (Some(text), parsed)
            }
            Change::Add(sent) => edited(name, &path, &sent, Edit::Add)?,
            Change::Remove(sent) => edited(name, &path, &sent, Edit::Remove)?,
        };
        if let Some(text) = text {
            replace_file(&path, &text, before).map_err(failed)?;
        }
        let old = put(&mut self.access, name, parsed);
        (self.publish)(&self.access);
        self.retired.extend(old);
        Ok(self.status(name).expect("it has a file"))
    }

    fn status(&self, name: Name) -> Option<Status> {
        let file = self.files[name as usize].as_ref()?.display().to_string();
        let access = &self.access;
        let of_hashes = |list: &Arc<HashList>| (list.len(), list.bytes());
        let (entries, bytes) = match name {
            Name::Allow => access.allow.as_ref().map(of_hashes),
            Name::Deny => access.deny.as_ref().map(of_hashes),
            Name::Ban => access.ban.as_ref().map(|list| (list.len(), list.bytes())),
        }
        .unwrap_or_default();
        Some(Status { list: name, file, entries, bytes })
    }
}

/// Puts a list into force; returns the one before.
fn put(access: &mut Access, name: Name, parsed: Parsed) -> Option<Arc<dyn Any + Send + Sync>> {
    let any = |list: Arc<HashList>| -> Arc<dyn Any + Send + Sync> { list };
    match (name, parsed) {
        (Name::Deny, Parsed::Hashes(list)) => access.deny.replace(list).map(any),
        (_, Parsed::Hashes(list)) => access.allow.replace(list).map(any),
        (_, Parsed::Networks(list)) => {
            access.ban.replace(list).map(|list| -> Arc<dyn Any + Send + Sync> { list })
        }
    }
}

fn read_file(name: Name, path: &Path) -> Result<Vec<u8>, ListError> {
    fs::read(path).map_err(|source| ListError::File { name, path: path.to_owned(), source })
}

fn parse(name: Name, text: &[u8]) -> Result<Parsed, BadLine> {
    Ok(match name {
        Name::Allow | Name::Deny => Parsed::Hashes(Arc::new(HashList::parse(text)?)),
        Name::Ban => Parsed::Networks(Arc::new(NetworkList::parse(text)?)),
    })
}

fn parse_file(name: Name, path: &Path, text: &[u8]) -> Result<Parsed, ListError> {
    parse(name, text).map_err(|source| ListError::Line { name, path: path.to_owned(), source })
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Edit {
    Add,
    Remove,
}

/// The text of a file with the entries of `sent` in it, or without them, and what it says then.
/// Lines that say something else stay as they are.
fn edited(
    name: Name,
    path: &Path,
    sent: &[u8],
    edit: Edit,
) -> Result<(Option<Vec<u8>>, Parsed), ListError> {
    let text = read_file(name, path)?;
    let text = match name {
        Name::Allow | Name::Deny => {
            let hashes = entries(sent, parse_hex)
                .map_err(|line| ListError::Sent(HashList::bad_line(line)))?;
            edit_text(text, hashes, edit, parse_hex, Hex)
        }
        Name::Ban => {
            let networks = entries(sent, parse_network)
                .map_err(|line| ListError::Sent(NetworkList::bad_line(line)))?;
            edit_text(text, networks, edit, parse_network, |network: IpNet| network)
        }
    };
    let parsed = parse_file(name, path, &text)?;
    Ok((Some(text), parsed))
}

/// The entries of a text, in its order, or the first line that is none.
fn entries<T>(text: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, usize> {
    lines(text).map(|(line, entry)| parse(entry).ok_or(line)).collect()
}

fn edit_text<T: Copy + Eq + Hash, D: Display>(
    mut text: Vec<u8>,
    entries: Vec<T>,
    edit: Edit,
    parse: impl Fn(&[u8]) -> Option<T>,
    show: impl Fn(T) -> D,
) -> Vec<u8> {
    // It belongs to no line, and nobody misses it.
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len());
    }
    let wanted: HashSet<T> = entries.iter().copied().collect();
    let entry = |line: &[u8]| parse(content(line)).filter(|entry| wanted.contains(entry));
    match edit {
        Edit::Remove => {
            let kept = text.split_inclusive(|&byte| byte == b'\n');
            kept.filter(|line| entry(line).is_none()).collect::<Vec<_>>().concat()
        }
        Edit::Add => {
            let mut there: HashSet<T> =
                text.split(|&byte| byte == b'\n').filter_map(entry).collect();
            if text.last().is_some_and(|&byte| byte != b'\n') {
                text.push(b'\n');
            }
            for entry in entries {
                if there.insert(entry) {
                    // Writing to memory cannot fail.
                    let _ = writeln!(text, "{}", show(entry));
                }
            }
            text
        }
    }
}

/// An info_hash as it stands in a list.
struct Hex(InfoHash);

impl Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Puts `text` in the place of a file, in one step: whoever reads it reads all of the old one or
/// all of the new one, whatever happens. Links are followed; permissions stay, and the owner, if we
/// may give files away. `read`: what the file was when it was read, if it was; if somebody else has
/// changed it since then, theirs stays.
fn replace_file(path: &Path, text: &[u8], read: Option<Mark>) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy();
    let beside = folder.join(format!(".{name}.throng-{}", std::process::id()));
    // A process of the same number may have ended in the middle of this: in a container all have.
    if fs::symlink_metadata(&beside).is_ok_and(|left| left.is_file()) {
        fs::remove_file(&beside)?;
    }
    let mut file = File::create_new(&beside)?;
    let written = (|| {
        if let Ok(old) = fs::metadata(&path) {
            file.set_permissions(old.permissions())?;
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        file.write_all(text)?;
        file.sync_all()?;
        if read.is_some() && mark(&path)? != read {
            return Err(io::Error::other("somebody else has changed it meanwhile"));
        }
        fs::rename(&beside, &path)
    })();
    match written {
        // The name is safe once its folder is; not every file system can say so.
        Ok(()) => drop(File::open(folder).and_then(|folder| folder.sync_all())),
        // What is left of it would only surprise.
        Err(_) => drop(fs::remove_file(&beside)),
    }
    written
}

/// Which file it is, and when it was changed last.
type Mark = (u64, u64, i64, i64);

fn mark(path: &Path) -> io::Result<Option<Mark>> {
    let file = fs::metadata(path)?;
    Ok(Some((file.dev(), file.ino(), file.mtime(), file.mtime_nsec())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tempfile::TempDir;

    use super::*;

    struct Fixture {
        folder: TempDir,
        lists: Lists,
        published: Arc<AtomicUsize>,
    }

    /// `a` is allowed, and 192.0.2.0/24 is banned; there is no list of what is denied.
    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| Some(folder.path().join(name));
        let files = [file("allow"), None, file("ban")];
        fs::write(folder.path().join("allow"), format!("# ours\n{}", hash('a'))).expect("ours");
        fs::write(folder.path().join("ban"), "192.0.2.0/24 # rude\n").expect("ours");
        let access = read(&files).expect("good lists");
        let published = Arc::new(AtomicUsize::new(0));
        let count = published.clone();
        let publish = move |_: &Access| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let lists = Lists::new(files, access, Box::new(publish));
        Fixture { folder, lists, published }
    }

    fn hash(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    impl Fixture {
        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.folder.path().join(name)).expect("it is there")
        }

        fn allowed(&self) -> [bool; 3] {
            ['a', 'b', 'c'].map(|digit| self.lists.has(Name::Allow, &hash(digit)).expect("a list"))
        }

        /// What is in force is what a start would read.
        fn agrees(&self) -> bool {
            let inner = self.lists.lock();
            let read = read(&inner.files).expect("good lists");
            read.allow == inner.access.allow && read.ban == inner.access.ban
        }
    }

    #[test]
    fn a_change_is_in_force_and_in_the_file() {
        let fixture = fixture();
        let change = |change| fixture.lists.change(Name::Allow, change).expect("it is right");
        assert_eq!(fixture.allowed(), [true, false, false]);
        let more = format!("{}\n{} # twice\n", hash('b'), hash('a'));
        assert_eq!(change(Change::Add(more.into())).entries, 2);
        assert_eq!(fixture.text("allow"), format!("# ours\n{}\n{}\n", hash('a'), hash('b')));
        assert_eq!(fixture.allowed(), [true, true, false]);
        assert_eq!(change(Change::Remove(hash('A').into())).entries, 1);
        assert_eq!(fixture.text("allow"), format!("# ours\n{}\n", hash('b')));
        assert_eq!(fixture.allowed(), [false, true, false]);
        assert_eq!(change(Change::Replace(hash('c').into())).entries, 1);
        assert_eq!(fixture.allowed(), [false, false, true]);
        fs::write(fixture.folder.path().join("allow"), hash('a')).expect("ours");
        change(Change::Reload);
        assert_eq!(fixture.allowed(), [true, false, false]);
        assert!(fixture.agrees());
        assert_eq!(fixture.published.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn networks_are_changed_as_they_were_written() {
        let fixture = fixture();
        let change = |change| fixture.lists.change(Name::Ban, change).expect("it is right");
        let has = |text| fixture.lists.has(Name::Ban, text).expect("a list");
        assert_eq!(change(Change::Add(b"2001:db8::/32\n198.51.100.7".to_vec())).entries, 3);
        assert!(has("192.0.2.7") && has("192.0.2.128/25") && has("2001:db8::1"));
        assert!(!has("192.0.2.0/23") && !has("198.51.100.8"));
        assert_eq!(fixture.text("ban"), "192.0.2.0/24 # rude\n2001:db8::/32\n198.51.100.7/32\n");
        change(Change::Remove(b"192.0.2.0/24\n198.51.100.7".to_vec()));
        assert_eq!(fixture.text("ban"), "2001:db8::/32\n");
        assert!(!has("192.0.2.7") && fixture.agrees());
        // Whatever stands behind the length, it is the same network.
        change(Change::Add(b"192.0.2.7/24".to_vec()));
        change(Change::Remove(b"192.0.2.0/24".to_vec()));
        assert_eq!(fixture.text("ban"), "2001:db8::/32\n");
    }

    #[test]
    fn what_is_wrong_changes_nothing() {
        let fixture = fixture();
        let before = fixture.text("allow");
        let refuse = |name, change| fixture.lists.change(name, change).expect_err("it is wrong");
        let bad = format!("{}\nbad\n", hash('b'));
        for change in [Change::Add, Change::Remove, Change::Replace] {
            let error = refuse(Name::Allow, change(bad.clone().into()));
            assert!(matches!(error, ListError::Sent(_)), "{error}");
            assert!(error.to_string().contains("line 2: an info_hash is 40 hex"), "{error}");
        }
        assert!(refuse(Name::Deny, Change::Reload).to_string().contains("access.deny names no"));
        assert_eq!(fixture.text("allow"), before);
        // A file that somebody has spoiled is not made worse.
        fs::write(fixture.folder.path().join("allow"), &bad).expect("ours");
        for change in [Change::Reload, Change::Add(hash('c').into())] {
            let error = refuse(Name::Allow, change).to_string();
            assert!(error.contains("allow: line 2: "), "{error}");
        }
        assert_eq!(fixture.text("allow"), bad);
        fs::remove_file(fixture.folder.path().join("allow")).expect("it is there");
        assert!(matches!(refuse(Name::Allow, Change::Reload), ListError::File { .. }));
        assert_eq!(fixture.allowed(), [true, false, false]);
        assert_eq!(fixture.published.load(Ordering::Relaxed), 0);
        // It can be written anew.
        fixture.lists.change(Name::Allow, Change::Replace(hash('c').into())).expect("a folder");
        assert_eq!(fixture.allowed(), [false, false, true]);
    }

    #[test]
    fn a_file_keeps_its_permissions_and_its_place_behind_a_link() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let fixture = fixture();
        let (path, link) =
            (fixture.folder.path().join("real"), fixture.folder.path().join("allow"));
        fs::rename(&link, &path).expect("ours");
        symlink(&path, &link).expect("ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        fixture.lists.change(Name::Allow, Change::Add(hash('b').into())).expect("it is right");
        assert!(link.is_symlink());
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(fixture.folder.path()).expect("ours").count(), 3);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_and_so_does_the_list() {
        let fixture = fixture();
        let (folder, before) = (fixture.folder.path(), fixture.text("allow"));
        let beside = folder.join(format!(".allow.throng-{}", std::process::id()));
        fs::create_dir(&beside).expect("ours");
        let change = |change| fixture.lists.change(Name::Allow, change);
        for change_ in [Change::Add, Change::Replace] {
            let error = change(change_(hash('b').into())).expect_err("there is something else");
            assert!(matches!(error, ListError::File { .. }), "{error}");
        }
        assert_eq!((fixture.text("allow"), fixture.allowed()), (before, [true, false, false]));
        assert_eq!(fixture.published.load(Ordering::Relaxed), 0);
        fs::remove_dir(&beside).expect("it is empty");
        // One that somebody changes meanwhile stays as they want it.
        let path = folder.join("allow");
        let read = mark(&path).expect("it is there");
        fs::write(folder.join("other"), hash('c')).expect("ours");
        fs::rename(folder.join("other"), &path).expect("ours");
        let error = replace_file(&path, b"", read).expect_err("it has changed");
        assert!(error.to_string().contains("somebody else"), "{error}");
        assert_eq!(fixture.text("allow"), hash('c'));
        assert_eq!(fs::read_dir(folder).expect("ours").count(), 2, "nothing is left behind");
    }

    #[test]
    fn a_byte_order_mark_belongs_to_no_line() {
        let fixture = fixture();
        let text = format!("\u{FEFF}{}\r\n{}\r\n", hash('a'), hash('b'));
        fs::write(fixture.folder.path().join("allow"), text).expect("ours");
        let change = |change| fixture.lists.change(Name::Allow, change).expect("it is right");
        assert_eq!(change(Change::Add(hash('a').into())).entries, 2);
        assert_eq!(fixture.text("allow"), format!("{}\r\n{}\r\n", hash('a'), hash('b')));
        assert_eq!(change(Change::Remove(hash('a').into())).entries, 1);
        assert_eq!(fixture.allowed(), [false, true, false]);
    }

    #[test]
    fn memory_of_old_lists_comes_back_when_nobody_uses_them() {
        let fixture = fixture();
        let used = fixture.lists.lock().access.clone();
        fixture.lists.change(Name::Allow, Change::Add(hash('b').into())).expect("it is right");
        let retired = || fixture.lists.lock().retired.len();
        fixture.lists.tidy();
        assert_eq!(retired(), 1);
        drop(used);
        fixture.lists.tidy();
        assert_eq!(retired(), 0);
    }
}
