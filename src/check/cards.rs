//! Whether network cards bring packets to as many CPUs as there are workers.
//!
//! What reads takes its paths, and what judges takes values, so that the tests call both. Must not
//! change anything.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::control::finding::{Finding, Level};

/// CPUs that Linux can be built for at the most (`NR_CPUS`): no list of CPUs reaches it.
const CPUS_MAX: usize = 8_192;
/// Looks at the cards of this machine, for so many workers.
pub(super) fn machine(workers: usize) -> Vec<Finding> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    // Without a list of CPUs the operator has to know them.
    let mask = cpu_mask(&online).unwrap_or_else(|| "MASK".to_owned());
    let cards = cards(Path::new("/sys/class/net"), Path::new("/proc/irq"));
    let mut findings = receive_queues(&cards, workers, &mask);
    findings.extend(interrupts(&cards, workers));
    findings
}

/// A network card that is up.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Card {
    name: String,
    /// Receive queues, at least one. The packets of each arrive on one CPU at a time.
    queues: usize,
    /// Whether the kernel hands packets of some queue on to other CPUs (RPS).
    spread: bool,
    /// The CPUs that each of its interrupts goes to, as far as is known: `3`, `0-3`.
    interrupts: Vec<String>,
}

/// The cards that are up, by name; what their interrupts do is in the folder `irq`.
fn cards(folder: &Path, irq: &Path) -> Vec<Card> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut cards: Vec<Card> = entries.filter_map(|entry| card(&entry.path(), irq)).collect();
    cards.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    cards
}

/// The card of a folder in `/sys/class/net`, if it is one and up.
///
/// What has no hardware (loopback, bridges, tunnels, the pairs of containers) is not one: its
/// packets go on where a card's queue has brought them.
fn card(folder: &Path, irq: &Path) -> Option<Card> {
    let state = fs::read_to_string(folder.join("operstate")).ok()?;
    // Some drivers never say whether there is a link.
    let is_up = ["up", "unknown"].contains(&state.trim_end());
    if !is_up || !folder.join("device").exists() {
        return None;
    }
    let name = folder.file_name()?.to_string_lossy().into_owned();
    let (mut queues, mut spread) = (0, false);
    for queue in fs::read_dir(folder.join("queues")).ok()?.flatten() {
        if queue.file_name().to_string_lossy().starts_with("rx-") {
            queues += 1;
            // A kernel without RPS has no such file.
            let mask = fs::read_to_string(queue.path().join("rps_cpus")).unwrap_or_default();
            spread |= names_a_cpu(&mask);
        }
    }
    let interrupts = interrupt_cpus(&folder.join("device"), irq);
    (queues > 0).then_some(Card { name, queues, spread, interrupts })
}

/// The CPUs that each interrupt of a device goes to.
fn interrupt_cpus(device: &Path, irq: &Path) -> Vec<String> {
    // Those of a virtual machine's card belong to the device that it is plugged into.
    let folders = [device.join("msi_irqs"), device.join("../msi_irqs")];
    let numbers = folders.iter().find_map(|folder| fs::read_dir(folder).ok());
    let cpus = |number: fs::DirEntry| {
        let of = irq.join(number.file_name()).join("effective_affinity_list");
        let list = fs::read_to_string(of).ok()?.trim().to_owned();
        // One that no driver has asked for goes nowhere.
        (!list.is_empty()).then_some(list)
    };
    numbers.into_iter().flatten().flatten().filter_map(cpus).collect()
}

/// Whether a mask such as `00000000,0000000f` has a bit set.
fn names_a_cpu(mask: &str) -> bool {
    mask.chars().any(|digit| digit != '0' && digit.is_ascii_hexdigit())
}

/// The CPUs of a list such as `0-3,8` in the form of `rps_cpus`: 32 bits to a word, in hexadecimal,
/// the highest word first, with commas between them.
fn cpu_mask(list: &str) -> Option<String> {
    let mut words: Vec<u32> = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= CPUS_MAX {
            return None;
        }
        for cpu in first..=last {
            let word = cpu / 32;
            words.resize(words.len().max(word + 1), 0);
            words[word] |= 1_u32 << (cpu % 32);
        }
    }
    let (highest, others) = words.split_last()?;
    let mut mask = format!("{highest:x}");
    for word in others.iter().rev() {
        // Writing to a `String` cannot fail.
        let _ = write!(mask, ",{word:08x}");
    }
    Some(mask)
}

