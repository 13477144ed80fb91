//! Places for connections, as many as there have been at once.
//!
//! They lie in parts that never move. A vector would copy all of them to twice the room: six
//! milliseconds at sixteen thousand of them, in which datagrams wait.

use super::conn::Conn;

/// Places of a part: 13 KiB.
const PART: usize = 64;

/// A place for a connection.
#[derive(Debug, Default)]
pub struct Slot {
    /// How many connections have been here.
    pub generation: u32,
    /// The one that is.
    pub conn: Option<Conn>,
}

/// All places of one core.
#[derive(Debug, Default)]
pub struct Places {
    /// All but the last are full.
    parts: Vec<Vec<Slot>>,
    len: usize,
}

impl Places {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Adds a free one; its number.
    pub fn add(&mut self) -> usize {
        let number = self.len;
        if number.is_multiple_of(PART) {
            self.parts.push(Vec::with_capacity(PART));
        }
        self.parts[number / PART].push(Slot::default());
        self.len += 1;
        number
    }

    /// The one of that number, if there is one.
    #[must_use]
    pub fn get_mut(&mut self, number: usize) -> Option<&mut Slot> {
        self.parts.get_mut(number / PART)?.get_mut(number % PART)
    }

    /// All connections.
    pub fn connections(&self) -> impl Iterator<Item = &Conn> {
        self.parts.iter().flatten().filter_map(|slot| slot.conn.as_ref())
    }

    /// All connections.
    pub fn connections_mut(&mut self) -> impl Iterator<Item = &mut Conn> {
        self.parts.iter_mut().flatten().filter_map(|slot| slot.conn.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_stays_where_it_is_and_keeps_its_number() {
        let mut places = Places::default();
        assert!(places.get_mut(0).is_none());
        let mut at = Vec::new();
        for number in 0..3 * PART + 1 {
            assert_eq!((places.add(), places.len()), (number, number + 1));
            let place = places.get_mut(number).expect("it was added");
            place.generation = u32::try_from(number).expect("small");
            at.push(std::ptr::from_ref(place));
        }
        for (number, at) in at.into_iter().enumerate() {
            let place = places.get_mut(number).expect("it is there");
            assert_eq!((std::ptr::from_ref(place), place.generation as usize), (at, number));
        }
        assert!(places.get_mut(3 * PART + 1).is_none());
    }
}
