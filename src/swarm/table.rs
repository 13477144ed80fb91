//! A hash table of 32-bit values, built so that a lookup costs one cache line.
//!
//! Open addressing in buckets of twelve: the values, a byte of hash for each, and how many entries
//! went on to a later bucket because this one was full. A lookup reads the bucket of its hash and
//! goes on only if that count says so, so a batch can prefetch exactly what it will read. The table
//! does not know its keys: callers compare them, and hash them again when it grows.

use bytemuck::{Pod, Zeroable};
use smallvec::{SmallVec, smallvec};

use super::machine::{equal_bytes, prefetch};

/// Entries of a bucket.
const SLOTS: usize = 12;
/// Entries per bucket, on average, above which a table grows: 85 % of it.
const FULL: usize = 10;
/// Entries per bucket, on average, below which a table shrinks.
const SPARSE: usize = 4;
/// Entries per bucket after growing or shrinking: 68 % of it.
const ROOMY: usize = 8;
/// The bits of a hash that choose a table of a [`Sharded`] one are above these.
const SHARD_SHIFT: u32 = 56;
/// Tables of a large [`Sharded`] one: what one of them does at once stays short.
const SHARDS: usize = 256;

/// One cache line.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Bucket {
    /// A byte of each entry's hash, never 0; 0 where there is no entry.
    tags: [u8; SLOTS],
    /// Entries that belong here, or further ahead, and stand behind.
    passed: u32,
    values: [u32; SLOTS],
}

impl Bucket {
    const EMPTY: Self = Self { tags: [0; SLOTS], passed: 0, values: [0; SLOTS] };

    /// The slots whose tag is `tag`, as bits.
    #[inline]
    fn matches(&self, tag: u8) -> u32 {
        let (first, _) = bytemuck::bytes_of(self).as_chunks::<16>();
        equal_bytes(&first[0], tag) & ((1 << SLOTS) - 1)
    }

    #[inline]
    fn find(&self, tag: u8, mut is: impl FnMut(u32) -> bool) -> Option<usize> {
        let mut mask = self.matches(tag);
        while mask != 0 {
            let slot = mask.trailing_zeros() as usize;
            if is(self.values[slot]) {
                return Some(slot);
            }
            mask &= mask - 1;
        }
        None
    }
}

/// Values found by the hash of their key, which the table does not hold.
#[derive(Clone, Debug, Default)]
pub struct Table {
    buckets: Vec<Bucket>,
    len: usize,
}