/// Judges the cards' receive queues against the workers; `mask` is of all CPUs.
fn receive_queues(cards: &[Card], workers: usize, mask: &str) -> Vec<Finding> {
    let title = "receive queues";
    if workers < 2 {
        return vec![Finding::ok(title, "one worker needs no more than one".to_owned())];
    }
    if cards.is_empty() {
        return vec![Finding::ok(title, "no network card is up here".to_owned())];
    }
    let narrow = cards.iter().filter(|card| card.queues == 1 && !card.spread);
    let mut findings: Vec<Finding> = narrow
        .map(|Card { name, .. }| {
            let detail = format!(
                "{name} has one, and its packets are not spread: one CPU handles all of them, for \
                 {workers} workers."
            );
            let remedy = format!(
                "`ethtool -L {name} combined {workers}`, or as many as `ethtool -l {name}` allows; \
                 if that is one: `echo {mask} > /sys/class/net/{name}/queues/rx-0/rps_cpus`."
            );
            Finding::new(Level::Warning, title, detail, remedy)
        })
        .collect();
    if findings.is_empty() {
        let show = |Card { name, queues, spread, .. }: &Card| {
            let spread = if *spread { ", spread by RPS" } else { "" };
            format!("{name}: {queues}{spread}")
        };
        let cards: Vec<String> = cards.iter().map(show).collect();
        findings.push(Finding::ok(title, cards.join("; ")));
    }
    findings
}

