//! Values by small numbers.

/// Values at places that stay theirs.
#[derive(Clone, Debug)]
pub(super) struct Slots<T> {
    /// What there is, and `None` where there is nothing.
    pub(super) slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(super) const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Places, with and without a value.
    pub(super) fn places(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("bounded by the memory budget")
    }

    /// What is at a place, if anything is.
    pub(super) fn look(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.as_ref()
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = Some(value);
            return index;
        }
        self.slots.push(Some(value));
        u32::try_from(self.slots.len() - 1).expect("bounded by the memory budget")
    }

    pub(super) fn remove(&mut self, index: u32) -> T {
        self.free.push(index);
        let value = self.slots[index as usize].take().expect("the index names a value");
        if self.len() == 0 {
            // Nobody is left: so is no memory.
            *self = Self::new();
        }
        value
    }

    pub(super) fn get(&self, index: u32) -> &T {
        self.slots[index as usize].as_ref().expect("the index names a value")
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut T {
        self.slots[index as usize].as_mut().expect("the index names a value")
    }
}
