//! The commands that are more than a line.

pub(crate) mod demo;
pub(crate) mod health;
