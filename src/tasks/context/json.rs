//! JSON that is being written, without a text for each of its values. Pure.

use std::ops::Range;

use serde::Serialize;

/// JSON, or the beginning of some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Json(Vec<u8>);

impl Json {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Begins a field of an object, whose value comes next. `name` is JSON.
    pub(super) fn field(&mut self, name: &str) -> &mut Self {
        self.raw(if self.0.len() > 1 { ", " } else { "" });
        self.raw(name);
        self.raw(": ");
        self
    }

    /// Writes a value, and says where it stands.
    pub(super) fn value(&mut self, value: &(impl Serialize + ?Sized)) -> Range<usize> {
        let start = self.len();
        serde_json::to_writer(&mut self.0, value).expect("texts, numbers and maps with text keys always have a JSON form");
        start..self.len()
    }

    /// Writes JSON as it is, and says where it stands.
    pub(super) fn raw(&mut self, json: &str) -> Range<usize> {
        let start = self.len();
        self.0.extend_from_slice(json.as_bytes());
        start..self.len()
    }

    /// Writes again what stands there.
    pub(super) fn again(&mut self, place: &Range<usize>) {
        self.0.extend_from_within(place.clone());
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn into_text(self) -> String {
        String::from_utf8(self.0).expect("every part was a text")
    }
}
