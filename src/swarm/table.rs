//! A hash table of 32-bit values, built so that a lookup costs one cache line.
//!
//! Open addressing in buckets of twelve: the values, a byte of hash for each, and how many entries
//! went on to a later bucket because this one was full. A lookup reads the bucket of its hash and
//! goes on only if that count says so, so a batch can prefetch exactly what it will read. The table
//! does not know its keys: callers compare them, and hash them again when it grows.
//!
//! The buckets lie in blocks of the slab, so in its huge pages and under its budget. No block is
//! longer than 8 KiB: a table of many entries is many shards, one block each. When there are too
//! many entries for them, the shards are divided one after the other, one each time (linear
//! hashing, Litwin 1980), so nothing ever takes long; and each shard is as large as its own entries
//! need, so those that have not been divided yet waste nothing.

use bytemuck::{Pod, Zeroable};
use smallvec::SmallVec;

use super::class::{BLOCK_BYTES_MAX, Class};
use super::machine::equal_bytes;
use super::slab::{Block, Slab, Use};

/// Entries of a bucket.
const SLOTS: usize = 12;
/// Words of a bucket.
const BUCKET_WORDS: usize = size_of::<Bucket>() / size_of::<u32>();
/// Entries per bucket, on average, above which a shard grows: 85 % of it.
const FULL: usize = 10;
/// Entries per bucket, on average, below which a shard shrinks.
const SPARSE: usize = 3;
/// Entries per bucket after growing or shrinking: 58 % of it.
const ROOMY: usize = 7;
/// Buckets of the smallest shard: blocks of as many lines begin at a cache line.
const BUCKETS_MIN: usize = 8;
/// Buckets of the largest.
const BUCKETS_MAX: usize = BLOCK_BYTES_MAX / size_of::<Bucket>();
/// Entries per shard, on average, above which one is divided. One that waits for that has twice as
/// many at the most, give or take: far fewer than the largest has room for.
const DIVIDE_ABOVE: usize = 560;
/// Entries per shard, on average, below which two are united.
const UNITE_BELOW: usize = 200;
/// The lowest bit of a hash that chooses a shard; those below are the tag.
const SHARD_BIT: u32 = 8;
/// The lowest bit of a hash that chooses a bucket.
const BUCKET_BIT: u32 = 32;

/// One cache line.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Bucket {
    /// A byte of each entry's hash, never 0; 0 where there is no entry.
    tags: [u8; SLOTS],
    /// Entries that belong here, or further ahead, and stand behind.
    passed: u32,
    values: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64 && size_of::<Bucket>() == 4 * BUCKET_WORDS);

impl Bucket {
    /// The slots whose tag is `tag`, as bits.
    #[inline]
    fn matches(&self, tag: u8) -> u32 {
        let (first, _) = bytemuck::bytes_of(self).as_chunks::<16>();
        equal_bytes(&first[0], tag) & ((1 << SLOTS) - 1)
    }

    #[inline(always)]
    fn find(&self, tag: u8, is: &mut impl FnMut(u32) -> bool) -> Option<usize> {
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

/// The entries whose hashes agree in the bits that choose a shard.
#[derive(Clone, Copy, Debug)]
struct Shard {
    /// Where its buckets are.
    block: Block,
    /// How many those are: [`BUCKETS_MIN`] to [`BUCKETS_MAX`].
    buckets: u16,
    /// Entries.
    len: u16,
}

/// The keys of a table's values, which are elsewhere.
pub trait Keys {
    /// The hash of a value's key.
    fn hash(&self, slab: &Slab, value: u32) -> u64;
    /// Tells the processor that a value's key will be hashed.
    fn prefetch(&self, slab: &Slab, value: u32);
}

/// The bucket where an entry belongs, until the table changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Home(Option<Block>);

/// A place in a table.
#[derive(Clone, Copy, Debug)]
struct Place {
    shard: usize,
    bucket: usize,
    slot: usize,
}

/// An entry on its way from one shard to another.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    value: u32,
}

/// Entries of a shard, on the stack: nothing is allocated while a table grows.
type Entries = SmallVec<[Entry; SLOTS * BUCKETS_MAX]>;

/// Values found by the hash of their key, which the table does not hold.
#[derive(Debug, Default)]
pub struct Table {
    /// As many as there are hashes of so many bits, and those that have been divided since.
    shards: SmallVec<[Shard; 1]>,
    /// So many bits as name every shard, all ones. Kept, since every lookup needs it.
    mask: usize,
    len: usize,
}

impl Table {
    /// Empty; it has no block yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Bytes of heap, which are few: most of a table is in the slab.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        if self.shards.spilled() { self.shards.capacity() * size_of::<Shard>() } else { 0 }
    }

