//! What is wrong with the running tracker, in words, with the remedy.
//!
//! Pure functions over what was counted in the last minute: each looks at one thing and is silent
//! if it is as it should be.

use super::finding::{Finding, Level};
use super::metrics::real;
use super::samples::{Moment, Sample};
use crate::tracker::counters::{Action, Counters, REQUEST_KINDS};
use crate::tracker::outcome::{DropReason, Refusal};

/// A worker that has no more of its CPU left than this has no time left: its share of a second.
const BUSY: f64 = 0.9;
/// How much hotter than the mean of the others the hottest worker may be, if it is half busy.
const UNEVEN: f64 = 2.0;
/// Share of a second in which something else had the CPU that a worker was ready to use.
const ROBBED: f64 = 0.1;
/// Share of the budget from which on the memory is nearly full.
const NEARLY_FULL: f64 = 0.95;
/// Share of all requests over UDP that may come with a connection id that is none.
const STRANGE_IDS: f64 = 0.2;
/// Fewer events than this in a minute are not worth a word.
const FEW: u64 = 10;

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// A minute ago, or the start if that is later.
    pub before: &'a Moment,
    /// Now.
    pub now: &'a Moment,
    /// The samples between them, oldest first.
    pub samples: &'a [Sample],
}

impl View<'_> {
    /// How much a counter grew, over all workers.
    fn grew(&self, count: impl Fn(&Counters) -> u64) -> u64 {
        let sum = |moment: &Moment| moment.workers.iter().map(&count).sum::<u64>();
        sum(self.now).saturating_sub(sum(self.before))
    }

    /// How much a count of the kernel grew; nothing if it cannot be read.
    fn grew_in_kernel(&self, count: impl Fn(&Moment) -> Option<u64>) -> u64 {
        match (count(self.before), count(self.now)) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => 0,
        }
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.grew(|counters| counters.dropped(reason))
    }

    fn mean(&self, column: fn(&Sample) -> f64) -> f64 {
        let known: Vec<f64> = self.samples.iter().map(column).filter(|v| v.is_finite()).collect();
        if known.is_empty() {
            f64::NAN
        } else {
            known.iter().sum::<f64>() / real(known.len() as u64)
        }
    }
}

