//! Lists that move to other blocks: larger and smaller ones, and from small to large and back.

use super::super::class::Class;
use super::super::large::Large;
use super::super::layout::{HEAD_BYTES, HEAD_WORDS, Head};
use super::super::slab::{Block, Use};
use super::super::small::census_of;
use super::Lists;
use crate::wire::addr::Family;

impl Lists {
    /// Copies a small list's block, or the head of a large one's, to another of the same class.
    pub fn relocate(&mut self, list: Block) -> Block {
        let class = self.head(list).class();
        let new = self.slab.allocate(Use::Swarms, class);
        let (from, to) = self.slab.pair((list, class.bytes()), (new, class.bytes()));
        to.copy_from_slice(from);
        self.take_block(new, *self.head(list));
        self.free_block(list);
        new
    }

    /// Whether a list may move to a block for `len` peers only to save memory.
    pub(super) fn can_save(&self, family: Family, len: usize) -> bool {
        let bytes = HEAD_BYTES + len.max(1) * self.shape(family).peer_bytes();
        self.slab.can_save(Use::Swarms, Class::of(bytes))
    }

    /// Moves a small list to a block with room for `room` peers.
    pub(super) fn resize(&mut self, list: Block, room: usize) -> Block {
        let head = *self.head(list);
        let (shape, len) = (self.shape(head.family()), usize::from(head.len));
        let class = Class::of(HEAD_BYTES + room * shape.peer_bytes());
        if class == head.class() {
            return list;
        }
        let new = self.slab.allocate(Use::Swarms, class);
        self.take_block(new, head);
        self.head_mut(new).set_class(class);
        let rooms = (self.room(&head), self.room(self.head(new)));
        let bytes = |room| HEAD_BYTES + room * shape.peer_bytes();
        let (from, to) = self.slab.pair((list, bytes(rooms.0)), (new, bytes(rooms.1)));
        let from = shape.columns(&from[HEAD_BYTES..], rooms.0);
        shape.copy(&from, &mut shape.columns_mut(&mut to[HEAD_BYTES..], rooms.1), len);
        self.free_block(list);
        new
    }

    pub(super) fn make_large(&mut self, list: Block) -> Block {
        let head = *self.head(list);
        let (shape, room) = (self.shape(head.family()), self.room(&head));
        let mut large = Large::new(&mut self.slab, shape, room + room / 4);
        large.fill(&mut self.slab, &self.hasher, (list, HEAD_BYTES, room), census_of(&head));
        self.heap_bytes += large.heap_bytes();

        let class = Class::of(HEAD_BYTES + size_of::<u32>());
        let new = self.slab.allocate(Use::Swarms, class);
        self.take_block(new, head);
        let new_head = self.head_mut(new);
        (new_head.len, new_head.seeders, new_head.partial) = (0, 0, 0);
        new_head.set_class(class);
        new_head.set_large(true);
        let number = self.vacant.pop().unwrap_or_else(|| {
            self.larges.push(None);
            u32::try_from(self.larges.len() - 1).expect("far fewer than peers")
        });
        self.larges[number as usize] = Some(large);
        self.slab.words_mut::<{ HEAD_WORDS + 1 }>(new)[HEAD_WORDS] = number;
        self.free_block(list);
        new
    }

    pub(super) fn make_small(&mut self, list: Block) -> Block {
        let (head, number) = (*self.head(list), self.number(list) as usize);
        let census = self.large(list).census;
        let small = |count: u32| u8::try_from(count).expect("below LARGE_MIN");
        let (shape, len) = (self.shape(head.family()), census.len as usize);
        let class = Class::of(HEAD_BYTES + (len + len / 8).max(1) * shape.peer_bytes());
        let new = self.slab.allocate(Use::Swarms, class);
        self.take_block(new, head);
        let new_head = self.head_mut(new);
        new_head.set_class(class);
        new_head.set_large(false);
        (new_head.len, new_head.seeders) = (small(census.len), small(census.seeders));
        new_head.partial = small(census.partial);
        let room = self.room(self.head(new));
        let large = self.larges[number].as_ref().expect("a large list's");
        large.pour(&mut self.slab, (new, HEAD_BYTES, room));
        self.release(list);
        new
    }

    /// Puts a head into a new block.
    pub(super) fn take_block(&mut self, list: Block, head: Head) {
        *self.head_mut(list) = head;
        if head.is_on_probation() {
            self.slab.mark(list, true);
        }
    }

    pub(super) fn free_block(&mut self, list: Block) {
        if self.head(list).is_on_probation() {
            self.slab.mark(list, false);
        }
        self.head_mut(list).set_free();
        self.slab.free(list);
    }
}