    /// The value for which `is` holds among those whose key has this hash.
    #[inline(always)]
    pub fn find(&self, slab: &Slab, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let shard = self.shards.get(self.shard(hash))?;
        let (home, tag) = (shard.home(hash), tag_of(hash));
        // Nearly all are in the first bucket.
        let bucket: &Bucket =
            bytemuck::cast_ref(slab.words::<BUCKET_WORDS>(shard.block.behind(home * BUCKET_WORDS)));
        if let Some(slot) = bucket.find(tag, &mut is) {
            return Some(bucket.values[slot]);
        }
        if bucket.passed == 0 { None } else { shard.find_behind(slab, home, tag, is) }
    }

    /// Tells the processor that a lookup of this hash follows. Returns what [`Table::guess`] wants.
    #[inline]
    pub fn prefetch(&self, slab: &Slab, hash: u64) -> Home {
        let Some(shard) = self.shards.get(self.shard(hash)) else { return Home(None) };
        let words = shard.home(hash) * BUCKET_WORDS;
        slab.prefetch(shard.block, words, 1);
        Home(Some(shard.block.behind(words)))
    }

    /// The value that probably is the one of this hash: the first in the bucket whose tag fits.
    #[inline]
    pub fn guess(slab: &Slab, home: Home, hash: u64) -> Option<u32> {
        let bucket: &Bucket = bytemuck::cast_ref(slab.words::<BUCKET_WORDS>(home.0?));
        bucket.find(tag_of(hash), &mut |_| true).map(|slot| bucket.values[slot])
    }

    /// Whether a value with this hash can be added without more memory.
    #[must_use]
    pub fn fits(&self, hash: u64) -> bool {
        self.len < self.shards.len() * DIVIDE_ABOVE && !self.shards[self.shard(hash)].is_full()
    }

    /// Adds a value whose key is not in the table. `keys` are those of the other values.
    pub fn insert(&mut self, slab: &mut Slab, hash: u64, value: u32, keys: &impl Keys) {
        if self.shards.is_empty() {
            self.shards.push(Shard::new(slab, 0));
            self.set_mask();
        }
        if self.len >= self.shards.len() * DIVIDE_ABOVE {
            self.divide(slab, keys);
        }
        while self.shards[self.shard(hash)].is_full_for_good() {
            // No hash that deserves the name comes here.
            self.divide(slab, keys);
        }
        let number = self.shard(hash);
        let shard = &mut self.shards[number];
        if shard.is_full() {
            shard.resize(slab, usize::from(shard.len) + 1, keys);
        }
        shard.put(slab, Entry { hash, value });
        self.len += 1;
    }

    /// Gives a key's entry another value.
    ///
    /// # Panics
    /// If `old` is not there.
    pub fn replace(&mut self, slab: &mut Slab, hash: u64, old: u32, new: u32) {
        let place = self.place(slab, hash, old);
        *self.value_at(slab, place) = new;
    }

    /// Gives the entries of two different values each other's value.
    ///
    /// # Panics
    /// If one of them is not there.
    pub fn exchange(&mut self, slab: &mut Slab, (hash_a, a): (u64, u32), (hash_b, b): (u64, u32)) {
        // Both are looked for first: they may stand in one bucket under one tag.
        let places = (self.place(slab, hash_a, a), self.place(slab, hash_b, b));
        *self.value_at(slab, places.0) = b;
        *self.value_at(slab, places.1) = a;
    }