impl Table {
    /// Entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Bytes of heap.
    #[must_use]
    pub const fn heap_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }

    /// The value for which `is` holds among those whose key has this hash.
    pub fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let (home, tag) = (self.home(hash)?, tag_of(hash));
        let mut at = home;
        loop {
            let bucket = &self.buckets[at];
            if let Some(slot) = bucket.find(tag, &mut is) {
                return Some(bucket.values[slot]);
            }
            at = self.after(at);
            // In a table of few buckets others may have passed by every one of them.
            if bucket.passed == 0 || at == home {
                return None;
            }
        }
    }

    /// Adds a value whose key is not in the table. `hash_of` hashes the keys of other values.
    pub fn insert(&mut self, hash: u64, value: u32, hash_of: impl Fn(u32) -> u64) {
        if self.len >= self.buckets.len() * FULL {
            self.resize(self.len + 1, hash_of);
        }
        self.put(hash, value);
        self.len += 1;
    }

    /// Gives a key's entry another value.
    ///
    /// # Panics
    /// If `old` is not there.
    pub fn replace(&mut self, hash: u64, old: u32, new: u32) {
        let (at, slot) = self.place(hash, old);
        self.buckets[at].values[slot] = new;
    }

    /// Removes a value.
    ///
    /// # Panics
    /// If it is not there.
    pub fn remove(&mut self, hash: u64, value: u32, hash_of: impl Fn(u32) -> u64) {
        let (end, slot) = self.place(hash, value);
        self.buckets[end].tags[slot] = 0;
        let mut at = self.home(hash).expect("it holds something");
        while at != end {
            self.buckets[at].passed -= 1;
            at = self.after(at);
        }
        self.len -= 1;
        if self.len < self.buckets.len() * SPARSE {
            self.resize(self.len, hash_of);
        }
    }

    /// Every value, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = u32> {
        self.buckets.iter().flat_map(|bucket| {
            bucket.tags.iter().zip(bucket.values).filter(|(tag, _)| **tag != 0).map(|(_, v)| v)
        })
    }

    /// Tells the processor that a lookup of this hash follows.
    pub fn prefetch(&self, hash: u64) {
        if let Some(home) = self.home(hash) {
            prefetch(&self.buckets[home]);
        }
    }

    /// The bucket where a hash belongs: its middle bits, scaled to any number of buckets.
    fn home(&self, hash: u64) -> Option<usize> {
        let middle = (hash >> 24) & u64::from(u32::MAX);
        let at = (middle * self.buckets.len() as u64) >> 32;
        (!self.buckets.is_empty()).then(|| usize::try_from(at).expect("an index"))
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() { 0 } else { at + 1 }
    }

    fn place(&self, hash: u64, value: u32) -> (usize, usize) {
        let (mut at, tag) = (self.home(hash).expect("it holds something"), tag_of(hash));
        loop {
            let bucket = &self.buckets[at];
            if let Some(slot) = bucket.find(tag, |other| other == value) {
                return (at, slot);
            }
            assert!(bucket.passed > 0, "every value is where its hash says");
            at = self.after(at);
        }
    }

    fn put(&mut self, hash: u64, value: u32) {
        let mut at = self.home(hash).expect("there is room");
        loop {
            let bucket = &mut self.buckets[at];
            if let Some(slot) = bucket.tags.iter().position(|&tag| tag == 0) {
                bucket.tags[slot] = tag_of(hash);
                bucket.values[slot] = value;
                return;
            }
            bucket.passed += 1;
            at = self.after(at);
        }
    }

    /// Makes room for `len` entries with some to spare, or gives up what they do not need.
    fn resize(&mut self, len: usize, hash_of: impl Fn(u32) -> u64) {
        let buckets = len.div_ceil(ROOMY);
        let old = std::mem::replace(&mut self.buckets, vec![Bucket::EMPTY; buckets]);
        for bucket in &old {
            for (slot, &tag) in bucket.tags.iter().enumerate() {
                if tag != 0 {
                    self.put(hash_of(bucket.values[slot]), bucket.values[slot]);
                }
            }
        }
    }

    /// Panics unless every relation holds. For tests and the fuzzers.
    pub fn check_invariants(&self, hash_of: impl Fn(u32) -> u64) {
        let mut passed = vec![0; self.buckets.len()];
        for value in self.values() {
            let hash = hash_of(value);
            let (end, _) = self.place(hash, value);
            let mut at = self.home(hash).expect("it holds something");
            while at != end {
                passed[at] += 1;
                at = self.after(at);
            }
        }
        assert_eq!(self.values().count(), self.len);
        assert!(self.len <= self.buckets.len() * FULL);
        assert!(passed.iter().zip(&self.buckets).all(|(passed, b)| *passed == b.passed));
    }
}

fn tag_of(hash: u64) -> u8 {
    let [.., low] = hash.to_be_bytes();
    low.max(1)
}

/// Tables that share out the hashes, so that no single growth takes long: one while there are few
/// entries, later 256.
#[derive(Clone, Debug)]
pub struct Sharded {
    /// One, in place, or [`SHARDS`].
    tables: SmallVec<[Table; 1]>,
    len: usize,
    heap_bytes: usize,
}

/// Entries of one table above which there are many.
const SPLIT_ABOVE: usize = 4_096;
/// Entries below which there is one again.
const JOIN_BELOW: usize = 1_024;

