//! From the figures to the page: tables, plots, and what must hold.

mod page;
pub(crate) mod plots;
mod svg;
pub(crate) mod table;
pub(crate) mod targets;

pub(crate) use page::write;