    /// Removes a value.
    ///
    /// # Panics
    /// If it is not there.
    pub fn remove(&mut self, slab: &mut Slab, hash: u64, value: u32, keys: &impl Keys) {
        let Place { shard, bucket, slot } = self.place(slab, hash, value);
        let shard = &mut self.shards[shard];
        let home = shard.home(hash);
        let (last, buckets) = (usize::from(shard.buckets), shard.buckets_mut(slab));
        buckets[bucket].tags[slot] = 0;
        let mut at = home;
        while at != bucket {
            buckets[at].passed -= 1;
            at = if at + 1 == last { 0 } else { at + 1 };
        }
        shard.len -= 1;
        self.len -= 1;
        if self.len == 0 {
            self.release(slab);
            return;
        }
        let (len, buckets) = (usize::from(shard.len), usize::from(shard.buckets));
        let is_sparse = len < buckets * SPARSE && buckets > BUCKETS_MIN;
        if is_sparse && slab.can_save(Use::Parts, Shard::class(len)) {
            shard.resize(slab, len, keys);
        }
        if self.len < self.shards.len() * UNITE_BELOW && self.shards.len() > 1 {
            self.unite(slab, keys);
        }
    }

    /// Frees the blocks: the table is empty then.
    pub fn release(&mut self, slab: &mut Slab) {
        for shard in self.shards.drain(..) {
            slab.free(shard.block);
        }
        *self = Self::new();
    }

    /// Every value, in no particular order.
    pub fn values<'a>(&'a self, slab: &'a Slab) -> impl Iterator<Item = u32> {
        self.shards.iter().flat_map(|shard| shard.values(slab))
    }

    /// The shard of a hash, which there is unless the table is empty.
    #[inline]
    fn shard(&self, hash: u64) -> usize {
        let bits = usize::try_from(hash >> SHARD_BIT & u64::from(u32::MAX)).expect("32 bits");
        let shard = bits & self.mask;
        // Those that name no shard yet are one bit too many.
        if shard < self.shards.len() { shard } else { shard & (self.mask >> 1) }
    }

    fn set_mask(&mut self) {
        self.mask = self.shards.len().next_power_of_two() - 1;
    }

    /// Divides the shard whose turn it is.
    #[inline(never)]
    fn divide(&mut self, slab: &mut Slab, keys: &impl Keys) {
        let count = self.shards.len();
        // The new one's number without its highest bit.
        let old = count - (1 << count.ilog2());
        let mut entries = Entries::new();
        self.shards[old].take(slab, keys, &mut entries);
        self.shards.push(self.shards[old]);
        self.set_mask();
        for number in [old, count] {
            let of = entries.iter().filter(|entry| self.shard(entry.hash) == number);
            self.shards[number] = Shard::of(slab, of);
        }
    }

    /// Unites the last shard with the one it was divided from.
    #[inline(never)]
    fn unite(&mut self, slab: &mut Slab, keys: &impl Keys) {
        let last = self.shards.len() - 1;
        let into = last - (1 << last.ilog2());
        let (first, second) = (self.shards[into], self.shards[last]);
        let len = usize::from(first.len) + usize::from(second.len);
        if len > BUCKETS_MAX * ROOMY || !slab.can_save(Use::Parts, Shard::class(len)) {
            return;
        }
        let mut entries = Entries::new();
        first.take(slab, keys, &mut entries);
        second.take(slab, keys, &mut entries);
        self.shards[into] = Shard::of(slab, entries.iter());
        self.shards.pop();
        self.set_mask();
    }

    /// Where a value is.
    #[inline]
    fn place(&self, slab: &Slab, hash: u64, value: u32) -> Place {
        let (number, tag) = (self.shard(hash), tag_of(hash));
        let shard = &self.shards[number];
        let buckets = shard.buckets(slab);
        let mut at = shard.home(hash);
        loop {
            if let Some(slot) = buckets[at].find(tag, &mut |other| other == value) {
                return Place { shard: number, bucket: at, slot };
            }
            assert!(buckets[at].passed > 0, "every value is where its hash says");
            at = shard.after(at);
        }
    }

    #[inline]
    fn value_at<'a>(&self, slab: &'a mut Slab, place: Place) -> &'a mut u32 {
        let shard = &self.shards[place.shard];
        &mut shard.buckets_mut(slab)[place.bucket].values[place.slot]
    }

    /// Panics unless every relation holds. For tests and the fuzzers.
    pub fn check_invariants(&self, slab: &Slab, hash_of: impl Fn(u32) -> u64) {
        assert_eq!(self.mask, self.shards.len().next_power_of_two() - 1);
        for (number, shard) in self.shards.iter().enumerate() {
            let buckets = shard.buckets(slab);
            let mut passed = vec![0; buckets.len()];
            for value in shard.values(slab) {
                let hash = hash_of(value);
                let place = self.place(slab, hash, value);
                assert_eq!(place.shard, number);
                let mut at = shard.home(hash);
                while at != place.bucket {
                    passed[at] += 1;
                    at = shard.after(at);
                }
            }
            assert_eq!(shard.values(slab).count(), usize::from(shard.len));
            assert!(passed.iter().zip(buckets).all(|(passed, b)| *passed == b.passed));
        }
        assert_eq!(self.shards.iter().map(|shard| usize::from(shard.len)).sum::<usize>(), self.len);
    }
}