impl Sharded {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self { tables: smallvec![Table::default()], len: 0, heap_bytes: 0 }
    }

    /// Entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Bytes of heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let tables = if self.tables.spilled() { self.tables.capacity() } else { 0 };
        self.heap_bytes + tables * size_of::<Table>()
    }

    /// See [`Table::find`].
    pub fn find(&self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.tables[self.shard(hash)].find(hash, is)
    }

    /// See [`Table::insert`].
    pub fn insert(&mut self, hash: u64, value: u32, hash_of: impl Fn(u32) -> u64) {
        if self.len == SPLIT_ABOVE && self.tables.len() == 1 {
            self.redistribute(SHARDS, &hash_of);
        }
        self.change(hash, |table| table.insert(hash, value, hash_of));
    }

    /// See [`Table::replace`].
    pub fn replace(&mut self, hash: u64, old: u32, new: u32) {
        let shard = self.shard(hash);
        self.tables[shard].replace(hash, old, new);
    }

    /// See [`Table::remove`].
    pub fn remove(&mut self, hash: u64, value: u32, hash_of: impl Fn(u32) -> u64) {
        self.change(hash, |table| table.remove(hash, value, &hash_of));
        if self.len < JOIN_BELOW && self.tables.len() > 1 {
            self.redistribute(1, &hash_of);
        }
    }

    /// See [`Table::prefetch`].
    pub fn prefetch(&self, hash: u64) {
        self.tables[self.shard(hash)].prefetch(hash);
    }

    /// Every value, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = u32> {
        self.tables.iter().flat_map(Table::values)
    }

    fn shard(&self, hash: u64) -> usize {
        if self.tables.len() == 1 {
            0
        } else {
            usize::try_from(hash >> SHARD_SHIFT).expect("eight bits")
        }
    }

    fn change(&mut self, hash: u64, change: impl FnOnce(&mut Table)) {
        let shard = self.shard(hash);
        let table = &mut self.tables[shard];
        let before = (table.len(), table.heap_bytes());
        change(table);
        self.len = self.len + table.len() - before.0;
        self.heap_bytes = self.heap_bytes + table.heap_bytes() - before.1;
    }

    fn redistribute(&mut self, shards: usize, hash_of: impl Fn(u32) -> u64) {
        let old = std::mem::replace(&mut self.tables, smallvec![Table::default(); shards]);
        for value in old.iter().flat_map(Table::values) {
            let hash = hash_of(value);
            let shard = self.shard(hash);
            self.tables[shard].insert(hash, value, &hash_of);
        }
        self.heap_bytes = self.tables.iter().map(Table::heap_bytes).sum();
    }

    /// Panics unless every relation holds. For tests and the fuzzers.
    pub fn check_invariants(&self, hash_of: impl Fn(u32) -> u64) {
        for (shard, table) in self.tables.iter().enumerate() {
            table.check_invariants(&hash_of);
            assert!(table.values().all(|value| self.shard(hash_of(value)) == shard));
        }
        assert_eq!(self.tables.iter().map(Table::len).sum::<usize>(), self.len);
        assert_eq!(self.tables.iter().map(Table::heap_bytes).sum::<usize>(), self.heap_bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rng::Rng;

    /// Adds and removes against a set, with hashes as bad as `spread` makes them.
    fn agrees_with_a_set(spread: impl Fn(u32) -> u64 + Copy, steps: u32, values: u32) {
        let (mut rng, mut set, mut table) = (Rng::new(1), BTreeSet::new(), Sharded::new());
        for step in 0..steps {
            // Up to many, down to none, and up again.
            let growing = (step / (steps / 4)).is_multiple_of(2);
            let value = rng.below(values);
            let hash = spread(value);
            let found = table.find(hash, |other| other == value);
            assert_eq!(found.is_some(), set.contains(&value));
            match found {
                None if growing || rng.below(8) == 0 => {
                    table.insert(hash, value, spread);
                    set.insert(value);
                }
                Some(_) if !growing || rng.below(8) == 0 => {
                    table.remove(hash, value, spread);
                    set.remove(&value);
                }
                _ => {}
            }
            if step % (steps / 64) == 0 {
                table.check_invariants(spread);
                assert_eq!(table.values().collect::<BTreeSet<u32>>(), set);
                assert!(set.len() < 100 || table.heap_bytes() < set.len() * 17 + 16_384);
            }
        }
    }

    fn good(value: u32) -> u64 {
        Rng::new(u64::from(value)).next_u64()
    }

    #[test]
    fn agrees_with_a_set_of_many() {
        agrees_with_a_set(good, 200_000, 20_000);
    }

    #[test]
    fn agrees_with_a_set_of_few() {
        agrees_with_a_set(good, 50_000, 100);
    }

    #[test]
    fn agrees_with_a_set_when_all_meet_in_few_buckets() {
        agrees_with_a_set(|value| u64::from(value % 7) << 24, 20_000, 500);
        agrees_with_a_set(|_| u64::MAX, 5_000, 100);
    }

    #[test]
    fn a_search_ends_where_every_bucket_was_passed_by() {
        let mut table = Table::default();
        // Two buckets; each takes in twelve of its own and passes one on to the other.
        let hash = |value: u32| if value < 100 { 0 } else { u64::MAX };
        for value in (0..13).chain(100..104) {
            table.insert(hash(value), value, hash);
        }
        for value in 0..9 {
            table.remove(hash(value), value, hash);
        }
        for value in 104..112 {
            table.insert(hash(value), value, hash);
        }
        assert_eq!(table.buckets.len(), 2);
        assert!(table.buckets.iter().all(|bucket| bucket.passed > 0));
        assert_eq!(table.find(0, |value| value == 50), None);
        assert_eq!(table.find(u64::MAX, |value| value == 150), None);
        table.check_invariants(hash);
    }

    #[test]
    fn a_replaced_value_is_found_instead_of_the_old() {
        let mut table = Sharded::new();
        for value in 0..6_000 {
            table.insert(good(value), value, |value| good(value % 10_000));
        }
        for value in 0..6_000 {
            table.replace(good(value), value, value + 10_000);
        }
        for value in 0..6_000 {
            let hash = good(value);
            assert_eq!(table.find(hash, |other| other == value), None);
            assert_eq!(table.find(hash, |other| other == value + 10_000), Some(value + 10_000));
        }
        table.check_invariants(|value| good(value % 10_000));
    }
}
