//! The commands that are more than a line.

pub(crate) mod dead_letters;
pub(crate) mod demo;
pub(crate) mod health;
pub(crate) mod offsets;