impl Shard {
    /// Without entries, and with room for `len`.
    fn new(slab: &mut Slab, len: usize) -> Self {
        let class = Self::class(len);
        let buckets = class.bytes() / size_of::<Bucket>();
        let block = slab.allocate(Use::Parts, class);
        debug_assert!(block.is_aligned(size_of::<Bucket>()), "a bucket is one cache line");
        let buckets = u16::try_from(buckets).expect("at most BUCKETS_MAX");
        let shard = Self { block, buckets, len: 0 };
        shard.buckets_mut(slab).fill(Bucket::zeroed());
        shard
    }

    /// The class of a block with room for `len` entries, and some to spare.
    fn class(len: usize) -> Class {
        let buckets = len.div_ceil(ROOMY).clamp(BUCKETS_MIN, BUCKETS_MAX);
        Class::of(buckets * size_of::<Bucket>())
    }

    /// With these entries.
    fn of<'a>(slab: &mut Slab, entries: impl Iterator<Item = &'a Entry> + Clone) -> Self {
        let mut shard = Self::new(slab, entries.clone().count());
        for &entry in entries {
            shard.put(slab, entry);
        }
        shard
    }

    /// Takes all entries out, adds them to `entries`, and frees the block.
    fn take(self, slab: &mut Slab, keys: &impl Keys, entries: &mut Entries) {
        // All at once first: the keys may be anywhere in memory.
        self.values(slab).for_each(|value| keys.prefetch(slab, value));
        for value in self.values(slab) {
            entries.push(Entry { hash: keys.hash(slab, value), value });
        }
        slab.free(self.block);
    }

    /// Makes room for `len` entries with some to spare, or gives up what they do not need.
    #[inline(never)]
    fn resize(&mut self, slab: &mut Slab, len: usize, keys: &impl Keys) {
        let mut entries = Entries::new();
        self.take(slab, keys, &mut entries);
        *self = Self::new(slab, len);
        for &entry in &entries {
            self.put(slab, entry);
        }
    }

    /// Whether it should grow before it takes one more.
    #[inline]
    fn is_full(&self) -> bool {
        usize::from(self.len) >= usize::from(self.buckets) * FULL
    }

    /// Whether it can neither take one more nor grow.
    fn is_full_for_good(&self) -> bool {
        usize::from(self.len) >= SLOTS * BUCKETS_MAX
    }

    #[inline]
    fn buckets<'a>(&self, slab: &'a Slab) -> &'a [Bucket] {
        let words = usize::from(self.buckets) * BUCKET_WORDS;
        bytemuck::cast_slice(slab.tail(self.block)[..words].as_chunks::<BUCKET_WORDS>().0)
    }

    #[inline]
    fn buckets_mut<'a>(&self, slab: &'a mut Slab) -> &'a mut [Bucket] {
        let words = usize::from(self.buckets) * BUCKET_WORDS;
        let words = &mut slab.tail_mut(self.block)[..words];
        bytemuck::cast_slice_mut(words.as_chunks_mut::<BUCKET_WORDS>().0)
    }

    /// The bucket where a hash belongs: some of its bits, scaled to any number of buckets.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        let at = ((hash >> BUCKET_BIT) * u64::from(self.buckets)) >> (u64::BITS - BUCKET_BIT);
        usize::try_from(at).expect("an index")
    }

    /// What [`Table::find`] does when others may have passed by the first bucket.
    #[inline(never)]
    fn find_behind(
        &self,
        slab: &Slab,
        home: usize,
        tag: u8,
        mut is: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let buckets = self.buckets(slab);
        let mut at = self.after(home);
        // In a shard of few buckets others may have passed by every one of them.
        while at != home {
            let bucket = &buckets[at];
            if let Some(slot) = bucket.find(tag, &mut is) {
                return Some(bucket.values[slot]);
            }
            if bucket.passed == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == usize::from(self.buckets) { 0 } else { at + 1 }
    }

    /// Adds an entry; there is room for it.
    fn put(&mut self, slab: &mut Slab, entry: Entry) {
        let home = self.home(entry.hash);
        let (last, buckets) = (usize::from(self.buckets), self.buckets_mut(slab));
        let mut at = home;
        loop {
            let bucket = &mut buckets[at];
            let free = bucket.matches(0);
            if free != 0 {
                let slot = free.trailing_zeros() as usize;
                bucket.tags[slot] = tag_of(entry.hash);
                bucket.values[slot] = entry.value;
                self.len += 1;
                return;
            }
            bucket.passed += 1;
            at = if at + 1 == last { 0 } else { at + 1 };
        }
    }

    fn values<'a>(&self, slab: &'a Slab) -> impl Iterator<Item = u32> + use<'a> {
        self.buckets(slab).iter().flat_map(|bucket| {
            bucket.tags.iter().zip(bucket.values).filter(|(tag, _)| **tag != 0).map(|(_, v)| v)
        })
    }
}