/// Everything that is not as it should be, the worst first.
#[must_use]
pub fn findings(view: &View<'_>) -> Vec<Finding> {
    let checks: [fn(&View<'_>) -> Option<Finding>; 16] = [
        kernel_drops,
        busy,
        uneven,
        robbed,
        memory,
        accept_queue,
        connections,
        mailboxes,
        turned_away,
        sending,
        ring,
        strange_ids,
        proxies,
        refused_torrents,
        limited,
        banned,
    ];
    let mut found: Vec<Finding> = checks.iter().filter_map(|check| check(view)).collect();
    found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    found
}

fn kernel_drops(view: &View<'_>) -> Option<Finding> {
    let drops = |moment: &Moment| {
        moment.kernel.sockets.iter().map(|socket| socket.as_ref().map(|found| found.drops)).sum()
    };
    let count = view.grew_in_kernel(drops);
    // Damaged datagrams are dropped too, and anybody can send those.
    let for_want_of_room: u64 =
        (0..2).map(|f| view.grew_in_kernel(|moment| moment.kernel.udp_buffer_errors[f])).sum();
    let count = count.min(for_want_of_room);
    if count <= FEW {
        return None;
    }
    let remedy = if view.mean(|sample| sample.load_max) > BUSY {
        "The workers have no time left, so a larger buffer would only make answers late: give the \
         tracker more CPUs, or lengthen announce.interval."
    } else {
        "Raise net.core.rmem_max and then udp.receive_buffer, so that more can wait for a moment \
         (`throng check` shows what the kernel grants)."
    };
    let detail = format!("The kernel dropped {} in the last minute.", many(count, "datagram"));
    Some(Finding::new(Level::Problem, "receive buffer", detail, remedy.to_owned()))
}

fn busy(view: &View<'_>) -> Option<Finding> {
    let load = view.mean(|sample| sample.load_max);
    (load > BUSY).then(|| {
        let detail = format!("The busiest worker used {:.0} % of its CPU.", 100.0 * load);
        let remedy = "Give the tracker more CPUs (workers), or lengthen announce.interval: twice \
                      as long is half the load.";
        Finding::new(Level::Problem, "load", detail, remedy.to_owned())
    })
}

fn uneven(view: &View<'_>) -> Option<Finding> {
    let hottest = view.mean(|sample| sample.load_max);
    let workers = real(view.now.workers.len() as u64);
    let others = (view.mean(|sample| sample.load_mean) * workers - hottest) / (workers - 1.0);
    (workers > 1.0 && hottest > 0.5 && hottest > UNEVEN * others).then(|| {
        let detail = format!(
            "The busiest worker used {:.0} % of its CPU, the others {:.0} % on average.",
            100.0 * hottest,
            100.0 * others.max(0.0),
        );
        let remedy = "One swarm may be as large as many: /api/v1/swarms shows the largest. Or the \
                      network card's interrupts all go to one CPU: spread them (`throng check`).";
        Finding::new(Level::Warning, "balance", detail, remedy.to_owned())
    })
}

fn robbed(view: &View<'_>) -> Option<Finding> {
    let waited = view.mean(|sample| sample.waiting_max);
    (waited > ROBBED).then(|| {
        let detail = format!(
            "A worker was ready for {:.0} % of the last minute while something else had its CPU.",
            100.0 * waited,
        );
        let remedy = "Move other programs to other CPUs (AllowedCPUs= in systemd), or give throng \
                      fewer workers than there are CPUs.";
        Finding::new(Level::Warning, "stolen time", detail, remedy.to_owned())
    })
}

fn memory(view: &View<'_>) -> Option<Finding> {
    let refused: u64 =
        view.now.workers.iter().map(|counters| counters.store_refused_bytes[0]).sum();
    if refused > 0 {
        let detail = format!(
            "The kernel commits to no more memory: {} MiB of swarm.memory cannot be had.",
            grouped(refused.div_ceil(1 << 20)),
        );
        let remedy = "Lower swarm.memory, or raise vm.overcommit_ratio or the limit of the unit \
                      (LimitDATA=); the kernel is asked again each minute.";
        return Some(Finding::new(Level::Problem, "memory", detail, remedy.to_owned()));
    }
    let remedy = "Raise swarm.memory, or shorten swarm.peer_ttl.".to_owned();
    let evicted = view.grew(|counters| counters.evicted_swarms[0]);
    if evicted > 0 {
        let detail = format!(
            "{} made room for others in the last minute: the memory is full.",
            many(evicted, "swarm"),
        );
        return Some(Finding::new(Level::Problem, "memory", detail, remedy));
    }
    let newest = view.samples.last()?;
    let share = newest.store_bytes / newest.store_budget_bytes;
    (share > NEARLY_FULL).then(|| {
        let detail = format!("Swarms and peers take {:.0} % of swarm.memory.", 100.0 * share);
        Finding::new(Level::Warning, "memory", detail, remedy)
    })
}

fn accept_queue(view: &View<'_>) -> Option<Finding> {
    let count = view.grew_in_kernel(|moment| moment.kernel.listen_overflows);
    (count > 0).then(|| {
        let detail = format!(
            "A full accept queue refused {} in the last minute, at some listener of this machine.",
            many(count, "connection"),
        );
        let remedy = "Raise net.core.somaxconn to 4096 or more and start throng again.";
        Finding::new(Level::Warning, "accept queue", detail, remedy.to_owned())
    })
}

fn connections(view: &View<'_>) -> Option<Finding> {
    let count = view.grew(|counters| counters.http_connections_refused[0]);
    (count > 0).then(|| {
        let detail = format!(
            "{} were closed at once in the last minute: there were as many as may be.",
            many(count, "connection"),
        );
        let remedy = "If they are no attack: raise the limit of open files (LimitNOFILE= in \
                      systemd), http.max_connections, or http.max_connections_per_address for \
                      clients behind one address.";
        Finding::new(Level::Warning, "connections", detail, remedy.to_owned())
    })
}

fn mailboxes(view: &View<'_>) -> Option<Finding> {
    let count = view.grew(|counters| counters.messages_refused[0]);
    (count > 0).then(|| {
        let detail = format!(
            "{} between workers did not fit into a mailbox in the last minute.",
            many(count, "message"),
        );
        let remedy = "A worker is too busy or has been stopped for a while; with steering on \
                      (udp.steering, `throng check`) there are few messages.";
        Finding::new(Level::Warning, "mailboxes", detail, remedy.to_owned())
    })
}

fn turned_away(view: &View<'_>) -> Option<Finding> {
    let count = view.grew(|counters| counters.refused(Refusal::Busy));
    (count > FEW).then(|| {
        let detail = format!(
            "{} were told in the last minute that the tracker is busy.",
            many(count, "request"),
        );
        let remedy = "Workers do not get answers from each other in time, or WebSocket peers have \
                      taken their eighth of swarm.memory: look at the load, then raise it.";
        Finding::new(Level::Warning, "busy", detail, remedy.to_owned())
    })
}

fn sending(view: &View<'_>) -> Option<Finding> {
    let count =
        view.dropped(DropReason::NoSendSlot) + view.grew(|counters| counters.udp_send_errors[0]);
    (count > FEW).then(|| {
        let detail = format!("{} could not be sent in the last minute.", many(count, "answer"));
        let remedy = "Look at the network card's queues (`tc -s qdisc`, `ethtool -S`), at the \
                      firewall's rules for outgoing packets, and at net.core.wmem_max.";
        Finding::new(Level::Warning, "sending", detail, remedy.to_owned())
    })
}

fn ring(view: &View<'_>) -> Option<Finding> {
    let count = view.grew(|counters| counters.ring_overflows[0]);
    (count > 0).then(|| {
        let detail =
            format!("A ring's completion queue overflowed {} in the last minute.", times(count));
        let remedy = "A worker was stopped for long, by a debugger or a host that is overbooked; \
                      nothing is lost, but answers came late.";
        Finding::new(Level::Warning, "ring", detail, remedy.to_owned())
    })
}

fn strange_ids(view: &View<'_>) -> Option<Finding> {
    let strange = view.dropped(DropReason::BadConnectionId);
    let all = strange + view.grew(|counters| counters.requests[..8].iter().sum());
    let share = real(strange) / real(all.max(1));
    (strange > FEW && share > STRANGE_IDS).then(|| {
        let detail = format!(
            "{:.0} % of the requests over UDP in the last minute came with a connection id that is \
             not valid.",
            100.0 * share,
        );
        let remedy = "A flood with forged sources looks so, and costs little. If they are clients: \
                      nodes behind one address need one udp.connection_id_key, and some clients \
                      need a longer udp.connection_id_lifetime.";
        Finding::new(Level::Warning, "connection ids", detail, remedy.to_owned())
    })
}

fn proxies(view: &View<'_>) -> Option<Finding> {
    let count = view.grew(|counters| counters.http_proxy_headers_refused[0]);
    (count > 0).then(|| {
        let detail = format!(
            "{} to a listener marked proxy_protocol were closed in the last minute, because no \
             trusted proxy said who the client is.",
            many(count, "connection"),
        );
        let remedy = "Name the proxy's address in http.trusted_proxies, and let it send the header \
                      (send-proxy in HAProxy, proxy_protocol on in nginx).";
        Finding::new(Level::Warning, "proxy", detail, remedy.to_owned())
    })
}

fn refused_torrents(view: &View<'_>) -> Option<Finding> {
    let refused = view.grew(|counters| counters.refused(Refusal::NotAllowed));
    // A connection id is no answer about a torrent.
    let is_about_torrents = |kind: &usize| kind % 4 != Action::Connect as usize;
    let answered = view.grew(|counters| {
        let replies = counters.replies();
        (0..REQUEST_KINDS).filter(is_about_torrents).map(|kind| replies[kind]).sum()
    });
    (refused > FEW && refused > answered).then(|| {
        let detail = format!(
            "{} were refused by the access list in the last minute, more than were answered.",
            many(refused, "request"),
        );
        let remedy = "If that is not what the list is for, look at access.allow and access.deny; \
                      SIGHUP reads them again. access.refusal = \"polite\" makes clients come back \
                      less often.";
        Finding::new(Level::Warning, "access list", detail, remedy.to_owned())
    })
}

/// Addresses that bring more than they may.
fn limited(view: &View<'_>) -> Option<Finding> {
    const NAMES: [(Refusal, &str); 3] = [
        (Refusal::TooManyNewSwarms, "new swarm"),
        (Refusal::TooManyNewPeers, "new peer"),
        (Refusal::TooManyPeersInSwarm, "further peer of an address in its swarm"),
    ];
    let refused = |refusal: Refusal| view.grew(|counters| counters.refused(refusal));
    let announces: u64 = NAMES.iter().map(|&(refusal, _)| refused(refusal)).sum();
    let connections = view.grew(|counters| counters.http_connections_limited[0]);
    (announces + connections > FEW).then(|| {
        let parts = NAMES.iter().map(|&(refusal, noun)| (refused(refusal), noun));
        let parts = parts.chain([(connections, "connection")]).filter(|&(count, _)| count > 0);
        let parts: Vec<String> = parts.map(|(count, noun)| many(count, noun)).collect();
        let detail = format!(
            "Some addresses brought more than they may in the last minute: {} refused.",
            parts.join(", "),
        );
        let remedy = "That is what the limits are for, and others are served. If those are many \
                      people behind one address, raise limits.*; if they are an attack that goes \
                      on, put their networks into access.ban.";
        Finding::new(Level::Warning, "limits", detail, remedy.to_owned())
    })
}

/// Banned networks that send much.
fn banned(view: &View<'_>) -> Option<Finding> {
    let dropped = view.dropped(DropReason::Banned)
        + view.grew(|counters| {
            counters.http_connections_banned[0] + counters.refused(Refusal::Banned)
        });
    let served = view.grew(|counters| counters.replies().iter().sum());
    (dropped > FEW && dropped > served / 100).then(|| {
        let detail = format!(
            "{} from banned networks were dropped in the last minute.",
            many(dropped, "request"),
        );
        let remedy = "A firewall drops them for less: nft add rule inet filter input ip saddr \
                      192.0.2.0/24 drop, with the network that sends them.";
        Finding::new(Level::Warning, "banned networks", detail, remedy.to_owned())
    })
}

/// A number and what there are so many of.
fn many(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(count))
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{} times", grouped(count)) }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::kernel::{Reading, Socket};
    use crate::tracker::counters::{Transport, drop_index, refusal_index};
    use crate::wire::addr::Family;

    fn moment(at: u64, change: impl Fn(&mut Counters, &mut Reading)) -> Moment {
        let mut counters = Counters::default();
        let mut kernel = Reading {
            sockets: vec![Some(Socket::default())],
            listen_overflows: Some(5),
            udp_buffer_errors: [Some(0), None],
            ..Reading::default()
        };
        change(&mut counters, &mut kernel);
        let workers = vec![counters, Counters::default()];
        Moment { at: Duration::from_secs(at), workers, kernel }
    }

    fn titles(
        sample: Sample,
        change: impl Fn(&mut Counters, &mut Reading),
    ) -> Vec<(Level, String)> {
        let (before, now) = (moment(0, |_, _| {}), moment(60, change));
        let samples = [Sample { load_max: f64::NAN, ..sample }, sample];
        let view = View { before: &before, now: &now, samples: &samples };
        let found = findings(&view);
        for finding in &found {
            assert!(finding.detail.ends_with('.'), "{finding:?}");
            assert!(finding.remedy.as_ref().is_some_and(|remedy| remedy.len() > 20), "{finding:?}");
        }
        assert!(found.is_sorted_by(|a, b| a.level >= b.level));
        found.into_iter().map(|finding| (finding.level, finding.title)).collect()
    }

    #[test]
    fn a_quiet_tracker_has_nothing_to_tell() {
        let quiet = Sample { store_budget_bytes: 1.0, load_max: 0.2, ..Sample::default() };
        assert_eq!(titles(quiet, |_, _| {}), []);
        let (before, now) = (moment(0, |_, _| {}), moment(0, |_, _| {}));
        assert_eq!(findings(&View { before: &before, now: &now, samples: &[] }), []);
    }

    fn answer(counters: &mut Counters, action: Action, times: u64) {
        (0..times).for_each(|_| counters.reply(Transport::Udp, Family::V4, action));
    }

    #[test]
    fn each_thing_that_is_wrong_is_named() {
        type Change = fn(&mut Counters, &mut Reading);
        let cases: [(&str, Change); 16] = [
            ("receive buffer", |_, kernel| {
                kernel.sockets[0] = Some(Socket { drops: FEW + 1, waiting_bytes: 0 });
                kernel.udp_buffer_errors[0] = Some(FEW + 1);
            }),
            ("busy", |counters, _| {
                counters.refusals[refusal_index(Transport::Http, Refusal::Busy)] = FEW + 1;
            }),
            ("accept queue", |_, kernel| kernel.listen_overflows = Some(6)),
            ("memory", |counters, _| counters.evicted_swarms = [1]),
            ("memory", |counters, _| counters.store_refused_bytes = [1]),
            ("connections", |counters, _| counters.http_connections_refused = [1]),
            ("mailboxes", |counters, _| counters.messages_refused = [1]),
            ("sending", |counters, _| counters.udp_send_errors = [FEW + 1]),
            ("ring", |counters, _| counters.ring_overflows = [1]),
            ("connection ids", |counters, _| {
                counters.drops[drop_index(Transport::Udp, DropReason::BadConnectionId)] = FEW + 1;
                counters.requests[1] = 4 * FEW;
            }),
            ("proxy", |counters, _| counters.http_proxy_headers_refused = [2]),
            ("limits", |c, _| {
                c.refusals[refusal_index(Transport::Http, Refusal::TooManyNewSwarms)] = FEW + 1;
            }),
            ("limits", |counters, _| counters.http_connections_limited = [FEW + 1]),
            ("banned networks", |counters, _| {
                counters.drops[drop_index(Transport::Udp, DropReason::Banned)] = FEW + 1;
                answer(counters, Action::Announce, FEW);
            }),
            ("banned networks", |counters, _| counters.http_connections_banned = [FEW + 1]),
            ("access list", |counters, _| {
                counters.refusals[refusal_index(Transport::Http, Refusal::NotAllowed)] = FEW + 1;
                // As many connection ids as announces, as over UDP.
                answer(counters, Action::Connect, 1_000);
                answer(counters, Action::Announce, FEW);
            }),
        ];
        let quiet = Sample { store_budget_bytes: 1.0, ..Sample::default() };
        for (title, change) in cases {
            let found: Vec<String> = titles(quiet, change).into_iter().map(|f| f.1).collect();
            assert_eq!(found, [title]);
        }
        for (title, sample) in [
            ("load", Sample { load_max: 0.95, load_mean: 0.9, ..quiet }),
            ("balance", Sample { load_max: 0.6, load_mean: 0.35, ..quiet }),
            ("stolen time", Sample { waiting_max: 0.2, ..quiet }),
            ("memory", Sample { store_bytes: 0.96, ..quiet }),
        ] {
            let found: Vec<String> = titles(sample, |_, _| {}).into_iter().map(|f| f.1).collect();
            assert_eq!(found, [title]);
        }
    }

    #[test]
    fn a_few_odd_requests_are_not_worth_a_word() {
        let quiet = Sample { store_budget_bytes: 1.0, ..Sample::default() };
        let few = |counters: &mut Counters, _: &mut Reading| {
            counters.drops[drop_index(Transport::Udp, DropReason::BadConnectionId)] = FEW;
            counters.refusals[refusal_index(Transport::Http, Refusal::NotAllowed)] = FEW;
            counters.udp_send_errors = [FEW];
            counters.refusals[refusal_index(Transport::Http, Refusal::Busy)] = FEW;
            counters.refusals[refusal_index(Transport::Http, Refusal::TooManyNewPeers)] = FEW;
            counters.http_connections_banned = [FEW];
        };
        assert_eq!(titles(quiet, few), []);
        let share = |counters: &mut Counters, _: &mut Reading| {
            counters.drops[drop_index(Transport::Udp, DropReason::BadConnectionId)] = 100;
            counters.requests[1] = 1_000;
            counters.refusals[refusal_index(Transport::Http, Refusal::NotAllowed)] = 100;
            answer(counters, Action::Announce, 1_000);
        };
        assert_eq!(titles(quiet, share), []);
    }

    #[test]
    fn the_remedy_for_drops_depends_on_the_load() {
        let dropping = moment(60, |_, kernel| {
            kernel.sockets[0] = Some(Socket { drops: 1_204, waiting_bytes: 0 });
            kernel.udp_buffer_errors[0] = Some(1_300);
        });
        let before = moment(0, |_, _| {});
        let remedy = |load_max: f64| {
            let samples = [Sample { load_max, ..Sample::default() }];
            let view = View { before: &before, now: &dropping, samples: &samples };
            let finding = kernel_drops(&view).expect("it drops");
            assert!(finding.detail.contains("1,204 datagrams"), "{finding:?}");
            finding.remedy.expect("there is one")
        };
        assert!(remedy(0.3).contains("net.core.rmem_max"));
        assert!(remedy(0.95).contains("more CPUs"));
        let damaged = moment(60, |_, kernel| {
            kernel.sockets[0] = Some(Socket { drops: 1_204, waiting_bytes: 0 });
        });
        let view = View { before: &before, now: &damaged, samples: &[] };
        assert_eq!(kernel_drops(&view), None, "damaged datagrams want no larger buffer");
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(
            (many(1, "swarm"), many(2, "swarm")),
            ("1 swarm".to_owned(), "2 swarms".to_owned())
        );
        assert_eq!((times(1), times(3)), ("once".to_owned(), "3 times".to_owned()));
    }
}