/// Judges where the interrupts of cards with several receive queues go, for several workers.
fn interrupts(cards: &[Card], workers: usize) -> Vec<Finding> {
    let gathered = cards.iter().filter(|card| workers > 1 && card.queues > 1 && !card.spread);
    let gathered = gathered.filter_map(|Card { name, queues, interrupts, .. }| {
        let (first, others) = interrupts.split_first()?;
        let cpu: u32 = first.parse().ok()?;
        let is_one = !others.is_empty() && others.iter().all(|cpus| cpus == first);
        is_one.then(|| {
            let detail = format!(
                "{name} has {queues} receive queues, and all of its interrupts go to CPU {cpu}."
            );
            let remedy = "Run irqbalance, or give each its own CPU: `echo CPU > \
                          /proc/irq/NUMBER/smp_affinity_list` for its lines in /proc/interrupts.";
            Finding::new(Level::Warning, "interrupts", detail, remedy.to_owned())
        })
    });
    gathered.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::check::tests::{level, remedy};

    /// Makes an interface with a receive queue for each of `masks`, and a send queue.
    fn interface(folder: &Path, name: &str, state: &str, has_device: bool, masks: &[&str]) {
        let folder = folder.join(name);
        fs::create_dir_all(folder.join("queues/tx-0")).expect("ours");
        fs::write(folder.join("operstate"), state).expect("ours");
        if has_device {
            symlink(&folder, folder.join("device")).expect("ours");
        }
        for (index, mask) in masks.iter().enumerate() {
            let queue = folder.join(format!("queues/rx-{index}"));
            fs::create_dir(&queue).expect("ours");
            fs::write(queue.join("rps_cpus"), mask).expect("ours");
        }
    }

    fn known(name: &str, queues: usize, spread: bool) -> Card {
        Card { name: name.to_owned(), queues, spread, interrupts: Vec::new() }
    }

    #[test]
    fn cards_are_interfaces_with_hardware_that_are_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        assert_eq!(cards(&path.join("none"), path), []);
        fs::write(path.join("bonding_masters"), "\n").expect("ours");
        interface(path, "lo", "unknown\n", false, &["0\n"]);
        interface(path, "veth1", "up\n", false, &["0\n"]);
        interface(path, "eth3", "down\n", true, &["0\n"]);
        interface(path, "eth2", "unknown\n", true, &["00000000,00000000\n"]);
        interface(path, "eth1", "up\n", true, &["0\n", "00000001,00000000\n"]);
        interface(path, "eth0", "up\n", true, &["0\n"]);
        interface(path, "eth4", "up\n", true, &[]);
        fs::remove_file(path.join("eth0/queues/rx-0/rps_cpus")).expect("it is there");
        let expected = [known("eth0", 1, false), known("eth1", 2, true), known("eth2", 1, false)];
        assert_eq!(cards(path, path), expected);
    }

    #[test]
    fn a_single_queue_for_several_workers_is_a_warning() {
        let judge = |cards: &[Card], workers| {
            let findings = receive_queues(cards, workers, "f");
            findings.into_iter().map(level).collect::<Vec<_>>()
        };
        let narrow = || known("eth0", 1, false);
        assert_eq!(judge(&[], 4), [Level::Ok]);
        assert_eq!(judge(&[narrow()], 1), [Level::Ok]);
        assert_eq!(judge(&[known("eth0", 1, true), known("eth1", 2, false)], 4), [Level::Ok]);
        assert_eq!(judge(&[narrow(), known("eth1", 2, false)], 4), [Level::Warning]);
        assert_eq!(judge(&[narrow(), known("eth1", 1, false)], 4), [Level::Warning; 2]);

        let findings = receive_queues(&[narrow()], 4, "f");
        let text = remedy(&findings[0]);
        assert!(text.contains("`ethtool -L eth0 combined 4`"), "{text}");
        assert!(text.contains("`echo f > /sys/class/net/eth0/queues/rx-0/rps_cpus`"), "{text}");
        let fine = receive_queues(&[known("eth0", 1, true), known("eth1", 8, false)], 4, "f");
        assert_eq!(fine[0].detail, "eth0: 1, spread by RPS; eth1: 8");
    }

    #[test]
    fn interrupts_that_all_go_to_one_cpu_are_a_warning() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, irq) = (folder.path(), folder.path().join("irq"));
        for (number, cpus) in [("40", "1\n"), ("41", "1\n"), ("42", "0-3\n"), ("44", "\n")] {
            fs::create_dir_all(irq.join(number)).expect("ours");
            fs::write(irq.join(number).join("effective_affinity_list"), cpus).expect("ours");
        }
        // One that nobody knows anything about.
        fs::create_dir(irq.join("43")).expect("ours");
        for (name, parent, numbers) in [
            ("eth0", "", &["40", "41", "43", "44"][..]),
            ("eth1", "..", &["40", "42"]),
            ("eth2", "", &["42"]),
        ] {
            fs::create_dir_all(path.join(name).join("plug/card")).expect("ours");
            interface(path, name, "up\n", false, &["0\n", "0\n"]);
            let device = path.join(name).join("plug/card");
            for number in numbers {
                fs::create_dir_all(device.join(parent).join("msi_irqs").join(number))
                    .expect("ours");
            }
            symlink(device, path.join(name).join("device")).expect("ours");
        }
        let cards = cards(path, &irq);
        let lists = |list: &[&str]| list.iter().map(|&cpus| cpus.to_owned()).collect::<Vec<_>>();
        let mut seen: Vec<Vec<String>> = cards.iter().map(|card| card.interrupts.clone()).collect();
        seen.iter_mut().for_each(|list| list.sort_unstable());
        assert_eq!(seen, [lists(&["1", "1"]), lists(&["0-3", "1"]), lists(&["0-3"])]);
        assert_eq!(interrupts(&cards, 1), []);
        let found = interrupts(&cards, 2);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].detail,
            "eth0 has 2 receive queues, and all of its interrupts go to CPU 1."
        );
        assert!(remedy(&found[0]).contains("/proc/irq/NUMBER/smp_affinity_list"));
        // What the kernel hands on has left that CPU.
        let spread = Card { spread: true, ..cards[0].clone() };
        let narrow = Card { queues: 1, ..cards[0].clone() };
        assert_eq!(interrupts(&[spread, narrow], 2), []);
    }

    #[test]
    fn masks_are_written_and_read_as_the_kernel_does() {
        for (list, mask) in [
            ("0\n", Some("1")),
            ("0-1\n", Some("3")),
            ("0-31", Some("ffffffff")),
            ("0-32", Some("1,ffffffff")),
            ("0-3,8,64-65", Some("3,00000000,0000010f")),
            ("4,0", Some("11")),
            ("8192", None),
            ("0-9999999999", None),
            ("3-1", None),
            ("", None),
            ("a", None),
            ("0,", None),
        ] {
            assert_eq!(cpu_mask(list).as_deref(), mask, "{list}");
        }
        let last = format!("80000000{}", ",00000000".repeat(255));
        assert_eq!(cpu_mask("8191"), Some(last));
        for (mask, names) in [
            ("0\n", false),
            ("00000000,00000000\n", false),
            ("", false),
            ("1\n", true),
            ("00000000,0000000f\n", true),
            ("a0,00000000\n", true),
        ] {
            assert_eq!(names_a_cpu(mask), names, "{mask}");
        }
    }
}