#[inline]
fn tag_of(hash: u64) -> u8 {
    let [.., low] = hash.to_be_bytes();
    low.max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rng::Rng;

    impl<F: Fn(&Slab, u32) -> u64> Keys for F {
        fn hash(&self, slab: &Slab, value: u32) -> u64 {
            self(slab, value)
        }

        fn prefetch(&self, _: &Slab, _: u32) {}
    }

    /// Adds and removes against a set, with hashes as bad as `spread` makes them.
    fn agrees_with_a_set(spread: impl Fn(u32) -> u64 + Copy, steps: u32, values: u32) {
        // Miri runs all code a thousand times slower.
        let steps = if cfg!(miri) { steps / 500 } else { steps };
        let checks = if cfg!(miri) { 4 } else { 64 };
        let (mut rng, mut set) = (Rng::new(1), BTreeSet::new());
        let (mut slab, mut table) = (Slab::new(16 << 20).expect("address space"), Table::new());
        let hash_of = |_: &Slab, value| spread(value);
        for step in 0..steps {
            // Up to many, down to none, and up again.
            let growing = (step / (steps / 4)).is_multiple_of(2);
            let value = rng.below(values);
            let hash = spread(value);
            let found = table.find(&slab, hash, |other| other == value);
            assert_eq!(found.is_some(), set.contains(&value));
            match found {
                None if growing || rng.below(8) == 0 => {
                    table.insert(&mut slab, hash, value, &hash_of);
                    set.insert(value);
                }
                Some(_) if !growing || rng.below(8) == 0 => {
                    table.remove(&mut slab, hash, value, &hash_of);
                    set.remove(&value);
                }
                _ => {}
            }
            if step % (steps / checks) == 0 {
                table.check_invariants(&slab, spread);
                slab.check_invariants();
                assert_eq!(table.values(&slab).collect::<BTreeSet<u32>>(), set);
                let blocks = table.shards.iter().map(|shard| usize::from(shard.buckets) * 64);
                assert!(set.len() < 100 || blocks.sum::<usize>() < set.len() * 24);
            }
        }
        for value in set {
            table.remove(&mut slab, spread(value), value, &hash_of);
        }
        assert_eq!((table.len(), table.heap_bytes(), slab.bytes()), (0, 0, 0));
    }

    fn good(value: u32) -> u64 {
        Rng::new(u64::from(value)).next_u64()
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn agrees_with_a_set_of_many() {
        agrees_with_a_set(good, 200_000, 20_000);
    }

    #[test]
    fn agrees_with_a_set_of_few() {
        agrees_with_a_set(good, 50_000, 100);
    }

    #[test]
    fn agrees_with_a_set_when_all_meet_in_few_buckets() {
        agrees_with_a_set(|value| u64::from(value % 7) << 32, 20_000, 500);
        agrees_with_a_set(|_| u64::MAX, 5_000, 100);
    }

    #[test]
    fn what_fits_needs_no_memory_and_what_does_not_fit_does() {
        let (mut slab, mut table) = (Slab::new(16 << 20).expect("memory"), Table::new());
        let blocks = |table: &Table| -> Vec<(Block, u16)> {
            table.shards.iter().map(|shard| (shard.block, shard.buckets)).collect()
        };
        for value in 0..5_000 {
            let (fits, before) = (table.fits(good(value)), blocks(&table));
            table.insert(&mut slab, good(value), value, &|_: &Slab, value| good(value));
            assert_eq!(fits, blocks(&table) == before, "{value}");
        }
    }

    #[test]
    fn shards_are_united_as_entries_leave() {
        let (mut slab, mut table) = (Slab::new(16 << 20).expect("memory"), Table::new());
        let hash_of = |_: &Slab, value| good(value);
        for value in 0..20_000 {
            table.insert(&mut slab, good(value), value, &hash_of);
        }
        let most = table.shards.len();
        for value in 19_900..20_000 {
            table.remove(&mut slab, good(value), value, &hash_of);
        }
        assert_eq!(table.shards.len(), most, "few have left");
        assert_eq!(table.heap_bytes(), 8 * table.shards.capacity());
        for value in 1_000..19_900 {
            table.remove(&mut slab, good(value), value, &hash_of);
        }
        let least = 1_000 / UNITE_BELOW;
        assert!(most > 5 * least && table.shards.len() <= least + 1, "{}", table.shards.len());
        table.check_invariants(&slab, good);
    }

    #[test]
    fn a_search_ends_where_every_bucket_was_passed_by() {
        let (mut slab, mut table) = (Slab::new(1 << 20).expect("address space"), Table::new());
        // Each bucket takes in twelve of its own and passes one on.
        let buckets = u64::try_from(BUCKETS_MIN).expect("few");
        let hash = |value: u32| ((u64::from(value) % buckets) * (u64::MAX / buckets + 1)) | 1;
        let hash_of = |_: &Slab, value| hash(value);
        let (first, more) = (12 * u32::try_from(BUCKETS_MIN).expect("few"), 8);
        table.shards.push(Shard::new(&mut slab, 0));
        table.set_mask();
        for value in 0..first {
            table.shards[0].put(&mut slab, Entry { hash: hash(value), value });
        }
        table.len = first as usize;
        // Room at one end, taken by who belongs to the other.
        table.remove(&mut slab, hash(0), 0, &hash_of);
        table.shards[0].put(&mut slab, Entry { hash: hash(1), value: first + 1 });
        table.len += 1;
        assert_eq!(usize::from(table.shards[0].buckets), BUCKETS_MIN);
        assert!(
            table.shards[0].buckets(&slab).iter().filter(|bucket| bucket.passed > 0).count() > 6
        );
        for value in first + 2..first + 2 + more {
            assert_eq!(table.find(&slab, hash(value), |other| other == value), None);
        }
        table.check_invariants(&slab, hash);
    }

    #[test]
    fn a_replaced_value_is_found_instead_of_the_old() {
        let (mut slab, mut table) = (Slab::new(16 << 20).expect("address space"), Table::new());
        let hash_of = |value: u32| good(value % 10_000);
        let count = if cfg!(miri) { 100 } else { 6_000 };
        for value in 0..count {
            table.insert(&mut slab, good(value), value, &|_: &Slab, value| hash_of(value));
        }
        for value in 0..count {
            table.replace(&mut slab, good(value), value, value + 10_000);
        }
        table.exchange(&mut slab, (good(1), 10_001), (good(2), 10_002));
        table.exchange(&mut slab, (good(2), 10_001), (good(1), 10_002));
        for value in 0..count {
            let hash = good(value);
            assert_eq!(table.find(&slab, hash, |other| other == value), None);
            let new = value + 10_000;
            assert_eq!(table.find(&slab, hash, |other| other == new), Some(new));
        }
        table.check_invariants(&slab, hash_of);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn no_insertion_moves_more_than_a_shard() {
        let (mut slab, mut table) = (Slab::new(64 << 20).expect("address space"), Table::new());
        for value in 0..200_000 {
            let hashed = std::cell::Cell::new(0);
            table.insert(&mut slab, good(value), value, &|_: &Slab, value| {
                hashed.set(hashed.get() + 1);
                good(value)
            });
            // One is divided, and one grows.
            assert!(hashed.get() <= 2 * SLOTS * BUCKETS_MAX);
        }
        assert!(table.shards.iter().all(|shard| usize::from(shard.len) < FULL * BUCKETS_MAX));
    }
}
