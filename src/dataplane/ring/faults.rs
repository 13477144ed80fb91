//! Faults on purpose: a ring that, drawn from a seed, answers what a kernel may answer and seldom
//! does.
//!
//! Nothing is made up that could not happen. A request that goes on by itself ends only because it
//! is really cancelled; that completion then gets the errno of the fault. A short write is a
//! request for fewer bytes. What is edited is the outcome of a request that has ended: a datagram
//! that has been sent after all, a connection that is said to be broken. The order of completions
//! is kept within a request, and mixed between requests, which the kernel promises nothing about.

use std::collections::HashMap;

use io_uring::{opcode, squeue};

use super::{Completion, Operation};
use crate::rng::Rng;

/// What can go wrong. Their numbers are those of [`Faults::happened`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The kernel could not be entered: a signal, no memory, completions to be reaped first.
    Enter,
    /// A receive of datagrams ended, and why.
    Receive,
    /// A datagram could not be sent.
    Send,
    /// An accept ended, and why.
    Accept,
    /// A connection broke while it was read.
    Read,
    /// A connection broke while it was written to.
    Write,
    /// Fewer bytes came than there were.
    ShortRead,
    /// Fewer bytes went than there were.
    ShortWrite,
    /// A completion overtook those of other requests.
    Order,
    /// A completion came a turn later.
    Late,
}

/// How many kinds of faults there are.
pub const KINDS: usize = 10;

const ENTER: [i32; 3] = [libc::EINTR, libc::EAGAIN, libc::EBUSY];
const RECEIVE: [i32; 6] =
    [libc::ENOBUFS, libc::EINTR, libc::ECANCELED, libc::ENOMEM, libc::ECONNREFUSED, libc::EIO];
const SEND: [i32; 6] =
    [libc::ENOBUFS, libc::EPERM, libc::EAGAIN, libc::ENETUNREACH, libc::EINTR, libc::EMSGSIZE];
const ACCEPT: [i32; 7] = [
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOBUFS,
    libc::ECONNABORTED,
    libc::EINTR,
    libc::EPERM,
    libc::ECANCELED,
];
const READ: [i32; 4] = [libc::ECONNRESET, libc::ETIMEDOUT, libc::EINTR, libc::ECANCELED];
const WRITE: [i32; 5] = [libc::EPIPE, libc::ECONNRESET, libc::EINTR, libc::ECANCELED, libc::ENOMEM];

/// Which faults a ring has.
#[derive(Debug)]
pub struct Faults {
    rng: Rng,
    /// In how many of 1,000 cases each kind happens.
    permille: [u32; KINDS],
    /// How often each kind has happened.
    pub happened: [u64; KINDS],
    /// The errno with which a request that is being cancelled ends, by its `user_data`.
    ending: HashMap<u64, i32>,
    /// Completions for a later turn.
    held: Vec<Completion>,
}

impl Faults {
    /// Draws how often each kind happens: some never, some every third time.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let permille = std::array::from_fn(|_| match rng.below(4) {
            0 => 0,
            1 => 300,
            _ => rng.below(50),
        });
        Self { rng, permille, happened: [0; KINDS], ending: HashMap::new(), held: Vec::new() }
    }

    fn strikes(&mut self, fault: Fault) -> bool {
        let strikes = self.rng.below(1_000) < self.permille[fault as usize];
        self.happened[fault as usize] += u64::from(strikes);
        strikes
    }

    fn one_of(&mut self, errnos: &[i32]) -> i32 {
        errnos[self.below(errnos.len())]
    }

    /// Why the kernel cannot be entered this time.
    pub(super) fn enter(&mut self) -> Option<i32> {
        self.strikes(Fault::Enter).then(|| self.one_of(&ENTER))
    }

    /// How many of so many bytes are asked for.
    pub(super) fn shorten(&mut self, fault: Fault, len: u32) -> u32 {
        if len > 1 && self.strikes(fault) { 1 + self.rng.below(len - 1) } else { len }
    }

    /// Edits what has completed. Returns the requests that cancel others.
    pub(super) fn edit(&mut self, completions: &mut Vec<Completion>) -> Vec<squeue::Entry> {
        let cancels = completions.iter_mut().filter_map(|new| self.strike(new)).collect();
        completions.splice(..0, std::mem::take(&mut self.held));
        for at in 1..completions.len() {
            let before = self.below(at);
            let overtakes = |other: &Completion| other.operation != completions[at].operation;
            if completions[before..at].iter().all(overtakes) && self.strikes(Fault::Order) {
                completions[before..=at].rotate_right(1);
            }
        }
        if !completions.is_empty() && self.strikes(Fault::Late) {
            let kept = self.below(completions.len());
            // A connection nobody has taken yet would be lost with the ring.
            let owned = |late: &Completion| matches!(late.operation, Operation::Accept(_));
            if !completions[kept..].iter().any(owned) {
                self.held = completions.split_off(kept);
            }
        }
        cancels
    }

    /// No more faults, but what is under way: completions that are held back still come.
    pub fn calm(&mut self) {
        self.permille = [0; KINDS];
    }

    fn below(&mut self, bound: usize) -> usize {
        self.rng.below(u32::try_from(bound).expect("as many as are in flight")) as usize
    }

    fn strike(&mut self, completion: &mut Completion) -> Option<squeue::Entry> {
        let (fault, errnos): (Fault, &[i32]) = match completion.operation {
            Operation::Datagram(_) => (Fault::Receive, &RECEIVE),
            Operation::Accept(_) => (Fault::Accept, &ACCEPT),
            Operation::Reply(_) => (Fault::Send, &SEND),
            Operation::Read(_) => (Fault::Read, &READ),
            Operation::Write(_) => (Fault::Write, &WRITE),
            Operation::Refuse(_) | Operation::Timer | Operation::Cancel => return None,
        };
        let user_data = completion.operation.to_user_data();
        if matches!(fault, Fault::Receive | Fault::Accept) {
            if !completion.goes_on() {
                let errno = self.ending.remove(&user_data);
                if completion.result == -libc::ECANCELED {
                    completion.result = -errno.unwrap_or(libc::ECANCELED);
                }
            } else if !self.ending.contains_key(&user_data) && self.strikes(fault) {
                let errno = self.one_of(errnos);
                self.ending.insert(user_data, errno);
                let cancel = opcode::AsyncCancel::new(user_data).build();
                return Some(cancel.user_data(Operation::Cancel.to_user_data()));
            }
        } else if completion.result >= 0 && self.strikes(fault) {
            completion.result = -self.one_of(errnos);
        }
        None
    }
}
