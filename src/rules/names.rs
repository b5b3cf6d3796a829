//! Which tickers are watched: from a ticker's key, made where it was decoded, to its number. Words of subscriptions too.
//!
//! Most signals match nothing, and for them one look into a small table must do: the name itself, which would have to be
//! fetched from far memory, is read only to make sure of a hit.

use crate::intake::ticker_key;

/// The number that no ticker has.
const FREE: u32 = u32::MAX;

/// A place of the table: the upper half of the key, whose lower half says where to look first, and the ticker's number.
type Place = (u32, u32);

/// Tickers, numbered from 0 in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: Vec<Box<str>>,
    /// A power of two of them, at least half of them free; or none at all.
    places: Vec<Place>,
}

impl Names {
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The number of a ticker, if it has one. `name` is asked for only where the key says that it may be.
    pub(super) fn find<'a>(&self, key: u64, name: impl Fn() -> &'a str) -> Option<u32> {
        let (tag, mask) = (tag(key), self.places.len().checked_sub(1)?);
        let mut at = start(key) & mask;
        loop {
            match self.places[at] {
                (_, FREE) => return None,
                (other, number) if other == tag && *self.names[number as usize] == *name() => return Some(number),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// The number of a ticker; the next one if it has none.
    pub(super) fn number(&mut self, name: String) -> u32 {
        let key = ticker_key(&name);
        if let Some(number) = self.find(key, || &name) {
            return number;
        }
        self.names.push(name.into_boxed_str());
        if self.names.len() * 2 > self.places.len() {
            self.places = vec![(0, FREE); (self.names.len() * 4).next_power_of_two()];
            for number in 0..self.names.len() {
                self.put(ticker_key(&self.names[number]), number);
            }
        } else {
            self.put(key, self.names.len() - 1);
        }
        number_of(self.names.len() - 1)
    }

    fn put(&mut self, key: u64, number: usize) {
        let mask = self.places.len() - 1;
        let mut at = start(key) & mask;
        while self.places[at].1 != FREE {
            at = (at + 1) & mask;
        }
        self.places[at] = (tag(key), number_of(number));
    }
}

fn number_of(position: usize) -> u32 {
    u32::try_from(position).ok().filter(|number| *number != FREE).expect("fewer than 4 billion tickers fit in memory")
}

fn tag(key: u64) -> u32 {
    (key >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "what is cut off only spreads less")]
fn start(key: u64) -> usize {
    key as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_found_where_nothing_is() {
        assert_eq!(Names::default().find(ticker_key("A"), || "A"), None);
    }

    #[test]
    fn names_of_one_key_are_told_apart_and_one_without_a_number_is_not_found() {
        let mut names = Names::default();
        let count = 40;
        for number in 0..count {
            assert_eq!(names.number(format!("T{number}")), number);
        }
        // Three more that share a key, as chance might have it.
        for name in ["X", "Y", "Z"] {
            names.names.push(name.into());
            names.put(7, names.names.len() - 1);
        }
        for (position, name) in ["X", "Y", "Z"].into_iter().enumerate() {
            assert_eq!(names.find(7, || name), Some(count + u32::try_from(position).unwrap()));
        }
        assert_eq!(names.find(7, || "W"), None);
    }

    proptest! {
        #[test]
        fn a_name_has_one_number_and_is_found_by_it(given in prop::collection::vec("[A-C]{0,4}", 0..300)) {
            let (mut names, mut expected) = (Names::default(), HashMap::new());
            for name in &given {
                let next = u32::try_from(expected.len()).unwrap();
                let number = *expected.entry(name.clone()).or_insert(next);
                prop_assert_eq!(names.number(name.clone()), number);
            }
            prop_assert_eq!(names.len(), expected.len());
            for (name, number) in &expected {
                prop_assert_eq!(names.find(ticker_key(name), || name), Some(*number));
            }
            prop_assert_eq!(names.find(ticker_key("D"), || "D"), None);
        }
    }
}
